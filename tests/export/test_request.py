# SPDX-License-Identifier: Apache-2.0
"""Contract of ensuring exports: tracker, waiting, looking once, whole pipelines of both forms."""

import dataclasses
import functools
import itertools
import json
import pickle
from datetime import timedelta

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.sdf_utils import RestrictionTrackerView, ThreadsafeRestrictionTracker
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.utils.timestamp import MIN_TIMESTAMP, Timestamp

from dynabeam.transforms.aws.dynamodb import describe_export, describe_table, list_exports
from dynabeam.transforms.errors import ExportError, ValueDecodeError
from dynabeam.transforms.export import ensure_export as module
from dynabeam.transforms.export.acquire import Acquisition, acquire
from dynabeam.transforms.export.elements import DONE, FileSlice, SnapshotRequest
from dynabeam.transforms.export.ensure_export import EnsureExport, WaitState, WaitStateCoder
from dynabeam.transforms.export.read_files import ReadExportFiles
from dynabeam.transforms.runtime.clock import now_us
from dynabeam.transforms.runtime.poll_tracker import PollTracker
from tests.export.builders import BUCKET, SAMPLE, SAMPLE_TABLE, TABLE, items, write_full
from tests.export.conftest import beam_options

WAITING = WaitState(export_arn="arn", next_look_us=7)
ENDED = WaitState(done=True, export_arn="arn", next_look_us=7)


class TestTracker:
    def test_a_split_before_any_claim_is_declined(self):
        tracker = PollTracker(WaitState())
        assert tracker.try_split(0) is None
        assert tracker.try_split(0.5) is None
        assert tracker.current_restriction() == WaitState()

    def test_a_claimed_look_hands_over_what_is_left(self):
        tracker = PollTracker(WaitState())
        assert tracker.try_claim(WAITING)
        primary, residual = tracker.try_split(0)
        assert primary.done
        assert residual == WAITING
        assert tracker.current_restriction() == primary
        assert tracker.check_done()
        assert tracker.try_split(0) is None

    def test_an_answered_request_leaves_nothing(self):
        tracker = PollTracker(WAITING)
        assert tracker.try_claim(ENDED)
        assert tracker.try_split(0) is None
        assert tracker.check_done()

    def test_one_claim_per_bundle(self):
        tracker = PollTracker(WaitState())
        assert tracker.try_claim(WAITING)
        assert not tracker.try_claim(ENDED)

    def test_nothing_to_claim_after_the_end(self):
        assert not PollTracker(ENDED).try_claim(WAITING)
        assert PollTracker(ENDED).check_done()

    @pytest.mark.parametrize("claims", [[], [WAITING]])
    def test_work_that_is_neither_done_nor_handed_over(self, claims):
        tracker = PollTracker(WaitState())
        for claim in claims:
            tracker.try_claim(claim)
        with pytest.raises(ValueError, match="neither ended nor handed over"):
            tracker.check_done()

    def test_progress_and_bounds(self):
        tracker = PollTracker(WaitState())
        assert not tracker.is_bounded()
        assert tracker.current_progress().completed_work == 0
        tracker.try_claim(ENDED)
        assert tracker.current_progress().completed_work == 1


class TestCoder:
    def test_golden_bytes(self):
        coder = WaitStateCoder()
        golden = b'{"done":false,"export_arn":"arn","format":1,"next_look_us":7}'
        assert coder.encode(WAITING) == golden
        assert coder.decode(golden) == WAITING
        assert coder.is_deterministic()
        failed = WaitState(next_look_us=7, attempt=2)
        assert coder.decode(coder.encode(failed)) == failed

    def test_unknown_format(self):
        with pytest.raises(ValueDecodeError, match="unknown format; expected 1; found 2"):
            WaitStateCoder().decode(b'{"format":2}')


class Watermark:
    """A manual watermark estimator that remembers."""

    def __init__(self):
        self.value = MIN_TIMESTAMP

    def current_watermark(self):
        return self.value

    def set_watermark(self, value):
        assert value >= self.value
        self.value = value


class Waiting:
    """Runs the waiting form by hand, bundle by bundle."""

    def __init__(self, how, request, clock):
        self.fn = module._WaitForExportFn(how, clock, 10)
        self.request = request
        self.state = self.fn.initial_restriction(request)
        self.watermark = Watermark()

    def bundle(self):
        """One call of `process`; returns its output, and keeps the residual as the next state."""
        restored = pickle.loads(pickle.dumps(self.fn))
        coder = restored.restriction_coder()
        state = coder.decode(coder.encode(self.state))
        tracker = ThreadsafeRestrictionTracker(restored.create_tracker(state))
        out = list(
            restored.process(
                self.request, Timestamp(3), RestrictionTrackerView(tracker), self.watermark
            )
        )
        assert tracker.check_done()
        residual = tracker.deferred_status()
        self.state = residual[0] if residual else None
        self.delay = residual[1] if residual else None
        slices = [each for each in out if isinstance(each, FileSlice)]
        reports = [each.value for each in out if isinstance(each, beam.pvalue.TaggedOutput)]
        return slices, [report.fields["status"] for report in reports]


class Clock:
    def __init__(self, now):
        self.now = now

    def __call__(self):
        return self.now


@pytest.fixture
def request_of_orders(sim, access):
    sim.create_table("orders", "id:S")
    sim.put_many("orders", items(10))
    sim.client("dynamodb").update_continuous_backups(
        TableName="orders", PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": True}
    )
    return SnapshotRequest(describe_table(access, "orders").table, 1, 4, bucket=BUCKET)


class TestWaiting:
    def test_until_the_export_is_complete(self, sim, access, request_of_orders):
        sim.exports.hold()
        clock = Clock(sim.clock.micros())
        waiting = Waiting(Acquisition(access), request_of_orders, clock)
        assert waiting.bundle() == ([], ["IN_PROGRESS"])
        assert waiting.state.export_arn
        assert waiting.watermark.value == Timestamp(3)
        for _ in range(2):
            clock.now += 10_000_000
            assert waiting.bundle() == ([], ["IN_PROGRESS"])
        sim.exports.release()
        clock.now += 10_000_000
        slices, statuses = waiting.bundle()
        assert statuses == ["COMPLETED"]
        assert sum(each.file.item_count for each in slices) == 10
        assert waiting.state is None
        assert waiting.watermark.value == Timestamp(3)

    def test_a_runner_that_ignores_delays_causes_no_calls(self, sim, access, request_of_orders):
        sim.exports.hold()
        waiting = Waiting(Acquisition(access), request_of_orders, Clock(sim.clock.micros()))
        waiting.bundle()
        state = waiting.state
        calls = sum(sim.stats.calls.values())
        for _ in range(20):
            assert waiting.bundle() == ([], [])
            assert waiting.state == state
        assert sum(sim.stats.calls.values()) == calls

    def test_for_the_stream_first(self, sim, access, request_of_orders):
        clock = Clock(sim.clock.micros())
        later = clock.now + 15_000_000
        request = dataclasses.replace(request_of_orders, not_before_us=later)
        waiting = Waiting(Acquisition(access), request, clock)
        statuses = []
        for _ in range(3):
            statuses += waiting.bundle()[1]
            clock.now += 10_000_000
        assert statuses == ["waiting_for_stream", "waiting_for_stream", "IN_PROGRESS"]

    def test_a_failed_export_is_requested_anew_with_pauses_that_grow(
        self, sim, access, request_of_orders, caplog
    ):
        clock = Clock(sim.clock.micros())
        waiting = Waiting(Acquisition(access), request_of_orders, clock)
        for attempt, pause in ((1, 60), (2, 120)):
            sim.exports.hold()
            sim.exports.fail_next("S3AccessDenied", "Access denied to the bucket")
            assert waiting.bundle()[1] == ["IN_PROGRESS"]
            sim.exports.release()
            clock.now += 10_000_000
            assert waiting.bundle() == ([], ["FAILED"])
            assert (waiting.state.attempt, waiting.state.export_arn) == (attempt, "")
            assert round(waiting.delay.micros / 1e6) == pause
            assert "S3AccessDenied: Access denied to the bucket" in caplog.text
            # Too early: no call, whatever the runner does.
            clock.now += (pause - 1) * 1_000_000
            assert waiting.bundle() == ([], [])
            clock.now += 1_000_000
        slices, statuses = [], []
        while waiting.state is not None:
            found, told = waiting.bundle()
            slices, statuses = slices + found, statuses + told
            clock.now += 10_000_000
            sim.exports.release()
        assert statuses[-1] == "COMPLETED"
        assert sum(each.file.item_count for each in slices) == 10
        assert len(list(list_exports(access, request_of_orders.table.arn))) == 3

    def test_a_resumed_job_takes_the_bucket_that_was_mended(self, sim, access, request_of_orders):
        """The request is what a savepoint has kept; the graph is new."""
        sim.create_bucket("fixed")
        how = Acquisition(access, bucket="fixed", prefix="p")
        waiting = Waiting(how, request_of_orders, Clock(sim.clock.micros()))
        waiting.state = WaitState(attempt=1)
        waiting.bundle()
        (found,) = list_exports(access, request_of_orders.table.arn)
        assert describe_export(access, found.arn).bucket == "fixed"

    def test_a_failed_export_that_was_given_stops_the_job(self, sim, access, request_of_orders):
        sim.exports.fail_next("Odd", "Something odd")
        acquire(request_of_orders, "", Acquisition(access), now_us=sim.clock.micros())
        (found,) = list_exports(access, request_of_orders.table.arn)
        given = dataclasses.replace(request_of_orders, bucket="", reuse=found.arn)
        sim.clock.advance(timedelta(minutes=10))
        waiting = Waiting(Acquisition(access), given, Clock(sim.clock.micros()))
        with pytest.raises(ExportError, match=r"Something odd.*another export"):
            waiting.bundle()

    def test_a_state_that_is_done_does_nothing(self):
        waiting = Waiting(Acquisition(), SnapshotRequest(TABLE, 1, 4), now_us)
        waiting.state = ENDED
        assert waiting.bundle() == ([], [])

    def test_drain_stops_waiting(self):
        fn = module._WaitForExportFn(Acquisition(), now_us, 10)
        assert fn.truncate(None, WaitState()) is None
        assert (fn.restriction_size(None, WaitState()), fn.restriction_size(None, ENDED)) == (1, 0)


_ticks = itertools.count()


def quick_clock(start, step_us):
    """A clock that moves on with every look at it."""
    return start + next(_ticks) * step_us


def keys_of(block):
    return block.rows.column("key").to_pylist()


def statuses_of(report):
    return (report.kind, report.fields["status"], report.fields["manifest"] is not None)


class TestPipelines:
    def run(self, requests, how, *, wait, expected, statuses, options=None, clock=now_us):
        p = beam.Pipeline(runner=FnApiRunner(), options=options or PipelineOptions([]))
        ensured = p | beam.Create(requests) | "Ensure" >> EnsureExport(how, wait=wait, clock=clock)
        rows = ensured.slices | "Read" >> ReadExportFiles()
        assert ensured.slices.is_bounded is not wait
        assert ensured.slices.element_type is FileSlice
        assert_that(rows.blocks | beam.FlatMap(keys_of), equal_to(expected), "rows")
        assert_that(ensured.reports | beam.Map(statuses_of), equal_to(statuses), "reports")
        p.run().wait_until_finish()

    @pytest.mark.parametrize("wait", [False, True])
    def test_from_a_location_without_aws(self, wait):
        self.run(
            [SnapshotRequest(SAMPLE_TABLE, 1, 4, reuse=str(SAMPLE))],
            Acquisition(),
            wait=wait,
            expected=[b"Sbar", b"Sfoo", b"SK3TXQk84Si"],
            statuses=[("export", "COMPLETED", True)],
        )

    def test_waiting_in_the_graph(self, sim, access, request_of_orders):
        # Every look at the clock is 10 s later: the export completes at the second look.
        start = sim.clock.micros()
        self.run(
            [request_of_orders],
            Acquisition(access),
            wait=True,
            options=beam_options(sim),
            clock=functools.partial(quick_clock, start, 11_000_000),
            expected=[f"Sk{n}".encode() for n in range(10)],
            statuses=[("export", "IN_PROGRESS", False), ("export", "COMPLETED", True)],
        )

    def test_catch_up_rounds(self, sim, access, request_of_orders):
        run = functools.partial(
            self.run, how=Acquisition(access), wait=False, options=beam_options(sim)
        )
        sim.exports.hold()
        for _ in range(2):
            run([request_of_orders], expected=[], statuses=[("export", "IN_PROGRESS", False)])
        sim.exports.release()
        arn = sim.client("dynamodb").list_exports()["ExportSummaries"][0]["ExportArn"]
        known = dataclasses.replace(request_of_orders, reuse=arn)
        run(
            [known],
            expected=[f"Sk{n}".encode() for n in range(10)],
            statuses=[("export", "COMPLETED", True)],
        )

    def test_failure_fails_the_pipeline(self, tmp_path):
        request = SnapshotRequest(SAMPLE_TABLE, 1, 4, reuse=str(tmp_path))
        with pytest.raises(ExportError, match=r"no manifest-summary.json"):
            self.run([request], Acquisition(), wait=False, expected=[], statuses=[])


class TestReport:
    def look(self, request):
        fn = module._PollOnceFn(Acquisition(), now_us)
        tagged, *slices = fn.process(request)
        return tagged.value, slices

    def test_with_the_manifest_in_the_look_that_read_it(self, tmp_path):
        write_full(tmp_path, 10)
        request = SnapshotRequest(TABLE, 3, 4, reuse=str(tmp_path))
        report, _ = self.look(request)
        fields = dict(report.fields)
        manifest = fields.pop("manifest")
        assert (report.kind, report.table) == ("export", "orders")
        assert fields == {
            "generation": 3,
            "status": "COMPLETED",
            "export_arn": manifest["export_arn"],
            "item_count": 10,
            "billed_bytes": 0,
            "started_us": 0,
            "export_time_us": manifest["export_time_us"],
            "files": 5,
            "from_us": 0,
            "warnings": [],
        }
        stored = json.loads(json.dumps(manifest))
        again, _ = self.look(dataclasses.replace(request, manifest=stored, reuse=""))
        assert again.fields["manifest"] is None
        assert {**again.fields, "manifest": 0} == {**fields, "manifest": 0}

    def test_rounds_of_a_budget_read_each_file_to_its_end(self, tmp_path):
        write_full(tmp_path, 2000)
        request = SnapshotRequest(TABLE, 1, 4, reuse=str(tmp_path), max_bytes=20_000)
        _, slices = self.look(request)
        assert slices
        assert sum(each.max_bytes for each in slices) <= 20_000
        done = {each.file.path: DONE for each in slices}
        _, later = self.look(dataclasses.replace(request, loaded=done, loaded_bytes=1_000))
        assert not {each.file.path for each in later} & set(done)
