# SPDX-License-Identifier: Apache-2.0
"""Contract of written exports: the service's layout, true checksums, items digit for digit."""

import gzip
import json
import re
from datetime import datetime, timezone
from pathlib import Path

import pytest
from hypothesis import given

from dynabeam.transforms.errors import ConfigurationError
from dynabeam.transforms.testing.export_writer import (
    NetChange,
    folder_put,
    write_full_export,
    write_incremental_export,
)
from dynabeam.transforms.testing.synthetic_export import main, synthetic_lines
from tests.testing.export_files import read_export, without_order
from tests.values.strategies import items as arbitrary_items

SAMPLE = Path(__file__).parents[1] / "data" / "exports" / "scylla-migrator-full-all-types"
ARN = "arn:aws:dynamodb:eu-west-1:111122223333:table/orders"
TIME = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone.utc)
FROM = datetime(2026, 1, 2, 4, 0, tzinfo=timezone.utc)
TO = datetime(2026, 1, 2, 5, 0, tzinfo=timezone.utc)
EMPTY = bytes.fromhex("1f8b08000000000000ff0300000000000000 0000")
ITEMS = [{"id": {"S": f"k{n // 4}"}, "n": {"N": str(n)}, "a": {"BOOL": True}} for n in range(40)]
EXACT = {
    "id": {"S": "exact ☃\n\u2028"},
    "n": {"N": "12345678901234567890123456789012345678"},
    "tiny": {"N": "0." + "0" * 120 + "1"},
    "b": {"B": "AP8="},
    "map": {"M": {"S": {"S": ""}, "l": {"L": [{"NULL": True}, {"M": {}}]}}},
    "set": {"NS": ["2", "10", "1"]},
}


def full(store=None, **options):
    store = {} if store is None else store
    options = {"items": ITEMS, "hash_key": "id", "export_time": TIME, **options}
    if "lines" in options:
        del options["items"]
    written = write_full_export(
        store.__setitem__, table_arn=ARN, table_id="table-id", bucket="bucket", **options
    )
    return store, written


CHANGES = [
    NetChange({"id": {"S": "new"}}, 1767326400000001, None, {"id": {"S": "new"}, "b": {"N": "1"}}),
    NetChange({"id": {"S": "up"}}, 1767326400000020, {"id": {"S": "up"}}, {"id": {"S": "up"}}),
    NetChange({"id": {"S": "gone"}}, 1767326400000003, {"id": {"S": "gone"}}, None),
]


def incremental(store=None, **options):
    store = {} if store is None else store
    written = write_incremental_export(
        store.__setitem__,
        table_arn=ARN,
        table_id="table-id",
        bucket="bucket",
        **{"changes": CHANGES, "export_from": FROM, "export_to": TO, **options},
    )
    return store, written


class TestShapeOfARealExport:
    def sample(self):
        (key,) = [
            path.relative_to(SAMPLE).as_posix() for path in SAMPLE.rglob("manifest-summary.json")
        ]
        return read_export(lambda name: (SAMPLE / name).read_bytes(), key, checksums=False)

    def test_same_fields_in_the_same_order(self):
        real = self.sample()
        store, written = full(prefix="dynamodb-export", files=1, empty_files=0)
        ours = read_export(store.__getitem__, written.manifest_summary_key)
        assert list(ours.summary) == list(real.summary)
        assert [type(value) for value in ours.summary.values()] == [
            type(value) for value in real.summary.values()
        ]
        assert list(ours.files[0]) == list(real.files[0])
        assert ours.summary["version"] == real.summary["version"]

    def test_same_forms_of_names_and_times(self):
        real = self.sample()
        store, written = full(prefix="dynamodb-export", files=1, empty_files=0)
        ours = read_export(store.__getitem__, written.manifest_summary_key)
        folder = r"dynamodb-export/AWSDynamoDB/\d{14}-[0-9a-f]{8}"
        forms = {
            "exportArn": r"arn:aws:dynamodb:[a-z0-9-]+:\d{12}:table/\w+/export/\d{14}-[0-9a-f]{8}",
            "startTime": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z",
            "endTime": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z",
            "manifestFilesS3Key": folder + r"/manifest-files\.json",
        }
        for name, form in forms.items():
            assert re.fullmatch(form, real.summary[name])
            assert re.fullmatch(form, ours.summary[name])
        form = folder + r"/data/[a-z2-7]{26}\.json\.gz"
        assert re.fullmatch(form, real.files[0]["dataFileS3Key"])
        assert re.fullmatch(form, ours.files[0]["dataFileS3Key"])

    def test_same_gzip_header(self):
        real = (SAMPLE / self.sample().files[0]["dataFileS3Key"]).read_bytes()
        store, written = full(files=1, empty_files=0)
        assert store[written.data_keys[0]][:10] == real[:10]

    def test_the_real_items_survive_our_writer(self):
        items = self.sample().items
        store, written = full(items=items)
        ours = read_export(store.__getitem__, written.manifest_summary_key).items
        assert sorted(map(_text, ours)) == sorted(map(_text, items))


def _text(item):
    return json.dumps(without_order(item), sort_keys=True)


class TestFullLayout:
    def test_summary(self):
        store, written = full(end_time=TO, kms_key_id="key", sse_algorithm="KMS")
        summary = json.loads(store[written.manifest_summary_key])
        folder = f"AWSDynamoDB/{written.export_id}/"
        assert written.export_id.startswith("01767323045678-")
        assert summary == {
            "version": "2020-06-30",
            "exportArn": f"{ARN}/export/{written.export_id}",
            "startTime": "2026-01-02T03:04:05.678Z",
            "endTime": "2026-01-02T05:00:00.000Z",
            "tableArn": ARN,
            "tableId": "table-id",
            "exportTime": "2026-01-02T03:04:05.678Z",
            "s3Bucket": "bucket",
            "s3Prefix": None,
            "s3SseAlgorithm": "KMS",
            "s3SseKmsKeyId": "key",
            "manifestFilesS3Key": folder + "manifest-files.json",
            "billedSizeBytes": written.billed_size_bytes,
            "itemCount": 40,
            "outputFormat": "DYNAMODB_JSON",
        }
        assert not store[written.manifest_summary_key].endswith(b"\n")

    def test_objects(self):
        store, written = full(prefix="p/q")
        folder = f"p/q/AWSDynamoDB/{written.export_id}/"
        others = {"_started", "manifest-summary", "manifest-files"}
        assert {key.removeprefix(folder).split(".")[0] for key in store if "/data/" not in key} == (
            others
        )
        assert store[folder + "_started"] == b""
        assert {key for key in store if "/data/" in key} == set(written.data_keys)
        assert all(key.startswith(folder + "data/") for key in written.data_keys)

    def test_the_summary_is_written_last(self):
        store, written = full()
        assert list(store)[-1] == written.manifest_summary_key
        assert next(iter(store)) == written.started_key

    def test_a_prefix_with_a_slash_is_told_verbatim_and_joined_with_one(self):
        store, written = full(prefix="p/")
        assert written.manifest_summary_key.startswith("p/AWSDynamoDB/")
        assert json.loads(store[written.manifest_summary_key])["s3Prefix"] == "p/"

    def test_empty_files_are_twenty_bytes_and_counted_zero(self):
        store, written = full(empty_files=2, files=4)
        read = read_export(store.__getitem__, written.manifest_summary_key)
        empty = [file["dataFileS3Key"] for file in read.files if not file["itemCount"]]
        assert len(read.files) == 6
        assert len(empty) >= 2
        assert {store[key] for key in empty} == {EMPTY}
        assert gzip.decompress(EMPTY) == b""

    def test_a_table_without_items(self):
        store, written = full(items=[], files=2, empty_files=0)
        read = read_export(store.__getitem__, written.manifest_summary_key)
        assert (read.summary["itemCount"], len(read.files), read.all_lines) == (0, 2, [])

    def test_a_file_holds_one_hash_range(self):
        store, written = full(files=4)
        read = read_export(store.__getitem__, written.manifest_summary_key)
        partitions = [{json.loads(line)["Item"]["id"]["S"] for line in f} for f in read.lines]
        assert sum(map(len, partitions)) == len(set().union(*partitions)) == 10
        assert sum(1 for each in partitions if each) > 1

    def test_partition_keys_are_the_same_in_every_spelling_of_a_number(self):
        items = [{"id": {"N": text}} for text in ("1000", "1e3", "1000.0")]
        store, written = full(items=items, files=64)
        read = read_export(store.__getitem__, written.manifest_summary_key)
        assert [len(lines) for lines in read.lines if lines] == [3]


class TestContent:
    def test_values_arrive_digit_for_digit(self):
        store, written = full(items=[EXACT])
        (line,) = read_export(store.__getitem__, written.manifest_summary_key).all_lines
        assert without_order(json.loads(line)) == {"Item": without_order(EXACT)}
        assert b": " not in line
        assert "☃".encode() in line

    @given(arbitrary_items)
    def test_any_item_arrives(self, item):
        store, written = full(items=[item], hash_key=None, files=2)
        (row,) = read_export(store.__getitem__, written.manifest_summary_key).rows
        assert without_order(row) == {"Item": without_order(item)}

    def test_attribute_order_is_arbitrary_but_the_seed_decides(self):
        orders = set()
        for row in read_export(*_get(full())).items:
            orders.add(tuple(row))
        assert len(orders) > 1
        assert full()[0] == full()[0]
        shuffled = [dict(reversed(item.items())) for item in ITEMS]
        assert full(items=shuffled)[0] == full()[0]
        assert full(seed=1)[1].data_keys != full()[1].data_keys

    def test_ion(self):
        store, written = full(items=[EXACT], export_format="ION", files=1, empty_files=0)
        (key,) = written.data_keys
        assert key.endswith(".ion.gz")
        line = gzip.decompress(store[key]).decode()
        assert line.startswith("$ion_1_0 {Item:{")
        assert line.endswith("}}\n")
        assert line.count("\n") == 1
        assert "n:12345678901234567890123456789012345678." in line
        assert json.loads(store[written.manifest_summary_key])["outputFormat"] == "ION"


def _get(pair):
    store, written = pair
    return store.__getitem__, written.manifest_summary_key


class TestReadyLines:
    def test_lines_are_cut_into_files_in_their_order(self):
        lines = [b'{"Item":{"id":{"N":"%d"}}}' % n for n in range(25)]
        store, written = full(lines=iter(lines), rows_per_file=10, empty_files=1)
        read = read_export(store.__getitem__, written.manifest_summary_key)
        assert sorted(map(len, read.lines)) == [0, 5, 10, 10]
        assert sorted(read.all_lines) == sorted(lines)
        assert all(file == sorted(file, key=lines.index) for file in read.lines)

    def test_a_final_newline_is_added_only_where_it_is_missing(self):
        store, written = full(lines=[b'{"Item":{}}\n', b'{"Item":{}}'], empty_files=0)
        assert read_export(*_get((store, written))).all_lines == [b'{"Item":{}}'] * 2

    def test_one_file_at_a_time_is_asked_for(self):
        taken = 0

        def lines():
            nonlocal taken
            for _ in range(30):
                taken += 1
                yield b"{}"

        at_put = []
        write_full_export(
            lambda key, _: at_put.append(taken) if "/data/" in key else None,
            table_arn=ARN, table_id="t", bucket="b", export_time=TIME,
            lines=lines(), rows_per_file=10, empty_files=0,
        )  # fmt: skip
        assert at_put == [10, 20, 30]


class TestIncremental:
    def test_summary(self):
        store, written = incremental(prefix="p")
        summary = json.loads(store[written.manifest_summary_key])
        assert list(summary) == [
            "version", "exportArn", "startTime", "endTime", "tableArn", "tableId",
            "exportFromTime", "exportToTime", "s3Bucket", "s3Prefix", "s3SseAlgorithm",
            "s3SseKmsKeyId", "manifestFilesS3Key", "billedSizeBytes", "itemCount", "outputFormat",
            "outputView", "exportType",
        ]  # fmt: skip
        assert summary["version"] == "2023-08-01"
        assert summary["exportFromTime"] == "2026-01-02T04:00:00.000Z"
        assert summary["exportToTime"] == "2026-01-02T05:00:00.000Z"
        assert summary["startTime"].endswith(".000Z")
        assert summary["outputView"] == "NEW_AND_OLD_IMAGES"
        assert summary["exportType"] == "INCREMENTAL_EXPORT"
        assert summary["billedSizeBytes"] == 10_000_000
        assert summary["itemCount"] == 3

    def test_data_lies_in_the_shared_folder(self):
        store, written = incremental(prefix="p")
        incremental(store, prefix="p", export_from=TO, export_to=TO.replace(hour=6))
        assert all(key.startswith("p/AWSDynamoDB/data/") for key in written.data_keys)
        assert len([key for key in store if key.startswith("p/AWSDynamoDB/data/")]) == 6

    def test_lines_of_both_images(self):
        rows = {row["Keys"]["id"]["S"]: row for row in read_export(*_get(incremental())).rows}
        assert {name: list(row) for name, row in rows.items()} == {
            "new": ["Metadata", "Keys", "NewImage"],
            "up": ["Metadata", "Keys", "OldImage", "NewImage"],
            "gone": ["Metadata", "Keys", "OldImage"],
        }
        assert rows["new"]["Metadata"] == {"WriteTimestampMicros": {"N": "1767326400000001"}}
        assert list(rows["new"]["NewImage"]) == ["b", "id"]

    def test_lines_of_new_images(self):
        read = read_export(*_get(incremental(view="NEW_IMAGE")))
        assert {row["Keys"]["id"]["S"]: list(row) for row in read.rows} == {
            "new": ["Metadata", "Keys", "NewImage"],
            "up": ["Metadata", "Keys", "NewImage"],
            "gone": ["Metadata", "Keys"],
        }
        assert read.summary["outputView"] == "NEW_IMAGE"

    @pytest.mark.parametrize("wrapped", [False, True])
    def test_ion_with_and_without_the_record(self, wrapped):
        read = read_export(*_get(incremental(export_format="ION", ion_record_wrapper=wrapped)))
        stamp = "Metadata:{WriteTimestampMicros:176732640000002d1}"
        images = ",".join(name + ':{id:"up"}' for name in ("Keys", "OldImage", "NewImage"))
        record = "{" + stamp + "," + images + "}"
        expected = f"{{Record:{record}}}" if wrapped else record
        assert f"$ion_1_0 {expected}".encode() in read.all_lines

    def test_a_change_without_images_is_refused(self):
        with pytest.raises(ConfigurationError, match="old or a new image"):
            NetChange({"id": {"S": "a"}}, 1)


class TestRefusals:
    def test_items_and_lines(self):
        with pytest.raises(ConfigurationError, match="either items or lines"):
            write_full_export(
                {}.__setitem__, table_arn=ARN, table_id="t", bucket="b", export_time=TIME
            )

    def test_a_time_without_zone(self):
        with pytest.raises(ConfigurationError, match="time zone"):
            full(export_time=datetime(2026, 1, 2), start_time=TIME)  # noqa: DTZ001

    def test_an_item_without_the_partition_key(self):
        with pytest.raises(ConfigurationError, match="partition key"):
            full(hash_key="other")

    def test_no_files(self):
        with pytest.raises(ConfigurationError, match="at least one file"):
            full(files=0)


class TestFolder:
    def test_files_lie_below_the_folder(self, tmp_path):
        written = write_full_export(
            folder_put(tmp_path), table_arn=ARN, table_id="t", bucket="b", export_time=TIME,
            items=ITEMS, prefix="p",
        )  # fmt: skip
        read = read_export(lambda key: (tmp_path / key).read_bytes(), written.manifest_summary_key)
        assert len(read.items) == 40


class TestSynthetic:
    def test_lines_are_items_with_distinct_keys(self):
        lines = list(synthetic_lines(5000, seed=3))
        items = [json.loads(line)["Item"] for line in lines]
        assert all(line.count(b"\n") == 1 and line.endswith(b"\n") for line in lines)
        assert len({(i["customer"]["S"], i["order_no"]["N"]) for i in items}) == 5000
        assert {tag for item in items for value in item.values() for tag in value} == {
            "S", "N", "B", "BOOL", "NULL", "SS", "M",
        }  # fmt: skip
        assert len({tuple(item) for item in items}) == 2

    def test_numbers_are_as_the_service_writes_them(self):
        for line in synthetic_lines(2000):
            item = json.loads(line)["Item"]
            assert re.fullmatch(r"-?(0|[1-9]\d*)\.\d?[1-9]", item["amount"]["N"])

    def test_the_seed_decides(self):
        assert list(synthetic_lines(50, seed=1)) == list(synthetic_lines(50, seed=1))
        assert list(synthetic_lines(50, seed=1)) != list(synthetic_lines(50, seed=2))

    @pytest.mark.parametrize("size", [300, 1000])
    def test_lines_are_about_as_long_as_asked(self, size):
        lines = list(synthetic_lines(1000, item_bytes=size))
        assert abs(sum(map(len, lines)) / 1000 - size) < 10

    def test_too_many_items(self):
        with pytest.raises(ConfigurationError, match="out of range"):
            next(synthetic_lines(1 << 60))

    def test_the_command(self, tmp_path, capsys):
        main(["--items", "2500", "--out", str(tmp_path), "--table", "t", "--rows_per_file", "1000"])
        said = capsys.readouterr().out
        path = Path(said.splitlines()[-1])
        key = path.relative_to(tmp_path).as_posix()
        read = read_export(lambda name: (tmp_path / name).read_bytes(), key)
        assert read.summary["tableArn"].endswith(":table/t")
        assert read.summary["itemCount"] == 2500
        assert len(read.files) == 4
        assert said.startswith("2,500 items")
