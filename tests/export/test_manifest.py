# SPDX-License-Identifier: Apache-2.0
"""Contract of manifests: both versions, moved exports, and every way in which they can be wrong."""

import json
import shutil
from pathlib import Path

import pytest

from dynabeam.transforms.errors import ExportError, ExportIntegrityError
from dynabeam.transforms.export.manifest import ExportManifest
from dynabeam.transforms.model.table import Table
from tests.export.builders import (
    ARN,
    SAMPLE,
    TABLE,
    TIME_US,
    edit_json,
    edit_lines,
    manifest_of,
    read,
    rows_of,
    slices_of,
    write_full,
    write_incremental,
)


def paths(folder, written):
    return folder / written.manifest_summary_key, folder / written.manifest_files_key


class TestReading:
    def test_full(self, tmp_path):
        written = write_full(tmp_path, 10, files=3, empty_files=2, prefix="p")
        manifest = manifest_of(tmp_path)
        assert manifest.export_arn == written.export_arn
        assert manifest.table_arn == ARN
        assert manifest.table_name == "orders"
        assert (manifest.export_type, manifest.view) == ("FULL_EXPORT", "")
        assert (manifest.from_us, manifest.export_time_us) == (0, TIME_US)
        assert manifest.item_count == 10
        assert [each.path for each in manifest.files] == [
            str(tmp_path / key) for key in written.data_keys
        ]
        assert [each.item_count for each in manifest.files].count(0) >= 2
        assert manifest.warnings == ()

    def test_incremental_data_lies_in_the_shared_folder(self, tmp_path):
        written = write_incremental(tmp_path, prefix="p")
        manifest = manifest_of(tmp_path)
        assert manifest.export_type == "INCREMENTAL_EXPORT"
        assert manifest.view == "NEW_AND_OLD_IMAGES"
        assert manifest.from_us == TIME_US - 678_000
        assert manifest.export_time_us == manifest.from_us + 20 * 60_000_000
        assert [each.path for each in manifest.files] == [
            str(tmp_path / key) for key in written.data_keys
        ]
        assert "p/AWSDynamoDB/data/" in manifest.files[0].path

    def test_the_real_sample(self):
        manifest = manifest_of(SAMPLE)
        assert manifest.table_name == "S3ExportTest"
        assert manifest.export_time_us == 1_715_685_260_608_000
        assert manifest.item_count == 3
        assert all(Path(each.path).is_file() for each in manifest.files)

    @pytest.mark.parametrize("prefix", [None, "a/b", "a/b/"])
    def test_any_prefix(self, tmp_path, prefix):
        write_full(tmp_path, 3, prefix=prefix)
        assert all(Path(each.path).is_file() for each in manifest_of(tmp_path).files)

    def test_goes_through_json(self, tmp_path):
        write_incremental(tmp_path)
        manifest = manifest_of(tmp_path)
        again = ExportManifest.from_json(json.loads(json.dumps(manifest.to_json())))
        assert again == manifest

    def test_without_md5_objects(self, tmp_path):
        write_full(tmp_path)
        for checksum in tmp_path.rglob("manifest-*.md5"):
            checksum.unlink()
        assert manifest_of(tmp_path).item_count == 10


class TestMoved:
    """The keys in manifests start at the bucket's root; copies lie elsewhere."""

    @pytest.mark.parametrize("write", [write_full, write_incremental])
    def test_tree_under_another_root(self, tmp_path, write):
        written = write(tmp_path / "bucket", prefix="p")
        shutil.move(tmp_path / "bucket" / "p", tmp_path / "elsewhere")
        expected = [
            str(tmp_path / "elsewhere" / key.removeprefix("p/")) for key in written.data_keys
        ]
        assert [each.path for each in manifest_of(tmp_path).files] == expected

    @pytest.mark.parametrize("write", [write_full, write_incremental])
    def test_folder_renamed(self, tmp_path, write):
        written = write(tmp_path / "bucket")
        (tmp_path / "bucket" / "AWSDynamoDB" / written.export_id).rename(
            tmp_path / "bucket" / "AWSDynamoDB" / "mine"
        )
        assert all(Path(each.path).is_file() for each in manifest_of(tmp_path).files)

    def test_the_export_folder_alone(self, tmp_path):
        written = write_full(tmp_path / "bucket", prefix="p")
        folder = Path(tmp_path / "bucket" / written.manifest_summary_key).parent
        shutil.copytree(folder, tmp_path / "copy")
        shutil.rmtree(tmp_path / "bucket")
        assert len(rows_of(read(slices_of(tmp_path / "copy"))[0])) == 10

    @pytest.mark.parametrize("write", [write_full, write_incremental])
    @pytest.mark.parametrize("data", ["", "data"])
    def test_flattened(self, tmp_path, write, data):
        written = write(tmp_path / "bucket", prefix="p")
        target = tmp_path / "flat" / data
        target.mkdir(parents=True)
        for key in written.data_keys:
            shutil.copy(tmp_path / "bucket" / key, target)
        for path in paths(tmp_path / "bucket", written):
            shutil.copy(path, tmp_path / "flat")
        manifest = manifest_of(tmp_path / "flat")
        assert {Path(each.path).parent for each in manifest.files} == {target}

    def test_data_at_the_root_of_the_bucket_form(self, tmp_path):
        # A local copy whose summary keeps its place while the keys name another export's folder.
        written = write_full(tmp_path / "bucket")
        moved = tmp_path / "bucket" / "shared"
        moved.mkdir()
        for key in written.data_keys:
            shutil.move(tmp_path / "bucket" / key, moved)
        edit_lines(
            tmp_path / "bucket" / written.manifest_files_key,
            lambda line: line | {"dataFileS3Key": "shared/" + Path(line["dataFileS3Key"]).name},
        )
        assert all(Path(each.path).is_file() for each in manifest_of(tmp_path).files)

    def test_one_missing_file_does_not_mislead(self, tmp_path):
        written = write_full(tmp_path, files=5)
        (tmp_path / written.data_keys[0]).unlink()
        assert manifest_of(tmp_path).files[0].path == str(tmp_path / written.data_keys[0])

    @pytest.mark.parametrize("key", ["../../etc/passwd", "/etc/passwd", "s3://other/x"])
    def test_keys_that_lead_out_are_refused(self, tmp_path, key):
        written = write_full(tmp_path)
        edit_lines(
            tmp_path / written.manifest_files_key, lambda line: line | {"dataFileS3Key": key}
        )
        with pytest.raises(ExportIntegrityError, match=r"leads out of the export|listed twice"):
            manifest_of(tmp_path)


class TestWrong:
    def test_unknown_version(self, tmp_path):
        summary, _ = paths(tmp_path, write_full(tmp_path))
        edit_json(summary, version="2031-01-01")
        with pytest.raises(ExportIntegrityError, match=r"unknown version.*2031-01-01"):
            manifest_of(tmp_path)

    def test_version_that_does_not_go_with_the_type(self, tmp_path):
        summary, _ = paths(tmp_path, write_full(tmp_path))
        edit_json(summary, exportType="INCREMENTAL_EXPORT")
        with pytest.raises(ExportIntegrityError, match="does not go with its export type"):
            manifest_of(tmp_path)

    def test_unknown_format(self, tmp_path):
        summary, _ = paths(tmp_path, write_full(tmp_path))
        edit_json(summary, outputFormat="PARQUET")
        with pytest.raises(ExportIntegrityError, match=r"unknown format.*PARQUET"):
            manifest_of(tmp_path)

    @pytest.mark.parametrize("which", [0, 1])
    def test_flipped_byte_in_a_manifest(self, tmp_path, which):
        path = paths(tmp_path, write_full(tmp_path))[which]
        path.write_bytes(path.read_bytes().replace(b'"itemCount":', b'"itemCount": '))
        with pytest.raises(ExportIntegrityError, match=r"MD5 .*expected .*found .*--verify=warn"):
            manifest_of(tmp_path)
        (warning,) = manifest_of(tmp_path, verify="warn").warnings
        assert str(path) in warning

    def test_sum_of_items(self, tmp_path):
        summary, _ = paths(tmp_path, write_full(tmp_path, 10))
        edit_json(summary, itemCount=11)
        with pytest.raises(ExportIntegrityError, match="expected 11; found 10"):
            manifest_of(tmp_path)
        assert "expected 11; found 10" in manifest_of(tmp_path, verify="warn").warnings[0]

    def test_a_file_listed_twice(self, tmp_path):
        _, files = paths(tmp_path, write_full(tmp_path))
        files.write_bytes(files.read_bytes() * 2)
        Path(str(files).removesuffix(".json") + ".md5").unlink()
        with pytest.raises(ExportIntegrityError, match="listed twice"):
            manifest_of(tmp_path)

    def test_files_manifest_missing(self, tmp_path):
        _, files = paths(tmp_path, write_full(tmp_path))
        files.unlink()
        with pytest.raises(ExportIntegrityError, match=r"manifest-files.json: the file cannot"):
            manifest_of(tmp_path)

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version":"2020-06-30"}', b"\xff"])
    def test_a_summary_that_is_none(self, tmp_path, content):
        (tmp_path / "manifest-summary.json").write_bytes(content)
        with pytest.raises(ExportIntegrityError, match=r"manifest-summary.json"):
            manifest_of(tmp_path)

    @pytest.mark.parametrize(
        "change",
        [
            {"itemCount": "3"},
            {"itemCount": -1},
            {"itemCount": True},
            {"md5Checksum": None},
            {"dataFileS3Key": 7},
        ],
    )
    def test_lines_that_are_none(self, tmp_path, change):
        _, files = paths(tmp_path, write_full(tmp_path))
        edit_lines(files, lambda line: line | change)
        with pytest.raises(ExportIntegrityError, match=r"manifest-files.json:1: .*cannot be read"):
            manifest_of(tmp_path)

    @pytest.mark.parametrize("time", [None, "", "yesterday", "2026-01-02T03:04:05"])
    def test_times_that_are_none(self, tmp_path, time):
        summary, _ = paths(tmp_path, write_full(tmp_path))
        edit_json(summary, exportTime=time)
        with pytest.raises(ExportIntegrityError, match="exportTime must be"):
            manifest_of(tmp_path)

    def test_a_filter_in_the_summary(self, tmp_path):
        summary, _ = paths(tmp_path, write_full(tmp_path))
        edit_json(summary, filterSpecification={"FilterExpression": "a = :a"})
        with pytest.raises(ExportError, match="only a part of the table"):
            manifest_of(tmp_path)


class TestAskedFor:
    def test_another_table(self, tmp_path):
        write_full(tmp_path)
        manifest = manifest_of(tmp_path)
        manifest.check_table(TABLE)
        manifest.check_table(Table("orders", TABLE.keys))
        other_account = ARN.replace("111122223333", "999999999999")
        for table in (
            Table("customers", TABLE.keys),
            Table("orders", TABLE.keys, other_account),
        ):
            with pytest.raises(ExportError, match=r"another table; expected .*found"):
                manifest.check_table(table)

    def test_incremental_given_as_full(self, tmp_path):
        write_incremental(tmp_path)
        with pytest.raises(
            ExportError, match=r"expected 'FULL_EXPORT'; found 'INCREMENTAL_EXPORT'.*starts from"
        ):
            manifest_of(tmp_path).check_type("FULL_EXPORT")
