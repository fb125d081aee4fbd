# SPDX-License-Identifier: Apache-2.0
"""A repaired table in a changelog: the newest row of each key is the table, deletes included."""

import gzip
import json
from datetime import timedelta

import duckdb
import pytest

from dynabeam.pipelines.command_line import main
from tests.pipelines.test_gaps import DAY, Kept

FORMATS = {
    "lines": "",
    "gzip": "?compression=gzip",
    "parquet": "?format=parquet",
    "packed": "?format=parquet&layout=packed",
}


class Logged(Kept):
    """A world whose only sink is a changelog."""

    def __init__(self, folder, capsys, monkeypatch, kind):
        super().__init__(folder, capsys, monkeypatch)
        self.kind = kind
        self.sinks = [f"--sink=file:///{self.changelog}{FORMATS[kind]}"]

    def rows(self):
        """All changes: `(version, op, id, total)`."""
        if self.kind in ("parquet", "packed"):
            image = "item" if self.kind == "packed" else "_new"
            return duckdb.sql(
                f"SELECT _version, _op, _keys->>'$.id.S', ({image}->>'$.total.N')::int "
                f"FROM read_parquet('{self.changelog}/orders/*/*.parquet', union_by_name=true, "
                "hive_partitioning=false)"
            ).fetchall()
        found = []
        for path in sorted(self.changelog.rglob("*.jsonl*")):
            content = path.read_bytes()
            lines = gzip.decompress(content) if path.suffix == ".gz" else content
            for change in map(json.loads, lines.splitlines()):
                total = int(change["new"]["total"]["N"]) if change["new"] else None
                found.append((change["version"], change["op"], change["keys"]["id"]["S"], total))
        return found

    def newest(self):
        rows = {}
        for version, op, name, total in sorted(self.rows(), key=lambda row: row[0]):
            rows[name] = (version, op, total)
        return {name: total for name, (_, op, total) in rows.items() if op != "d"}

    def deletes(self, generation):
        """Keys of the deletes that a repair has appended, with repeats."""
        version = f"{generation:08d}." + "0" * 40
        return sorted(name for at, op, name, _ in self.rows() if (at, op) == (version, "d"))

    def table(self):
        return {each["id"]["S"]: int(each["total"]["N"]) for each in self.sim.items("orders")}

    def lose(self):
        """The reader is away while the stream loses puts and deletes."""
        self.put("just before", "in the gap", "kept")
        assert self.replicate().code == 0
        self.delete("old", "just before", "k1")
        self.put("k2", "lost", value=77)
        self.time.let_pass(DAY + timedelta(hours=1))
        self.put("k3", value=78)

    def order(self, *options):
        code = main(
            [
                "snapshot",
                "--tables=orders",
                f"--state_dir={self.state_dir}",
                *self.options,
                *options,
            ]
        )
        assert code == 0

    def audit(self):
        """The exit code of an audit, and what it says."""
        self.capsys.readouterr()
        code = main(
            [
                "audit",
                "--tables=orders",
                *self.options,
                "--export=newest:3600",
                f"--state_dir={self.state_dir}",
                *self.sinks,
            ]
        )
        return code, self.capsys.readouterr()


@pytest.fixture(params=FORMATS)
def world(request, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "simulated")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "simulated")
    world = Logged(tmp_path, capsys, monkeypatch, request.param)
    with world.sim:
        world.put(*(f"k{n}" for n in range(6)), "old")
        world.time.let_pass(timedelta(days=34))
        ended = world.replicate()
        assert ended.code == 0, ended.err
        yield world


@pytest.mark.parametrize("policy", ["resnapshot", "heal"])
def test_a_gap(world, policy):
    world.lose()
    ended = world.replicate(f"--gaps={policy}")
    assert ended.code == 0, ended.err
    assert world.newest() == world.table()
    assert "old" not in world.table()
    # A heal knows the deletes of the time of the gap; the sweep adds what it cannot know.
    gone = world.deletes(2)
    assert len(gone) == len(set(gone))
    if policy == "resnapshot":
        assert gone == ["just before", "k1", "old"]
        assert "loaded again with" in ended.err
        assert "3 rows swept" in ended.err
    before = len(world.rows())
    assert world.replicate(f"--gaps={policy}").code == 0
    assert len(world.rows()) == before
    # Changes of the new generation win over it.
    world.put("old", value=5)
    assert world.replicate().code == 0
    assert world.newest() == world.table()


def test_ordered_snapshots_of_all_keys_and_of_a_range(world):
    world.put("k9", "z1", "z2")
    assert world.replicate().code == 0
    # The changelog shows more than the table: somebody has put rows of his own there.
    extra = {"lines": ".jsonl", "gzip": ".jsonl.gz"}.get(world.kind)
    if extra is None:
        pytest.skip("lines are easily forged")
    line = (
        '{"table":"orders","op":"u","version":"00000001.%040d","event_time":'
        '"2026-01-31T12:00:00.000000Z","keys":{"id":{"S":"%s"}},"old":null,"new":{"id":{"S":"%s"},'
        '"total":{"N":"1"}},"ttl":false,"source":"stream","origin":{},"envelope":null}\n'
    )
    content = "".join(line % (5, name, name) for name in ("ghost", "kghost")).encode()
    path = next(iter((world.changelog / "orders").glob("*/"))) / f"part-99999{extra}"
    path.write_bytes(gzip.compress(content) if world.kind == "gzip" else content)
    world.order("--key_range=k..l")
    ended = world.replicate()
    assert ended.code == 0, ended.err
    assert world.newest() == {**world.table(), "ghost": 1}
    assert world.deletes(2) == ["kghost"]
    world.order()
    assert world.replicate().code == 0
    assert world.newest() == world.table()
    assert world.deletes(3) == ["ghost"]


def test_our_own_audit_says_equal(world):
    if world.kind not in ("parquet", "packed"):
        pytest.skip("a changelog of JSON lines cannot be audited")
    world.lose()
    assert world.replicate("--gaps=resnapshot").code == 0
    code, said = world.audit()
    assert code == 0, said
    count = len(world.table())
    assert said.out == f"orders: EQUAL  ({count} items, {count} rows)\n"
