# SPDX-License-Identifier: Apache-2.0
"""Contract of simulated full exports: what is said, when they end, and what is in them."""

import json
from datetime import timedelta

from dynabeam.transforms.values.ion_text import ion_line_to_json
from tests.testing.export_files import without_order
from tests.testing.exports.conftest import ARN, BUCKET, HOUR, MINUTE, items


class TestFullExport:
    def test_a_request_says_what_it_will_do(self, export, sim):
        said = export()
        identity = said["ExportArn"].rsplit("/", 1)[1]
        assert said.pop("StartTime") == said.pop("ExportTime")
        assert said.pop("ClientToken")
        assert said.pop("TableId") == sim.table("orders").table_id
        assert said == {
            "ExportArn": f"{ARN}orders/export/{identity}",
            "ExportStatus": "IN_PROGRESS",
            "TableArn": ARN + "orders",
            "S3Bucket": BUCKET,
            "S3SseAlgorithm": "AES256",
            "ExportFormat": "DYNAMODB_JSON",
        }
        assert sim.objects.keys(BUCKET) == [f"AWSDynamoDB/{identity}/_started"]

    def test_it_completes_when_looked_at(self, export, describe, files, sim):
        started = export()
        said = describe(started["ExportArn"])
        assert said["ExportStatus"] == "COMPLETED"
        assert said.keys() - started.keys() == {
            "EndTime", "ExportManifest", "ItemCount", "BilledSizeBytes",
        }  # fmt: skip
        read = files(said)
        assert read.summary["itemCount"] == said["ItemCount"] == 2
        assert read.summary["tableId"] == said["TableId"]
        assert read.summary["exportArn"] == said["ExportArn"]
        assert read.summary["startTime"] == "2026-01-02T04:04:05.678Z"
        assert sorted(row["id"]["S"] for row in read.items) == ["a", "b"]
        assert describe(started["ExportArn"]) == said

    def test_what_is_passed_is_described(self, export, describe):
        filters = {"FilterExpression": "attribute_exists(id)"}
        passed = {
            "ClientToken": "mine",
            "S3BucketOwner": "111122223333",
            "S3Prefix": "p",
            "S3SseAlgorithm": "KMS",
            "S3SseKmsKeyId": "alias/mine",
            "ExportFormat": "ION",
            "ExportType": "FULL_EXPORT",
            "FilterSpecification": filters,
        }
        started = export(**passed)
        assert passed.items() <= started.items()
        said = describe(started["ExportArn"])
        assert passed.items() <= said.items()
        assert said["ExportManifest"].startswith("p/AWSDynamoDB/")

    def test_the_moment_asked_for(self, export, exported, sim):
        past = sim.clock.now().replace(microsecond=0) - 10 * MINUTE
        sim.put_many("orders", items("late"))
        started = export(ExportTime=past)
        assert started["ExportTime"] == past
        read = exported(started)
        assert read.summary["exportTime"] == f"{past:%Y-%m-%dT%H:%M:%S}.000Z"
        assert sorted(row["id"]["S"] for row in read.items) == ["a", "b"]

    def test_writes_after_the_request_are_not_in(self, export, exported, sim):
        started = export()
        sim.clock.advance(timedelta(microseconds=1))
        sim.put_many("orders", items("late"))
        assert len(exported(started).items) == 2

    def test_ion(self, export, exported):
        lines = exported(export(ExportFormat="ION")).all_lines
        read = [json.loads(ion_line_to_json(line))["Item"] for line in lines]
        assert sorted(row["id"]["S"] for row in read) == ["a", "b"]

    def test_files(self, export, exported, sim):
        sim.exports.data_files, sim.exports.empty_files = 5, 3
        assert len(exported(export()).files) == 8

    def test_all_types_come_out_as_the_table_holds_them(self, export, exported, sim):
        more = {
            "s": {"SS": ["x", "y"]},
            "n": {"NS": ["3", "2.5"]},
            "b": {"B": "AP8="},
            "m": {"M": {"l": {"L": [{"NULL": True}, {"BOOL": False}]}}},
        }
        sim.put_many("orders", items("c", **more))
        rows = [without_order(row) for row in exported(export()).items]
        for item in sim.items("orders"):
            assert without_order(item) in rows


class TestTime:
    def test_an_export_takes_its_seconds(self, export, describe, sim):
        sim.exports.export_seconds = 300
        started = export()
        sim.clock.advance(timedelta(seconds=299))
        assert describe(started["ExportArn"])["ExportStatus"] == "IN_PROGRESS"
        assert len(sim.objects.keys(BUCKET)) == 1
        sim.clock.advance(timedelta(seconds=60))
        said = describe(started["ExportArn"])
        assert said["ExportStatus"] == "COMPLETED"
        assert said["EndTime"] - said["StartTime"] == timedelta(seconds=300)

    def test_a_held_export_waits_for_its_release(self, export, describe, sim):
        first = export()
        sim.exports.hold()
        second = export()
        sim.clock.advance(HOUR)
        assert describe(first["ExportArn"])["ExportStatus"] == "IN_PROGRESS"
        assert describe(second["ExportArn"])["ExportStatus"] == "IN_PROGRESS"
        sim.exports.release()
        assert any(key.endswith("manifest-summary.json") for key in sim.objects.keys(BUCKET))
        assert describe(second["ExportArn"])["ExportStatus"] == "COMPLETED"

    def test_the_edge_is_fuzzy_if_asked(self, export, exported, sim):
        sim.exports.fuzz = MINUTE
        sim.exports.export_seconds = 300
        names = [f"k{n:02}" for n in range(40)]
        sim.put_many("orders", items(*names))
        sim.clock.advance(30 * timedelta(seconds=1))
        started = export()
        sim.clock.advance(30 * timedelta(seconds=1))
        sim.put_many("orders", items(*names, late={"BOOL": True}))
        sim.clock.advance(31 * timedelta(seconds=1))
        sim.put_many("orders", items("too-late"))
        sim.clock.advance(HOUR)
        found = {row["id"]["S"]: "late" in row for row in exported(started).items}
        assert {"a", "b"} <= found.keys()
        assert "too-late" not in found
        blurred = [found.get(name) for name in names]
        assert set(blurred) == {None, False, True}

    def test_an_export_survives_its_table(self, export, exported, dynamodb):
        started = export()
        dynamodb.delete_table(TableName="orders")
        assert len(exported(started).items) == 2
