# SPDX-License-Identifier: Apache-2.0
"""Tables that appear while rounds run: read within a minute, and nobody waits for a bad one."""

import json
import time

import pytest

from dynabeam.pipelines.discovery import RoundDiscovery
from dynabeam.pipelines.options.replicate import parse_replicate
from dynabeam.pipelines.preflight import check_tables
from dynabeam.pipelines.rounds.run import Rounds
from dynabeam.transforms.errors import ConfigurationError
from dynabeam.transforms.sinks.registry import open_sink
from dynabeam.transforms.state.state_directory import StateDirectory
from tests.pipelines.runs import orders

LONGEST = 120.0


class OverError(Exception):
    """Ends rounds that would go on for ever."""


class Running:
    """Rounds on a world, until something has happened.

    Args:
        world: The simulated account and the folders.
        tables: What is replicated, with its other options.
    """

    def __init__(self, world, *tables):
        self.world = world
        self.said = []
        world.sim.put_many("orders", orders(3))
        world.age()
        world.catch_up()
        self.options = parse_replicate(
            [
                *tables,
                *world.options,
                "--s3_export_bucket=exports",
                *world.sinks,
                f"--state_dir={world.state_dir}",
                "--every=50ms",
                "--discover_every=1s",
            ]
        )

    def until(self, happened, *events):
        """Runs rounds until something is so; each event happens after a round of its own."""
        left = list(events)
        began = time.monotonic()

        def on_round(outcome):
            if left:
                left.pop(0)()
            elif happened(outcome):
                raise OverError
            elif time.monotonic() - began > LONGEST:
                raise TimeoutError(f"not happened; was said: {self.said}")

        directory = StateDirectory(self.options.state_dir)
        with directory.locked():
            state = directory.load()
            names = check_tables(self.options, state)
            directory.keep_identity(state)
            sinks = [open_sink(each) for each in self.options.sinks]
            for sink in sinks:
                sink.recover(state.committed)
                sink.check([], state.committed)
            discovery = RoundDiscovery(self.options, directory, sinks, self.said.extend)
            with pytest.raises(OverError):
                Rounds(self.options, directory, names, sinks, discovery).run(state, on_round)
        return time.monotonic() - began

    def read(self, table, count=2):
        """True once so many changes of a table are committed."""
        return lambda outcome: (
            table in outcome.names and outcome.state.tables[table].totals.changes >= count
        )

    def create(self, name, **options):
        """An event: a table appears, with two items."""

        def event():
            self.world.create(name, **options)
            self.world.sim.put_many(name, orders(2))

        return event

    def findings(self):
        """What `findings.json` says: table → reason."""
        document = json.loads((self.world.state_dir / "findings.json").read_text())
        return {each["table"]: (each["what"], each["detail"]) for each in document["findings"]}


class TestInRounds:
    def test_a_new_table_is_in_the_sink_within_a_minute(self, world):
        running = Running(world, "--tables=orders,new_*", "--exclude_tables=new_secret")
        secret, new = running.create("new_secret"), running.create("new_orders")
        seconds = running.until(running.read("new_orders"), secret, new)
        print(f"a new table in the mirror after {seconds:.1f} s")  # noqa: T201 - the figure
        assert world.rows("new_orders") == [("o0",), ("o1",)]
        assert world.rows("orders") == [("o0",), ("o1",), ("o2",)]
        tables = json.loads((world.state_dir / "state.json").read_text())["tables"]
        assert sorted(tables) == ["new_orders", "orders"]
        # Its own snapshot, which waits until the stream is older than an export's fuzzy edge.
        assert tables["new_orders"]["snapshot"]["status"] == "pending"
        assert running.said == ["new_orders: new, read from now on"]

    def test_a_table_that_is_not_ready_is_told_once_and_taken_up_when_it_is_mended(self, world):
        running = Running(world, "--tables=orders,new_*")
        dynamodb = world.sim.client("dynamodb")

        def hint():
            assert [each.split(":")[0] for each in running.said] == ["new_dumb", "new_old"]
            dynamodb.update_table(
                TableName="new_dumb",
                StreamSpecification={
                    "StreamEnabled": True,
                    "StreamViewType": "NEW_AND_OLD_IMAGES",
                },
            )
            assert running.findings()["new_old"][0] == "not_ready"
            dynamodb.update_continuous_backups(
                TableName="new_old",
                PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": True},
            )
            world.sim.put_many("new_dumb", orders(2, start=5))

        def dumb_is_known(outcome):
            return "new_dumb" in running.findings()

        running.until(
            dumb_is_known,
            running.create("new_dumb", stream=None),
            running.create("new_old", recovery=False),
        )
        assert "no stream" in running.findings()["new_dumb"][1]
        said = list(running.said)
        running.until(lambda outcome: "new_old" in running.findings())
        both = [running.read("new_dumb"), running.read("new_old")]
        running.until(lambda outcome: all(each(outcome) for each in both), hint)
        assert running.findings() == {}
        lines = [each for each in running.said if "not ready" in each]
        assert len(lines) == len(set(lines)) == 2, said

    def test_a_table_that_is_deleted_is_told_and_the_others_go_on(self, world):
        running = Running(world, "--tables=orders,new_*")
        world.create("new_gone")
        world.sim.put_many("new_gone", orders(1))
        dynamodb = world.sim.client("dynamodb")

        def gone(outcome):
            return any("new_gone: deleted" in each for each in running.said)

        running.until(gone, lambda: None, lambda: dynamodb.delete_table(TableName="new_gone"))
        world.sim.put_many("orders", orders(5, start=10))
        running.until(running.read("orders", 8))
        (line,) = [each for each in running.said if "deleted" in each]
        assert line.startswith("new_gone: deleted: its stream is read to its end, within the 24 h")
        assert line.endswith("--exclude_tables=new_gone")
        running.until(
            lambda outcome: running.findings()["new_gone"][0] == "recreated",
            running.create("new_gone"),
        )

    def test_by_tag(self, world):
        running = Running(world, "--table_tags=env=prod,team")
        world.sim.client("dynamodb").tag_resource(
            ResourceArn=world.sim.table("orders").arn,
            Tags=[{"Key": "env", "Value": "prod"}, {"Key": "team", "Value": "x"}],
        )
        other = running.create("other", tags={"env": "prod"})
        mine = running.create("mine", tags={"env": "prod", "team": "y"})
        running.until(running.read("mine"), other, mine)
        assert running.said == ["mine: new, read from now on"]

    def test_a_failing_listing_stops_nobody(self, world):
        running = Running(world, "--tables=orders,new_*")
        sim = world.sim

        def deny():
            sim.faults = sim.faults.from_json({"denied_actions": ["dynamodb:ListTables"]})

        def allow():
            sim.faults = sim.faults.from_json({})

        running.until(lambda outcome: running.said != [], deny)
        assert "dynamodb:ListTables" in running.said[0]
        running.said.clear()
        allow()
        running.until(running.read("new_orders"), running.create("new_orders"))
        assert running.said == ["new_orders: new, read from now on"]
        assert running.findings() == {}


class TestOptions:
    def parse(self, *options):
        return parse_replicate(["--sink=duckdb:///m.duckdb", "--region=eu-west-1", *options])

    def test_tags(self):
        parsed = self.parse("--table_tags=env=prod,env=test,team", "--snapshot=never")
        assert parsed.table_tags == {"env": ("prod", "test"), "team": ()}
        assert not parsed.discovers
        assert self.parse("--table_tags=env", "--snapshot=never", "--every=2s").discovers

    def test_names_alone_are_not_discovered(self):
        assert not self.parse("--tables=a,b", "--snapshot=never", "--every=2s").discovers

    @pytest.mark.parametrize(
        ("options", "where"),
        [
            (["--table_tags==x", "--snapshot=never"], "--table_tags"),
            (["--tables=a", "--exclude_tables=a b", "--snapshot=never"], "--exclude_tables"),
            (["--tables=a*", "--export=/e", "--every=2s"], "--s3_export_bucket"),
            (["--tables=a*", "--snapshot=never", "--discover_every=soon"], "--discover_every"),
        ],
    )
    def test_what_cannot_work_names_its_option(self, options, where):
        with pytest.raises(ConfigurationError, match=where):
            self.parse(*options)

    def test_all_left_out(self, world):
        ended = world.run("--tables=orders", "--snapshot=never", "--exclude_tables=o*")
        assert ended.code == 1
        assert "no table is left" in ended.err

    def test_a_tag_that_no_table_has(self, world):
        ended = world.run("--table_tags=env=prod", "--snapshot=never")
        assert ended.code == 1
        assert "--table_tags" in ended.err
        assert "orders" in ended.err
