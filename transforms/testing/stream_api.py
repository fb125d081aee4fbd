# SPDX-License-Identifier: Apache-2.0
"""The four calls of DynamoDB Streams, with the service's limits, errors and odd habits.

An iterator is a text that holds the stream, the shard, the position and the time of its making,
so the simulator remembers nothing about its readers.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from dynabeam.transforms.testing.api_error import ApiError
from dynabeam.transforms.testing.streams import Shard, Stream

if TYPE_CHECKING:
    from dynabeam.transforms.testing.simulator import Simulator

__all__ = ["StreamApi"]

ITERATOR_LIFE = timedelta(minutes=15)
MAX_RECORDS = 1000
MAX_PAGE_BYTES = 1024 * 1024
MAX_LISTED = 100
_LIFE_MICROS = ITERATOR_LIFE // timedelta(microseconds=1)
_BY_NUMBER = ("AT_SEQUENCE_NUMBER", "AFTER_SEQUENCE_NUMBER")
_ITERATOR_TYPES = ("TRIM_HORIZON", "LATEST", *_BY_NUMBER, "AT_TIMESTAMP")


class StreamApi:
    """DynamoDB Streams.

    Args:
        simulator: Whose streams these are; its lock is taken here.
    """

    def __init__(self, simulator: Simulator) -> None:
        self._sim = simulator
        self._actions: dict[str, Callable[[dict[str, Any]], bytes]] = {
            "ListStreams": self._list_streams,
            "DescribeStream": self._describe_stream,
            "GetShardIterator": self._shard_iterator,
            "GetRecords": self._records,
        }

    def handle(self, action: str, body: dict[str, Any]) -> bytes:
        """Answer one call.

        Args:
            action: The operation's name.
            body: The request's JSON object.

        Returns:
            The JSON text of the answer.

        Raises:
            ApiError: As the service answers.
        """
        answer = self._actions.get(action)
        if answer is None:
            raise ApiError("UnknownOperationException", f"Unknown operation: {action}")
        with self._sim.lock:
            self._sim.age()
            return answer(body)

    def _list_streams(self, body: dict[str, Any]) -> bytes:
        limit = _limit(body, MAX_LISTED)
        name = body.get("TableName")
        streams = sorted(self._sim.all_streams(), key=lambda stream: stream.arn)
        if name is not None:
            streams = [stream for stream in streams if stream.table_name == name]
            if not streams and not self._sim.has_table(name):
                raise _not_found(f"Table: {name} not found")
        start = body.get("ExclusiveStartStreamArn")
        if start is not None:
            self._stream(start)
            streams = [stream for stream in streams if stream.arn > start]
        answer: dict[str, Any] = {
            "Streams": [
                {"StreamArn": s.arn, "TableName": s.table_name, "StreamLabel": s.label}
                for s in streams[:limit]
            ]
        }
        if len(streams) > limit:
            answer["LastEvaluatedStreamArn"] = streams[limit - 1].arn
        return json.dumps(answer).encode()

    def _describe_stream(self, body: dict[str, Any]) -> bytes:
        stream = self._stream(body.get("StreamArn"))
        limit = _limit(body, MAX_LISTED)
        listed = self._listed(stream, body.get("ShardFilter"))
        start = body.get("ExclusiveStartShardId")
        if start is not None:
            known = start in stream.shards
            listed = [shard for shard in listed if known and shard.id > start]
        status = "ENABLED" if stream.enabled else "DISABLED"
        if stream.enabled and stream.enabling_asks > 0:
            stream.enabling_asks -= 1
            status, listed = "ENABLING", []
        page = listed[:limit]
        description: dict[str, Any] = {
            "StreamArn": stream.arn,
            "StreamLabel": stream.label,
            "StreamStatus": status,
            "StreamViewType": stream.view_type,
            "CreationRequestDateTime": stream.created_micros / 1_000_000,
            "TableName": stream.table_name,
            "KeySchema": stream.key_schema,
            "Shards": [shard.describe() for shard in page],
        }
        if len(listed) > limit:
            description["LastEvaluatedShardId"] = page[-1].id
        return json.dumps({"StreamDescription": description}).encode()

    def _listed(self, stream: Stream, wanted: dict[str, Any] | None) -> list[Shard]:
        shards = list(stream.shards.values())
        if wanted is not None:
            parent = _filtered_parent(wanted)
            shards = [shard for shard in shards if shard.parent == parent]
            if parent in stream.shards:
                asked = stream.shards[parent]
                asked.child_asks += 1
                if asked.child_asks <= self._sim.faults.child_filter_empty_asks:
                    return []
        listed = [shard for shard in shards if not shard.hidden_asks]
        for shard in shards:
            shard.hidden_asks = max(0, shard.hidden_asks - 1)
        return listed

    def _shard_iterator(self, body: dict[str, Any]) -> bytes:
        stream = self._stream(body.get("StreamArn"))
        shard_id = body.get("ShardId")
        if not isinstance(shard_id, str) or not 28 <= len(shard_id) <= 65:
            raise _invalid(
                f"1 validation error detected: Value '{shard_id}' at 'shardId' failed to satisfy"
                " constraint: Member must have length between 28 and 65"
            )
        kind = body.get("ShardIteratorType")
        if kind not in _ITERATOR_TYPES:
            raise _invalid(
                f"1 validation error detected: Value '{kind}' at 'shardIteratorType' failed to"
                " satisfy constraint: Member must satisfy enum value set:"
                f" [{', '.join(_ITERATOR_TYPES)}]"
            )
        shard = stream.shards.get(shard_id)
        if shard is None:
            raise _not_found(f"Shard: {shard_id} in Stream: {stream.arn} not found")
        position = self._position(shard, kind, body)
        return json.dumps({"ShardIterator": self._iterator(stream, shard, position)}).encode()

    def _position(self, shard: Shard, kind: str, body: dict[str, Any]) -> int:
        number = body.get("SequenceNumber")
        if (number is not None) != (kind in _BY_NUMBER):
            must = "must be provided" if kind in _BY_NUMBER else "must not be provided"
            raise _invalid(f"SequenceNumber {must} for ShardIteratorType {kind}")
        if kind == "TRIM_HORIZON":
            return shard.first
        if kind == "LATEST":
            slack = self._sim.faults.latest_slack
            early = self._sim.dice.between(0, slack) if slack else 0
            return max(shard.first, shard.total - early)
        if kind == "AT_TIMESTAMP":
            return self._position_at(shard, body.get("Timestamp"))
        return _position_by_number(shard, number, after=kind == "AFTER_SEQUENCE_NUMBER")

    def _position_at(self, shard: Shard, moment: Any) -> int:
        if not isinstance(moment, (int, float)):
            raise _invalid("Timestamp must be provided for ShardIteratorType AT_TIMESTAMP")
        micros = round(moment * 1000) * 1000
        if micros > self._sim.clock.micros():
            raise _invalid("Timestamp must not be in the future")
        return shard.position_at(micros)

    def _records(self, body: dict[str, Any]) -> bytes:
        limit = _limit(body, MAX_RECORDS)
        stream, shard_id, position, made = self._read_iterator(body.get("ShardIterator"))
        shard = stream.shards.get(shard_id)
        if shard is None:
            raise _not_found(f"Shard: {shard_id} in Stream: {stream.arn} not found")
        sim = self._sim
        faults, dice = sim.faults, sim.dice
        if sim.clock.micros() - made > _LIFE_MICROS or dice.chance(faults.expired_iterator):
            raise ApiError(
                "ExpiredIteratorException",
                "Iterator expired. The iterator was created at a time that is more than 15 minutes"
                " ago, or is no longer valid",
            )
        if position < shard.first:
            raise _trimmed()
        if dice.chance(faults.hollow_page):
            return b'{"message":"Service Unavailable"}'
        if dice.chance(faults.false_end):
            return b'{"Records":[]}'
        if dice.chance(faults.repeated_page):
            position = max(shard.first, position - limit)
        page, end = self._page(shard, position, limit)
        ended = shard.closed and end == shard.total
        if ended and not (page and dice.chance(faults.late_end)):
            following = ""
        else:
            following = self._iterator(stream, shard, end)
        sim.stats.count_page(len(page), sum(map(len, page)))
        tail = b'],"NextShardIterator":"%s"}' % following.encode() if following else b"]}"
        return b'{"Records":[' + b",".join(page) + tail

    def _page(self, shard: Shard, position: int, limit: int) -> tuple[list[bytes], int]:
        faults, dice = self._sim.faults, self._sim.dice
        start = position - shard.first
        available = min(limit, len(shard.records) - start)
        if not available:
            return [], position
        if shard.empty_run < faults.max_empty_run and dice.chance(faults.empty_page):
            shard.empty_run += 1
            return [], position
        shard.empty_run = 0
        if dice.chance(faults.short_page):
            available = dice.between(1, available)
        page = shard.records[start : start + available]
        total = 0
        for count, record in enumerate(page):
            total += len(record)
            if total > MAX_PAGE_BYTES and count:
                return page[:count], position + count
        return page, position + available

    # Iterators.

    def _iterator(self, stream: Stream, shard: Shard, position: int) -> str:
        inner = f"{shard.id}|{position}|{self._sim.clock.micros()}"
        check = zlib.crc32(f"{stream.arn}|{inner}".encode())
        return f"{stream.arn}|1|" + base64.b64encode(f"{inner}|{check}".encode()).decode()

    def _read_iterator(self, text: Any) -> tuple[Stream, str, int, int]:
        try:
            arn, _, packed = text.rsplit("|", 2)
            inner, check = base64.b64decode(packed, validate=True).decode().rsplit("|", 1)
            shard_id, position, made = inner.split("|")
            genuine = zlib.crc32(f"{arn}|{inner}".encode()) == int(check)
        except (AttributeError, ValueError, binascii.Error) as error:
            raise _invalid("Invalid ShardIterator") from error
        if not genuine:
            raise _invalid("Invalid ShardIterator")
        return self._stream(arn), shard_id, int(position), int(made)

    def _stream(self, arn: Any) -> Stream:
        if not isinstance(arn, str) or not arn.startswith("arn:") or "/stream/" not in arn:
            raise _invalid(f"Invalid StreamArn: {arn}")
        for stream in self._sim.streams_named(arn.split("/stream/")[0].rsplit("/", 1)[-1]):
            if stream.arn == arn:
                return stream
        raise _not_found(f"Stream: {arn} not found")


def _position_by_number(shard: Shard, text: Any, *, after: bool) -> int:
    if not isinstance(text, str) or not text.isdecimal() or not 21 <= len(text) <= 40:
        raise _invalid(f"Invalid SequenceNumber: {text}")
    number = int(text)
    newest = shard.last if shard.end is None else shard.end
    if number > newest or number < shard.start:
        raise _invalid(f"Invalid SequenceNumber: {text} is not in the range of shard {shard.id}")
    if number < shard.trimmed or (number == shard.trimmed and not after):
        raise _trimmed()
    return shard.position_of(number, after=after)


def _filtered_parent(wanted: dict[str, Any]) -> str:
    kind, shard_id = wanted.get("Type"), wanted.get("ShardId")
    if kind != "CHILD_SHARDS":
        raise _invalid(
            f"1 validation error detected: Value '{kind}' at 'shardFilter.type' failed to satisfy"
            " constraint: Member must satisfy enum value set: [CHILD_SHARDS]"
        )
    if not isinstance(shard_id, str) or not shard_id.startswith("shardId-"):
        raise _invalid(f"Invalid ShardId in ShardFilter: {shard_id}")
    return shard_id


def _limit(body: dict[str, Any], most: int) -> int:
    limit = body.get("Limit", most)
    if not isinstance(limit, int) or not 1 <= limit <= most:
        bound = f"less than or equal to {most}" if limit else "greater than or equal to 1"
        raise _invalid(
            f"1 validation error detected: Value '{limit}' at 'limit' failed to satisfy"
            f" constraint: Member must have value {bound}"
        )
    return limit


def _invalid(message: str) -> ApiError:
    return ApiError("ValidationException", message)


def _not_found(what: str) -> ApiError:
    return ApiError("ResourceNotFoundException", f"Requested resource not found: {what}")


def _trimmed() -> ApiError:
    return ApiError(
        "TrimmedDataAccessException",
        "The operation attempted to read past the oldest stream record in a shard",
    )
