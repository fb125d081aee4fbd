# SPDX-License-Identifier: Apache-2.0
"""A continuous run finds tables by itself: each is assigned once, whatever is repeated."""

import pytest
from apache_beam.utils.timestamp import Timestamp

from dynabeam.transforms.aws.session import AwsAccess
from dynabeam.transforms.continuous.control_folder import ControlFolder
from dynabeam.transforms.continuous.discover_tables import DiscoveredCoder, _DiscoverFn
from dynabeam.transforms.continuous.discovery import read_findings
from dynabeam.transforms.continuous.discovery_plan import DiscoveryPlan
from dynabeam.transforms.errors import SinkError, StateError, ValueDecodeError
from dynabeam.transforms.model.gap import GapPolicies
from dynabeam.transforms.sinks.base import Round
from dynabeam.transforms.state.table_reading import ReadingOptions
from dynabeam.transforms.state.table_selection import TableSelection
from dynabeam.transforms.testing.simulator import Simulator
from tests.continuous.test_watch import Deferring
from tests.export.test_request import Watermark

SECOND = 1_000_000
OPTIONS = ReadingOptions(
    snapshot="auto",
    start="trim_horizon",
    bucket="exports",
    prefix="",
    bucket_owner="",
    gaps=GapPolicies(),
    buckets=4,
    readers=0,
)


class Discovering:
    """Runs the discovery by hand, bundle by bundle."""

    def __init__(self, sim, path, sinks=()):
        self.folder = ControlFolder(path)
        self.now = 1_000 * SECOND
        access = AwsAccess(region=sim.region, endpoint_url=sim.endpoint_url)
        self.fn = _DiscoverFn(access, sinks, lambda: self.now)
        self.state = self.fn.initial_restriction(path)
        self.watermark = Watermark()

    def bundle(self, *, committed=True):
        """One bundle; the runner may lose what it has done."""
        tracker = Deferring(self.fn.create_tracker(self.state))
        outputs = list(self.fn.process(self.folder.path.encode(), tracker, self.watermark))
        split = tracker.inner.try_split(0)
        assert tracker.inner.check_done()
        assert split is not None
        assert tracker.deferred
        if committed:
            # Restored from a savepoint, as it were.
            coder = self.fn.restriction_coder()
            self.state = coder.decode(coder.encode(split[1]))
        self.reports = [each.value for each in outputs]
        found = [each for each in self.reports if each.kind == "discovery"]
        return [(each.table, each.fields["what"]) for each in found]

    def look(self, **options):
        self.now += 60 * SECOND
        return self.bundle(**options)

    def assigned(self):
        found = [self.folder.read_assignment(path) for path in self.folder.assignments()]
        return sorted(each.table.name for one in found for each in one.sources)


@pytest.fixture
def sim(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "simulated")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "simulated")
    with Simulator(seed=5, initial_shards=3) as made:
        create(made, "orders")
        yield made


def create(sim, name, *, recovery=True, **options):
    sim.create_table(name, **options)
    if recovery:
        sim.client("dynamodb").update_continuous_backups(
            TableName=name, PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": True}
        )


def tell(folder, *patterns, **selection):
    plan = DiscoveryPlan(TableSelection(patterns, **selection), OPTIONS, "", Round("s", 3, "a"), 30)
    plan.write(folder)
    assert DiscoveryPlan.read(folder) == plan


class TestDiscover:
    def test_nothing_is_looked_for_before_it_is_told(self, sim, tmp_path):
        run = Discovering(sim, str(tmp_path))
        assert run.bundle() == []
        assert run.assigned() == []
        assert "ListTables" not in sim.stats.calls

    def test_new_tables_are_assigned_once(self, sim, tmp_path):
        run = Discovering(sim, str(tmp_path))
        tell(run.folder, "*")
        run.bundle(committed=False)
        assert run.assigned() == ["orders"] * 3
        (path,) = run.folder.assignments()
        before = run.folder.read_assignment(path)
        run.look()
        assert run.folder.assignments() == [path]
        assert run.folder.read_assignment(path) == before
        (request,) = before.requests
        assert (request.bucket, request.request_id, request.generation) == ("exports", "s", 1)
        create(sim, "later")
        run.look()
        run.look()
        assert run.assigned() == ["later"] * 3 + ["orders"] * 3
        assert sorted(run.folder.read_tables()) == ["later", "orders"]
        assert run.watermark.current_watermark() == Timestamp(micros=run.now)

    def test_a_table_that_somebody_added_is_left_alone(self, sim, tmp_path):
        first = Discovering(sim, str(tmp_path))
        tell(first.folder, "*")
        first.bundle()
        # Another run on the same folder knows nothing but the assignments.
        second = Discovering(sim, str(tmp_path))
        second.bundle()
        assert len(second.folder.assignments()) == 1

    def test_findings_are_told_once_per_reason(self, sim, tmp_path):
        run = Discovering(sim, str(tmp_path))
        tell(run.folder, "*", exclude=("orders",))
        create(sim, "dumb", stream=None, recovery=False)
        assert run.bundle() == [("dumb", "not_ready")]
        assert run.look() == []
        stream = {"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"}
        sim.client("dynamodb").update_table(TableName="dumb", StreamSpecification=stream)
        assert run.look() == [("dumb", "not_ready")]
        assert "recovery" in read_findings(run.folder.findings)["dumb"].detail
        assert run.assigned() == []
        sim.client("dynamodb").update_continuous_backups(
            TableName="dumb", PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": True}
        )
        assert run.look() == []
        assert run.assigned() == ["dumb"] * 3
        assert read_findings(run.folder.findings) == {}
        sim.client("dynamodb").delete_table(TableName="dumb")
        assert run.look() == [("dumb", "deleted")]
        assert run.look() == []

    def test_many_tables_take_several_looks_and_new_ones_come_first(self, sim, tmp_path):
        run = Discovering(sim, str(tmp_path))
        tell(run.folder, "t*")
        for number in range(25):
            create(sim, f"t{number:02d}", stream=None, recovery=False)
        assert len(run.bundle()) == 20
        assert run.state.next_look_us == run.now + 2 * SECOND
        assert len(run.look()) == 5
        create(sim, "t99")
        run.look()
        assert set(run.assigned()) == {"t99"}
        assert len(read_findings(run.folder.findings)) == 25

    def test_a_sink_that_cannot_hold_a_table_is_a_finding(self, sim, tmp_path):
        class Full:
            def check(self, tables, committed):
                raise SinkError(f"no room for {tables[0].name}", found=committed.number)

        run = Discovering(sim, str(tmp_path), [Full()])
        tell(run.folder, "*")
        assert run.bundle() == [("orders", "not_ready")]
        assert "no room for orders" in read_findings(run.folder.findings)["orders"].detail

    def test_a_run_that_is_over_looks_no_more(self, sim, tmp_path):
        run = Discovering(sim, str(tmp_path))
        tell(run.folder, "*")
        run.folder.end("rounds")
        with pytest.raises(StateError, match="taken over"):
            run.bundle()

    def test_the_restriction_is_versioned(self):
        coder = DiscoveredCoder()
        with pytest.raises(ValueDecodeError, match="DiscoverTables"):
            coder.decode(b'{"format":2}')
