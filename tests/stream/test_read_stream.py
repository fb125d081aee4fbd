# SPDX-License-Identifier: Apache-2.0
"""`ReadStream` on the in-process runner, and the contract of provider and `process`."""

import dataclasses
import pickle
import threading

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.utils.timestamp import Timestamp

from dynabeam.transforms.aws.session import AwsAccess
from dynabeam.transforms.continuous.control_folder import ControlFolder
from dynabeam.transforms.continuous.fatal_errors import clear_fatal_errors, load_fatal_errors
from dynabeam.transforms.continuous.gap_handler import FolderGapHandler
from dynabeam.transforms.errors import GapError
from dynabeam.transforms.model.block import Block, BlockCoder
from dynabeam.transforms.model.dead_letter import DeadLetterCoder
from dynabeam.transforms.model.gap import GapPolicies, GapPolicy
from dynabeam.transforms.model.report import ReportCoder
from dynabeam.transforms.model.version import decode_version
from dynabeam.transforms.runtime.poll_tracker import advance
from dynabeam.transforms.stream.frontier import Frontier, FrontierCoder, ShardPosition
from dynabeam.transforms.stream.read_stream import ReadStream
from dynabeam.transforms.stream.reader_group import FrontierGroup, ReaderGroup, group_readers
from dynabeam.transforms.stream.reader_spec import LatestGeneration
from dynabeam.transforms.stream.watermark import StreamWatermarks, clamp_to_watermark, seed_us
from tests.stream.scripted import (
    ARN,
    NOW_US,
    QUICK,
    FixedClock,
    ScriptedStreams,
    Shard,
    record,
    run,
    shard_id,
    source,
)

A, B, C = (shard_id(n, 9 - n) for n in range(3))


def scripted(access):
    """A client of six lineages; made anew on each worker, the same everywhere."""
    shards = []
    for root in range(6):
        parent, child = shard_id(root, 9), shard_id(10 + root, 5)
        base = 1000 * root
        shards.append(Shard(parent, "", [[record(base + n)] for n in range(1, 30)], closed=True))
        shards.append(Shard(child, parent, [[record(base + n)] for n in range(30, 60)]))
    return ScriptedStreams(*shards, status="ENABLED")


def disabled(access):
    client = scripted(access)
    client.status = "DISABLED"
    for shard in client.shards.values():
        shard.closed = True
    return client


_asked = []


class _Flapping:
    """Says that the generation goes up at the third slice, and forgets it if not asked anew."""

    def lookup(self, table, *, fresh):
        _asked.append(fresh)
        risen = len(_asked) >= 4
        return LatestGeneration(7 if risen and (fresh or len(_asked) % 2 == 0) else 1, 0)


EXPECTED = [1000 * root + n for root in range(6) for n in range(1, 60)]


def sequences(block):
    return [decode_version(each)[1] for each in block.rows.column("version").to_pylist()]


def by_key(block):
    return block.group, sequences(block)


def check_changes(found):
    numbers = sorted(n for _, parts in found for part in parts for n in part)
    assert numbers == EXPECTED, f"{len(numbers)} numbers"


def check_reports(found):
    assert sorted(each.fields["reader"] for each in found) == [0, 1, 2]
    assert all(each.fields["caught_up"] for each in found)
    assert sum(each.fields["changes"] for each in found) == len(EXPECTED)


class TestRunner:
    @pytest.mark.parametrize("workers", [1, 2])
    def test_catch_up(self, workers):
        options = PipelineOptions(
            direct_num_workers=workers,
            direct_running_mode="in_memory" if workers == 1 else "multi_threading",
        )
        transform = ReadStream(AwsAccess(), "tip", QUICK, FixedClock(), scripted)
        with beam.Pipeline("FnApiRunner", options=options) as pipeline:
            read = (
                pipeline
                | beam.Create([source(reader=n, readers=3) for n in range(3)])
                | "Spread" >> beam.Reshuffle()
                | transform
            )
            assert all(each.is_bounded for each in read.values())
            grouped = (
                read["blocks"]
                | "Spread blocks" >> beam.Reshuffle()
                | beam.Map(by_key)
                | beam.GroupByKey()
            )
            assert_that(grouped, check_changes, label="changes")
            assert_that(read["reports"], check_reports, label="reports")

    def test_continuous_until_the_stream_is_switched_off(self):
        pacing = dataclasses.replace(QUICK, slice=0.05, slice_bytes=4000, tip_slice=0.01)
        transform = ReadStream(AwsAccess(), "forever", pacing, FixedClock(), disabled)
        with beam.Pipeline("FnApiRunner") as pipeline:
            read = pipeline | beam.Create([source()]) | transform
            assert not read["blocks"].is_bounded
            changes = read["blocks"] | beam.Map(by_key) | beam.Map(lambda kv: (kv[0], [kv[1]]))
            assert_that(changes, check_changes, label="changes")

            def check_slices(found):
                assert len(found) > 3
                assert sum(each.fields["changes"] for each in found) == len(EXPECTED)

            assert_that(read["reports"], check_slices, label="reports")

    def test_readers_that_take_their_turns_together(self):
        pacing = dataclasses.replace(QUICK, slice=0.05, slice_bytes=4000, tip_slice=0.01)
        transform = ReadStream(AwsAccess(), "forever", pacing, FixedClock(), disabled)
        groups = group_readers([source(reader=n, readers=3) for n in range(3)])
        together = ReaderGroup(tuple(each for group in groups[:2] for each in group.sources))
        with beam.Pipeline("FnApiRunner") as pipeline:
            read = pipeline | beam.Create([together, groups[2]]) | transform
            assert not read["blocks"].is_bounded
            changes = read["blocks"] | beam.Map(by_key) | beam.Map(lambda kv: (kv[0], [kv[1]]))
            assert_that(changes, check_changes, label="changes")

            def check_ends(found):
                ends = [each.fields["reader"] for each in found if each.fields["over"]]
                assert sorted(ends) == [0, 1, 2]
                assert sum(each.fields["changes"] for each in found) == len(EXPECTED)

            assert_that(read["reports"], check_ends, label="reports")

    def test_a_generation_that_went_up_is_never_given_up_again(self):
        """Answers come from a cache that knows less now and then; what is asked anew is right."""
        _asked.clear()
        pacing = dataclasses.replace(QUICK, slice=0.05, slice_bytes=4000, tip_slice=0.01, report=0)
        transform = ReadStream(
            AwsAccess(), "forever", pacing, FixedClock(), disabled, generations=_Flapping()
        )
        with beam.Pipeline("FnApiRunner") as pipeline:
            read = pipeline | beam.Create([source()]) | transform

            def check_generations(found):
                versions = sorted(
                    (sequence, generation) for part in found for generation, sequence in part
                )
                lineages = [[g for n, g in versions if n // 1000 == root] for root in range(6)]
                assert all(each == sorted(each) for each in lineages), lineages
                assert {each for lineage in lineages for each in lineage} == {1, 7}

            def check_last_report(found):
                last = max(found, key=lambda each: each.fields["generation"])
                assert last.fields["generation"] == 7
                assert last.fields["frontier"]["generation"] == 7
                assert [each for each in found if each.fields["over"]]

            blocks = read["blocks"] | beam.Map(
                lambda block: [decode_version(v) for v in block.rows["version"].to_pylist()]
            )
            assert_that(blocks, check_generations, label="generations")
            assert_that(read["reports"], check_last_report, label="reports")

    @pytest.mark.parametrize(("told", "ruled"), [("fail", "continue"), ("continue", "fail")])
    def test_the_rules_of_a_run_outweigh_what_its_elements_say(self, told, ruled, tmp_path):
        """An element lies in savepoints: it has the policy of the day when the run began."""
        folder = ControlFolder(str(tmp_path))
        pacing = dataclasses.replace(QUICK, slice=0.05, slice_bytes=4000, tip_slice=0.01)
        handler = FolderGapHandler(folder.path, GapPolicies(GapPolicy(ruled)))
        transform = ReadStream(
            AwsAccess(), "forever", pacing, FixedClock(), disabled, gap_handler=handler
        )
        unread = ShardPosition(shard_id(0, 9), since_us=NOW_US - 25 * 3_600_000_000)
        late = source(Frontier((unread,), swept_us=NOW_US), gap_policy=GapPolicy(told))
        pipeline = beam.Pipeline("FnApiRunner")
        read = pipeline | beam.Create([late]) | transform
        kinds = read["reports"] | beam.Map(lambda report: report.kind) | beam.Distinct()
        assert_that(kinds, equal_to(["gap", "stream"]))
        if ruled == "continue":
            pipeline.run().wait_until_finish()
            assert load_fatal_errors(folder) == {}
            return
        with pytest.raises(GapError, match="may have lost changes"):
            pipeline.run().wait_until_finish()
        assert "may have lost changes" in load_fatal_errors(folder)["orders"]
        clear_fatal_errors(folder)
        assert load_fatal_errors(folder) == {}

    def test_a_failure_ends_the_pipeline(self):
        def broken(access):
            client = scripted(access)
            client.failures["get_records"] = [RuntimeError("unknown to the reader")]
            return client

        transform = ReadStream(AwsAccess(), "tip", QUICK, FixedClock(), broken)
        with (
            pytest.raises(RuntimeError, match="unknown to the reader"),
            beam.Pipeline("FnApiRunner") as p,
        ):
            _ = p | beam.Create([source()]) | transform

    def test_outputs_have_their_own_coders(self):
        transform = ReadStream(AwsAccess(), "tip", QUICK, FixedClock(), scripted)
        pipeline = beam.Pipeline("FnApiRunner")
        read = pipeline | beam.Create([source()]) | transform
        coders = {
            tag: type(beam.coders.registry.get_coder(each.element_type))
            for tag, each in read.items()
        }
        assert coders == {
            "blocks": BlockCoder,
            "reports": ReportCoder,
            "dead_letters": DeadLetterCoder,
        }

    def test_only_two_modes(self):
        with pytest.raises(ValueError, match="'tip' or 'forever', not 'once'"):
            ReadStream(AwsAccess(), "once")


class TestProvider:
    def do_fn(self, until="tip"):
        def fail(access):
            raise AssertionError("a provider method called the service")

        return ReadStream(AwsAccess(), until, QUICK, FixedClock(), fail)._do_fn

    def test_no_method_calls_the_service_and_setup_is_not_needed(self):
        do_fn = self.do_fn()
        stored = Frontier((ShardPosition(A),), swept_us=1)
        element = source(stored)
        assert do_fn.initial_restriction(element) == stored
        assert do_fn.initial_restriction(source()) == Frontier()
        assert list(do_fn.split(element, stored)) == [stored]
        assert do_fn.create_tracker(stored).current_restriction() == stored

    def test_restriction_size_is_never_negative(self):
        do_fn = self.do_fn()
        frontier = Frontier((ShardPosition(A),))
        sizes = [
            do_fn.restriction_size(source(), each)
            for each in (Frontier(), frontier, Frontier(closed=True))
        ]
        assert sizes == [1, 2, 0]

    def test_truncate_stops_reading(self):
        assert self.do_fn().truncate(source(), Frontier()) is None

    def test_the_coder_is_ours(self):
        assert isinstance(self.do_fn().restriction_coder(), FrontierCoder)

    def test_bounded_is_the_mode(self):
        assert self.do_fn("tip").create_tracker(Frontier()).is_bounded()
        forever = self.do_fn("forever").create_tracker(FrontierGroup((Frontier(),)))
        assert not forever.is_bounded()

    def test_it_pickles_and_clients_are_made_late(self):
        do_fn = ReadStream(AwsAccess(), "tip", QUICK, FixedClock(), scripted)._do_fn
        again = pickle.loads(pickle.dumps(do_fn))
        again.setup()
        again.teardown()

    def test_no_threads_stay_behind_a_run(self):
        before = set(threading.enumerate())
        for _ in range(2):
            with beam.Pipeline(runner="FnApiRunner") as pipeline:
                transform = ReadStream(AwsAccess(), "tip", QUICK, FixedClock(), scripted)
                _ = pipeline | beam.Create([source()], reshuffle=False) | transform
        left = [
            each
            for each in set(threading.enumerate()) - before
            if each.name.startswith("dynabeam-stream")
        ]
        for each in left:
            each.join(10)
        assert not [each for each in left if each.is_alive()]


class _Estimator:
    def __init__(self, micros):
        self.at = Timestamp(micros=micros)

    def current_watermark(self):
        return self.at

    def set_watermark(self, to):
        assert to >= self.at
        self.at = to


class TestWatermark:
    def test_it_is_seeded(self):
        provider = StreamWatermarks()
        state = provider.initial_estimator_state(source(), Frontier())
        assert provider.create_watermark_estimator(state).current_watermark() == Timestamp(
            micros=NOW_US - 48 * 3_600_000_000
        )
        older = Frontier((ShardPosition(A, low_us=5), ShardPosition(B)))
        assert seed_us(source(), older) == 5

    def test_its_state_is_not_pickled(self):
        coder = StreamWatermarks().estimator_state_coder()
        assert coder.decode(coder.encode(Timestamp(7))) == Timestamp(7)
        assert isinstance(coder, beam.coders.TimestampCoder)

    def test_it_never_moves_back(self):
        estimator = _Estimator(10)
        advance(estimator, 5)
        assert estimator.at == Timestamp(micros=10)
        advance(estimator, 0)
        advance(estimator, 20)
        assert estimator.at == Timestamp(micros=20)

    def test_no_element_is_late(self):
        assert clamp_to_watermark(_Estimator(10), 5) == Timestamp(micros=10)
        assert clamp_to_watermark(_Estimator(10), 15) == Timestamp(micros=15)

    def test_it_is_the_minimum_over_live_shards(self):
        near, far = NOW_US // 10**6 - 5, NOW_US // 10**6 - 500
        client = ScriptedStreams(
            Shard(A, "", [[record(1, time=near)]]), Shard(B, "", [[record(2, time=far)]])
        )
        pacing = dataclasses.replace(QUICK, poll=9, idle_poll=9, tip_empties=99)
        assert run(client, bounded=False, pacing=pacing).reader.watermark_us() == far * 10**6

    def test_a_shard_that_is_stuck_holds_it(self):
        client = ScriptedStreams(Shard(A, "", [[record(1)]]))
        first = run(client, bounded=False)
        standing = first.tracker.try_split(0)[1]
        client.failures["get_records"] = [TimeoutError()] * 5000
        stuck = dataclasses.replace(standing.shards[0], low_us=7, iterator="")
        element = source(dataclasses.replace(standing, shards=(stuck,)))
        pacing = dataclasses.replace(QUICK, retries=10**6, slice=0.05)
        result = run(client, element, bounded=False, pacing=pacing)
        assert result.reader.watermark_us() == 7

    def test_an_ended_shard_holds_it_until_its_children_enter(self):
        client = ScriptedStreams(Shard(A, "", [[record(1, time=100)]], closed=True))
        first = run(client, bounded=False)
        assert first.reader.watermark_us() == 100 * 10**6
        client.add(Shard(B, A, [[record(2, time=200)]]))
        standing = first.tracker.try_split(0)[1]
        late = FixedClock(NOW_US + 100_000_000)
        pacing = dataclasses.replace(QUICK, idle_poll=9, tip_empties=99)
        second = run(client, source(standing), bounded=False, pacing=pacing, clock=late)
        assert second.reader.watermark_us() == 200 * 10**6

    def test_it_advances_while_shards_are_idle(self):
        client = ScriptedStreams(Shard(A, "", []))
        pacing = dataclasses.replace(QUICK, tip_slice=0.1)
        assert run(client, bounded=False, pacing=pacing).reader.watermark_us() == (
            NOW_US - 30_000_000
        )

    def test_a_reader_without_shards_does_not_hold_it(self):
        result = run(ScriptedStreams(), bounded=False)
        assert result.reader.watermark_us() == NOW_US - 30_000_000

    @pytest.mark.parametrize(("age", "listed"), [(9, 0), (11, 1)])
    def test_a_reader_without_shards_lists_more_often(self, age, listed):
        """Its watermark is that of its last listing, and all others wait for it."""
        swept_us = NOW_US - age * 1_000_000
        client = ScriptedStreams()
        bare = source(Frontier(swept_us=swept_us), reader=1, readers=2)
        result = run(client, bare, bounded=False)
        assert client.count("describe") == listed
        assert result.reader.watermark_us() == (NOW_US if listed else swept_us) - 30_000_000
        client = ScriptedStreams(Shard(A, "", [[record(1)]]))
        run(
            client,
            source(Frontier((ShardPosition(A, since_us=NOW_US),), swept_us=swept_us)),
            bounded=False,
        )
        assert client.count("describe") == 0

    def test_blocks_carry_the_time_of_their_oldest_row(self):
        client = ScriptedStreams(
            Shard(A, "", [[record(1, key="a", time=NOW_US // 10**6 - 9), record(2, key="a")]])
        )
        transform = ReadStream(AwsAccess(), "tip", QUICK, FixedClock(), client.connect)
        do_fn = transform._do_fn
        estimator = _Estimator(0)
        element = source()
        tracker = do_fn.create_tracker(do_fn.initial_restriction(element))
        outputs = list(do_fn.process(element, tracker, estimator))
        do_fn.teardown()
        (block,) = (each for each in outputs if isinstance(getattr(each, "value", 0), Block))
        assert block.timestamp == Timestamp(NOW_US // 10**6 - 60)
        assert block.value.header.origin["stream_arn"] == ARN
