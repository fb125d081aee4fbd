# SPDX-License-Identifier: Apache-2.0
"""Contract of the simulated export API: refusals, tokens, failures and lists."""

import pytest

from dynabeam.transforms.testing.api_error import ApiError
from tests.testing.exports.conftest import ARN, BUCKET, HOUR, MINUTE, switch
from tests.testing.reading import error_of


class TestRefusals:
    def test_recovery_is_off(self, refused, dynamodb):
        switch(dynamodb, on=False)
        assert refused() == (
            "PointInTimeRecoveryUnavailableException",
            "Point in time recovery is not enabled for table 'orders'",
        )

    def test_times_outside_the_recovery_window(self, refused, sim):
        now = sim.clock.now()
        for moment, message in (
            (now + MINUTE, "Export Time is invalid"),
            (now - 2 * HOUR, "Export Time is invalid"),
            (now - MINUTE, "Point in Time Recovery is not available for specified export time"),
        ):
            assert refused(ExportTime=moment) == ("InvalidExportTimeException", message)

    @pytest.mark.parametrize(
        ("arn", "code"),
        [
            (ARN + "missing", "TableNotFoundException"),
            (ARN.replace("eu-west-1", "us-east-1") + "orders", "TableNotFoundException"),
            (ARN.replace("1111", "9999") + "orders", "AccessDeniedException"),
            (ARN + "orders/index/by_v", "ValidationException"),
            ("orders", "ValidationException"),
        ],
    )
    def test_tables_that_cannot_be(self, refused, arn, code):
        assert refused(TableArn=arn)[0] == code

    @pytest.mark.parametrize(
        "arguments",
        [
            {"ExportFormat": "CSV"},
            {"ExportFormat": ""},
            {"ExportType": "PARTIAL_EXPORT"},
            {"S3SseAlgorithm": "aws:kms"},
            {"S3SseKmsKeyId": "alias/mine"},
            {"S3Bucket": "arn:aws:s3:::bucket"},
            {"S3BucketOwner": "me"},
            {"S3Prefix": "p" * 1025},
            {"ClientToken": "$"},
            {"FilterSpecification": {}},
        ],
    )
    def test_malformed_arguments(self, refused, arguments):
        assert refused(**arguments)[0] == "ValidationException"

    def test_too_many_at_a_time(self, export, refused, sim):
        sim.exports.hold()
        for _ in range(300):
            sim.exports.handle(
                "ExportTableToPointInTime", {"TableArn": ARN + "orders", "S3Bucket": BUCKET}
            )
        assert refused()[0] == "LimitExceededException"

    def test_unknown_actions(self, sim):
        with pytest.raises(ApiError, match="UnknownOperationException"):
            sim.exports.handle("ImportTable", {})


class TestClientToken:
    def test_the_same_request_gives_the_same_export(self, export, describe):
        first = export(ClientToken="t")
        assert export(ClientToken="t") == first
        finished = describe(first["ExportArn"])
        assert export(ClientToken="t") == finished

    def test_without_a_token_each_request_is_another_export(self, sim, table):
        body = {"TableArn": table, "S3Bucket": BUCKET}
        told = [sim.exports.handle("ExportTableToPointInTime", body) for _ in range(2)]
        assert len({each["ExportDescription"]["ExportArn"] for each in told}) == 2
        assert len({each["ExportDescription"]["ClientToken"] for each in told}) == 2

    @pytest.mark.parametrize(
        "changed",
        [
            {"S3Prefix": "other"},
            {"ExportFormat": "ION"},
            {"S3Bucket": "other-bucket"},
            {"S3SseAlgorithm": "AES256"},
            {"TableArn": ARN + "missing"},
        ],
    )
    def test_a_changed_argument_is_a_conflict(self, export, refused, changed):
        export(ClientToken="t")
        code, message = refused(ClientToken="t", **changed)
        assert code == "ExportConflictException"
        assert "Duplicate request detected" in message

    def test_a_refused_request_does_not_use_its_token_up(self, export, refused):
        refused(ClientToken="t", ExportFormat="CSV")
        assert export(ClientToken="t")["ClientToken"] == "t"

    def test_after_eight_hours_it_is_a_new_request(self, export, sim):
        first = export(ClientToken="t")
        sim.clock.advance(8 * HOUR - MINUTE)
        assert export(ClientToken="t")["ExportArn"] == first["ExportArn"]
        sim.clock.advance(MINUTE)
        assert export(ClientToken="t")["ExportArn"] != first["ExportArn"]


class TestFailures:
    def test_a_missing_bucket_is_found_out_later(self, export, describe):
        started = export(S3Bucket="no-such-bucket")
        assert started["ExportStatus"] == "IN_PROGRESS"
        said = describe(started["ExportArn"])
        assert (said["ExportStatus"], said["FailureCode"]) == ("FAILED", "S3NoSuchBucket")
        assert "does not exist" in said["FailureMessage"]
        assert not {"ExportManifest", "ItemCount", "BilledSizeBytes"} & said.keys()
        assert "EndTime" in said

    def test_a_bucket_of_somebody_else(self, export, describe):
        said = describe(export(S3BucketOwner="999999999999")["ExportArn"])
        assert (said["ExportStatus"], said["FailureCode"]) == ("FAILED", "S3AccessDenied")

    def test_a_test_can_fail_the_next_one(self, export, describe, sim):
        sim.exports.fail_next("KmsNotFoundException", "no such key")
        first, second = export(), export()
        said = describe(first["ExportArn"])
        assert (said["FailureCode"], said["FailureMessage"]) == (
            "KmsNotFoundException",
            "no such key",
        )
        assert describe(second["ExportArn"])["ExportStatus"] == "COMPLETED"


class TestDescribeAndList:
    @pytest.mark.parametrize(
        ("arn", "code"),
        [
            (ARN + "orders/export/01700000000000-00000000", "ExportNotFoundException"),
            (ARN + "orders/import/01700000000000-00000000", "ValidationException"),
            ("x" * 40, "ValidationException"),
            (ARN.replace("1111", "9999") + "orders/export/1", "AccessDeniedException"),
            (ARN.replace("eu-west-1", "us-east-1") + "orders/export/1", "ExportNotFoundException"),
        ],
    )
    def test_exports_that_cannot_be(self, dynamodb, arn, code):
        assert error_of(dynamodb.describe_export, ExportArn=arn)[::2] == (code, 400)

    def test_pages(self, sim, dynamodb, table):
        body = {"TableArn": table, "S3Bucket": BUCKET}
        arns = []
        for _ in range(27):
            told = sim.exports.handle("ExportTableToPointInTime", body)
            arns.append(told["ExportDescription"]["ExportArn"])
        found, token = [], {}
        sizes = []
        while True:
            page = dynamodb.list_exports(MaxResults=10, **token)
            sizes.append(len(page["ExportSummaries"]))
            found += [summary["ExportArn"] for summary in page["ExportSummaries"]]
            if "NextToken" not in page:
                break
            token = {"NextToken": page["NextToken"]}
        assert sizes == [10, 10, 7]
        assert found == arns[::-1]
        assert len(dynamodb.list_exports()["ExportSummaries"]) == 25

    def test_a_full_last_page_has_no_token(self, dynamodb, export):
        export()
        assert "NextToken" not in dynamodb.list_exports(MaxResults=1)

    def test_summaries(self, dynamodb, export):
        arn = export()["ExportArn"]
        assert dynamodb.list_exports()["ExportSummaries"] == [
            {"ExportArn": arn, "ExportStatus": "COMPLETED", "ExportType": "FULL_EXPORT"}
        ]

    def test_of_one_table_that_is_there(self, sim, dynamodb, export, describe, table):
        other = sim.create_table("other", "id:S")
        started = export()
        assert len(dynamodb.list_exports(TableArn=table)["ExportSummaries"]) == 1
        assert dynamodb.list_exports(TableArn=other)["ExportSummaries"] == []
        dynamodb.delete_table(TableName="orders")
        assert dynamodb.list_exports(TableArn=table)["ExportSummaries"] == []
        sim.create_table("orders", "id:S")
        assert dynamodb.list_exports(TableArn=table)["ExportSummaries"] == []
        assert describe(started["ExportArn"])["ExportStatus"] == "COMPLETED"

    @pytest.mark.parametrize("arguments", [{"MaxResults": 26}, {"NextToken": "junk"}])
    def test_refusals(self, dynamodb, arguments):
        assert error_of(dynamodb.list_exports, **arguments)[0] == "ValidationException"
