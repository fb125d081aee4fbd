# SPDX-License-Identifier: Apache-2.0
"""`WriteToMirror` and `WriteToChangelog`: the sinks in a pipeline of one's own."""

import json

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing import test_stream
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.window import FixedWindows, TimestampedValue

from dynabeam.transforms.errors import ConfigurationError, SinkError
from dynabeam.transforms.model.block import Block, BlockCoder
from dynabeam.transforms.sinks.registry import open_sink
from dynabeam.transforms.sinks.write_blocks import WriteToChangelog, WriteToMirror
from tests.graphs import labels_of, pickled_places
from tests.sinks.changes import Change, blocks, table
from tests.sinks.targets import Target, postgresql_uri, read_back

ORDERS, CUSTOMERS = table(), table("customers", ("n", "N"))
MIRRORS = [Target("duckdb:///FOLDER/m.duckdb"), Target("postgresql://SERVER")]
CHANGELOG = Target("file:///FOLDER/out?format=parquet")
TARGETS = [*MIRRORS, CHANGELOG]


def uri_of(target, folder):
    if target.is_postgresql:
        return postgresql_uri(target.uri, folder)
    return target.uri.replace("FOLDER", str(folder))


def transform_of(target):
    return WriteToMirror if target.is_mirror else WriteToChangelog


def item(key, total):
    return {"id": {"S": key}, "total": {"N": total}}


FIRST = [
    *blocks(ORDERS, [Change(1, item("a", "1")), Change(2, item("b", "2"))]),
    *blocks(CUSTOMERS, [Change(1, {"n": {"N": "7"}})]),
]
SECOND = [
    *blocks(ORDERS, [Change(3, item("a", "3"), item("a", "1")), Change(4, None, item("b", "2"))])
]


def run(write, given, *options, check=lambda written: None, windows=None):
    with beam.Pipeline("FnApiRunner", options=PipelineOptions(list(options))) as pipeline:
        source = pipeline | beam.Create(given, reshuffle=False).with_output_types(Block)
        if windows is not None:
            source |= beam.Map(lambda each: TimestampedValue(each, 100)).with_output_types(Block)
            source |= beam.WindowInto(windows)
        check(source | write)


@pytest.mark.parametrize("target", TARGETS, ids=lambda each: each.id)
class TestWriting:
    def test_runs_one_after_the_other_and_repeats_of_them(self, target, tmp_path):
        uri, write = uri_of(target, tmp_path), transform_of(target)
        for given in (FIRST, SECOND, FIRST):
            run(write(uri), given)
        held = read_back(target, open_sink(uri), [ORDERS, CUSTOMERS])
        assert {name: sorted(map(str, items.values())) for name, items in held.items()} == {
            "orders": [str(item("a", "3"))],
            "customers": [str({"n": {"N": "7"}})],
        }

    def test_reports_and_dead_letters_are_typed(self, target, tmp_path):
        pipeline = beam.Pipeline()
        source = pipeline | beam.Create([]).with_output_types(Block)
        written = source | "Write" >> transform_of(target)(uri_of(target, tmp_path))
        assert [each.element_type.__name__ for each in written] == ["Report", "DeadLetter"]
        assert written._fields == ("reports", "dead_letters")
        assert pickled_places(pipeline) == []

    def test_a_row_that_is_refused_is_a_dead_letter(self, target, tmp_path):
        bad = Change(2, item("bad", "1"))
        (block,) = blocks(ORDERS, [Change(1, item("a", "1")), bad], buckets=1)
        rows = block.rows.to_pylist()
        rows[1]["new"] = b'{"id":{"S":"bad"},"total":'
        malformed = block.with_rows(type(block.rows).from_pylist(rows, schema=block.rows.schema))

        def check(written):
            letters = written.dead_letters | beam.Map(lambda each: (each.table, each.stage))
            assert_that(letters, equal_to([("orders", "sink")]))

        uri = uri_of(target, tmp_path)
        run(transform_of(target)(uri), [malformed], check=check)
        held = read_back(target, open_sink(uri), [ORDERS])
        assert list(held["orders"].values()) == [item("a", "1")]

    def test_blocks_may_be_in_windows(self, target, tmp_path):
        uri = uri_of(target, tmp_path)
        run(transform_of(target)(uri), FIRST, windows=FixedWindows(10))
        assert len(read_back(target, open_sink(uri), [ORDERS, CUSTOMERS])["orders"]) == 2

    def test_another_owner_is_refused(self, target, tmp_path):
        uri, write = uri_of(target, tmp_path), transform_of(target)
        run(write(uri, owner="one"), FIRST)
        with pytest.raises(SinkError, match="belongs to state directory one"):
            run(write(uri, owner="two"), SECOND)

    def test_the_other_kind_is_refused(self, target, tmp_path):
        other = WriteToChangelog if target.is_mirror else WriteToMirror
        with pytest.raises(ConfigurationError, match=transform_of(target).__name__):
            other(uri_of(target, tmp_path))


class TestWithoutEnd:
    def written(self, target, folder):
        pipeline = beam.Pipeline()
        endless = pipeline | test_stream.TestStream(coder=BlockCoder())
        endless.element_type, endless.is_bounded = Block, False
        return endless | transform_of(target)(uri_of(target, folder))

    def test_duckdb_is_refused_and_what_else_there_is_is_named(self, tmp_path):
        with pytest.raises(ConfigurationError, match=r"postgresql://.*caught_up.*--every=2s"):
            self.written(MIRRORS[0], tmp_path)

    @pytest.mark.parametrize("target", [MIRRORS[1], CHANGELOG], ids=lambda each: each.id)
    def test_others_are_written_as_blocks_come(self, target, tmp_path):
        labels = labels_of(self.written(target, tmp_path).reports.pipeline, below="")
        assert any(each.endswith(("Write/Apply", "Write/GatherAndWrite")) for each in labels)


@pytest.mark.parametrize(
    ("options", "is_refused"),
    [
        (["--environment_type=DOCKER", "--runner=PrismRunner"], True),
        (["--runner=FlinkRunner", "--flink_master=cluster:8081"], True),
        (["--runner=FlinkRunner", "--environment_type=LOOPBACK"], False),
        ([], False),
    ],
)
def test_a_disk_that_workers_may_not_see_is_refused(options, is_refused, tmp_path):
    pipeline = beam.Pipeline(options=PipelineOptions(options))
    source = pipeline | beam.Create([]).with_output_types(Block)
    write = WriteToChangelog(f"file://{tmp_path}")
    if is_refused:
        with pytest.raises(ConfigurationError, match="do not see this machine's disk"):
            source | write
    else:
        assert (source | write).dead_letters is not None


def test_what_it_shows_of_itself():
    write = WriteToMirror("postgresql://me:${env:PGPASS}@db/app")
    assert write.display_data() == {
        "sink": "postgresql://me:${env:PGPASS}@db/app",
        "owner": "pipeline",
    }
    with pytest.raises(ConfigurationError, match="owner"):
        WriteToMirror("duckdb:///m.duckdb", owner="")
    assert json.dumps(write.display_data())
