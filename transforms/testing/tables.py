# SPDX-License-Identifier: Apache-2.0
"""A table's truth: its items now and at any time, every change, and its streams.

This is what tests compare a replica with. Items are kept as `Image` bytes by their key; moto
holds a second copy for the semantics of expressions (see `items.py`).

Nothing here locks, except the methods that read the past: the simulator's lock is held by every
caller that writes.
"""

from __future__ import annotations

import random
import threading
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from dynabeam.transforms.testing.api_error import ApiError
from dynabeam.transforms.testing.clock import SimClock, datetime_of, micros_of
from dynabeam.transforms.testing.faults import Dice, Faults
from dynabeam.transforms.testing.item_values import MAX_ITEM_BYTES, Image, image, parse_image
from dynabeam.transforms.testing.streams import Stream, key_hash

__all__ = ["SimTable", "TableChange", "check_size"]

_TTL_IDENTITY = b'"userIdentity":{"Type":"Service","PrincipalId":"dynamodb.amazonaws.com"},'


@dataclass(frozen=True)
class TableChange:
    """One write that changed an item.

    Attributes:
        micros: When, in microseconds since 1970, UTC.
        keys_json: The item's keys as DynamoDB JSON.
        old_json: The item before, as DynamoDB JSON, or None.
        new_json: The item after, as DynamoDB JSON, or None.
        ttl: Whether time to live deleted it.
    """

    micros: int
    keys_json: bytes
    old_json: bytes | None
    new_json: bytes | None
    ttl: bool = False

    @property
    def keys(self) -> dict[str, Any]:
        """The item's keys."""
        return parse_image(self.keys_json)

    @property
    def old(self) -> dict[str, Any] | None:
        """The item before."""
        return None if self.old_json is None else parse_image(self.old_json)

    @property
    def new(self) -> dict[str, Any] | None:
        """The item after."""
        return None if self.new_json is None else parse_image(self.new_json)


class SimTable:
    """A table from CreateTable to DeleteTable.

    Attributes:
        name: Its name.
        arn: Its ARN.
        table_id: Its id, another one after each CreateTable.
        key_schema: Name and type (`S`, `N`, `B`) of its hash and perhaps its range attribute.
        created_at: When it was created, UTC.
        current: Its items by key, both as `Image` bytes.
        history: Every change ever, oldest first.
        streams: Its streams, oldest first; only the last can be enabled.
        pending: Keys of items that moto does not know yet.
        updating_asks: How often it is still shown as being updated.
    """

    def __init__(
        self,
        name: str,
        arn: str,
        key_schema: list[tuple[str, str]],
        *,
        region: str,
        clock: SimClock,
        rng: random.Random,
        dice: Dice,
        lock: threading.RLock,
    ) -> None:
        self.name = name
        self.arn = arn
        self.table_id = str(uuid.UUID(int=rng.getrandbits(128), version=4))
        self.key_schema = key_schema
        self.created_at = clock.now()
        self.current: dict[bytes, Image] = {}
        self.history: list[TableChange] = []
        self.streams: list[Stream] = []
        self.pending: set[bytes] = set()
        self.updating_asks = 0
        self._region = region.encode()
        self._clock = clock
        self._rng = rng
        self._dice = dice
        self._lock = lock

    @property
    def stream(self) -> Stream | None:
        """The enabled stream, if there is one."""
        return self.streams[-1] if self.streams and self.streams[-1].enabled else None

    def describe_keys(self) -> list[dict[str, str]]:
        """The key schema as DescribeTable shows it."""
        kinds = ("HASH", "RANGE")
        return [
            {"AttributeName": name, "KeyType": kind}
            for (name, _), kind in zip(self.key_schema, kinds, strict=False)
        ]

    def key_of(self, attributes: Mapping[str, Any]) -> Image:
        """The key of an item.

        Raises:
            ApiError: A key attribute is missing, empty, or of another type.
        """
        keys = {}
        for name, kind in self.key_schema:
            value = attributes.get(name)
            if value is None:
                raise ApiError(
                    "ValidationException",
                    "One or more parameter values were invalid: Missing the key"
                    f" {name} in the item",
                )
            if kind not in value:
                raise ApiError(
                    "ValidationException",
                    "One or more parameter values were invalid: Type mismatch for key"
                    f" {name} expected: {kind} actual: {next(iter(value), '')}",
                )
            if not value[kind]:
                raise ApiError(
                    "ValidationException",
                    "One or more parameter values are not valid. The AttributeValue for a key"
                    " attribute cannot contain an empty string value. Key: " + name,
                )
            keys[name] = value
        return image(keys)

    def apply(self, key: Image, new: Image | None, faults: Faults, *, ttl: bool = False) -> bool:
        """Write one item, or delete it; False if that changes nothing.

        Raises:
            ApiError: The item is larger than 400 KB.
        """
        check_size(new)
        old = self.current.get(key.json)
        if (old and old.json) == (new and new.json):
            return False
        if new is None:
            del self.current[key.json]
        else:
            self.current[key.json] = new
        # Never before the last change, so that the history stays in order of time.
        micros = self._clock.micros()
        if self.history:
            micros = max(micros, self.history[-1].micros)
        self.history.append(TableChange(micros, key.json, old and old.json, new and new.json, ttl))
        if self.stream is not None and not self._dice.chance(faults.lose_record):
            self._record(self.stream, key, old, new, micros=micros, faults=faults, ttl=ttl)
        return True

    def items(self) -> list[dict[str, Any]]:
        """All items now, as DynamoDB JSON."""
        with self._lock:
            return [parse_image(item.json) for item in self.current.values()]

    def items_at(self, moment: datetime) -> list[dict[str, Any]]:
        """All items as they were at a time, writes at exactly that time included."""
        return [parse_image(line) for line in self.images_at(moment)]

    def images_at(self, moment: datetime) -> Iterator[bytes]:
        """The same as `items_at`, each as bytes of DynamoDB JSON, without parsing."""
        micros = micros_of(moment)
        with self._lock:
            if not self.history or self.history[-1].micros <= micros:
                return iter([item.json for item in self.current.values()])
            state: dict[bytes, bytes] = {}
            for change in self.history:
                if change.micros > micros:
                    break
                if change.new_json is None:
                    del state[change.keys_json]
                else:
                    state[change.keys_json] = change.new_json
            return iter(list(state.values()))

    def changes(self, from_time: datetime, to_time: datetime) -> list[TableChange]:
        """Every change from a time, included, to another, excluded; oldest first."""
        low, high = micros_of(from_time), micros_of(to_time)
        with self._lock:
            return [change for change in self.history if low <= change.micros < high]

    def earliest(self) -> datetime | None:
        """When its first change was, if there was one."""
        return datetime_of(self.history[0].micros) if self.history else None

    def _record(
        self,
        stream: Stream,
        key: Image,
        old: Image | None,
        new: Image | None,
        *,
        micros: int,
        faults: Faults,
        ttl: bool,
    ) -> None:
        shard = stream.shard_for(key_hash(self._partition(key.json)))
        number = stream.next_number(shard)
        name = b"MODIFY" if old and new else b"INSERT" if new else b"REMOVE"
        size = key.size
        images = b""
        if new is not None and stream.view_type in ("NEW_IMAGE", "NEW_AND_OLD_IMAGES"):
            images += b'"NewImage":' + new.json + b","
            size += new.size
        if old is not None and stream.view_type in ("OLD_IMAGE", "NEW_AND_OLD_IMAGES"):
            images += b'"OldImage":' + old.json + b","
            size += old.size
        seconds = micros // 1_000_000
        when = f"{seconds / 10**9!r}E9" if self._dice.chance(faults.e_notation_times) else seconds
        record = b"".join(
            (
                b'{"eventID":"%032x","eventName":"' % self._rng.getrandbits(128),
                name,
                b'","eventVersion":"1.1","eventSource":"aws:dynamodb","awsRegion":"',
                self._region,
                b'",',
                _TTL_IDENTITY if ttl else b"",
                b'"dynamodb":{"ApproximateCreationDateTime":',
                str(when).encode(),
                b',"Keys":',
                key.json,
                b",",
                images,
                b'"SequenceNumber":"%d","SizeBytes":%d,"StreamViewType":"' % (number, size),
                stream.view_type.encode(),
                b'"}}',
            )
        )
        stream.append(shard, number, record, micros, faults)

    def _partition(self, key_json: bytes) -> bytes:
        if len(self.key_schema) == 1:
            return key_json
        return msgspec.json.encode(parse_image(key_json)[self.key_schema[0][0]])


def check_size(new: Image | None) -> None:
    """Refuse an item that is too large.

    Raises:
        ApiError: The item is larger than 400 KB.
    """
    if new is not None and new.size > MAX_ITEM_BYTES:
        raise ApiError("ValidationException", "Item size has exceeded the maximum allowed size")
