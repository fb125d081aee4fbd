# SPDX-License-Identifier: Apache-2.0
"""Repairs of a run that never ends, step by step: from stored reports to files and sweeps."""

import dataclasses
import json
import time

import duckdb
import pytest

from dynabeam.transforms.aws.dynamodb import describe_table
from dynabeam.transforms.aws.session import AwsAccess
from dynabeam.transforms.continuous.control_folder import Assignment, ControlFolder
from dynabeam.transforms.continuous.generations import (
    FolderGenerations,
    TableGeneration,
    read_generation,
)
from dynabeam.transforms.continuous.repairs import Repairs, RepairSettings, next_step
from dynabeam.transforms.model.gap import GapPolicies, GapPolicy
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.sinks.registry import open_sink
from dynabeam.transforms.state.snapshot_signals import SnapshotSignal, SnapshotSignals
from dynabeam.transforms.stream.frontier import Frontier
from dynabeam.transforms.stream.reader_spec import (
    LatestGeneration,
    ReaderSpec,
    with_latest_generation,
)
from dynabeam.transforms.testing.simulator import Simulator
from tests.sinks.changes import NO_ROUND, Change, blocks, round_number

HOUR_US = 3600 * 1_000_000
NOW = time.time_ns() // 1000


def stream(reader, generation, *, readers=2, over=False):
    fields = {"reader": reader, "readers": readers, "generation": generation, "over": over}
    return Report("stream", "orders", fields)


def gap(generation, from_us=NOW - HOUR_US):
    return Report("gap", "orders", {"generation": generation, "from_us": from_us})


def export(generation, *paths, from_us=0, time_us=NOW - 40 * HOUR_US):
    manifest = {"export_time_us": time_us, "files": [[path, 1, ""] for path in paths]}
    fields = {"generation": generation, "from_us": from_us}
    return Report("export", "orders", {**fields, "manifest": manifest if paths else None})


def file(generation, path, *, done=True):
    return Report(
        "file", "orders", {"generation": generation, "file": path, "done": done, "rows": 3}
    )


FIRST = [stream(0, 1), stream(1, 1), export(1, "a"), file(1, "a")]


def step(at, reports, policy=GapPolicy.HEAL, asked="", key_range=""):
    order = SnapshotSignal("orders", asked, NOW, key_range) if asked else None
    return next_step(at, reports, policy, asked=order, now_us=NOW)


class TestNextStep:
    def test_nothing_to_do(self):
        for at in (TableGeneration(), TableGeneration(generation=1)):
            assert step(at, FIRST) == at

    @pytest.mark.parametrize("policy", [GapPolicy.FAIL, GapPolicy.CONTINUE])
    def test_gaps_that_are_not_repaired(self, policy):
        at = TableGeneration(generation=1)
        assert step(at, [*FIRST, gap(1)], policy) == at

    @pytest.mark.parametrize("known", [0, 1])
    def test_a_gap_makes_readers_switch(self, known):
        after = step(TableGeneration(generation=known), [*FIRST, gap(1)])
        assert (after.generation, after.step, after.policy) == (2, "switching", "heal")
        assert after.lost_in == 1
        assert step(after, [*FIRST, gap(1)]) == after

    def test_a_gap_of_the_new_generation_begins_anew_over_all_that_is_lost(self):
        at = step(TableGeneration(generation=1), [*FIRST, gap(1)])
        at = dataclasses.replace(at, step="loading", plan={"windows": [[1, 2]]})
        after = step(at, [*FIRST, gap(1), gap(2)])
        assert (after.generation, after.step, after.lost_in) == (3, "switching", 1)
        assert after.plan is None

    def test_an_order_is_taken_up_once(self):
        after = step(TableGeneration(generation=1), FIRST, GapPolicy.FAIL, asked="x")
        assert (after.generation, after.policy, after.asked) == (2, "resnapshot", "x")
        assert step(after, FIRST, GapPolicy.FAIL, asked="x") == after

    def test_an_order_of_a_range_is_of_it_if_nothing_else_is_to_be_mended(self):
        settled = TableGeneration(generation=1)
        assert step(settled, FIRST, asked="x", key_range="a..b").key_range == "a..b"
        assert step(settled, [*FIRST, gap(1)], asked="x", key_range="a..b").key_range == ""
        switching = step(settled, [*FIRST, gap(1)])
        after = step(switching, [*FIRST, gap(1)], asked="x", key_range="a..b")
        assert (after.policy, after.key_range, after.generation) == ("resnapshot", "", 3)

    def test_an_ordered_snapshot_stays_one_when_a_gap_follows(self):
        at = step(TableGeneration(generation=1), FIRST, asked="x")
        assert step(at, [*FIRST, gap(2)]).policy == "resnapshot"

    def test_swept_only_when_every_file_of_every_window_is_in_the_sinks(self):
        plan = {"windows": [[5, 6], [6, 7]]}
        at = TableGeneration(generation=2, step="loading", plan=plan)
        reports = [*FIRST, export(2, "b", from_us=5), file(2, "b"), export(2, "c", from_us=6)]
        assert step(at, reports) == at
        assert step(at, [*reports, file(2, "c", done=False)]) == at
        assert step(at, [*reports, file(2, "c")]).step == "sweeping"

    def test_a_snapshot_of_an_older_generation_does_not_count(self):
        at = TableGeneration(generation=2, step="loading", plan={"windows": []})
        assert step(at, FIRST) == at
        assert step(at, [*FIRST, export(2, "d"), file(2, "d")]).step == "sweeping"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A deployment of a simulated table with a mirror, and its repairs."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "simulated")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "simulated")
    with Simulator(seed=1) as sim:
        sim.create_table("orders")
        sim.client("dynamodb").update_continuous_backups(
            TableName="orders",
            PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": True},
        )
        yield Deployment(tmp_path, sim)


class Deployment:
    def __init__(self, folder, sim, policy=GapPolicy.HEAL):
        access = AwsAccess(region=sim.region, endpoint_url=sim.endpoint_url)
        self.table = describe_table(access, "orders").table
        self.folder = ControlFolder(str(folder / "deployment"))
        self.orders = SnapshotSignals(str(folder))
        self.mirror = folder / "mirror.duckdb"
        self.sink = open_sink(f"duckdb:///{self.mirror}")
        self.sink.check([self.table], NO_ROUND)
        source = ReaderSpec(self.table, "arn", 0, 2, 1, 4, "trim_horizon", None, policy, 0, 0, NOW)
        self.folder.assign("0", Assignment([source], []))
        TableGeneration(generation=1).write(self.folder, "orders")
        self.sim = sim
        self.settings = settings = RepairSettings(
            access, GapPolicies(policy), "exports", "p", "", "state", str(folder), [self.sink]
        )
        self.repairs = Repairs(self.folder, settings, lambda: NOW)

    def advance(self, *reports):
        self.repairs.advance("orders", [*FIRST, *reports])
        return read_generation(self.folder, "orders")

    def requests(self):
        found = map(self.folder.read_assignment, self.folder.assignments())
        return [request for each in found for request in each.requests]


class TestRepairs:
    def test_an_ordered_snapshot_from_order_to_sweep(self, place):
        place.orders.give(SnapshotSignal("orders", "x", NOW))
        at = place.advance()
        assert (at.step, at.generation) == ("switching", 2)
        assert place.orders.pending("orders") is None
        assert place.advance(stream(0, 2)).step == "switching"
        assert place.requests() == []
        at = place.advance(stream(0, 2), stream(1, 2))
        assert at.step == "loading"
        (request,) = place.requests()
        assert (request.generation, request.from_us, request.buckets) == (2, 0, 4)
        assert request.not_before_us > NOW
        assert (request.bucket, request.prefix, request.request_id) == ("exports", "p", "state")
        # What the old generation had and the new one has not is swept, once all is loaded.
        gone = [Change(9, {"id": {"S": "gone"}}), Change(8, {"id": {"S": "kept"}})]
        kept = [Change(0, {"id": {"S": "kept"}}, generation=2)]
        place.sink.apply(blocks(place.table, [*gone, *kept]), round_number(1))
        at = place.advance(stream(0, 2), stream(1, 2), export(2, "b"), file(2, "b"))
        assert (at.step, at.generation, at.plan) == ("settled", 2, None)
        assert at.ended == {
            "generation": 2,
            "kind": "resnapshot",
            "rows": 3,
            "swept": 1,
            "repaired": [[2, 0]],
        }
        again = place.advance(stream(0, 2), stream(1, 2), export(2, "b"), file(2, "b"))
        assert (again, len(place.requests())) == (at, 1)

    def test_an_ordered_snapshot_of_a_range(self, place):
        place.orders.give(SnapshotSignal("orders", "x", NOW, "g..h"))
        assert place.advance().key_range == "g..h"
        at = place.advance(stream(0, 2), stream(1, 2))
        assert (at.step, at.key_range, at.plan["key_range"]) == ("loading", "", "g..h")
        assert [each.key_range for each in place.requests()] == ["g..h"]
        others = [Change(9, {"id": {"S": each}}) for each in ("gone", "h", "ha", "a")]
        place.sink.apply(blocks(place.table, others), round_number(1))
        at = place.advance(stream(0, 2), stream(1, 2), export(2, "b"), file(2, "b"))
        assert (at.step, at.ended["swept"]) == ("settled", 2)
        with duckdb.connect(str(place.mirror)) as connection:
            held = connection.execute("SELECT id FROM orders ORDER BY id").fetchall()
        assert held == [("a",), ("ha",)]

    def test_a_gap_that_recovery_does_not_reach_is_a_new_snapshot_with_the_reason(self, place):
        place.advance(gap(1))
        at = place.advance(gap(1), stream(0, 2), stream(1, 2))
        assert (at.step, at.policy) == ("loading", "heal")
        assert at.plan["kind"] == "resnapshot"
        assert "reaches back to" in at.plan["reason"]
        assert [each.from_us for each in place.requests()] == [0]

    def test_a_reader_whose_stream_is_over_has_switched(self, place):
        place.advance(gap(1))
        at = place.advance(gap(1), stream(0, 2), stream(1, 1, over=True))
        assert at.step == "loading"

    def test_steps_that_are_repeated_after_a_crash_change_nothing(self, place):
        place.orders.give(SnapshotSignal("orders", "x", NOW))
        switched = (stream(0, 2), stream(1, 2))
        place.advance()
        place.advance(*switched)
        before = place.requests()
        at = read_generation(place.folder, "orders")
        # Died after the order was noted and before it was removed, then before the assignment.
        place.orders.give(SnapshotSignal("orders", "x", NOW))
        assert place.advance(*switched) == at
        assert place.orders.pending("orders") is None
        assert place.requests() == before


class TestReaders:
    def test_learn_it_at_once_when_new_and_soon_otherwise(self, tmp_path, monkeypatch):
        now = [100.0]
        monkeypatch.setattr(time, "monotonic", lambda: now[0])
        folder = ControlFolder(str(tmp_path))
        generations = FolderGenerations(folder.path)
        assert generations.lookup("orders", fresh=False) == LatestGeneration(0, 0)
        TableGeneration(generation=2, snapshot_until_us=7).write(folder, "orders")
        assert generations.lookup("orders", fresh=False) == LatestGeneration(0, 0)
        assert generations.lookup("orders", fresh=True) == LatestGeneration(2, 7)
        TableGeneration(generation=3).write(folder, "orders")
        now[0] += 3.5
        assert generations.lookup("orders", fresh=False) == LatestGeneration(3, 0)

    @pytest.mark.parametrize(
        ("frontier", "known", "expected"),
        [(0, 0, (1, 5)), (0, 2, (2, 9)), (3, 2, (3, 5)), (2, 2, (2, 9))],
    )
    def test_never_go_back(self, frontier, known, expected, place):
        source = place.folder.read_assignment(place.folder.assignments()[0]).sources[0]
        source = dataclasses.replace(source, snapshot_until_us=5)
        found = with_latest_generation(
            source, Frontier(generation=frontier), LatestGeneration(known, 9)
        )
        assert (found.generation, found.snapshot_until_us) == expected

    def test_nothing_is_planned_for_a_table_that_was_made_again(self, place):
        at = dataclasses.replace(
            read_generation(place.folder, "orders"), table_id="the id of the one before"
        )
        at.write(place.folder, "orders")
        at = place.advance(gap(1))
        assert at.step == "switching"
        assert place.advance(gap(1), stream(0, 2), stream(1, 2)) == at
        assert place.requests() == []

    def test_nor_for_one_that_is_no_more(self, place):
        at = place.advance(gap(1))
        place.sim.client("dynamodb").delete_table(TableName="orders")
        assert place.advance(gap(1), stream(0, 2), stream(1, 2)) == at
        assert place.requests() == []

    def test_a_changelog_is_given_the_deletes(self, place, tmp_path):
        changelog = open_sink(f"file:///{tmp_path}/changes")
        changelog.check([place.table], NO_ROUND)
        gone = [Change(9, {"id": {"S": "gone"}}), Change(8, {"id": {"S": "kept"}})]
        kept = [Change(0, {"id": {"S": "kept"}}, generation=2)]
        changelog.stage(blocks(place.table, [*gone, *kept]), round_number(1))
        changelog.publish(round_number(1))
        settings = dataclasses.replace(place.settings, sinks=[changelog])
        place.repairs = Repairs(place.folder, settings, lambda: NOW)
        place.orders.give(SnapshotSignal("orders", "x", NOW))
        place.advance()
        place.advance(stream(0, 2), stream(1, 2))
        for _ in range(2):
            at = place.advance(stream(0, 2), stream(1, 2), export(2, "b"), file(2, "b"))
            assert (at.step, at.ended["swept"]) == ("settled", 1)
        (path,) = (tmp_path / "changes").rglob("*swept*.jsonl")
        assert "continuous-" in path.parent.name
        (line,) = path.read_text().splitlines()
        change = json.loads(line)
        assert (change["op"], change["keys"]) == ("d", {"id": {"S": "gone"}})
