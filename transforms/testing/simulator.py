# SPDX-License-Identifier: Apache-2.0
"""A simulated AWS account for tests: DynamoDB, DynamoDB Streams, exports and S3 over HTTP.

    with Simulator(seed=7) as sim:
        sim.create_table("orders", "id:S")
        sim.put_many("orders", [{"id": {"S": "a"}}])
        streams = sim.client("dynamodbstreams")

moto gives the semantics of items and S3; streams, shards, retention, exports and all faults are
our own, made to behave as the service was seen to behave. The same seed and the same calls, from
one thread, give the same ids, numbers and faults. Credentials are not checked; permissions are, for
access keys that were given policies (`set_policies`).

Truth for tests: `items` is what a table holds, `records` every stream record it ever produced.
Not simulated: backups and restores, imports, Kinesis destinations, global tables, and time to live
by itself (call `expire`).
"""

from __future__ import annotations

import functools
import json
import random
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any

import boto3

from dynabeam.transforms.testing.api_error import ApiError
from dynabeam.transforms.testing.clock import SimClock, micros_of
from dynabeam.transforms.testing.faults import EXPORT_ACTIONS, Dice, Faults
from dynabeam.transforms.testing.iam import Iam, Permission
from dynabeam.transforms.testing.iam_requests import EXPORT_WRITES
from dynabeam.transforms.testing.item_values import image, parse_image
from dynabeam.transforms.testing.items import ItemApi
from dynabeam.transforms.testing.kms import kms
from dynabeam.transforms.testing.objects import Objects
from dynabeam.transforms.testing.secret_values import secret_values
from dynabeam.transforms.testing.server import Front
from dynabeam.transforms.testing.stats import Stats
from dynabeam.transforms.testing.stream_api import StreamApi
from dynabeam.transforms.testing.streams import Shard, Stream
from dynabeam.transforms.testing.sts import Sts
from dynabeam.transforms.testing.tables import SimTable
from dynabeam.transforms.testing.tagging import tagging

if TYPE_CHECKING:
    from dynabeam.transforms.testing.exports import Exports

__all__ = ["Simulator"]

ACCOUNT_ID = "111122223333"
RETENTION = timedelta(hours=24)
_RETENTION_MICROS = RETENTION // timedelta(microseconds=1)
_AGE_EVERY_MICROS = 1_000_000
_BULK = 256
"""Items that the bulk paths write under one hold of the lock, so that readers get their turn."""

_SESSION_LOCK = threading.Lock()


@functools.cache
def _session() -> Any:
    """One boto3 session for all simulators: it parses the service models once. Not thread-safe."""
    return boto3.session.Session()


class Simulator:
    """One account in one Region, listening from the start.

    Args:
        seed: Decides ids, sequence numbers and faults.
        region: The Region in ARNs and records.
        faults: What goes wrong; assign to `faults` to change it at any time.
        clock: The time; real, if not given.
        initial_shards: Shards of a stream that is enabled from now on.
        port: The port to listen on; 0 for any free one.
        host: The address to listen at. Whoever reaches it may do everything.

    Attributes:
        stats: What was asked and given so far.
        iam: The identity policies; `set_policies` is the way in.
        sts: Roles and their sessions; `sts.add_role` is the way in.
        kms_keys: State of each KMS key that there is, by ARN.
        secrets: Value of each secret of Secrets Manager, by ARN.
        defects: Errors inside the simulator itself; leaving the `with` block raises the first.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        region: str = "eu-west-1",
        faults: Faults | None = None,
        clock: SimClock | None = None,
        initial_shards: int = 1,
        port: int = 0,
        host: str = "127.0.0.1",
    ) -> None:
        self.seed = seed
        self.region = region
        self.account_id = ACCOUNT_ID
        self.user_arn = f"arn:aws:iam::{ACCOUNT_ID}:user/simulated"
        self.faults = faults or Faults()
        self.clock = clock or SimClock()
        self.initial_shards = initial_shards
        self.iam = Iam()
        self.sts = Sts(self)
        self.kms_keys: dict[str, str] = {}
        self.secrets: dict[str, str | bytes] = {}
        self.lock = threading.RLock()
        self.random = random.Random(seed)  # noqa: S311 - repeatable on purpose
        self.dice = Dice(seed + 1)
        self.stats: Stats = Stats()
        self.defects: list[Exception] = []
        self.recent_calls: dict[str, list[int]] = {}
        self._tables: dict[str, SimTable] = {}
        self._streams: dict[str, list[Stream]] = {}
        self._aged_micros = 0
        self._clients: list[Any] = []
        self._items = ItemApi(self)
        self._stream_api = StreamApi(self)
        self.objects = Objects(region, ACCOUNT_ID)
        self._front = Front(self, port, host)
        self.endpoint_url = f"http://127.0.0.1:{self._front.port}"

    def __enter__(self) -> Simulator:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        if self.defects and error is None:
            raise RuntimeError("The simulator failed inside; see the cause") from self.defects[0]

    def close(self) -> None:
        """Stop listening, close the clients and drop all data."""
        self._front.close()
        for client in self._clients:
            client.close()
        self.objects.close()

    def client(self, service: str, **options: Any) -> Any:
        """A real boto3 client that talks to this simulator; closed with it.

        Args:
            service: `dynamodb`, `dynamodbstreams`, `resourcegroupstaggingapi`, `s3` or `sts`.
            options: Passed on to boto3, for example `config`.
        """
        settings = {
            "region_name": self.region,
            "endpoint_url": self.endpoint_url,
            "aws_access_key_id": "simulated",
            "aws_secret_access_key": "simulated",  # not looked at
            **options,
        }
        with _SESSION_LOCK:
            client = _session().client(service, **settings)
        self._clients.append(client)
        return client

    # Tables and items, without HTTP.

    def create_table(
        self,
        name: str,
        key: str = "id:S",
        *,
        stream: str | None = "NEW_AND_OLD_IMAGES",
        tags: Mapping[str, str] | None = None,
    ) -> str:
        """Create a table, with a stream by default, and return its ARN.

        Args:
            name: The table's name.
            key: Name and type of the hash attribute and perhaps the range attribute:
                `id:S` or `customer:S,order:N`.
            stream: The stream's view type, or None for no stream.
            tags: The table's tags.
        """
        attributes = [part.rsplit(":", 1) for part in key.split(",")]
        body: dict[str, Any] = {
            "TableName": name,
            "BillingMode": "PAY_PER_REQUEST",
            "AttributeDefinitions": [
                {"AttributeName": attribute, "AttributeType": kind}
                for attribute, kind in attributes
            ],
            "KeySchema": [
                {"AttributeName": attribute, "KeyType": role}
                for (attribute, _), role in zip(attributes, ("HASH", "RANGE"), strict=False)
            ],
        }
        if stream is not None:
            body["StreamSpecification"] = {"StreamEnabled": True, "StreamViewType": stream}
        if tags:
            body["Tags"] = [{"Key": tag, "Value": value} for tag, value in tags.items()]
        self._items.handle("CreateTable", body)
        return self.table(name).arn

    def put_many(self, table: str, items: Iterable[Mapping[str, Any]]) -> int:
        """Put items, as PutItem would, many times as fast.

        Args:
            table: Name or ARN.
            items: DynamoDB JSON.

        Returns:
            How many puts changed something, each of them a change and a stream record.

        Raises:
            ApiError: An item is malformed; those before it are written.
        """
        target = self.table(table)

        def put(item: Mapping[str, Any]) -> bool:
            key = target.key_of(item)
            target.pending.add(key.json)
            return target.apply(key, image(item), self.faults)

        return self._bulk(items, put)

    def delete_many(self, table: str, keys: Iterable[Mapping[str, Any]]) -> int:
        """Delete items by key, as DeleteItem would; returns how many were there."""
        return self._bulk(keys, functools.partial(self._delete, self.table(table), ttl=False))

    def expire(self, table: str, key: Mapping[str, Any]) -> bool:
        """Delete an item as time to live does; False if it is not there."""
        return self._bulk([key], functools.partial(self._delete, self.table(table), ttl=True)) == 1

    def _delete(self, target: SimTable, key: Mapping[str, Any], *, ttl: bool) -> bool:
        found = target.key_of(key)
        target.pending.add(found.json)
        return target.apply(found, None, self.faults, ttl=ttl)

    def _bulk(
        self, rows: Iterable[Mapping[str, Any]], write: Callable[[Mapping[str, Any]], bool]
    ) -> int:
        changed = 0
        rows = list(rows)
        for start in range(0, len(rows), _BULK):
            with self.lock:
                changed += sum(map(write, rows[start : start + _BULK]))
        return changed

    # Shards.

    def roll(self, table: str) -> list[str]:
        """Close each open shard and give it one child; returns the children's ids."""
        with self.lock:
            stream = self._enabled_stream(table)
            born: list[Shard] = []
            for shard in stream.open_shards():
                born += stream.close(shard, 1, self.faults)
            return [shard.id for shard in born]

    def split(self, table: str, n: int, shard_id: str | None = None) -> list[str]:
        """Close one shard and give it `n` children; returns their ids.

        Args:
            table: Name or ARN.
            n: How many children.
            shard_id: Which open shard; the one with the most records, if not given.

        Raises:
            ApiError: The shard is not open.
        """
        with self.lock:
            stream = self._enabled_stream(table)
            shards = stream.open_shards()
            if shard_id is not None:
                shards = [shard for shard in shards if shard.id == shard_id]
            if not shards:
                raise ApiError("ResourceNotFoundException", f"{shard_id} is not an open shard")
            chosen = max(shards, key=lambda shard: shard.total)
            return [shard.id for shard in stream.close(chosen, n, self.faults)]

    def trim(self, table: str, *, before: datetime) -> None:
        """Let the table's streams lose records written, and shards closed, before a time."""
        with self.lock:
            for stream in self._streams.get(self.table_name(table), []):
                stream.trim(micros_of(before))

    def _enabled_stream(self, table: str) -> Stream:
        stream = self.table(table).stream
        if stream is None:
            raise ApiError("ValidationException", f"Table {table} has no enabled stream")
        return stream

    # Truth.

    def items(self, table: str) -> list[dict[str, Any]]:
        """All items of a table now, as DynamoDB JSON with binaries in base64."""
        return self.table(table).items()

    def records(self, table: str) -> list[dict[str, Any]]:
        """Every stream record ever made for tables of this name, in order, trimmed ones included.

        Each is as GetRecords gives it, with `ShardId` and `StreamArn` added.
        """
        with self.lock:
            logs = [
                (stream.arn, list(stream.log))
                for stream in self._streams.get(self.table_name(table), [])
            ]
        return [
            {**parse_image(record), "ShardId": shard_id, "StreamArn": arn}
            for arn, log in logs
            for shard_id, record in log
        ]

    # Permissions.

    def set_policies(self, access_key: str, policies: Sequence[Mapping[str, Any]] | None) -> None:
        """From now on an access key may do only what these policies allow; None: everything.

        Raises:
            ValueError: A policy is malformed, or has elements that are not evaluated.
        """
        self.iam.set_policies(access_key, policies)

    def used_permissions(self, access_key: str) -> list[Permission]:
        """What a key with policies has needed since they were set, granted or not; sorted."""
        return self.iam.used(access_key)

    # S3, without HTTP.

    def create_bucket(self, bucket: str) -> None:
        """Make a bucket; nothing happens if it is there."""
        self.objects.create_bucket(bucket)

    def bucket_exists(self, bucket: str) -> bool:
        """Whether there is a bucket of this name."""
        return self.objects.exists(bucket)

    def export_denial(self, caller: str, bucket: str, key: str) -> str:
        """The first permission that an export's requester lacks to write an object; or empty."""
        for action in EXPORT_WRITES:
            permission = Permission(action, f"arn:aws:s3:::{bucket}/{key}")
            if self.iam.denial(caller, permission):
                return action
        return ""

    def s3_put(self, bucket: str, key: str, body: bytes) -> None:
        """Write an object."""
        self.objects.put(bucket, key, body)

    def s3_get(self, bucket: str, key: str) -> bytes:
        """Read an object."""
        return self.objects.get(bucket, key)

    # What the services need.

    @functools.cached_property
    def exports(self) -> Exports:
        """Exports and point-in-time recovery, and the attributes that steer them."""
        # Here, because many tests need no exports and their writer's imports take time.
        from dynabeam.transforms.testing.exports import Exports  # noqa: PLC0415

        return Exports(self, seed=self.seed)

    def call(
        self, service: str, action: str, body: dict[str, Any], caller: str = ""
    ) -> tuple[int, bytes]:
        """Answer one call of DynamoDB, its streams or another service with targets, without faults.

        Args:
            service: The part of `X-Amz-Target` before the dot.
            action: The part after it.
            body: The request's JSON object.
            caller: The access key id; an export is written with its permissions.

        Returns:
            HTTP status and the JSON text of the answer.

        Raises:
            ApiError: As the service answers.
        """
        self.stats.count_call(action)
        if service.startswith("DynamoDBStreams"):
            return 200, self._stream_api.handle(action, body)
        if service.startswith("ResourceGroupsTagging"):
            return 200, json.dumps(tagging(self, action, body)).encode()
        if service == "TrentService":
            return 200, json.dumps(kms(self.kms_keys, action, body)).encode()
        if service == "secretsmanager":
            return 200, json.dumps(secret_values(self.secrets, action, body)).encode()
        if action in EXPORT_ACTIONS:
            return 200, json.dumps(self.exports.handle(action, body, caller)).encode()
        return self._items.handle(action, body)

    def table(self, name_or_arn: str) -> SimTable:
        """A table that is there now.

        Raises:
            ApiError: There is none.
        """
        name = self.table_name(name_or_arn)
        table = self._tables.get(name)
        if table is None:
            raise ApiError(
                "ResourceNotFoundException",
                f"Requested resource not found: Table: {name} not found",
            )
        return table

    def table_name(self, name_or_arn: str) -> str:
        """The name in a table's or a stream's ARN; a name is given back."""
        return name_or_arn.split(":table/", 1)[-1].split("/", 1)[0]

    def has_table(self, name: str) -> bool:
        """Whether there is a table of this name now."""
        return name in self._tables

    def live_tables(self) -> list[SimTable]:
        """All tables that are there now."""
        return list(self._tables.values())

    def add_table(self, name: str, key_schema: list[tuple[str, str]]) -> SimTable:
        """Register a table that was created."""
        arn = f"arn:aws:dynamodb:{self.region}:{self.account_id}:table/{name}"
        table = SimTable(
            name,
            arn,
            key_schema,
            region=self.region,
            clock=self.clock,
            rng=self.random,
            dice=self.dice,
            lock=self.lock,
        )
        self._tables[name] = table
        return table

    def remove_table(self, table: SimTable) -> None:
        """Forget a table that was deleted; its streams stay readable."""
        del self._tables[table.name]

    def add_stream(self, table: SimTable, stream: Stream) -> None:
        """Register a stream that was enabled."""
        table.streams.append(stream)
        self._streams.setdefault(table.name, []).append(stream)

    def streams_named(self, table_name: str) -> list[Stream]:
        """The streams, not wholly trimmed, of all tables that have or had this name."""
        return [stream for stream in self._streams.get(table_name, []) if not stream.expired]

    def all_streams(self) -> list[Stream]:
        """All streams that are not wholly trimmed."""
        return [stream for name in self._streams for stream in self.streams_named(name)]

    def age(self) -> None:
        """Trim what is older than 24 hours by the clock."""
        now = self.clock.micros()
        if now - self._aged_micros < _AGE_EVERY_MICROS:
            return
        self._aged_micros = now
        for stream in self.all_streams():
            stream.trim(now - _RETENTION_MICROS)
