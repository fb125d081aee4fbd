# SPDX-License-Identifier: Apache-2.0
"""The changelog in files: once per committed round, whole files, whenever the process dies."""

import json
import pathlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dynabeam.transforms.errors import SinkError
from dynabeam.transforms.sinks.base import Round
from dynabeam.transforms.sinks.files import change_parquet, change_writer
from dynabeam.transforms.sinks.files.change_lines import change_lines
from dynabeam.transforms.sinks.files.staging import table_folder
from dynabeam.transforms.sinks.registry import open_sink
from dynabeam.transforms.storage import filesystem
from dynabeam.transforms.values.keys import decode_key
from dynabeam.transforms.values.plain_json import same_item
from tests.sinks.changes import NO_ROUND, Change, blocks, image, only_block, round_number, table
from tests.sinks.targets import (
    CHANGELOGS,
    Target,
    deliver,
    is_schema,
    item_of,
    published,
    read_changes,
    run_pipeline,
    run_round,
)

ORDERS = table("orders", ("id", "S"), ("n", "N"))
CUSTOMERS = table("customers", ("id", "B"))
LINES, PARQUET = CHANGELOGS[0], CHANGELOGS[2]

each_format = pytest.mark.parametrize("target", CHANGELOGS, ids=lambda each: each.id)


def item(name="a", number="1", /, **attributes):
    return {"id": {"S": name}, "n": {"N": number}, **attributes}


SOME = [
    Change(1, item("a", x={"S": "1"})),
    Change(2, item("a", x={"S": "2"}), old=item("a", x={"S": "1"})),
    Change(3, None, old=item("a"), ttl=True, envelope='{"userIdentity":{"type":"Service"}}'),
    Change(4, None, keys=item("b", "1E-130")),
    Change(0, item("c", "1e3")),
]
MORE = [Change(1, {"id": {"B": "AA=="}}), Change(2, {"id": {"B": "AQI="}, "m": {"M": {}}})]


def expected(of, changes, source="stream"):
    for each in changes:
        row = each.row(of)
        yield {
            "table": of.name,
            "op": row["op"],
            "version": row["version"].decode(),
            "event_time": row["event_time"],
            "keys": decode_key(row["key"], of.keys),
            "old": each.old,
            "new": each.new,
            "ttl": each.ttl,
            "source": source,
            "origin": {"shard_id": "shardId-1"},
            "envelope": json.loads(each.envelope or "null"),
        }


def unordered(changes):
    plain = [{name: each[name] for name in each if name != "row"} for each in changes]
    return sorted(plain, key=lambda each: json.dumps(each, default=str, sort_keys=True))


def assert_published(target, sink, changes):
    """`changes`: list of `(table, changes)`; every one exactly as often as it is in there."""
    wanted = [row for of, some in changes for row in expected(of, some)]
    assert unordered(read_changes(target, sink)) == unordered(wanted)


def all_files(sink):
    root = pathlib.Path(sink.place)
    names = [each.relative_to(root).as_posix() for each in root.rglob("*") if each.is_file()]
    return sorted(name for name in names if not is_schema(name))


class TestChanges:
    @each_format
    def test_every_change_is_there_once(self, target, tmp_path):
        sink = target.open(tmp_path)
        given = blocks(ORDERS, SOME) + blocks(CUSTOMERS, MORE)
        reports = run_round(sink, [ORDERS, CUSTOMERS], given, round_number(1), NO_ROUND)
        assert [(each.table, each.fields["rows"]) for each in reports] == [
            ("customers", 2),
            ("orders", 5),
        ]
        assert reports[0].fields == {"sink": sink.name, "rows": 2, "written": 2, "stale": 0}
        assert_published(target, sink, [(ORDERS, SOME), (CUSTOMERS, MORE)])

    @each_format
    def test_a_change_that_is_delivered_twice_is_there_twice(self, target, tmp_path):
        sink = target.open(tmp_path)
        run_round(sink, [ORDERS], blocks(ORDERS, SOME + SOME[:2]), round_number(1), NO_ROUND)
        run_round(sink, [ORDERS], blocks(ORDERS, SOME[:1]), round_number(2), round_number(1))
        assert_published(target, sink, [(ORDERS, SOME + SOME[:2] + SOME[:1])])

    @each_format
    def test_through_beam(self, target, tmp_path):
        sink = target.open(tmp_path)
        given = blocks(ORDERS, SOME) + blocks(CUSTOMERS, MORE)
        run_pipeline(sink, [ORDERS, CUSTOMERS], given, round_number(1), NO_ROUND)
        run_pipeline(sink, [ORDERS], [], round_number(2), round_number(1))
        more = blocks(ORDERS, SOME[:2])
        run_pipeline(sink, [ORDERS], more, round_number(3), round_number(2))
        assert_published(target, sink, [(ORDERS, SOME + SOME[:2]), (CUSTOMERS, MORE)])
        folders = {name.rpartition("/")[0] for name in published(target, sink)}
        assert folders == {
            f"{name}/dynabeam_round={at:010d}"
            for name, at in [("customers", 1), ("orders", 1), ("orders", 3)]
        }

    def test_several_workers(self, tmp_path):
        sink = PARQUET.open(tmp_path)
        options = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
        given = blocks(ORDERS, SOME) + blocks(CUSTOMERS, MORE)
        tables = [ORDERS, CUSTOMERS]
        run_pipeline(sink, tables, given, round_number(1), NO_ROUND, *options)
        assert_published(PARQUET, sink, [(ORDERS, SOME), (CUSTOMERS, MORE)])


class TestLines:
    def test_a_line(self):
        change = Change(7, item("é\x00", "1e3", x={"S": '"'}), old=item("é\x00", "1000"))
        line = bytes(change_lines(only_block(ORDERS, [change]))).decode()
        assert line == (
            '{"table":"orders","op":"u","version":"00000001.' + "7".zfill(40) + '",'
            '"event_time":"2026-01-31T12:00:07.000007Z",'
            '"keys":{"id":{"S":"é\\u0000"},"n":{"N":"1000"}},'
            '"old":{"id":{"S":"é\\u0000"},"n":{"N":"1000"}},'
            '"new":{"id":{"S":"é\\u0000"},"n":{"N":"1e3"},"x":{"S":"\\""}},'
            '"ttl":false,"source":"stream","origin":{"shard_id":"shardId-1"},"envelope":null}\n'
        )

    def test_images_are_not_rewritten_but_for_line_breaks(self):
        block = only_block(ORDERS, [Change(7, item())])
        raw = b'{ "id" : {"S":"\\u0061"},\r\n"n":{"N":"1"} }'
        new = block.rows.schema.get_field_index("new")
        rows = block.rows.set_column(new, "new", pa.array([raw], pa.binary()))
        line = bytes(change_lines(block.with_rows(rows)))
        assert raw.replace(b"\r\n", b"  ") in line
        assert line.count(b"\n") == 1
        assert json.loads(line)["new"] == item()

    def test_no_rows(self):
        block = only_block(ORDERS, [Change(7, item())])
        assert bytes(change_lines(block.with_rows(block.rows.slice(1)))) == b""

    def test_a_slice(self):
        block = only_block(ORDERS, SOME)
        every = bytes(change_lines(block)).splitlines()
        part = bytes(change_lines(block.with_rows(block.rows.slice(1, 3)))).splitlines()
        assert part == every[1:4]


class TestParquet:
    def read(self, target, sink):
        return [pq.read_table(path, partitioning=None) for path in published(target, sink).values()]

    def test_types(self, tmp_path):
        sink = PARQUET.open(tmp_path)
        attributes = {
            "s": {"S": "x"},
            "b": {"B": "AA=="},
            "ok": {"BOOL": True},
            "ns": {"NS": ["1"]},
        }
        given = blocks(ORDERS, [Change(1, item("a", "1.5", **attributes))])
        run_round(sink, [ORDERS], given, round_number(1), NO_ROUND)
        (rows,) = self.read(PARQUET, sink)
        types = {field.name: str(field.type) for field in rows.schema}
        assert types == {
            "id": "string",
            "n": "decimal128(38, 18)",
            "s": "string",
            "b": "binary",
            "ok": "bool",
            "ns": "list<element: decimal128(38, 18)>",
            "_other": "string",
            "_keys": "string",
            "_version": "string",
            "_op": "string",
            "_event_time": "timestamp[us, tz=UTC]",
            "_ttl": "bool",
            "_deleted": "bool",
            "_source": "string",
            "_origin": "string",
            "_old": "string",
            "_new": "string",
            "_envelope": "string",
        }

    @pytest.mark.parametrize("target", [PARQUET, CHANGELOGS[4]], ids=lambda each: each.id)
    def test_columns_and_other_are_the_item(self, target, tmp_path):
        values = [{"N": "1"}, {"N": "1E-130"}, {"S": "x"}, {"NULL": True}, {"NS": ["1"]}, {"B": ""}]
        changes = [Change(at, item(f"k{at}", v=each)) for at, each in enumerate(values)]
        sink = target.open(tmp_path)
        run_round(sink, [ORDERS], [only_block(ORDERS, changes)], round_number(1), NO_ROUND)
        (rows,) = self.read(target, sink)
        found = [item_of(row, {"id": "S", "n": "N", "v": "N"}, target) for row in rows.to_pylist()]
        for image_found, change in zip(found, changes, strict=True):
            assert same_item(image_found, change.new)

    def test_keys_of_deletes(self, tmp_path):
        sink = PARQUET.open(tmp_path)
        run_round(sink, [ORDERS], [only_block(ORDERS, SOME[2:4])], round_number(1), NO_ROUND)
        (rows,) = self.read(PARQUET, sink)
        found = rows.select(["id", "_other", "_keys", "_new"]).to_pylist()
        key = '{"id":{"S":"b"},"n":{"N":"' + "0." + "0" * 129 + '1"}}'
        assert found[0] == {
            "id": "a",
            "_other": None,
            "_keys": '{"id":{"S":"a"},"n":{"N":"1"}}',
            "_new": None,
        }
        assert found[1]["_keys"] == key
        assert json.loads(found[1]["_other"]) == {"n": json.loads(key)["n"]}

    def test_a_new_attribute_begins_a_new_file(self, tmp_path, monkeypatch):
        monkeypatch.setattr(change_parquet, "PIECE_BYTES", 1)
        sink = PARQUET.open(tmp_path)
        changes = [Change(1, item("a")), Change(2, item("b")), Change(3, item("c", x={"N": "1"}))]
        given = [only_block(ORDERS, [each]) for each in changes]
        run_round(sink, [ORDERS], given, round_number(1), NO_ROUND)
        files = sorted(self.read(PARQUET, sink), key=lambda each: each.num_rows)
        assert [("x" in each.column_names, each.num_rows) for each in files] == [
            (True, 1),
            (False, 2),
        ]
        assert_published(PARQUET, sink, [(ORDERS, changes)])


class TestFiles:
    @each_format
    def test_large_files_are_closed(self, target, tmp_path, monkeypatch):
        monkeypatch.setattr(change_parquet, "PIECE_BYTES", 1)
        joiner = "&" if "?" in target.uri else "?"
        small = Target(f"{target.uri}{joiner}max_file_bytes=1")
        sink = small.open(tmp_path)
        changes = [Change(at, item(f"k{at}", x={"S": "x" * 70_000})) for at in range(4)]
        given = [only_block(ORDERS, [each]) for each in changes]
        run_round(sink, [ORDERS], given, round_number(1), NO_ROUND)
        assert len(published(small, sink)) == (1 if "gzip" in target.uri else 4)
        assert_published(small, sink, [(ORDERS, changes)])

    @each_format
    def test_more_tables_than_open_files(self, target, tmp_path, monkeypatch):
        monkeypatch.setattr(change_parquet, "PIECE_BYTES", 1)
        monkeypatch.setattr(change_parquet, "MAX_OPEN_FILES", 2)
        monkeypatch.setattr(change_writer, "MAX_OPEN_FILES", 2)
        tables = [table(f"table-{at}", ("id", "S"), ("n", "N")) for at in range(5)]
        sink = target.open(tmp_path)
        given = [block for of in tables * 2 for block in blocks(of, SOME)]
        run_round(sink, tables, given, round_number(1), NO_ROUND)
        assert_published(target, sink, [(of, SOME) for of in tables * 2])

    @pytest.mark.parametrize(
        ("name", "folder"),
        [
            ("orders", "orders"),
            ("a.b-c_d", "a.b-c_d"),
            ("_staging", "%5Fstaging"),
            ("..", "%2E."),
            ("a/b", "a%2Fb"),
            (".hidden", "%2Ehidden"),
        ],
    )
    def test_table_folders_stay_inside_and_visible(self, name, folder):
        assert table_folder(name) == folder


class TestLifeOfARound:
    """`committed` is what the state directory says; nothing else decides what is visible."""

    @pytest.fixture(params=[LINES, PARQUET], ids=["jsonl", "parquet"])
    def target(self, request):
        return request.param

    @pytest.fixture
    def sink(self, target, tmp_path):
        sink = target.open(tmp_path)
        run_round(sink, [ORDERS], blocks(ORDERS, SOME), round_number(1), NO_ROUND)
        return sink

    def restart(self, sink, committed):
        sink.check([ORDERS], committed)
        sink.recover(committed)

    def test_nothing_is_visible_before_publish(self, target, sink):
        deliver(sink, blocks(ORDERS, SOME[:1]), round_number(2))
        assert_published(target, sink, [(ORDERS, SOME)])
        sink.publish(round_number(2))
        assert_published(target, sink, [(ORDERS, SOME + SOME[:1])])

    def test_publishing_again_changes_nothing(self, target, sink):
        before = all_files(sink)
        for _ in range(2):
            sink.publish(round_number(1))
            self.restart(sink, round_number(1))
        assert all_files(sink) == before
        assert before == ["_dynabeam.json", *published(target, sink)]

    def test_death_before_the_commit(self, target, sink):
        deliver(sink, blocks(ORDERS, SOME[:1]), round_number(2, "dead"))
        self.restart(sink, round_number(1))
        assert_published(target, sink, [(ORDERS, SOME)])
        assert not any(name.startswith("_staging") for name in all_files(sink))
        deliver(sink, blocks(ORDERS, SOME[1:3]), round_number(2, "second"))
        sink.publish(round_number(2, "second"))
        assert_published(target, sink, [(ORDERS, SOME + SOME[1:3])])

    def test_death_in_the_first_round(self, target, tmp_path):
        sink = target.open(tmp_path / "new")
        sink.check([ORDERS], NO_ROUND)
        deliver(sink, blocks(ORDERS, SOME), round_number(1, "dead"))
        self.restart(sink, NO_ROUND)
        assert all_files(sink) == ["_dynabeam.json"]

    def test_death_between_commit_and_publish(self, target, sink):
        deliver(sink, blocks(ORDERS, SOME[:1]), round_number(2))
        self.restart(sink, round_number(2))
        assert_published(target, sink, [(ORDERS, SOME + SOME[:1])])

    @pytest.mark.parametrize("moves", [0, 1, 2])
    def test_death_while_publishing(self, target, sink, monkeypatch, moves):
        tables = [table(f"table-{at}", ("id", "S"), ("n", "N")) for at in range(3)]
        deliver(sink, [each for of in tables for each in blocks(of, SOME)], round_number(2))
        real, left = filesystem.move, iter(range(moves))

        def dying_move(*arguments):
            if next(left, None) is None:
                raise KeyboardInterrupt
            real(*arguments)

        monkeypatch.setattr(filesystem, "move", dying_move)
        with pytest.raises(KeyboardInterrupt):
            sink.publish(round_number(2))
        monkeypatch.undo()
        self.restart(sink, round_number(2))
        assert_published(target, sink, [(of, SOME) for of in [ORDERS, *tables]])

    def test_files_that_no_list_names_do_not_count(self, target, sink):
        """What a bundle wrote that was retried afterwards."""
        folder = sink.files().staging_folder("attempt-2")
        orphan = sink.writer(folder)
        for block in blocks(ORDERS, SOME):
            orphan.add(block)
        orphan.finish()
        deliver(sink, blocks(ORDERS, SOME[:1]), round_number(2))
        sink.publish(round_number(2))
        assert_published(target, sink, [(ORDERS, SOME + SOME[:1])])
        assert not any(name.startswith("_staging") for name in all_files(sink))

    def test_a_round_above_the_committed_one_is_removed(self, target, sink):
        """The state directory was restored from a copy."""
        run_round(sink, [ORDERS], blocks(ORDERS, SOME[:1]), round_number(2), round_number(1))
        stranger = pathlib.Path(sink.place) / "orders" / "notes.txt"
        stranger.write_text("not ours")
        self.restart(sink, round_number(1))
        assert stranger.exists()
        stranger.unlink()
        assert_published(target, sink, [(ORDERS, SOME)])
        run_round(sink, [ORDERS], blocks(ORDERS, SOME[:2]), round_number(2), round_number(1))
        assert_published(target, sink, [(ORDERS, SOME + SOME[:2])])

    def test_empty_rounds_write_nothing(self, target, sink):
        before = all_files(sink)
        run_pipeline(sink, [ORDERS], [], round_number(2), round_number(1))
        self.restart(sink, round_number(2))
        assert all_files(sink) == before

    def test_a_staged_file_that_is_gone(self, target, sink):
        deliver(sink, blocks(ORDERS, SOME[:1]), round_number(2))
        for path in pathlib.Path(sink.place, "_staging").rglob(f"*.{target_suffix(target)}"):
            path.unlink()
        with pytest.raises(SinkError, match="neither staged nor published"):
            sink.recover(round_number(2))

    def test_a_changelog_keeps_its_generations(self, target, sink):
        assert sink.remove_older_generations(ORDERS, 2) == 0
        assert_published(target, sink, [(ORDERS, SOME)])


def target_suffix(target):
    return "parquet" if target is PARQUET else "jsonl"


class TestRefusals:
    @pytest.fixture
    def sink(self, tmp_path):
        return LINES.open(tmp_path)

    def test_another_state_directory(self, sink):
        sink.check([ORDERS], NO_ROUND)
        with pytest.raises(SinkError, match="belongs to state directory state-1") as caught:
            sink.check([ORDERS], Round("state-2", 0, ""))
        assert "'state-2'" in str(caught.value)

    def test_a_new_folder_for_an_old_state_directory(self, sink):
        with pytest.raises(SinkError, match="says round 7"):
            sink.check([ORDERS], round_number(7))
        assert not pathlib.Path(sink.place).exists()

    def test_a_table_folder_that_holds_other_files(self, sink):
        file = pathlib.Path(sink.place) / "orders" / "old.jsonl"
        file.parent.mkdir(parents=True)
        file.write_text("{}")
        with pytest.raises(SinkError, match=r"old\.jsonl"):
            sink.check([ORDERS], NO_ROUND)

    def test_a_folder_that_cannot_be_written(self, tmp_path):
        (tmp_path / "file").write_text("")
        sink = open_sink(f"file:///{tmp_path}/file/out")
        with pytest.raises(SinkError, match="cannot be written") as caught:
            sink.check([ORDERS], NO_ROUND)
        assert f"{tmp_path}/file/out" in str(caught.value)

    @pytest.mark.parametrize("content", ["", "{}", "[1]", '{"format":99}'])
    def test_a_marker_that_is_none(self, sink, content):
        sink.check([ORDERS], NO_ROUND)
        marker = pathlib.Path(sink.place) / "_dynabeam.json"
        marker.write_text(content)
        with pytest.raises(SinkError, match=r"_dynabeam\.json"):
            sink.check([ORDERS], NO_ROUND)

    def test_a_full_disk(self, sink, monkeypatch):
        sink.check([ORDERS], NO_ROUND)
        writer = sink.writer(sink.files().staging_folder("attempt-1"))

        class FullDisk:
            def write(self, _data):
                raise OSError(28, "No space left on device")

        real = filesystem.open_for_writing

        def full(path, error):
            real(path, error).close()
            return FullDisk()

        monkeypatch.setattr(filesystem, "open_for_writing", full)
        with pytest.raises(SinkError, match="No space left on device"):
            writer.add(only_block(ORDERS, SOME))


class TestObjectStore:
    def test_rounds(self, s3):
        sink = open_sink("s3://bucket/log?format=parquet")
        tables = [ORDERS, CUSTOMERS]
        given = blocks(ORDERS, SOME) + blocks(CUSTOMERS, MORE)
        run_pipeline(sink, tables, given, round_number(1), NO_ROUND, *s3)
        deliver(sink, blocks(ORDERS, SOME), round_number(2, "dead"))
        sink.check(tables, round_number(1))
        sink.recover(round_number(1))
        assert filesystem.list_files("s3://bucket/log") == [
            "s3://bucket/log/_dynabeam.json",
            "s3://bucket/log/customers/_schema.json",
            "s3://bucket/log/customers/dynabeam_round=0000000001/part-00000-attempt-1.parquet",
            "s3://bucket/log/orders/_schema.json",
            "s3://bucket/log/orders/dynabeam_round=0000000001/part-00001-attempt-1.parquet",
        ]
        path = filesystem.list_files("s3://bucket/log/orders")[1]
        with filesystem.open_for_reading(path, SinkError) as file:
            assert pq.read_table(file).num_rows == len(SOME)
        sink.recover(NO_ROUND)
        left = [each for each in filesystem.list_files("s3://bucket/log") if not is_schema(each)]
        assert left == ["s3://bucket/log/_dynabeam.json"]


def test_images_of_tests_are_compact():
    assert image(item()) == b'{"id":{"S":"a"},"n":{"N":"1"}}'
