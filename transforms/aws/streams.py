# SPDX-License-Identifier: Apache-2.0
"""The client for DynamoDB Streams: boto3 for everything but the parse of GetRecords.

boto3 keeps credentials, endpoints, signatures, connections and retries. Its parser, though, builds
every attribute value of every record as Python objects (2.8 thousand records a second, measured),
so `get_records` takes the body before it is parsed: botocore's `before-parse` event, public since
1.30, hands handlers the raw answer. The handler keeps the body and leaves `{}` to the parser. If a
release of boto3 stops calling it, `get_records` raises instead of returning nothing. All hooks are
on clients of this module's own, so that nobody else meets them. All but the first page are asked
for by `transforms.aws.get_records`, in a quarter of boto3's time or less, with boto3 as the
fallback.

Throttled calls are not retried by boto3, which would sleep up to 20 seconds on a thread of the
reader's pool, unseen: the caller has a pace for each shard. Faults of the service or the network
are, as ever.

Errors: a missing permission or credential is raised as this project's own error; everything else
leaves as boto3 raises it, for `transforms.aws.errors.classify`.
"""

from __future__ import annotations

import dataclasses
import threading
import zlib
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any, Protocol

from botocore.exceptions import BotoCoreError, ChecksumError, ClientError
from botocore.parsers import ResponseParserError

from dynabeam.transforms.aws.errors import AwsErrorKind, classify, raise_access_error
from dynabeam.transforms.aws.get_records import Answer, GetRecords
from dynabeam.transforms.aws.session import AwsAccess
from dynabeam.transforms.errors import DynabeamError, StreamError

__all__ = [
    "Boto3Streams",
    "ShardInfo",
    "StreamDescription",
    "StreamsClient",
    "TakenRecords",
    "connect",
    "shard_info",
]

PAGE_RECORDS = 1000
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_BODY = "RawBody"
_EVENT = "before-parse.dynamodb-streams.GetRecords"
_HOOK_ID = "dynabeam-raw-records"
_RETRY_EVENT = "needs-retry.dynamodb-streams"
_RETRY_HOOK_ID = "dynabeam-throttles"
# What botocore's parser raises at a body that is not the service's.
_UNREADABLE = (
    AttributeError,
    LookupError,
    RecursionError,
    ResponseParserError,
    TypeError,
    ValueError,
)
_hooking = threading.Lock()
_connecting = threading.Lock()
_connected: dict[AwsAccess, Boto3Streams] = {}


@dataclasses.dataclass(frozen=True)
class ShardInfo:
    """One shard of a listing.

    Attributes:
        shard_id: Its id.
        parent_id: Its parent's id, empty for none; the parent may not be listed any more.
        closed: True once it has an ending sequence number.
        start: Its starting sequence number, empty if unknown. No record need have it.
        end: Its ending sequence number, empty for none. No record need have it.
    """

    shard_id: str
    parent_id: str = ""
    closed: bool = False
    # A shard is what its id and its parent say: the numbers are no part of that.
    start: str = dataclasses.field(default="", compare=False)
    end: str = dataclasses.field(default="", compare=False)


@dataclasses.dataclass(frozen=True)
class StreamDescription:
    """One page of DescribeStream.

    Attributes:
        status: `ENABLING`, `ENABLED`, `DISABLING` or `DISABLED`.
        view_type: What records hold, e.g. `NEW_AND_OLD_IMAGES`.
        shards: At most 100 shards.
        next_after: Where the next page begins, empty if this was the last.
        table_name: The table's name.
        keys: Names of the key attributes, hash first.
        created_us: When the stream was switched on, microseconds since 1970.
    """

    status: str
    view_type: str
    shards: tuple[ShardInfo, ...]
    next_after: str = ""
    table_name: str = ""
    keys: tuple[str, ...] = ()
    created_us: int = 0


TakenRecords = Callable[[bytes | Exception | None], None]
"""Takes a body, the error that `get_records` would raise, or None: then `get_records` is to ask."""


class StreamsClient(Protocol):
    """What reading a stream needs of the service; methods are called from several threads."""

    def describe(
        self, stream_arn: str, *, after: str = "", children_of: str = ""
    ) -> StreamDescription:
        """One page of the listing after a shard id, or the children of one shard."""
        ...

    def shard_iterator(
        self, stream_arn: str, shard_id: str, *, after: str = "", at_us: int = 0, at: str = ""
    ) -> str:
        """An iterator after a sequence number, at a timestamp, or at the trim horizon."""
        ...

    def get_records(self, stream_arn: str, iterator: str) -> bytes:
        """One page of records: the body of the answer, not parsed."""
        ...

    def begin_records(self, stream_arn: str, iterator: str, taken: TakenRecords) -> bool:
        """The same without waiting; False if only `get_records` can do it now."""
        ...


class Boto3Streams:
    """The streams client on top of boto3.

    Args:
        boto3_client: A client for `dynamodbstreams`, of this object's own: it gets hooks.
        short: The faster way to request pages, for the same client; None to leave all to boto3.
    """

    def __init__(self, boto3_client: Any, short: GetRecords | None = None) -> None:
        self._client = boto3_client
        self._short = short
        with _hooking:
            boto3_client.meta.events.register(_EVENT, _keep_body, unique_id=_HOOK_ID)
            boto3_client.meta.events.register_first(
                _RETRY_EVENT, _leave_throttles, unique_id=_RETRY_HOOK_ID
            )

    def describe(
        self, stream_arn: str, *, after: str = "", children_of: str = ""
    ) -> StreamDescription:
        """One page of the listing after a shard id, or the children of one shard.

        Args:
            stream_arn: The stream.
            after: The `next_after` of the page before, empty for the first page.
            children_of: Ask for the children of this shard only. Services that do not know the
                filter list all shards: what is no child is left out here.

        Raises:
            AwsAccessError: If `dynamodb:DescribeStream` is not allowed.
            CredentialsError: If the credentials are not accepted.
            StreamError: If the answer was cut off.
        """
        arguments: dict[str, Any] = {"StreamArn": stream_arn}
        if after:
            arguments["ExclusiveStartShardId"] = after
        if children_of:
            arguments["ShardFilter"] = {"Type": "CHILD_SHARDS", "ShardId": children_of}
        answer = self._call("DescribeStream", "describe_stream", stream_arn, arguments)
        found = _part(answer, "StreamDescription", stream_arn)
        shards = tuple(shard_info(each) for each in found.get("Shards", ()))
        if children_of:
            shards = tuple(each for each in shards if each.parent_id == children_of)
        created = found.get("CreationRequestDateTime")
        return StreamDescription(
            status=_part(found, "StreamStatus", stream_arn),
            view_type=found.get("StreamViewType", ""),
            shards=shards,
            next_after=found.get("LastEvaluatedShardId") or "",
            table_name=found.get("TableName", ""),
            keys=tuple(each["AttributeName"] for each in found.get("KeySchema", ())),
            created_us=(created - _EPOCH) // timedelta(microseconds=1) if created else 0,
        )

    def shard_iterator(
        self, stream_arn: str, shard_id: str, *, after: str = "", at_us: int = 0, at: str = ""
    ) -> str:
        """An iterator after a sequence number, at a timestamp, or else at the trim horizon.

        Args:
            stream_arn: The stream.
            shard_id: The shard.
            after: Sequence number after which to read, empty for none.
            at_us: Time of the first record to read, microseconds since 1970, 0 for none.
            at: Sequence number from which on to read, empty for none.

        Raises:
            AwsAccessError: If `dynamodb:GetShardIterator` is not allowed.
            CredentialsError: If the credentials are not accepted.
            StreamError: If the answer was cut off.
        """
        arguments: dict[str, Any] = {"StreamArn": stream_arn, "ShardId": shard_id}
        if after:
            arguments.update(ShardIteratorType="AFTER_SEQUENCE_NUMBER", SequenceNumber=after)
        elif at:
            arguments.update(ShardIteratorType="AT_SEQUENCE_NUMBER", SequenceNumber=at)
        elif at_us:
            moment = _EPOCH + timedelta(microseconds=at_us)
            arguments.update(ShardIteratorType="AT_TIMESTAMP", Timestamp=moment)
        else:
            arguments["ShardIteratorType"] = "TRIM_HORIZON"
        found = self._call("GetShardIterator", "get_shard_iterator", stream_arn, arguments)
        return str(_part(found, "ShardIterator", stream_arn))

    def get_records(self, stream_arn: str, iterator: str) -> bytes:
        """One page of records.

        Args:
            stream_arn: The stream, for the text of errors.
            iterator: A shard iterator.

        Returns:
            The body of the answer: JSON with `Records` and perhaps `NextShardIterator`.

        Raises:
            AwsAccessError: If `dynamodb:GetRecords` is not allowed.
            CredentialsError: If the credentials are not accepted.
            StreamError: If this release of boto3 does not hand over the raw body.
        """
        arguments = {"ShardIterator": iterator, "Limit": PAGE_RECORDS}
        found = self._call("GetRecords", "get_records", stream_arn, arguments)
        body = found.get(_BODY)
        if not isinstance(body, bytes):
            raise StreamError(
                "this release of boto3 does not hand over the raw answer of GetRecords",
                where=stream_arn,
                hint="Install the boto3 release that this release of Dynabeam names",
            )
        return body

    def begin_records(self, stream_arn: str, iterator: str, taken: TakenRecords) -> bool:
        """Asks for one page of records without boto3; returns at once.

        Args:
            stream_arn: The stream, for the text of errors.
            iterator: A shard iterator.
            taken: Called once, on a thread that must not be blocked.

        Returns:
            False if `get_records` is to ask; `taken` is not called then.
        """
        if self._short is None:
            return False
        return self._short.begin(
            iterator, PAGE_RECORDS, lambda found: taken(_body_of(found, stream_arn))
        )

    def _call(
        self, operation: str, method: str, stream_arn: str, arguments: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        try:
            answer: Mapping[str, Any] = getattr(self._client, method)(**arguments)
        except (BotoCoreError, ClientError) as error:
            raise_access_error(error, f"dynamodb:{operation}", stream_arn)
            raise
        except _UNREADABLE as error:
            raise StreamError(
                f"the answer to {operation} cannot be read: {type(error).__name__}: {error}",
                where=stream_arn,
                hint="Check what answers at the endpoint: it may not be DynamoDB Streams",
            ) from error
        return answer


def shard_info(shard: Mapping[str, Any]) -> ShardInfo:
    """Reads one entry of `Shards` of a DescribeStream answer."""
    numbers = shard.get("SequenceNumberRange") or {}
    return ShardInfo(
        shard_id=shard["ShardId"],
        parent_id=shard.get("ParentShardId") or "",
        closed="EndingSequenceNumber" in numbers,
        start=numbers.get("StartingSequenceNumber") or "",
        end=numbers.get("EndingSequenceNumber") or "",
    )


def _part(answer: Mapping[str, Any], name: str, stream_arn: str) -> Any:
    # boto3 takes an answer that was cut off half-way for an empty one.
    if name not in answer:
        raise StreamError(f"the service's answer has no {name}", where=stream_arn)
    return answer[name]


def connect(access: AwsAccess) -> StreamsClient:
    """The streams client of this process for an access.

    Raises:
        ConfigurationError: If no region is known.
        CredentialsError: If no credentials are found.
    """
    with _connecting:
        if access not in _connected:
            client = access.new_client("dynamodbstreams")
            _connected[access] = Boto3Streams(client, GetRecords(client))
        return _connected[access]


def _keep_body(
    response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any
) -> None:
    """Handler of `before-parse`: keeps the body of a good answer from botocore's parser."""
    if response_dict["status_code"] >= 300:
        return
    body = response_dict["body"]
    _check_crc32(body, response_dict["headers"])
    customized_response_dict[_BODY] = body
    response_dict["body"] = b"{}"


def _body_of(found: Answer | Exception | None, stream_arn: str) -> bytes | Exception | None:
    """What `get_records` returns or raises."""
    if isinstance(found, Answer):
        return found.body
    if isinstance(found, (BotoCoreError, ClientError)):
        try:
            raise_access_error(found, "dynamodb:GetRecords", stream_arn)
        except DynabeamError as error:
            return error
    return found


def _leave_throttles(response: Any = None, operation: Any = None, **_: Any) -> bool | None:
    """Handler of `needs-retry`: a throttled call is not retried; others are left to boto3."""
    if response is None:
        return None
    error = ClientError(response[1], operation.name)
    return False if classify(error) is AwsErrorKind.THROTTLED else None


def _check_crc32(body: bytes, headers: Mapping[str, str]) -> None:
    # The sum is over the bytes sent: a compressed answer, decompressed by now, cannot be checked.
    expected = headers.get("x-amz-crc32")
    if expected is None or headers.get("content-encoding"):
        return
    found = str(zlib.crc32(body))
    # As texts: a sum that is no number is a wrong one.
    if found != expected.strip():
        raise ChecksumError(
            checksum_type="crc32", expected_checksum=expected, actual_checksum=found
        )
