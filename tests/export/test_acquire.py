# SPDX-License-Identifier: Apache-2.0
"""Contract of getting hold of an export: by request, ARN, age or place; and every refusal."""

import dataclasses
from datetime import timedelta

import boto3
import pytest

from dynabeam.transforms.aws.dynamodb import describe_table, list_exports
from dynabeam.transforms.aws.session import AwsAccess
from dynabeam.transforms.errors import (
    AwsAccessError,
    ConfigurationError,
    CredentialsError,
    ExportError,
    ExportIntegrityError,
    TableError,
)
from dynabeam.transforms.export.acquire import (
    Acquisition,
    ExportFailedError,
    acquire,
    client_token,
    open_export,
)
from dynabeam.transforms.export.elements import SnapshotRequest
from dynabeam.transforms.export.keys import find_keys
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.testing.faults import Faults
from tests.export.builders import (
    BUCKET,
    SAMPLE,
    SAMPLE_TABLE,
    edit_json,
    items,
    write_full,
    write_incremental,
)

MINUTE = timedelta(minutes=1)


@pytest.fixture
def how(access):
    return Acquisition(access)


@pytest.fixture
def request_of_orders(sim, access):
    """A request for a table of ten items with point-in-time recovery."""
    sim.create_table("orders", "id:S")
    sim.put_many("orders", items(10))
    recovery_on(sim)
    table = describe_table(access, "orders").table
    return SnapshotRequest(table, 1, 4, bucket=BUCKET, prefix="p", request_id="state-1")


def recovery_on(sim, table="orders"):
    sim.client("dynamodb").update_continuous_backups(
        TableName=table, PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": True}
    )


def look(sim, request, how, arn=""):
    return acquire(request, arn, how, now_us=sim.clock.micros())


def complete(sim, request, how):
    """Requests an export and lets it complete."""
    return look(sim, request, how, look(sim, request, how).export_arn)


class TestRequested:
    def test_first_in_progress_then_complete_with_its_manifest(self, sim, request_of_orders, how):
        first = look(sim, request_of_orders, how)
        assert (first.status, first.manifest) == ("IN_PROGRESS", None)
        second = look(sim, request_of_orders, how, first.export_arn)
        assert (second.status, second.export_arn) == ("COMPLETED", first.export_arn)
        assert second.manifest.item_count == 10
        assert second.manifest.location.startswith(f"s3://{BUCKET}/p/AWSDynamoDB/")

    def test_asked_again_it_is_the_same_export(self, sim, request_of_orders, how, access):
        arns = {look(sim, request_of_orders, how).export_arn for _ in range(3)}
        assert len(arns) == 1
        assert len(list(list_exports(access, request_of_orders.table.arn))) == 1

    def test_asked_again_later_it_is_seen_to_be_complete(self, sim, request_of_orders, how):
        look(sim, request_of_orders, how)
        sim.clock.advance(5 * MINUTE)
        assert look(sim, request_of_orders, how).status == "COMPLETED"

    @pytest.mark.parametrize("change", [{"generation": 2}, {"request_id": "state-2"}])
    def test_another_generation_or_state_is_another_export(
        self, sim, request_of_orders, how, change
    ):
        other = dataclasses.replace(request_of_orders, **change)
        first, second = (look(sim, each, how).export_arn for each in (request_of_orders, other))
        assert first != second

    def test_token_is_stable(self, request_of_orders):
        assert client_token(request_of_orders) == (
            "dynabeam-e8d234a25361be8eca3bdb764cd53a4409a817c0"
        )

    def test_not_before_the_stream_is_old_enough(self, sim, request_of_orders, how, access):
        later = sim.clock.micros() + 60_000_000
        request = dataclasses.replace(request_of_orders, not_before_us=later)
        assert look(sim, request, how).status == "waiting_for_stream"
        assert not list(list_exports(access, request.table.arn))
        sim.clock.advance(2 * MINUTE)
        assert look(sim, request, how).status == "IN_PROGRESS"

    def test_encryption_and_owner_are_passed_on(self, sim, request_of_orders, access):
        how = Acquisition(access, sse_algorithm="KMS", kms_key_id="key")
        request = dataclasses.replace(request_of_orders, bucket_owner="111122223333")
        arn = look(sim, request, how).export_arn
        described = sim.client("dynamodb").describe_export(ExportArn=arn)["ExportDescription"]
        assert described["S3SseAlgorithm"] == "KMS"
        assert described["S3SseKmsKeyId"] == "key"
        assert described["S3BucketOwner"] == "111122223333"

    def test_the_manifest_of_the_state_needs_no_aws(self, sim, request_of_orders, how):
        found = complete(sim, request_of_orders, how).manifest
        request = dataclasses.replace(request_of_orders, manifest=found.to_json())
        again = acquire(request, "", Acquisition(), now_us=0)
        assert (again.status, again.manifest) == ("COMPLETED", found)


class TestRequestRefused:
    def test_recovery_off(self, sim, access, how):
        sim.create_table("orders", "id:S")
        request = SnapshotRequest(describe_table(access, "orders").table, 1, 4, bucket=BUCKET)
        with pytest.raises(
            TableError, match=r"orders: point-in-time recovery is off.*aws dynamodb"
        ):
            look(sim, request, how)

    def test_no_such_table(self, sim, request_of_orders, how):
        table = dataclasses.replace(
            request_of_orders.table, arn=request_of_orders.table.arn.replace("orders", "gone")
        )
        with pytest.raises(TableError, match="no such table"):
            look(sim, dataclasses.replace(request_of_orders, table=table), how)

    def test_no_permission(self, sim, request_of_orders, how):
        sim.faults = Faults(denied_actions=frozenset({"dynamodb:ExportTableToPointInTime"}))
        with pytest.raises(AwsAccessError, match=r'"Action": "dynamodb:ExportTableToPointInTime"'):
            look(sim, request_of_orders, how)

    def test_no_credentials(self, sim, request_of_orders, monkeypatch):
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setattr(boto3.session.Session, "get_credentials", lambda self: None)
        how = Acquisition(AwsAccess(region="eu-west-2", endpoint_url=sim.endpoint_url))
        with pytest.raises(CredentialsError, match="AWS_ACCESS_KEY_ID"):
            look(sim, request_of_orders, how)

    def test_missing_bucket_fails_later(self, sim, request_of_orders, how):
        request = dataclasses.replace(request_of_orders, bucket="not-there")
        with pytest.raises(ExportError, match=r"S3NoSuchBucket.*Create the bucket"):
            complete(sim, request, how)

    def test_bucket_that_may_not_be_written(self, sim, request_of_orders, how):
        sim.exports.fail_next("S3AccessDenied", "Access denied to the bucket")
        with pytest.raises(
            ExportError, match=r"S3AccessDenied: Access denied to the bucket.*s3:PutObject"
        ):
            complete(sim, request_of_orders, how)

    def test_other_failures(self, sim, request_of_orders, how):
        sim.exports.fail_next("Odd", "Something odd")
        with pytest.raises(
            ExportError, match=r"Odd: Something odd.*next run requests a new export"
        ):
            complete(sim, request_of_orders, how)

    @pytest.mark.parametrize(
        "option", [{"prefix": "q"}, {"bucket": "other"}, {"bucket_owner": "111122223333"}]
    )
    def test_other_options_are_another_export(self, sim, request_of_orders, how, option):
        sim.create_bucket("other")
        fixed = dataclasses.replace(request_of_orders, **option)
        first, second, again = (
            look(sim, each, how).export_arn for each in (request_of_orders, fixed, fixed)
        )
        assert first != second == again
        described = sim.client("dynamodb").describe_export(ExportArn=second)["ExportDescription"]
        assert described["S3Bucket"] == fixed.bucket
        assert described.get("S3Prefix", "") == fixed.prefix

    def test_other_encryption_is_another_export(self, sim, request_of_orders, access):
        plain, keyed = Acquisition(access), Acquisition(access, sse_algorithm="AES256")
        first, second = (look(sim, request_of_orders, how).export_arn for how in (plain, keyed))
        assert first != second

    def test_the_attempt_after_a_failure_is_another_export(self, sim, request_of_orders, how):
        sim.exports.fail_next("S3AccessDenied", "Access denied to the bucket")
        with pytest.raises(ExportFailedError) as failed:
            complete(sim, request_of_orders, how)
        assert failed.value.code == "S3AccessDenied"
        assert failed.value.message == "Access denied to the bucket"
        # The same request is answered with what has failed, for eight hours.
        with pytest.raises(ExportFailedError) as again:
            look(sim, request_of_orders, how)
        assert again.value.arn == failed.value.arn
        # Also where the state has kept its ARN.
        request = dataclasses.replace(request_of_orders, attempt=1, reuse=failed.value.arn)
        assert complete(sim, request, how).manifest.item_count == 10

    def test_no_bucket(self, sim, request_of_orders, how):
        with pytest.raises(ConfigurationError, match="--s3_export_bucket"):
            look(sim, dataclasses.replace(request_of_orders, bucket=""), how)

    @pytest.mark.parametrize("bucket", ["x", "no/slashes"])
    def test_a_name_that_is_no_bucket(self, sim, request_of_orders, how, bucket):
        with pytest.raises(ExportError, match=r"AWS refused the request.*--s3_export_bucket"):
            complete(sim, dataclasses.replace(request_of_orders, bucket=bucket), how)

    def test_no_aws(self, request_of_orders):
        with pytest.raises(ConfigurationError, match="only with access to AWS"):
            acquire(request_of_orders, "", Acquisition(), now_us=0)


class TestUsedAgain:
    def test_by_arn(self, sim, request_of_orders, how):
        arn = complete(sim, request_of_orders, how).export_arn
        request = dataclasses.replace(request_of_orders, reuse=arn, bucket="")
        assert look(sim, request, how).manifest.export_arn == arn
        assert open_export(arn, how).export_arn == arn

    def test_by_the_arn_of_an_export_in_progress(self, sim, request_of_orders, how):
        sim.exports.hold()
        arn = look(sim, request_of_orders, how).export_arn
        request = dataclasses.replace(request_of_orders, reuse=arn)
        assert look(sim, request, how).status == "IN_PROGRESS"
        with pytest.raises(ExportError, match="not complete yet; expected 'COMPLETED'; found 'IN_"):
            open_export(arn, how)

    def test_by_an_arn_that_is_unknown(self, request_of_orders, how, sim):
        arn = f"{request_of_orders.table.arn}/export/01700000000123-0a1b2c3d"
        with pytest.raises(ExportError, match=r"no such export.*90 days"):
            look(sim, dataclasses.replace(request_of_orders, reuse=arn), how)
        with pytest.raises(ConfigurationError, match="only with access to AWS"):
            open_export(arn, Acquisition())

    @pytest.mark.parametrize("location", ["s3://exports", "s3://exports/p", "s3://exports/p/"])
    def test_by_place_in_s3(self, sim, request_of_orders, how, location):
        arn = complete(sim, request_of_orders, how).export_arn
        request = dataclasses.replace(request_of_orders, reuse=location)
        found = look(sim, request, how)
        assert (found.export_arn, found.warnings) == (arn, ())

    def test_by_place_without_aws(self):
        request = SnapshotRequest(SAMPLE_TABLE, 1, 4, reuse=str(SAMPLE))
        assert acquire(request, "", Acquisition(), now_us=0).manifest.item_count == 3

    def test_another_tables_export(self, sim, request_of_orders, how):
        arn = complete(sim, request_of_orders, how).export_arn
        table = Table("other", request_of_orders.table.keys, "arn:aws:dynamodb:x:1:table/other")
        for reuse in (arn, "s3://exports/p"):
            with pytest.raises(
                ExportError, match=r"another table; expected .*other.*found .*orders"
            ):
                look(sim, SnapshotRequest(table, 1, 4, reuse=reuse), how)

    def test_incremental_given_as_full(self, tmp_path):
        write_incremental(tmp_path)
        request = SnapshotRequest(Table("orders", SAMPLE_TABLE.keys), 1, 4, reuse=str(tmp_path))
        with pytest.raises(ExportError, match="found 'INCREMENTAL_EXPORT'"):
            acquire(request, "", Acquisition(), now_us=0)
        assert open_export(str(tmp_path), Acquisition(export_type="INCREMENTAL_EXPORT"))

    def test_warnings_of_the_manifest_are_kept(self, tmp_path):
        written = write_full(tmp_path)
        edit_json(tmp_path / written.manifest_summary_key, itemCount=99)
        with pytest.raises(ExportIntegrityError):
            open_export(str(tmp_path), Acquisition())
        assert open_export(str(tmp_path), Acquisition(verify="warn")).warnings


class TestNewest:
    def test_the_one_with_the_latest_time(self, sim, request_of_orders, how):
        arns = []
        for generation in (1, 2, 3):
            request = dataclasses.replace(request_of_orders, generation=generation)
            arns.append(complete(sim, request, how).export_arn)
            sim.clock.advance(5 * MINUTE)
        newest = dataclasses.replace(request_of_orders, reuse="newest:3600", bucket="")
        assert look(sim, newest, how).export_arn == arns[-1]

    def test_an_old_one_is_not_used(self, sim, request_of_orders, how):
        old = complete(sim, request_of_orders, how).export_arn
        sim.clock.advance(10 * MINUTE)
        request = dataclasses.replace(request_of_orders, reuse="newest:300", request_id="other")
        with pytest.raises(ConfigurationError, match="no export to use"):
            look(sim, dataclasses.replace(request, bucket=""), how)
        fresh = look(sim, request, how)
        assert fresh.status == "IN_PROGRESS"
        assert fresh.export_arn != old


class TestFiltered:
    @pytest.fixture
    def filtered(self, sim, request_of_orders):
        client = sim.client("dynamodb")
        arn = client.export_table_to_point_in_time(
            TableArn=request_of_orders.table.arn,
            S3Bucket=BUCKET,
            S3Prefix="p",
            FilterSpecification={"FilterExpression": "attribute_exists(n)"},
        )["ExportDescription"]["ExportArn"]
        sim.exports.advance()
        return arn

    def test_refused_by_arn_and_by_place(self, sim, request_of_orders, how, filtered):
        for reuse in (filtered, "s3://exports/p"):
            with pytest.raises(ExportError, match="filter: it is only a part of the table"):
                look(sim, dataclasses.replace(request_of_orders, reuse=reuse), how)

    def test_never_the_newest(self, sim, request_of_orders, how, filtered):
        request = dataclasses.replace(request_of_orders, reuse="newest:3600")
        assert look(sim, request, how).export_arn != filtered

    def test_used_if_allowed(self, sim, request_of_orders, access, filtered):
        how = Acquisition(access, allow_filtered=True)
        for reuse in (filtered, "s3://exports/p", "newest:3600"):
            request = dataclasses.replace(request_of_orders, reuse=reuse)
            assert look(sim, request, how).export_arn == filtered

    def test_not_knowing_is_told_and_stops_nothing(self, sim, request_of_orders, how, caplog):
        complete(sim, request_of_orders, how)
        sim.faults = Faults(denied_actions=frozenset({"dynamodb:DescribeExport"}))
        found = look(sim, dataclasses.replace(request_of_orders, reuse="s3://exports/p"), how)
        assert found.status == "COMPLETED"
        assert "filtered could not be found out" in found.warnings[0]
        assert "filtered could not be found out" in caplog.text


class TestKeys:
    def test_from_describe_table(self, sim, request_of_orders, how, access):
        manifest = complete(sim, request_of_orders, how).manifest
        assert find_keys(manifest, access=access) == request_of_orders.table.keys

    def test_of_a_table_that_is_gone(self, sim, request_of_orders, how, access):
        manifest = complete(sim, request_of_orders, how).manifest
        sim.client("dynamodb").delete_table(TableName="orders")
        with pytest.raises(TableError, match="no such table"):
            find_keys(manifest, access=access)
        given = {"orders": ("id",)}
        assert find_keys(manifest, access=access, given=given) == request_of_orders.table.keys

    def test_without_permission_the_right_is_named(self, sim, request_of_orders, how):
        complete(sim, request_of_orders, how)
        sim.faults = Faults(denied_actions=frozenset({"s3:GetObject", "s3:ListBucket"}))
        with pytest.raises(AwsAccessError, match=r"s3://exports/p/.*403.*and s3:ListBucket on"):
            open_export("s3://exports/p", Acquisition())


class TestTablesMadeAgain:
    """Exports are found by ARN, which a table has in common with one that was made again."""

    @pytest.fixture
    def known(self, request_of_orders, access):
        table_id = describe_table(access, "orders").table_id
        return dataclasses.replace(request_of_orders, table_id=table_id)

    def make_again(self, sim):
        sim.client("dynamodb").delete_table(TableName="orders")
        sim.create_table("orders", "id:S")
        sim.put_many("orders", items(3))
        recovery_on(sim)

    def test_nothing_is_requested_of_the_other_one(self, sim, known, how, access):
        assert look(sim, known, how).status == "IN_PROGRESS"
        self.make_again(sim)
        other = dataclasses.replace(known, generation=2)
        found = look(sim, other, how)
        assert (found.status, found.export_arn, found.manifest) == ("table_ended", "", None)
        assert list(list_exports(access, known.table.arn)) == []

    def test_nor_of_one_that_is_no_more(self, sim, known, how):
        sim.client("dynamodb").delete_table(TableName="orders")
        assert look(sim, known, how).status == "table_ended"

    def test_an_export_of_the_other_one_is_refused(self, sim, known, how, access):
        self.make_again(sim)
        table_id = describe_table(access, "orders").table_id
        other = look(sim, dataclasses.replace(known, table_id=table_id), how)
        with pytest.raises(ExportError, match="created under the same name") as raised:
            look(sim, known, how, other.export_arn)
        assert known.table_id in str(raised.value)
        assert table_id in str(raised.value)

    def test_the_newest_is_one_of_the_table_itself(self, sim, known, how, access):
        old = complete(sim, known, how)
        sim.clock.advance(5 * MINUTE)
        self.make_again(sim)
        table_id = describe_table(access, "orders").table_id
        again = dataclasses.replace(known, table_id=table_id, reuse="newest:3600", generation=2)
        found = look(sim, again, how)
        assert found.status == "IN_PROGRESS"
        assert found.export_arn not in ("", old.export_arn)
