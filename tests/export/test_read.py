# SPDX-License-Identifier: Apache-2.0
"""Contract of reading: every line once, verified first, in blocks; nothing wrong gets through."""

import base64
import dataclasses
import gzip
import hashlib
import json
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to

from dynabeam.transforms.errors import ExportError, ExportIntegrityError
from dynabeam.transforms.export.elements import DONE
from dynabeam.transforms.export.read_files import ReadExportFiles, read_slice
from dynabeam.transforms.model.version import encode_version
from dynabeam.transforms.values.keys import bucket_numbers
from tests.export.builders import (
    CHANGES,
    SAMPLE,
    SAMPLE_TABLE,
    TABLE,
    TIME,
    edit_lines,
    images_of,
    items,
    read,
    rows_of,
    slices_of,
    write_full,
    write_incremental,
)


def first_file(folder):
    """The first slice with items."""
    return next(each for each in slices_of(folder) if each.file.item_count)


def with_lines(folder, lines):
    """An export of one file with exactly these lines; returns the file's path."""
    written = write_full(folder, lines=lines, empty_files=0)
    return str(Path(folder) / written.data_keys[0])


class TestRows:
    @pytest.mark.parametrize("export_format", ["DYNAMODB_JSON", "ION"])
    def test_full(self, tmp_path, export_format):
        write_full(tmp_path, 25, export_format=export_format)
        blocks, reports, dead = read(slices_of(tmp_path, generation=7))
        rows = rows_of(blocks)
        assert not dead
        assert images_of(blocks) == {f"S{each['id']['S']}".encode(): each for each in items(25)}
        assert {row["version"] for row in rows} == {encode_version(7)}
        assert {(row["op"], row["event_time"], row["ttl"]) for row in rows} == {("r", TIME, False)}
        assert all(row["old"] is None and row["envelope"] is None for row in rows)
        assert sum(report.fields["rows"] for report in reports) == 25

    @pytest.mark.parametrize("export_format", ["DYNAMODB_JSON", "ION"])
    def test_a_range_of_keys(self, tmp_path, export_format):
        write_full(tmp_path, 25, export_format=export_format)
        everything = items(25)
        ids = sorted(each["id"]["S"] for each in everything)
        low, high = ids[5], ids[14]
        blocks, reports, dead = read(slices_of(tmp_path, key_range=f"{low}..{high}"))
        assert not dead
        assert images_of(blocks) == {
            f"S{each['id']['S']}".encode(): each
            for each in everything
            if low <= each["id"]["S"] <= high
        }
        # Lines are counted all the same, so that a file which lacks some is noticed.
        assert sum(report.fields["rows"] for report in reports) == 10
        assert sum(report.fields["lines"] for report in reports) == 25
        assert all(report.fields["done"] for report in reports)

    def test_blocks_carry_their_bucket_and_origin(self, tmp_path):
        written = write_full(tmp_path, 40)
        for block in read(slices_of(tmp_path, buckets=4))[0]:
            header = block.header
            assert set(bucket_numbers(block.rows.column("key"), 4)) == {header.bucket}
            assert (header.table, header.source, header.generation) == (TABLE, "export", 1)
            assert header.origin["export_arn"] == written.export_arn
            assert header.origin["file"] in {str(tmp_path / key) for key in written.data_keys}

    def test_the_real_sample(self):
        blocks, reports, dead = read(slices_of(SAMPLE, table=SAMPLE_TABLE))
        path = next(SAMPLE.rglob("*.json.gz"))
        lines = [
            json.loads(line)["Item"] for line in gzip.decompress(path.read_bytes()).splitlines()
        ]
        assert images_of(blocks) == {f"S{item['id']['S']}".encode(): item for item in lines}
        assert not dead
        assert reports[0].fields["lines"] == 3

    @pytest.mark.parametrize("export_format", ["DYNAMODB_JSON", "ION"])
    @pytest.mark.parametrize("wrapped", [False, True])
    def test_incremental(self, tmp_path, export_format, wrapped):
        write_incremental(tmp_path, export_format=export_format, ion_record_wrapper=wrapped)
        rows = {row["key"]: row for row in rows_of(read(slices_of(tmp_path, generation=2))[0])}
        assert {key: row["op"] for key, row in rows.items()} == {
            b"Snew": "c",
            b"Sk1": "u",
            b"Sk2": "d",
        }
        for change in CHANGES:
            row = rows[b"S" + change.keys["id"]["S"].encode()]
            assert row["event_time"].timestamp() * 1e6 == pytest.approx(change.write_micros, abs=1)
            assert row["event_time"].microsecond == change.write_micros % 1_000_000
            assert row["version"] == encode_version(2, change.write_micros)
            for image, expected in ((row["old"], change.old_image), (row["new"], change.new_image)):
                assert (image and json.loads(image)) == expected

    def test_incremental_with_new_images_only(self, tmp_path):
        write_incremental(tmp_path, view="NEW_IMAGE")
        rows = rows_of(read(slices_of(tmp_path))[0])
        assert [(row["key"], row["op"], row["old"]) for row in rows] == [
            (b"Sk1", "u", None),
            (b"Sk2", "d", None),
            (b"Snew", "u", None),
        ]

    def test_nothing_but_empty_files(self, tmp_path):
        write_full(tmp_path, 0, files=2, empty_files=3)
        blocks, reports, dead = read(slices_of(tmp_path))
        assert (blocks, dead) == ([], [])
        assert [report.fields["done"] for report in reports] == [True] * 5


class TestReport:
    def test_of_a_file(self, tmp_path):
        write_full(tmp_path, 3, files=1, empty_files=0)
        (part,) = slices_of(tmp_path)
        (report,) = read([part])[1]
        assert (report.kind, report.table) == ("file", "orders")
        assert report.fields == {
            "export_arn": part.export_arn,
            "generation": 1,
            "file": part.file.path,
            "lines": 3,
            "done": True,
            "rows": 3,
            "bytes": len(gzip.decompress(Path(part.file.path).read_bytes())),
            "dead_letters": 0,
            "warnings": [],
        }


class TestRounds:
    """A file read in pieces: what is loaded is not emitted again."""

    @pytest.mark.parametrize("max_bytes", [1, 100, 999, 5000])
    def test_every_line_once(self, tmp_path, max_bytes):
        write_full(tmp_path, 60, files=2)
        loaded, seen, rounds = {}, [], 0
        while slices := slices_of(tmp_path, loaded=loaded, max_bytes=max_bytes):
            rounds += 1
            blocks, reports, _ = read(slices)
            assert sum(report.fields["bytes"] for report in reports) <= max_bytes + 60 * len(
                reports
            )
            seen += [row["key"] for row in rows_of(blocks)]
            for report in reports:
                done = report.fields["done"]
                loaded[report.fields["file"]] = DONE if done else report.fields["lines"]
        assert sorted(seen) == sorted(f"S{each['id']['S']}".encode() for each in items(60))
        assert rounds > 1 or max_bytes == 5000

    def test_a_slice_that_fails_is_read_again_the_same(self, tmp_path):
        write_full(tmp_path, 20, files=1, empty_files=0)
        (part,) = slices_of(tmp_path, loaded={}, max_bytes=300)
        assert [block.rows for block in read([part])[0]] == [
            block.rows for block in read([part])[0]
        ]

    def test_no_row_of_a_piece_before_all_lines_were_counted(self, tmp_path):
        written = write_full(tmp_path, 50, files=1, empty_files=0)
        edit_lines(tmp_path / written.manifest_files_key, lambda line: line | {"itemCount": 49})
        (part,) = slices_of(tmp_path, verify="warn", max_bytes=500)
        with pytest.raises(ExportIntegrityError, match="expected 49; found 50"):
            next(read_slice(part))


class TestDeadLetters:
    GOOD = b'{"Item":{"id":{"S":"a"}}}\n'

    @pytest.mark.parametrize(
        "bad",
        [b"{", b'{"Item":{"id":{"N":"1"}}}', b'{"Item":{}}', b"\xff\xfe", b'{"Item":{"id":"a"}}'],
    )
    def test_a_malformed_line_is_kept_with_its_place(self, tmp_path, bad):
        path = with_lines(tmp_path, [self.GOOD, self.GOOD, bad + b"\n", self.GOOD])
        blocks, reports, (letter,) = read(slices_of(tmp_path))
        assert len(rows_of(blocks)) == 3
        assert (letter.table, letter.stage) == ("orders", "export")
        assert letter.place == f"{path}:3"
        assert letter.raw == bad
        assert letter.reason
        assert reports[0].fields["dead_letters"] == 1
        assert reports[0].fields["lines"] == 4

    def test_line_numbers_go_on_over_rounds(self, tmp_path):
        lines = [self.GOOD, self.GOOD, b"bad\n", self.GOOD, b"worse\n"]
        path = with_lines(tmp_path, lines)
        places, loaded = [], {}
        while slices := slices_of(tmp_path, loaded=loaded, max_bytes=30):
            _, (report,), dead = read(slices)
            places += [letter.place for letter in dead]
            loaded[path] = DONE if report.fields["done"] else report.fields["lines"]
        assert places == [f"{path}:3", f"{path}:5"]

    def test_ion(self, tmp_path):
        good, bad = b'$ion_1_0 {Item:{id:"a"}}\n', b"$ion_1_0 {Item:{id:"
        written = write_full(
            tmp_path, lines=[good, bad + b"\n", good], export_format="ION", empty_files=0
        )
        blocks, _, (letter,) = read(slices_of(tmp_path))
        assert len(rows_of(blocks)) == 2
        assert (letter.place, letter.raw) == (f"{tmp_path / written.data_keys[0]}:2", bad)


class TestIntegrity:
    """What is not what the manifest says is told before any row is out."""

    def refused(self, part, match, verify="strict"):
        emitted = read_slice(part, verify=verify)
        with pytest.raises(ExportIntegrityError, match=match) as caught:
            next(emitted)
        assert part.file.path in str(caught.value)

    def test_one_flipped_byte(self, tmp_path):
        write_full(tmp_path, 50)
        part = first_file(tmp_path)
        content = bytearray(Path(part.file.path).read_bytes())
        content[-20] ^= 1
        Path(part.file.path).write_bytes(content)
        found = base64.b64encode(hashlib.md5(content).digest()).decode()
        self.refused(part, rf"expected '{part.file.md5}'; found '{found}'.*--verify=warn")

    def test_truncated(self, tmp_path):
        write_full(tmp_path, 50)
        part = first_file(tmp_path)
        path = Path(part.file.path)
        path.write_bytes(path.read_bytes()[:-9])
        self.refused(part, "MD5")
        # Nobody can say what is missing: this is never only a warning.
        with pytest.raises(ExportIntegrityError, match="not whole gzip data"):
            read([part], verify="warn")

    @pytest.mark.parametrize("verify", ["strict", "warn"])
    def test_missing(self, tmp_path, verify):
        write_full(tmp_path, 50)
        part = first_file(tmp_path)
        Path(part.file.path).unlink()
        self.refused(part, r"not to be had.*whole export was copied", verify)

    def test_wrong_count(self, tmp_path):
        written = write_full(tmp_path, 10, files=1, empty_files=0)
        edit_lines(tmp_path / written.manifest_files_key, lambda line: line | {"itemCount": 11})
        slices = slices_of(tmp_path, verify="warn")
        with pytest.raises(ExportIntegrityError, match=r"expected 11; found 10.*--verify=warn"):
            read(slices)
        blocks, (report,), _ = read(slices, verify="warn")
        assert len(rows_of(blocks)) == 10
        (warning,) = report.fields["warnings"]
        assert "expected 11; found 10" in warning

    def test_packed_again_is_only_a_warning_if_allowed(self, tmp_path):
        write_full(tmp_path, 50)
        part = first_file(tmp_path)
        path = Path(part.file.path)
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), 9))
        self.refused(part, "MD5")
        blocks, (report,), _ = read([part], verify="warn")
        assert len(rows_of(blocks)) == part.file.item_count
        assert "MD5" in report.fields["warnings"][0]

    def test_empty_file_that_is_not(self, tmp_path):
        write_full(tmp_path, 10)
        parts = slices_of(tmp_path)
        empty = next(each for each in parts if not each.file.item_count)
        full = first_file(tmp_path)
        Path(empty.file.path).write_bytes(Path(full.file.path).read_bytes())
        self.refused(empty, "MD5")
        (report,) = read([empty], verify="warn")[1]
        assert len(report.fields["warnings"]) == 2


class TestPipeline:
    def test_on_the_in_process_runner(self, tmp_path):
        write_full(tmp_path, 30)
        slices = slices_of(tmp_path)
        with beam.Pipeline(runner=FnApiRunner()) as p:
            out = p | beam.Create(slices) | "Read" >> ReadExportFiles()
            keys = out.blocks | beam.FlatMap(lambda block: block.rows.column("key").to_pylist())
            done = out.reports | beam.Map(lambda report: (report.kind, report.fields["done"]))
            assert_that(
                keys, equal_to([f"S{each['id']['S']}".encode() for each in items(30)]), "keys"
            )
            assert_that(done, equal_to([("file", True)] * len(slices)), "done")
            assert_that(out.dead_letters, equal_to([]), "dead")

    def test_outputs_are_typed_so_that_nothing_is_pickled(self):
        p = beam.Pipeline(runner=FnApiRunner())
        out = p | beam.Create(slices_of(SAMPLE, table=SAMPLE_TABLE)) | ReadExportFiles()
        names = [each.element_type.__name__ for each in out]
        assert names == ["Block", "Report", "DeadLetter"]

    def test_damage_fails_the_pipeline(self, tmp_path):
        write_full(tmp_path, 30)
        slices = slices_of(tmp_path)
        Path(slices[0].file.path).write_bytes(b"")
        p = beam.Pipeline(runner=FnApiRunner())
        _ = p | beam.Create(slices) | ReadExportFiles()
        with pytest.raises(ExportIntegrityError, match="MD5"):
            p.run()


def test_an_unknown_view_is_an_error(tmp_path):
    write_incremental(tmp_path)
    part = next(each for each in slices_of(tmp_path) if each.file.item_count)
    with pytest.raises(ExportError, match=r"unknown view.*OLD_IMAGE"):
        read([dataclasses.replace(part, view="OLD_IMAGE")])
