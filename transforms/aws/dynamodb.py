# SPDX-License-Identifier: Apache-2.0
"""The DynamoDB control plane: tables, point-in-time recovery and exports.

Every function makes one logical call and answers with a frozen dataclass; botocore retries what was
throttled or unanswered (`transforms.aws.session`). Errors come out typed: a missing table is a
`TableError`, a missing permission an `AwsAccessError`, anything about an export an `ExportError`.
An error that is not known stays as it is and fails the caller.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any, NoReturn

from botocore.exceptions import BotoCoreError, ClientError

from dynabeam.transforms.aws.errors import AwsErrorKind, classify, error_code, raise_access_error
from dynabeam.transforms.aws.session import AwsAccess, client
from dynabeam.transforms.errors import DynabeamError, ExportError, TableError
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.values.key_schema import KeySchema

__all__ = [
    "FULL_EXPORT",
    "INCREMENTAL_EXPORT",
    "ExportDescription",
    "ExportOrder",
    "ExportSummary",
    "RecoveryWindow",
    "TableDescription",
    "TokenUsedError",
    "continuous_backups",
    "describe_export",
    "describe_table",
    "list_exports",
    "list_tables",
    "request_export",
]

FULL_EXPORT = "FULL_EXPORT"
INCREMENTAL_EXPORT = "INCREMENTAL_EXPORT"

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_LIST_PAGE = 25


@dataclasses.dataclass(frozen=True)
class TableDescription:
    """What DescribeTable says of a table.

    Attributes:
        table: Name, key schema and ARN.
        status: E.g. `ACTIVE`.
        stream_arn: The newest stream, also a disabled one; empty if there never was one.
        stream_enabled: True if that stream gets new records.
        stream_view_type: E.g. `NEW_AND_OLD_IMAGES`; empty if the stream is off.
        item_count: Items, some six hours old.
        size_bytes: Bytes of the items, some six hours old.
        table_id: The table's UUID; a table created again under its name has another.
        key_arn: The KMS key that encrypts it, if that is not one of DynamoDB's own; or empty.
        created_us: When it was created, microseconds since 1970; 0 if unknown.
    """

    table: Table
    status: str
    stream_arn: str
    stream_enabled: bool
    stream_view_type: str
    item_count: int
    size_bytes: int
    table_id: str
    key_arn: str = ""
    created_us: int = 0


@dataclasses.dataclass(frozen=True)
class RecoveryWindow:
    """Point-in-time recovery of a table; times in microseconds since 1970, 0 if unknown."""

    enabled: bool
    earliest_us: int
    latest_us: int
    days: int


@dataclasses.dataclass(frozen=True)
class ExportOrder:
    """What to ask of ExportTableToPointInTime.

    Attributes:
        table_arn: The table.
        bucket: Bucket to write to.
        client_token: Equal tokens with equal arguments give the same export for eight hours.
        prefix: Prefix inside the bucket, or empty.
        bucket_owner: Account of the bucket, needed if it is another one than the table's.
        sse_algorithm: `AES256`, `KMS`, or empty for the service's default.
        kms_key_id: Key for `KMS`, or empty.
        export_format: `DYNAMODB_JSON` or `ION`.
        from_us: Start of the window of an incremental export (inclusive), 0 for a full export.
        to_us: End of that window (exclusive), 0 for the latest possible.
    """

    table_arn: str
    bucket: str
    client_token: str
    prefix: str = ""
    bucket_owner: str = ""
    sse_algorithm: str = ""
    kms_key_id: str = ""
    export_format: str = "DYNAMODB_JSON"
    from_us: int = 0
    to_us: int = 0


@dataclasses.dataclass(frozen=True)
class ExportSummary:
    """One line of ListExports."""

    arn: str
    status: str
    export_type: str


@dataclasses.dataclass(frozen=True)
class ExportDescription:
    """What DescribeExport says of an export; times in microseconds since 1970, 0 if unknown.

    Attributes:
        arn: The export.
        status: `IN_PROGRESS`, `COMPLETED` or `FAILED`.
        table_arn: The table.
        export_type: `FULL_EXPORT` or `INCREMENTAL_EXPORT`.
        export_format: `DYNAMODB_JSON` or `ION`.
        bucket: Where it lies.
        prefix: Its prefix, or empty.
        manifest_key: Key of `manifest-summary.json`; empty until it is complete.
        started_us: When it began.
        ended_us: When it ended.
        export_time_us: The moment that a full export shows.
        from_us: Start of an incremental export's window.
        to_us: End of it.
        item_count: Lines; 0 until it is complete.
        billed_bytes: Bytes to pay for; 0 until it is complete.
        failure_code: Why it failed, e.g. `S3NoSuchBucket`.
        failure_message: The same as a sentence.
        filtered: True if it has a filter or projection: it is only a part of the table.
        table_id: The UUID of the table; empty if unknown.
    """

    arn: str
    status: str
    table_arn: str
    export_type: str
    export_format: str
    bucket: str
    prefix: str
    manifest_key: str
    started_us: int
    ended_us: int
    export_time_us: int
    from_us: int
    to_us: int
    item_count: int
    billed_bytes: int
    failure_code: str
    failure_message: str
    filtered: bool
    table_id: str = ""


class TokenUsedError(ExportError):
    """The token was used for an export with other options, less than eight hours ago."""


def describe_table(access: AwsAccess, name: str) -> TableDescription:
    """Describes a table by name or ARN.

    Raises:
        TableError: There is no such table.
        AwsAccessError: `dynamodb:DescribeTable` is not allowed.
        CredentialsError: There are no usable credentials.
    """
    try:
        answer = client(access, "dynamodb").describe_table(TableName=name)["Table"]
    except (BotoCoreError, ClientError) as error:
        _refuse(error, "dynamodb:DescribeTable", name, _no_table(access, name))
    specification = answer.get("StreamSpecification") or {}
    keys = KeySchema.from_describe_table(answer["KeySchema"], answer["AttributeDefinitions"])
    return TableDescription(
        table=Table(answer["TableName"], keys, answer["TableArn"]),
        status=answer.get("TableStatus", ""),
        stream_arn=answer.get("LatestStreamArn", ""),
        stream_enabled=bool(specification.get("StreamEnabled")),
        stream_view_type=specification.get("StreamViewType", ""),
        item_count=answer.get("ItemCount", 0),
        size_bytes=answer.get("TableSizeBytes", 0),
        table_id=answer.get("TableId", ""),
        key_arn=(answer.get("SSEDescription") or {}).get("KMSMasterKeyArn", ""),
        created_us=_micros(answer.get("CreationDateTime")),
    )


def continuous_backups(access: AwsAccess, name: str) -> RecoveryWindow:
    """Says whether point-in-time recovery is on, and how far back it reaches.

    Raises:
        TableError: There is no such table.
        AwsAccessError: `dynamodb:DescribeContinuousBackups` is not allowed.
        CredentialsError: There are no usable credentials.
    """
    try:
        answer = client(access, "dynamodb").describe_continuous_backups(TableName=name)
    except (BotoCoreError, ClientError) as error:
        _refuse(error, "dynamodb:DescribeContinuousBackups", name, _no_table(access, name))
    recovery = answer["ContinuousBackupsDescription"].get("PointInTimeRecoveryDescription") or {}
    return RecoveryWindow(
        enabled=recovery.get("PointInTimeRecoveryStatus") == "ENABLED",
        earliest_us=_micros(recovery.get("EarliestRestorableDateTime")),
        latest_us=_micros(recovery.get("LatestRestorableDateTime")),
        days=recovery.get("RecoveryPeriodInDays", 0),
    )


def request_export(access: AwsAccess, order: ExportOrder) -> ExportDescription:
    """Requests an export, or gets the one that the same token requested before.

    Raises:
        TableError: There is no such table, or its point-in-time recovery is off.
        TokenUsedError: The token was used with other arguments.
        ExportError: The time lies outside the recovery window, or an argument is not valid.
        AwsAccessError: `dynamodb:ExportTableToPointInTime` is not allowed.
        CredentialsError: There are no usable credentials.
    """
    table = order.table_arn
    try:
        answer = client(access, "dynamodb").export_table_to_point_in_time(**_arguments(order))
    except (BotoCoreError, ClientError) as error:
        _refuse(
            error,
            "dynamodb:ExportTableToPointInTime",
            table,
            _no_table(access, table),
            PointInTimeRecoveryUnavailableException=_recovery_is_off(table),
            ExportConflictException=TokenUsedError(
                f"an export was requested before with the same token and other options: {error}",
                where=table,
                hint="Request it with another token",
            ),
            InvalidExportTimeException=ExportError(
                f"the export's time is not possible: {error}",
                where=table,
                hint="Choose a time inside the table's window of point-in-time recovery",
            ),
            ValidationException=ExportError(
                f"AWS refused the request: {error}",
                where=table,
                hint="Check --s3_export_bucket, --s3_export_prefix and the encryption options",
            ),
            LimitExceededException=ExportError(
                f"too many exports are in progress: {error}",
                where=table,
                hint="Wait until others have finished (300 at once per account), then run again",
            ),
        )
    return _description(answer["ExportDescription"])


def describe_export(access: AwsAccess, arn: str) -> ExportDescription:
    """Describes an export.

    Raises:
        ExportError: There is no such export.
        AwsAccessError: `dynamodb:DescribeExport` is not allowed, or the ARN is malformed (AWS
            gives both the same answer).
        CredentialsError: There are no usable credentials.
    """
    missing = ExportError(
        "there is no such export",
        where=arn,
        hint="Check ARN and region; exports are listed for 90 days, after that give the location "
        "of their manifest-summary.json",
    )
    try:
        answer = client(access, "dynamodb").describe_export(ExportArn=arn)
    except (BotoCoreError, ClientError) as error:
        _refuse(error, "dynamodb:DescribeExport", arn, missing, ValidationException=missing)
    return _description(answer["ExportDescription"])


def list_exports(access: AwsAccess, table_arn: str) -> Iterator[ExportSummary]:
    """Lists the table's exports of the last 90 days, in no order that may be relied on.

    Raises:
        AwsAccessError: `dynamodb:ListExports` is not allowed.
        CredentialsError: There are no usable credentials.
    """
    arguments: dict[str, Any] = {"TableArn": table_arn, "MaxResults": _LIST_PAGE}
    while True:
        try:
            answer = client(access, "dynamodb").list_exports(**arguments)
        except (BotoCoreError, ClientError) as error:
            # Not bound to a resource: a statement for one table would not allow it.
            raise_access_error(error, "dynamodb:ListExports", "*", where=table_arn)
            _refuse(error, "dynamodb:ListExports", table_arn, _no_table(access, table_arn))
        for each in answer.get("ExportSummaries", []):
            yield ExportSummary(
                each["ExportArn"], each["ExportStatus"], each.get("ExportType") or FULL_EXPORT
            )
        if not answer.get("NextToken"):
            return
        arguments["NextToken"] = answer["NextToken"]


def list_tables(access: AwsAccess) -> Iterator[str]:
    """Lists the names of the account's tables in the region, page by page.

    Raises:
        AwsAccessError: `dynamodb:ListTables` is not allowed.
        CredentialsError: There are no usable credentials.
    """
    arguments: dict[str, Any] = {}
    region = access.region or "the default region"
    while True:
        try:
            answer = client(access, "dynamodb").list_tables(**arguments)
        except (BotoCoreError, ClientError) as error:
            # A listing names no table, so nothing can be gone.
            raise_access_error(error, "dynamodb:ListTables", "*", where=f"all tables in {region}")
            raise
        yield from answer.get("TableNames", [])
        if not answer.get("LastEvaluatedTableName"):
            return
        arguments["ExclusiveStartTableName"] = answer["LastEvaluatedTableName"]


def _arguments(order: ExportOrder) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "TableArn": order.table_arn,
        "S3Bucket": order.bucket,
        "ClientToken": order.client_token,
        "ExportFormat": order.export_format,
    }
    optional = {
        "S3Prefix": order.prefix,
        "S3BucketOwner": order.bucket_owner,
        "S3SseAlgorithm": order.sse_algorithm,
        "S3SseKmsKeyId": order.kms_key_id,
    }
    arguments |= {name: value for name, value in optional.items() if value}
    if order.from_us:
        window: dict[str, Any] = {"ExportFromTime": _moment(order.from_us)}
        if order.to_us:
            window["ExportToTime"] = _moment(order.to_us)
        arguments["ExportType"] = INCREMENTAL_EXPORT
        arguments["IncrementalExportSpecification"] = window
    return arguments


def _description(answer: Mapping[str, Any]) -> ExportDescription:
    window = answer.get("IncrementalExportSpecification") or {}
    return ExportDescription(
        arn=answer["ExportArn"],
        status=answer["ExportStatus"],
        table_arn=answer.get("TableArn", ""),
        # AWS leaves the type out if the request did (alternator's tests against AWS).
        export_type=answer.get("ExportType") or FULL_EXPORT,
        export_format=answer.get("ExportFormat") or "DYNAMODB_JSON",
        bucket=answer.get("S3Bucket", ""),
        prefix=answer.get("S3Prefix") or "",
        manifest_key=answer.get("ExportManifest") or "",
        started_us=_micros(answer.get("StartTime")),
        ended_us=_micros(answer.get("EndTime")),
        export_time_us=_micros(answer.get("ExportTime")),
        from_us=_micros(window.get("ExportFromTime")),
        to_us=_micros(window.get("ExportToTime")),
        item_count=answer.get("ItemCount", 0),
        billed_bytes=answer.get("BilledSizeBytes", 0),
        failure_code=answer.get("FailureCode") or "",
        failure_message=answer.get("FailureMessage") or "",
        filtered=bool(answer.get("FilterSpecification")),
        table_id=answer.get("TableId", ""),
    )


def _refuse(
    error: Exception, action: str, resource: str, gone: DynabeamError, **by_code: DynabeamError
) -> NoReturn:
    """Raises what a failed call means: by code, then by kind; an unknown error as it is."""
    if error_code(error) in by_code:
        raise by_code[error_code(error)] from error
    raise_access_error(error, action, resource)
    if classify(error) is AwsErrorKind.GONE:
        raise gone from error
    raise error


def _no_table(access: AwsAccess, name: str) -> TableError:
    region = access.region or "the default region"
    return TableError(
        f"there is no such table in {region}",
        where=f"table {name}",
        hint="Check the table's name, --region and the account of the credentials",
    )


def _recovery_is_off(table_arn: str) -> TableError:
    name = table_arn.rpartition("/")[2]
    return TableError(
        "point-in-time recovery is off, and without it DynamoDB cannot export a table",
        where=f"table {name}",
        hint=(
            "Turn it on: aws dynamodb update-continuous-backups "
            f"--table-name {name} --point-in-time-recovery-specification "
            "PointInTimeRecoveryEnabled=true, or run `dynabeam setup`"
        ),
    )


def _micros(moment: datetime | None) -> int:
    if moment is None:
        return 0
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _moment(micros: int) -> datetime:
    return _EPOCH + timedelta(microseconds=micros)
