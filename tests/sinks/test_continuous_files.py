# SPDX-License-Identifier: Apache-2.0
"""The file changelog without rounds: through Beam, its graph, its state, its failed writes."""

import collections
import pathlib

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.window import FixedWindows, GlobalWindow, TimestampedValue
from apache_beam.utils.timestamp import MAX_TIMESTAMP, MIN_TIMESTAMP

from dynabeam.transforms.errors import ConfigurationError, SinkError, ValueDecodeError
from dynabeam.transforms.model.block import Block
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.runtime.timers import ceil_to_millis
from dynabeam.transforms.sinks.base import HELD_SECONDS, Round
from dynabeam.transforms.sinks.files import continuous_files
from dynabeam.transforms.sinks.files.continuous_files import GATHER_BYTES, Gathered, content_digest
from dynabeam.transforms.sinks.registry import open_sink
from dynabeam.transforms.storage import filesystem
from tests.graphs import labels_of, pickled_places
from tests.sinks.changes import NO_ROUND, STATE, Change, blocks, only_block, round_number, table
from tests.sinks.continuous_worker import (
    LINES,
    NOON,
    ORDERS,
    PARQUET,
    SECOND,
    Worker,
    change,
    counted,
    opened,
    wanted,
)
from tests.sinks.targets import CHANGELOGS, published, read_changes, run_round

CUSTOMERS = table("customers", ("n", "N"))
TODAY = "orders/dynabeam_round=continuous-2026-01-31"


def run(sink, given_blocks, *options, timestamp=None, windows=None):
    """A bounded input through Beam: at its end the watermark goes to infinity."""

    def stamped(block):
        at = block.rows.column("event_time")[0].as_py().timestamp()
        return TimestampedValue(block, at if timestamp is None else timestamp)

    with beam.Pipeline(runner="FnApiRunner", options=PipelineOptions(list(options))) as pipeline:
        source = (
            pipeline
            | beam.Create(given_blocks, reshuffle=False).with_output_types(Block)
            | beam.Map(stamped).with_output_types(Block)
        )
        if windows is not None:
            source |= beam.WindowInto(windows)
        reports = source | "Sink" >> sink.write_continuously(STATE)
        assert reports.element_type is Report


class TestThroughBeam:
    @pytest.mark.parametrize("target", CHANGELOGS, ids=lambda each: each.id)
    def test_the_end_of_the_input_writes_everything(self, target, tmp_path):
        sink = opened(target, tmp_path)
        changes = [change(at) for at in range(1, 20)]
        run(sink, [block for each in changes for block in blocks(ORDERS, [each])])
        assert counted(target, sink) == collections.Counter(wanted(ORDERS, changes))
        assert 1 <= len(published(target, sink)) <= 4
        assert not filesystem.list_files(sink.files().continuous_staging_folder())

    def test_several_workers_and_tables(self, tmp_path):
        sink = opened(PARQUET, tmp_path, [ORDERS, CUSTOMERS])
        changes = [change(at) for at in range(1, 20)]
        other = [Change(at, {"n": {"N": str(at)}}) for at in range(1, 9)]
        given_blocks = blocks(ORDERS, changes) + blocks(CUSTOMERS, other)
        options = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
        run(sink, given_blocks, *options)
        found = counted(PARQUET, sink)
        assert set(found.values()) == {1}
        assert wanted(ORDERS, changes) < set(found)
        assert len(found) == len(changes) + len(other)

    @pytest.mark.parametrize("timestamp", [MIN_TIMESTAMP, GlobalWindow().max_timestamp()])
    def test_timestamps_at_the_ends_of_time(self, tmp_path, timestamp):
        sink = opened(LINES, tmp_path)
        run(sink, blocks(ORDERS, [change(1), change(2)]), timestamp=timestamp)
        assert counted(LINES, sink) == collections.Counter(wanted(ORDERS, [change(1), change(2)]))

    def test_windows_of_the_input_take_nothing_away(self, tmp_path):
        sink = opened(LINES, tmp_path)
        changes = [change(at) for at in range(1, 9)]
        run(sink, [only_block(ORDERS, [each]) for each in changes], windows=FixedWindows(1))
        assert counted(LINES, sink) == collections.Counter(wanted(ORDERS, changes))
        assert len(published(LINES, sink)) == 1

    def test_the_same_again_replaces_itself(self, tmp_path, monkeypatch):
        monkeypatch.setattr(continuous_files, "now_us", lambda: NOON)
        sink = opened(LINES, tmp_path)
        for given_blocks in (blocks(ORDERS, [change(1)]), blocks(ORDERS, [change(1)])):
            run(sink, given_blocks)
        assert counted(LINES, sink) == collections.Counter(wanted(ORDERS, [change(1)]))

    def test_object_store(self, s3):
        sink = open_sink("s3://bucket/log?writers=1")
        sink.check([ORDERS], NO_ROUND)
        sink.recover(NO_ROUND)
        run(sink, blocks(ORDERS, [change(1), change(2)]), *s3)
        marker, file = filesystem.list_files("s3://bucket/log")
        assert marker == "s3://bucket/log/_dynabeam.json"
        assert file.startswith("s3://bucket/log/orders/dynabeam_round=continuous-")
        assert len(filesystem.read_bytes(file, SinkError).splitlines()) == 2
        sink.recover(NO_ROUND)
        assert filesystem.list_files("s3://bucket/log") == [marker, file]


class TestGraph:
    def graph(self):
        pipeline = beam.Pipeline(runner="FnApiRunner")
        source = pipeline | "Blocks" >> beam.Create([]).with_output_types(Block)
        source | "Sink" >> open_sink("s3://bucket/log").write_continuously(STATE)
        return pipeline

    def test_labels(self):
        """Savepoints find their state by these: a change here is a change of the release line."""
        assert sorted(labels_of(self.graph(), below="Sink")) == [
            "Sink",
            "Sink/ByTableAndWriter",
            "Sink/GatherAndWrite",
            "Sink/InGlobalWindow",
        ]

    def test_nothing_is_pickled_that_a_savepoint_keeps(self):
        assert pickled_places(self.graph()) == []

    def test_state_that_every_runner_has(self):
        """A timer of real time, or another kind of state, would move the job off Prism."""
        components = self.graph().to_runner_api().components
        (payload,) = [
            payload
            for each in components.transforms.values()
            if each.unique_name == "Sink/GatherAndWrite"
            for payload in [beam_runner_api_pb2.ParDoPayload.FromString(each.spec.payload)]
        ]
        kinds = {name: spec.WhichOneof("spec") for name, spec in payload.state_specs.items()}
        assert kinds == {"gathered": "read_modify_write_spec", "blocks": "bag_spec"}
        (timer,) = payload.timer_family_specs.values()
        assert timer.time_domain == TimeDomain.to_runner_api(TimeDomain.WATERMARK)
        coders = {
            components.coders[
                each.read_modify_write_spec.coder_id or each.bag_spec.element_coder_id
            ].spec.urn
            for each in payload.state_specs.values()
        }
        assert coders == {"beam:coder:bytes:v1"}


class TestGathering:
    @pytest.fixture
    def sink(self, tmp_path):
        return opened(LINES, tmp_path)

    @pytest.fixture
    def worker(self):
        return Worker([NOON])

    def test_golden_cell(self):
        gathered = Gathered(5, -1, NOON)
        cell = bytes.fromhex("01" + "0000000000000005" + "ff" * 8 + "000649add4493000")
        assert gathered.encode() == cell
        assert Gathered.decode(cell) == gathered

    @pytest.mark.parametrize("cell", [b"", b"\x02" + bytes(24), b"\x01", b"\x01" + bytes(30)])
    def test_a_cell_of_another_format(self, cell):
        with pytest.raises(ValueDecodeError, match="unknown format"):
            Gathered.decode(cell)

    def test_one_timer_at_the_oldest_block(self, sink, worker):
        for at in (70, 60, 65):
            assert worker.gather(sink, [only_block(ORDERS, [change(at)])], at * SECOND) == []
        ((_, _, timer),) = worker.keys.values()
        assert timer.at == (60 + HELD_SECONDS) * SECOND
        assert worker.advance_watermark(sink, timer.at - 1) == []
        (report,) = worker.advance_watermark(sink, timer.at)
        assert (report.kind, report.table) == ("sink", "orders")
        newest_us = only_block(ORDERS, [change(70)]).newest_event_us
        counts = {"rows": 3, "written": 3, "stale": 0, "newest_event_us": newest_us}
        assert report.fields == {"sink": sink.name, **counts}
        ((cell, bag, _),) = worker.keys.values()
        assert not cell.values
        assert not bag.values

    def test_a_timer_never_lies_beyond_the_end_of_the_window(self):
        timer_us = ceil_to_millis(Gathered(1, MAX_TIMESTAMP.micros, 0).timer_us).micros
        assert 0 <= GlobalWindow().max_timestamp().micros - timer_us < 1000

    def test_a_late_timer_finds_nothing(self, sink, worker):
        worker.gather(sink, [only_block(ORDERS, [change(1)])], SECOND)
        worker.clock[0] += HELD_SECONDS * SECOND
        assert len(worker.gather(sink, [only_block(ORDERS, [change(2)])], SECOND)) == 1
        assert worker.advance_watermark(sink, 10**15) == []

    def test_a_block_writes_what_waits_long(self, sink, worker):
        worker.gather(sink, [only_block(ORDERS, [change(1)])], SECOND)
        worker.clock[0] += HELD_SECONDS * SECOND - 1
        assert worker.gather(sink, [only_block(ORDERS, [change(2)])], SECOND) == []
        worker.clock[0] += 1
        (report,) = worker.gather(sink, [only_block(ORDERS, [change(3)])], SECOND)
        assert report.fields["rows"] == 3

    def test_a_clock_that_goes_back(self, sink, worker):
        worker.gather(sink, [only_block(ORDERS, [change(1)])], SECOND)
        worker.clock[0] -= 3600 * SECOND
        assert worker.gather(sink, [only_block(ORDERS, [change(2)])], SECOND) == []
        assert len(worker.advance_watermark(sink, 10**15)) == 1

    def test_enough_is_written_at_once(self, tmp_path, worker):
        block = only_block(ORDERS, [change(1)])
        two = 2 * block.rows.nbytes
        sink = open_sink(f"{LINES.uri.replace('FOLDER', str(tmp_path))}?max_file_bytes={two}")
        sink.check([ORDERS], NO_ROUND)
        assert worker.gather(sink, [block], SECOND) == []
        (report,) = worker.gather(sink, [block], SECOND)
        assert report.fields["rows"] == 2

    def test_state_is_bounded_whatever_the_option_says(self):
        large = open_sink(f"file:///out?max_file_bytes={1 << 40}")
        assert large.write_continuously(STATE)._max_bytes == GATHER_BYTES

    def test_empty_blocks_leave_no_trace(self, sink, worker):
        block = only_block(ORDERS, [change(1)])
        assert worker.gather(sink, [block.with_rows(block.rows.slice(1))], SECOND) == []
        ((cell, bag, timer),) = worker.keys.values()
        assert (cell.values, bag.values, timer.at) == ([], [], None)

    def test_a_table_made_anew_with_another_key(self, tmp_path, worker):
        sink = opened(PARQUET, tmp_path)
        again = table("orders", ("n", "N"))
        worker.gather(sink, [only_block(ORDERS, [change(1)])], SECOND)
        worker.gather(sink, [only_block(again, [Change(2, {"n": {"N": "1"}})])], SECOND)
        reports = worker.advance_watermark(sink, 10**15)
        assert [each.fields["rows"] for each in reports] == [1, 1]
        assert sorted(keys for _, keys, _ in counted(PARQUET, sink)) == [
            '{"id": {"S": "k1"}}',
            '{"n": {"N": "1"}}',
        ]

    def test_one_file_also_when_attributes_appear(self, tmp_path, worker, monkeypatch):
        monkeypatch.setattr("dynabeam.transforms.sinks.files.change_parquet.PIECE_BYTES", 1)
        sink = opened(PARQUET, tmp_path)
        for at in range(3):
            new = {"id": {"S": "a"}, f"x{at}": {"N": "1"}}
            worker.gather(sink, [only_block(ORDERS, [Change(at, new)])], SECOND)
        assert len(worker.advance_watermark(sink, 10**15)) == 1
        assert len(published(PARQUET, sink)) == 1
        assert len(read_changes(PARQUET, sink)) == 3

    def test_names_stand_for_the_changes(self, sink, worker):
        rows = [only_block(ORDERS, [change(at)]).rows for at in (1, 2, 3)]
        together = only_block(ORDERS, [change(at) for at in (3, 1, 2)]).rows
        name = content_digest(rows)
        assert name == content_digest([together]) == content_digest(rows[::-1])
        assert name != content_digest(rows[:2])
        assert name != content_digest([*rows, rows[0]])
        worker.gather(sink, [only_block(ORDERS, [change(at) for at in (3, 1, 2)])], SECOND)
        worker.advance_watermark(sink, 10**15)
        assert list(published(LINES, sink)) == [f"{TODAY}/part-{name}.jsonl"]

    def test_same_key_and_version_with_another_image_is_another_content(self):
        one = only_block(ORDERS, [Change(0, {"id": {"S": "a"}})]).rows
        other = only_block(ORDERS, [Change(0, {"id": {"S": "a"}, "x": {"S": ""}})]).rows
        assert content_digest([one]) != content_digest([other])

    @pytest.mark.parametrize("number", ["0", "-1", "x", ""])
    def test_writers_must_be_a_number(self, number):
        with pytest.raises(ConfigurationError, match="writers"):
            open_sink(f"file:///out?writers={number}")


class TestFailedWrites:
    @pytest.fixture
    def sink(self, tmp_path):
        return opened(LINES, tmp_path)

    @pytest.mark.parametrize("target", [LINES, PARQUET], ids=lambda each: each.id)
    def test_what_cannot_be_moved_is_kept_and_leaves_nothing(self, target, tmp_path, monkeypatch):
        sink, worker = opened(target, tmp_path), Worker([NOON])
        worker.gather(sink, [only_block(ORDERS, [change(1)])], SECOND)
        saved = worker.checkpoint()

        def refuse(source, target, error):
            raise error("no right", where=target)

        monkeypatch.setattr(filesystem, "move", refuse)
        with pytest.raises(SinkError, match="no right"):
            worker.advance_watermark(sink, 10**15)
        monkeypatch.undo()
        assert not filesystem.list_files(sink.files().continuous_staging_folder())
        assert not published(target, sink)
        assert len(saved.advance_watermark(sink, 10**15)) == 1
        assert counted(target, sink) == collections.Counter(wanted(ORDERS, [change(1)]))

    def test_a_block_that_cannot_be_laid_out_leaves_nothing(self, sink):
        worker = Worker([NOON])
        stranger = only_block(table("orders", ("n", "N")), [Change(1, {"n": {"N": "1"}})])
        wrong = Block(only_block(ORDERS, [change(1)]).header, stranger.rows)
        worker.gather(sink, [wrong], SECOND)
        with pytest.raises(ValueDecodeError):
            worker.advance_watermark(sink, 10**15)
        assert not published(LINES, sink)
        assert not filesystem.list_files(sink.files().continuous_staging_folder())

    def test_a_worker_that_sees_another_disk(self, sink):
        worker = Worker([NOON])
        worker.gather(sink, [only_block(ORDERS, [change(1)])], SECOND)
        pathlib.Path(sink.place, "_dynabeam.json").unlink()
        with pytest.raises(SinkError, match="does not find the changelog") as caught:
            worker.advance_watermark(sink, 10**15)
        assert STATE in str(caught.value)
        assert not published(LINES, sink)

    def test_a_folder_of_another_state_directory(self, sink, tmp_path):
        pathlib.Path(sink.place, "_dynabeam.json").unlink()
        sink.check([ORDERS], Round("state-2", 0, ""))
        worker = Worker([NOON])
        worker.gather(sink, [only_block(ORDERS, [change(1)])], SECOND)
        with pytest.raises(SinkError, match="state-2"):
            worker.advance_watermark(sink, 10**15)


class TestWithRounds:
    """One folder and one state directory: catch-up, continuous, catch-up again."""

    @pytest.mark.parametrize("target", [LINES, PARQUET], ids=lambda each: each.id)
    def test_there_and_back(self, target, tmp_path):
        sink = target.open(tmp_path)
        run_round(sink, [ORDERS], blocks(ORDERS, [change(1)]), round_number(1), NO_ROUND)
        sink.check([ORDERS], round_number(1))
        sink.recover(round_number(1))
        run(sink, blocks(ORDERS, [change(2)]))
        run_round(sink, [ORDERS], blocks(ORDERS, [change(3)]), round_number(2), round_number(1))
        every = [change(at) for at in (1, 2, 3)]
        assert counted(target, sink) == collections.Counter(wanted(ORDERS, every))
        # Also for who lists them as the documentation says.
        assert len(list(pathlib.Path(sink.place).glob("orders/*/*"))) == 3
        # The state directory was restored from a copy of round 1: only round 2 is run again.
        sink.check([ORDERS], round_number(1))
        sink.recover(round_number(1))
        assert counted(target, sink) == collections.Counter(wanted(ORDERS, every[:2]))

    def test_partitions_have_one_name(self, tmp_path):
        """DuckDB takes `name=value` folders for partitions and refuses two names."""
        duckdb = pytest.importorskip("duckdb")
        sink = LINES.open(tmp_path)
        run_round(sink, [ORDERS], blocks(ORDERS, [change(1)]), round_number(1), NO_ROUND)
        run(sink, blocks(ORDERS, [change(2)]))
        files = f"{sink.place}/orders/*/*"
        with duckdb.connect() as connection:
            query = (
                "SELECT count(DISTINCT dynabeam_round) FROM read_json(?, hive_partitioning = true)"
            )
            assert connection.execute(query, [files]).fetchone() == (2,)

    def test_what_a_dead_worker_staged_goes_at_the_next_start(self, tmp_path):
        sink = opened(LINES, tmp_path)
        run(sink, blocks(ORDERS, [change(1)]))
        writer = sink.one_file_writer(sink.files().continuous_staging_folder())
        writer.add(only_block(ORDERS, [change(2)]))
        writer.finish()
        sink.recover(NO_ROUND)
        assert not filesystem.list_files(sink.files().continuous_staging_folder())
        assert counted(LINES, sink) == collections.Counter(wanted(ORDERS, [change(1)]))
