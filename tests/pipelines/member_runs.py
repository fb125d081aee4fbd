# SPDX-License-Identifier: Apache-2.0
"""Runs of one table with a mirror and a changelog, to which sinks are added and taken away."""

import contextlib
import json
import random
from datetime import timedelta

from dynabeam.pipelines.command_line import main
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.values.key_schema import KeyAttribute, KeySchema
from dynabeam.transforms.values.keys import encode_key
from tests.pipelines.runs import World
from tests.pipelines.time_machine import TimeMachine
from tests.sinks.targets import Target, read_back, read_changes

ORDERS = Table("orders", KeySchema(KeyAttribute("id", "S")))
NEW_MIRROR = Target("duckdb:///FOLDER/new.duckdb?layout=packed")
KEPT_LOG, KEPT_MIRROR = Target("file:///FOLDER/out"), Target("duckdb:///FOLDER/kept.duckdb")


class Run(World):
    """A world whose time passes at will, with a mirror and a changelog that are always given."""

    def __init__(self, folder, capsys, monkeypatch):
        super().__init__(folder, capsys)
        self.catch_up()
        self.time = TimeMachine(monkeypatch, self.clock)
        self.random = random.Random(5)
        self.kept = [self.uri(KEPT_MIRROR), self.uri(KEPT_LOG)]

    def uri(self, target):
        return str(target.open(self.folder).uri)

    def put(self, *names, value=0):
        self.sim.put_many("orders", [{"id": {"S": n}, "total": {"N": str(value)}} for n in names])

    def delete(self, *names):
        self.sim.delete_many("orders", [{"id": {"S": n}} for n in names])

    def work(self, minutes=5):
        """Puts, updates and deletes while time passes."""
        for _ in range(3):
            self.time.let_pass(timedelta(minutes=minutes) / 3)
            names = [f"k{self.random.randrange(20)}" for _ in range(6)]
            self.put(*names[:4], value=self.random.randrange(1000))
            self.delete(*names[4:])
        self.time.let_pass(timedelta(minutes=2))

    def replicate(self, *options, extra=(), sinks=None):
        sinks = self.kept if sinks is None else sinks
        given = [f"--sink={each}" for each in [*sinks, *extra]]
        if not any("bucket" in each or "export" in each for each in options):
            options = (*options, "--s3_export_bucket=exports")
        return self.run(
            "--tables=orders", "--buckets=2", *[o for o in options if o != "no bucket"], sinks=given
        )

    def ok(self, *options, **more):
        ended = self.replicate(*options, **more)
        assert ended.code == 0, ended.err
        return ended

    def command(self, name, *options):
        self.capsys.readouterr()
        code = main([name, f"--state_dir={self.state_dir}", *options])
        return code, *self.capsys.readouterr()

    def status(self):
        _, out, _ = self.command("status", "--json", "--max_quiet=0")
        document = json.loads(out)
        return {each["uri"]: each for each in document["sinks"]}, document["reasons"]

    def held(self, target):
        return read_back(target, target.open(self.folder), [ORDERS])["orders"]

    def truth(self):
        return {encode_key(each, ORDERS.keys): each for each in self.sim.items("orders")}

    def assert_equal(self, *targets):
        for each in (KEPT_MIRROR, *targets):
            assert self.held(each) == self.truth(), each.uri

    def changes(self, target):
        """`(key, version, op)` of everything in a changelog."""
        found = read_changes(target, target.open(self.folder))
        return sorted((each["keys"]["id"]["S"], each["version"], each["op"]) for each in found)

    def document(self):
        return json.loads((self.state_dir / "state.json").read_text())


@contextlib.contextmanager
def begun(folder, capsys, monkeypatch):
    """A world with a table of some age, whose simulator runs."""
    world = Run(folder, capsys, monkeypatch)
    with world.sim:
        world.put(*(f"k{n}" for n in range(12)), "gone while away", "stays")
        world.work(30)
        yield world


def away(world, *options, **more):
    """What a sink misses: deletes, puts, updates, a key that comes and goes."""
    world.delete("gone while away")
    world.put("new while away", "came and went", value=7)
    world.work()
    world.ok(*options, **more)
    world.delete("came and went")
    world.work()
    world.ok(*[o for o in options if not o.startswith("--drop")], **more)
