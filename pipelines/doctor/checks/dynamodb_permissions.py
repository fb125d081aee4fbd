# SPDX-License-Identifier: Apache-2.0
"""How each permission on tables, streams and exports is tried without doing anything."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from dynabeam.pipelines.doctor.checks.attempt import (
    Outcome,
    allowed,
    attempt,
    outcome_of_error,
    unknown,
)
from dynabeam.pipelines.doctor.checks.examination import Answer, Examination
from dynabeam.transforms.aws.session import client
from dynabeam.transforms.errors import AwsAccessError

__all__ = ["DYNAMODB_ATTEMPTS"]

_NO_SHARD = "shardId-00000000000000000000-00000000"
_NO_EXPORT = "01000000000000-00000000"
_NO_STREAM = "the table has no stream to try it on, or DescribeTable is not allowed"


def _describe_table(examination: Examination, resource: str) -> Outcome:
    return _seen("dynamodb:DescribeTable", examination.described(_name(resource)))


def _describe_backups(examination: Examination, resource: str) -> Outcome:
    answer = examination.recovery(_name(resource))
    return _seen("dynamodb:DescribeContinuousBackups", answer)


def _seen(action: str, answer: Answer[Any]) -> Outcome:
    if answer.error is None:
        return allowed()
    if isinstance(answer.error, AwsAccessError):
        return outcome_of_error(action, answer.error)
    return unknown(f"the call failed for another reason: {answer.error}")


def _describe_stream(examination: Examination, resource: str) -> Outcome:
    arn = examination.stream_arn(_name(resource))
    if not arn:
        return unknown(_NO_STREAM)
    return _seen("dynamodb:DescribeStream", examination.open_shards(arn))


def _shard_iterator(examination: Examination, resource: str) -> Outcome:
    arn = examination.stream_arn(_name(resource))
    if not arn:
        return unknown(_NO_STREAM)
    return attempt(
        "dynamodb:GetShardIterator",
        lambda: _iterator(examination, arn),
        proving={"ResourceNotFoundException"},
    )


def _get_records(examination: Examination, resource: str) -> Outcome:
    arn = examination.stream_arn(_name(resource))
    if not arn:
        return unknown(_NO_STREAM)
    streams = client(examination.access, "dynamodbstreams")
    found: list[str] = []
    before = attempt("dynamodb:GetShardIterator", lambda: found.append(_iterator(examination, arn)))
    if not found:
        return unknown(f"it takes an iterator, and there is none ({before.text})")
    return attempt(
        "dynamodb:GetRecords", lambda: streams.get_records(ShardIterator=found[0], Limit=1)
    )


def _iterator(examination: Examination, stream_arn: str) -> str:
    """An iterator of an open shard; of one that does not exist if none may be listed."""
    shards = examination.open_shards(stream_arn).value
    answer = client(examination.access, "dynamodbstreams").get_shard_iterator(
        StreamArn=stream_arn,
        ShardId=shards[0].shard_id if shards else _NO_SHARD,
        ShardIteratorType="LATEST",
    )
    return str(answer["ShardIterator"])


def _list_tables(examination: Examination, _: str) -> Outcome:
    dynamodb = client(examination.access, "dynamodb")
    return attempt("dynamodb:ListTables", lambda: dynamodb.list_tables(Limit=1))


def _list_streams(examination: Examination, _: str) -> Outcome:
    streams = client(examination.access, "dynamodbstreams")
    return attempt("dynamodb:ListStreams", lambda: streams.list_streams(Limit=1))


def _list_tags(examination: Examination, resource: str) -> Outcome:
    dynamodb = client(examination.access, "dynamodb")
    return attempt(
        "dynamodb:ListTagsOfResource", lambda: dynamodb.list_tags_of_resource(ResourceArn=resource)
    )


def _list_exports(examination: Examination, _: str) -> Outcome:
    dynamodb = client(examination.access, "dynamodb")
    return attempt("dynamodb:ListExports", lambda: dynamodb.list_exports(MaxResults=1))


def _describe_export(examination: Examination, resource: str) -> Outcome:
    dynamodb = client(examination.access, "dynamodb")
    arn = resource.replace("/export/*", f"/export/{_NO_EXPORT}")
    return attempt(
        "dynamodb:DescribeExport",
        lambda: dynamodb.describe_export(ExportArn=arn),
        proving={"ExportNotFoundException"},
    )


def _export_table(examination: Examination, resource: str) -> Outcome:
    """Asks for the table as it will be tomorrow, which there is no export of."""
    dynamodb, options = client(examination.access, "dynamodb"), examination.options
    arguments: dict[str, Any] = {
        "TableArn": resource,
        "S3Bucket": options.bucket,
        "ExportTime": datetime.now(timezone.utc) + timedelta(days=2),
        "ClientToken": str(uuid.uuid4()),
    }
    if options.bucket_owner:
        arguments["S3BucketOwner"] = options.bucket_owner
    return attempt(
        "dynamodb:ExportTableToPointInTime",
        lambda: dynamodb.export_table_to_point_in_time(**arguments),
        proving={
            "InvalidExportTimeException",
            "PointInTimeRecoveryUnavailableException",
            "TableNotFoundException",
        },
    )


def _name(arn: str) -> str:
    return arn.split(":table/", 1)[-1].split("/", 1)[0]


DYNAMODB_ATTEMPTS: Mapping[str, Callable[[Examination, str], Outcome]] = {
    "dynamodb:DescribeTable": _describe_table,
    "dynamodb:ListTables": _list_tables,
    "dynamodb:ListTagsOfResource": _list_tags,
    "dynamodb:ListStreams": _list_streams,
    "dynamodb:DescribeStream": _describe_stream,
    "dynamodb:GetShardIterator": _shard_iterator,
    "dynamodb:GetRecords": _get_records,
    "dynamodb:DescribeContinuousBackups": _describe_backups,
    "dynamodb:ExportTableToPointInTime": _export_table,
    "dynamodb:ListExports": _list_exports,
    "dynamodb:DescribeExport": _describe_export,
}
"""How each action is tried; the resource is the catalogue's."""
