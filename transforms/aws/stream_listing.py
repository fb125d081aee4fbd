# SPDX-License-Identifier: Apache-2.0
"""The streams that a table has, and has had within the last 24 hours."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta, timezone
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from dynabeam.transforms.aws.errors import AwsErrorKind, classify, raise_access_error
from dynabeam.transforms.aws.session import AwsAccess, client

__all__ = ["StreamSummary", "list_streams", "summarise_stream"]

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclasses.dataclass(frozen=True)
class StreamSummary:
    """What is said of a stream without its shards.

    Attributes:
        arn: The stream.
        view_type: What its records hold, e.g. `NEW_AND_OLD_IMAGES`.
        created_us: When it was switched on, microseconds since 1970; 0 if unknown.
    """

    arn: str
    view_type: str
    created_us: int


def list_streams(access: AwsAccess, table_name: str) -> list[str]:
    """The ARNs of all streams that can be read under a table's name, oldest first.

    A stream that was switched off stays listed and readable for 24 hours, also that of a table that
    was deleted (developer guide, "Change data capture for DynamoDB Streams"). An ARN ends with the
    time at which its stream was switched on, so its order is the order of time.

    Raises:
        AwsAccessError: `dynamodb:ListStreams` is not allowed.
        CredentialsError: There are no usable credentials.
    """
    arguments: dict[str, Any] = {"TableName": table_name}
    found: list[str] = []
    while True:
        try:
            answer = client(access, "dynamodbstreams").list_streams(**arguments)
        except (BotoCoreError, ClientError) as error:
            raise_access_error(error, "dynamodb:ListStreams", "*", where=f"table {table_name}")
            if classify(error) is AwsErrorKind.GONE:
                return sorted(found)
            raise
        found += [each["StreamArn"] for each in answer.get("Streams", ())]
        if not answer.get("LastEvaluatedStreamArn"):
            return sorted(found)
        arguments["ExclusiveStartStreamArn"] = answer["LastEvaluatedStreamArn"]


def summarise_stream(access: AwsAccess, stream_arn: str) -> StreamSummary | None:
    """Describes a stream; None if it can be read no longer.

    Raises:
        AwsAccessError: `dynamodb:DescribeStream` is not allowed.
        CredentialsError: There are no usable credentials.
    """
    streams = client(access, "dynamodbstreams")
    try:
        answer = streams.describe_stream(StreamArn=stream_arn, Limit=1)["StreamDescription"]
    except (BotoCoreError, ClientError) as error:
        raise_access_error(error, "dynamodb:DescribeStream", stream_arn)
        if classify(error) is AwsErrorKind.GONE:
            return None
        raise
    created = answer.get("CreationRequestDateTime")
    return StreamSummary(
        stream_arn,
        answer.get("StreamViewType", ""),
        (created - _EPOCH) // timedelta(microseconds=1) if created else 0,
    )
