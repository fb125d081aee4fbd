# SPDX-License-Identifier: Apache-2.0
"""Streams that end under a continuous run: what follows is read once, and the gap told once."""

import dataclasses

import pytest

from dynabeam.pipelines.continuous.deployments import absorb
from dynabeam.transforms.aws.dynamodb import describe_table
from dynabeam.transforms.aws.session import AwsAccess
from dynabeam.transforms.continuous.compact_reports import compact
from dynabeam.transforms.continuous.control_folder import Assignment
from dynabeam.transforms.continuous.discover_tables import Discovered, DiscoveredCoder
from dynabeam.transforms.continuous.discovery import read_findings
from dynabeam.transforms.continuous.fatal_errors import load_fatal_errors
from dynabeam.transforms.continuous.gap_handler import FolderGapHandler
from dynabeam.transforms.continuous.generations import TableGeneration
from dynabeam.transforms.continuous.stream_ends import read_followed, stream_end, write_end
from dynabeam.transforms.errors import GapError
from dynabeam.transforms.model.gap import GapPolicies, GapPolicy
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.state.coverage import FUZZ_US
from dynabeam.transforms.state.state_directory import State
from dynabeam.transforms.state.table_reading import new_table_state, stream_sources
from dynabeam.transforms.state.table_state import NO_TOTALS
from dynabeam.transforms.stream.frontier import Frontier, ShardPosition
from dynabeam.transforms.testing.simulator import Simulator
from tests.continuous.test_discover import OPTIONS, Discovering, create

OFF = {"StreamEnabled": False}
ON = {"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"}
COUNTS = ("changes", "bytes", "pages", "empty_polls", "throttles", "children")


@pytest.fixture
def sim(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "simulated")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "simulated")
    with Simulator(seed=5, initial_shards=2) as made:
        create(made, "orders")
        yield made


class Following(Discovering):
    """A deployment that reads the table, by hand."""

    def __init__(self, sim, path, policy=GapPolicy.CONTINUE):
        super().__init__(sim, str(path / "continuous" / "x"))
        self.sim = sim
        self.access = AwsAccess(region=sim.region, endpoint_url=sim.endpoint_url)
        handler = FolderGapHandler(self.folder.path, GapPolicies(policy))
        self.fn = type(self.fn)(self.access, (), lambda: self.now, handler)
        found = describe_table(self.access, "orders")
        options = dataclasses.replace(OPTIONS, readers=2)
        self.first = new_table_state(found.table, found, options)
        self.folder.assign("0", Assignment(stream_sources(self.first, options, 0, 1), []))
        TableGeneration(generation=1, table_id=found.table_id).write(self.folder, "orders")
        self.arn = found.stream_arn
        self.stored = []

    def switch(self, *, on):
        self.sim.client("dynamodb").update_table(
            TableName="orders", StreamSpecification=ON if on else OFF
        )

    def report(self, reader, *, over, arn=None, generation=1, newest_us=7_000_000, changes=3):
        shards = () if over else (ShardPosition("s", low_us=9_000_000),)
        fields = {
            "reader": reader,
            "readers": 2,
            "stream_arn": arn or self.arn,
            "generation": generation,
            "frontier": Frontier(shards=shards, swept_us=5).to_json(),
            "caught_up": True,
            "over": over,
            "at_us": 1,
            "behind": 0,
            "behind_shards": [],
            "newest_event_us": newest_us,
            **dict.fromkeys(COUNTS, changes),
        }
        self.store(Report("stream", "orders", fields))

    def store(self, *reports):
        """As `StorePositions` does it."""
        self.stored = compact([*self.stored, *reports])
        self.folder.write_positions("orders", self.stored)
        end = stream_end("orders", self.stored)
        if end is not None:
            write_end(self.folder, end)

    def end(self, **options):
        for reader in range(2):
            self.report(reader, over=True, **options)

    def sources(self):
        found = [self.folder.read_assignment(path) for path in self.folder.assignments()]
        return [
            source for each in found for source in each.sources if source.stream_arn != self.arn
        ]

    def gaps(self):
        return [each.fields for each in self.reports if each.kind == "gap"]

    def absorbed(self):
        """The state of the table after a take-over."""
        state = State("s", 1, "a", {"orders": self.first})
        absorb(self.folder, state)
        return state.tables["orders"].to_json()


@pytest.fixture
def run(sim, tmp_path):
    return Following(sim, tmp_path)


class TestStreams:
    def test_one_that_goes_on_has_no_sequel(self, run):
        run.report(0, over=False)
        run.report(1, over=False)
        run.switch(on=False)
        run.switch(on=True)
        assert run.look() == []
        assert run.reports == []
        # All readers have to have come to the end.
        run.report(0, over=True)
        run.look()
        assert (run.reports, run.sources()) == ([], [])

    def test_the_next_one_is_read_from_its_beginning(self, sim, run):
        run.report(0, over=False, changes=4)
        run.end()
        run.switch(on=False)
        run.switch(on=True)
        run.look()
        stream = sim.table("orders").streams[-1]
        sources = run.sources()
        assert [(each.reader, each.readers) for each in sources] == [(0, 2), (1, 2)]
        for each in sources:
            assert (each.stream_arn, each.generation, each.frontier) == (stream.arn, 2, None)
            assert (each.start, each.buckets) == ("trim_horizon", OPTIONS.buckets)
            assert each.snapshot_until_us == run.now + FUZZ_US
        (gap,) = run.gaps()
        assert (gap["kind"], gap["generation"]) == ("stream_changed", 2)
        # Up to here an open shard was read; the next stream begins there.
        assert (gap["from_us"], gap["to_us"]) == (9_000_000, stream.created_micros)
        for _ in range(2):
            run.look()
            assert (run.reports, len(run.sources())) == ([], 2)

    def test_a_bundle_that_is_lost_is_repeated(self, run):
        run.end()
        run.switch(on=False)
        run.switch(on=True)
        run.look(committed=False)
        first = run.gaps()
        run.look()
        assert len(first) == len(run.gaps()) == 1
        assert len(run.sources()) == 2
        run.look()
        assert run.gaps() == []

    def test_fail_stops_behind_what_the_old_one_held(self, sim, tmp_path):
        run = Following(sim, tmp_path, GapPolicy.FAIL)
        run.end()
        run.switch(on=False)
        run.switch(on=True)
        with pytest.raises(GapError, match="table orders"):
            run.look()
        assert "GapError" in load_fatal_errors(run.folder)["orders"]
        assert run.sources() == []

    def test_off_and_on_later(self, run):
        run.end()
        run.switch(on=False)
        assert run.look() == [("orders", "stream_off")]
        detail = read_findings(run.folder.findings)["orders"].detail
        assert "StreamEnabled=true" in detail
        assert "--exclude_tables=orders" in detail
        assert run.look() == []
        run.switch(on=True)
        assert run.look() == []
        assert len(run.gaps()) == 1
        assert read_findings(run.folder.findings) == {}

    def test_several(self, sim, run):
        arns = [run.arn]
        for generation in range(1, 4):
            run.end(arn=arns[-1], generation=generation)
            run.switch(on=False)
            run.switch(on=True)
            run.look()
            arns.append(sim.table("orders").streams[-1].arn)
            assert [each["stream_arn"] for each in run.gaps()] == [arns[-2]]
        assert [each.generation for each in run.sources()] == [2, 2, 3, 3, 4, 4]
        assert [each.arn for each in read_followed(run.folder, "orders")] == arns[1:]

    def test_taken_over_by_rounds(self, sim, run):
        run.end()
        run.switch(on=False)
        run.switch(on=True)
        run.look()
        run.store(*run.reports)
        state = run.absorbed()
        # Nothing of the next stream is stored yet: rounds find it for themselves.
        assert state["stream"]["arn"] == run.arn
        arn = sim.table("orders").streams[-1].arn
        run.report(1, over=False, arn=arn, generation=2, changes=5)
        run.first = dataclasses.replace(run.first, gaps=(), totals=NO_TOTALS)
        state = run.absorbed()
        assert (state["stream"]["arn"], state["generation"]) == (arn, 2)
        first, second = state["stream"]["frontiers"]
        assert first is None
        assert second["shards"]
        # What the old stream's readers counted counts.
        assert state["totals"]["changes"] == 3 + 3 + 5
        assert len(state["gaps"]) == 1


class TestTables:
    def drop(self, run):
        run.sim.client("dynamodb").delete_table(TableName="orders")

    def test_deleted(self, run):
        self.drop(run)
        run.end()
        assert run.look() == [("orders", "deleted")]
        assert run.look() == []
        assert "--exclude_tables=orders" in read_findings(run.folder.findings)["orders"].detail

    @pytest.mark.parametrize("policy", [GapPolicy.FAIL, GapPolicy.CONTINUE, GapPolicy.HEAL])
    def test_made_again(self, sim, tmp_path, policy):
        run = Following(sim, tmp_path, policy)
        self.drop(run)
        create(sim, "orders")
        run.end()
        assert run.look() == [("orders", "recreated")]
        assert (run.sources(), run.gaps()) == ([], [])
        detail = read_findings(run.folder.findings)["orders"].detail
        assert "--gaps=orders:resnapshot" in detail

    def test_made_again_and_taken_in_its_place(self, sim, tmp_path):
        run = Following(sim, tmp_path, GapPolicy.RESNAPSHOT)
        self.drop(run)
        create(sim, "orders")
        run.end()
        assert run.look() == []
        (gap,) = run.gaps()
        assert (gap["from_us"], gap["generation"]) == (0, 2)
        arn = sim.table("orders").streams[-1].arn
        assert {each.stream_arn for each in run.sources()} == {arn}
        for reader in range(2):
            run.report(reader, over=False, arn=arn, generation=2)
        state = run.absorbed()
        assert state["table_id"] == sim.table("orders").table_id
        assert (state["stream"]["arn"], state["generation"]) == (arn, 2)

    def test_made_again_without_recovery_or_with_another_key(self, sim, tmp_path):
        run = Following(sim, tmp_path, GapPolicy.RESNAPSHOT)
        self.drop(run)
        sim.create_table("orders")
        run.end()
        assert run.look() == [("orders", "recreated")]
        assert "recovery" in read_findings(run.folder.findings)["orders"].detail
        self.drop(run)
        create(sim, "orders", key="other:N")
        run.look()
        assert run.sources() == []


def test_a_restriction_of_an_earlier_version():
    """Savepoints keep it."""
    old = b'{"assignments":["a"],"done":false,"format":1,"next_look_us":5,"tables":["t"]}'
    assert DiscoveredCoder().decode(old) == Discovered(False, 5, ("a",), ("t",), ())
