# SPDX-License-Identifier: Apache-2.0
"""Tables and items: moto decides what a request means, `SimTable` keeps what came of it.

moto calls its table's stream at every write, on every path (single, batch, transaction, PartiQL).
Here that call only notes which key was touched. When moto is done, each touched key is compared
with our own copy: a difference becomes one change with exact old and new images, no difference
becomes none, and after a failed request moto's copy is put back, so that requests are atomic.
"""

from __future__ import annotations

import decimal
import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from moto.core.request import Request
from moto.dynamodb.models import DynamoDBBackend
from moto.dynamodb.models.dynamo_type import DynamoType, Item
from moto.dynamodb.models.table import Table
from moto.dynamodb.responses import DynamoHandler

from dynabeam.transforms.testing.api_error import ApiError
from dynabeam.transforms.testing.clock import micros_of
from dynabeam.transforms.testing.item_values import Image, image, normalise_request, parse_image
from dynabeam.transforms.testing.moto_items import attributes_of, moto_item
from dynabeam.transforms.testing.streams import Stream, stream_label
from dynabeam.transforms.testing.tables import SimTable, check_size

if TYPE_CHECKING:
    from dynabeam.transforms.testing.simulator import Simulator

__all__ = ["ItemApi"]

_TABLE_ACTIONS = {"CreateTable", "UpdateTable", "DeleteTable", "DescribeTable", "ListTables"}
_POINT_ACTIONS = {"PutItem", "UpdateItem", "DeleteItem", "GetItem"}
_VIEW_TYPES = ("KEYS_ONLY", "NEW_IMAGE", "OLD_IMAGE", "NEW_AND_OLD_IMAGES")
_NOT_SIMULATED = ("Backup", "Restore", "Import", "Kinesis", "GlobalTable")
_MAX_TRACKED = 10_000


class _Touched:
    """Stands where moto expects a table's stream, and notes the keys that are written."""

    def __init__(self, table: SimTable, touched: list[tuple[SimTable, Image]]) -> None:
        self._table = table
        self._touched = touched

    def add(self, old: Item | None, new: Item | None) -> None:
        """Called by moto at every write."""
        item: Any = old if old is not None else new
        keys = {self._table.key_schema[0][0]: item.hash_key}
        if len(self._table.key_schema) == 2:
            keys[self._table.key_schema[1][0]] = item.range_key
        self._touched.append((self._table, image(attributes_of(keys))))


class _MotoTable(Table):
    """A table that moto's transactions do not copy: putting back is our own affair."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _MotoTable:
        return self


class ItemApi:
    """DynamoDB without its streams and exports.

    Args:
        simulator: Whose tables these are; its lock is taken here.
    """

    def __init__(self, simulator: Simulator) -> None:
        self._sim = simulator
        self._backend = DynamoDBBackend(simulator.region, simulator.account_id)
        self._touched: list[tuple[SimTable, Image]] = []
        backend = self._backend

        class OwnHandler(DynamoHandler):
            @property
            def dynamodb_backend(self) -> DynamoDBBackend:
                return backend

        self._handler = OwnHandler
        self._table_actions: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "CreateTable": self._create_table,
            "UpdateTable": self._update_table,
            "DeleteTable": self._delete_table,
            "DescribeTable": self._describe_table,
            "ListTables": self._list_tables,
        }

    def handle(self, action: str, body: dict[str, Any]) -> tuple[int, bytes]:
        """Answer one call.

        Args:
            action: The operation's name.
            body: The request's JSON object; changed on the way.

        Returns:
            HTTP status and the JSON text of the answer.

        Raises:
            ApiError: The call is refused by us rather than by moto.
        """
        if any(word in action for word in _NOT_SIMULATED):
            raise ApiError("UnknownOperationException", f"{action} is not simulated")
        with self._sim.lock:
            if action in _TABLE_ACTIONS:
                return 200, json.dumps(self._table_actions[action](body)).encode()
            normalise_request(body)
            if action == "UpdateItem" and not body.keys() & {
                "UpdateExpression",
                "AttributeUpdates",
            }:
                body["AttributeUpdates"] = {}
            self._show_to_moto(action, body)
            self._touched.clear()
            with decimal.localcontext() as context:
                context.prec = 38
                status, answer = self._ask_moto(action, body)
            try:
                self._settle(keep=status == 200)
            except ApiError:
                self._put_back()
                raise
            if action == "UpdateItem" and status == 200:
                answer = _with_plain_numbers(answer)
            return status, answer

    def forget_spares(self) -> None:
        """Drop moto's list of all items ever made, which nobody reads and which would grow."""
        if len(Item.instances_tracked) > _MAX_TRACKED:
            Item.instances_tracked.clear()

    # Items.

    def _ask_moto(self, action: str, body: dict[str, Any]) -> tuple[int, bytes]:
        request = Request.from_primitives(
            "POST",
            f"http://dynamodb.{self._sim.region}.amazonaws.com/",
            {
                "X-Amz-Target": f"DynamoDB_20120810.{action}",
                "Content-Type": "application/x-amz-json-1.0",
                "x-moto-account-id": self._sim.account_id,
            },
            json.dumps(body).encode(),
        )
        try:
            status, _, answer = self._handler()._dispatch(request)
        except BaseException:
            self._settle(keep=False)
            raise
        self.forget_spares()
        return status, answer.encode() if isinstance(answer, str) else answer

    def _settle(self, *, keep: bool) -> None:
        """Turn what moto wrote into changes, or take it back."""
        if not keep:
            self._put_back()
            return
        found = [(table, key, self._moto_image(table, key)) for table, key in self._unique()]
        for _, _, new in found:
            check_size(new)  # all before any, so that a request is atomic
        for table, key, new in found:
            table.apply(key, new, self._sim.faults)
            self._write_to_moto(table, key.json)

    def _unique(self) -> Iterator[tuple[SimTable, Image]]:
        seen = set()
        for table, key in self._touched:
            if (table.name, key.json) not in seen:
                seen.add((table.name, key.json))
                yield table, key

    def _put_back(self) -> None:
        for table, key in self._unique():
            self._write_to_moto(table, key.json)

    def _show_to_moto(self, action: str, body: dict[str, Any]) -> None:
        """Let moto see what the bulk path wrote, as far as this request can ask for it."""
        waiting = [table for table in self._sim.live_tables() if table.pending]
        for table in waiting:
            if action in _POINT_ACTIONS and body.get("TableName") in (table.name, table.arn):
                try:
                    key = table.key_of(body.get("Key") or body.get("Item") or {}).json
                except ApiError:
                    continue  # moto refuses the request itself, with its own words
                if key in table.pending:
                    table.pending.discard(key)
                    self._write_to_moto(table, key)
            elif action not in _POINT_ACTIONS:
                for key in table.pending:
                    self._write_to_moto(table, key)
                table.pending.clear()

    def _moto_image(self, table: SimTable, key: Image) -> Image | None:
        hash_key, range_key = self._moto_key(table, key.json)
        item = self._backend.tables[table.name].get_item(hash_key, range_key)
        return None if item is None else image(attributes_of(item.attrs))

    def _write_to_moto(self, table: SimTable, key: bytes) -> None:
        items = self._backend.tables[table.name].items
        hash_key, range_key = self._moto_key(table, key)
        current = table.current.get(key)
        if current is None:
            place = items if range_key is None else items.get(hash_key, {})
            place.pop(hash_key if range_key is None else range_key, None)
        elif range_key is None:
            items[hash_key] = moto_item(hash_key, None, parse_image(current.json))
        else:
            items[hash_key][range_key] = moto_item(hash_key, range_key, parse_image(current.json))

    def _moto_key(self, table: SimTable, key: bytes) -> tuple[DynamoType, DynamoType | None]:
        keys = moto_item(None, None, parse_image(key)).attrs
        hash_name, *range_name = (name for name, _ in table.key_schema)
        return keys[hash_name], keys[range_name[0]] if range_name else None

    # Tables.

    def _create_table(self, body: dict[str, Any]) -> dict[str, Any]:
        wanted = body.pop("StreamSpecification", None)
        if wanted is not None:
            _check_view_type(wanted)
        described = self._table_call("CreateTable", body)["TableDescription"]
        name = described["TableName"]
        types = {a["AttributeName"]: a["AttributeType"] for a in described["AttributeDefinitions"]}
        order = sorted(described["KeySchema"], key=lambda key: key["KeyType"])
        table = self._sim.add_table(
            name, [(key["AttributeName"], types[key["AttributeName"]]) for key in order]
        )
        moto_table = self._backend.tables[name]
        moto_table.__class__ = _MotoTable
        moto_table.stream_shard = _Touched(table, self._touched)
        if wanted is not None and wanted.get("StreamEnabled"):
            self._enable(table, wanted["StreamViewType"])
        return {"TableDescription": self._described(table, described)}

    def _update_table(self, body: dict[str, Any]) -> dict[str, Any]:
        table = self._sim.table(body.get("TableName", ""))
        wanted = body.pop("StreamSpecification", None)
        if wanted is not None:
            self._switch_stream(table, wanted)
        described = self._table_call("UpdateTable", {**body, "TableName": table.name})
        return {"TableDescription": self._described(table, described["TableDescription"])}

    def _switch_stream(self, table: SimTable, wanted: dict[str, Any]) -> None:
        _check_view_type(wanted)
        if table.updating_asks:
            raise ApiError(
                "ResourceInUseException",
                "Attempt to change a resource which is still in use: Table is being updated:"
                f" {table.name}",
            )
        stream = table.stream
        if wanted.get("StreamEnabled"):
            if stream is not None:
                raise ApiError(
                    "ValidationException",
                    f"Table already has an enabled stream: TableName: {table.name}",
                )
            self._enable(table, wanted["StreamViewType"])
        elif stream is None:
            raise ApiError(
                "ValidationException",
                f"Table already has a disabled stream: TableName: {table.name}",
            )
        else:
            stream.disable()
        table.updating_asks = self._sim.faults.updating_asks

    def _delete_table(self, body: dict[str, Any]) -> dict[str, Any]:
        table = self._sim.table(body.get("TableName", ""))
        described = self._table_call("DeleteTable", {**body, "TableName": table.name})
        if table.stream is not None:
            table.stream.disable()
        self._sim.remove_table(table)
        answer = self._described(table, described["TableDescription"])
        return {"TableDescription": {**answer, "TableStatus": "DELETING"}}

    def _describe_table(self, body: dict[str, Any]) -> dict[str, Any]:
        table = self._sim.table(body.get("TableName", ""))
        described = self._table_call("DescribeTable", {**body, "TableName": table.name})
        answer = self._described(table, described["Table"])
        if table.updating_asks:
            table.updating_asks -= 1
            answer["TableStatus"] = "UPDATING"
        return {"Table": answer}

    def _list_tables(self, body: dict[str, Any]) -> dict[str, Any]:
        limit = body.get("Limit", 100)
        if not 1 <= limit <= 100:
            raise ApiError("ValidationException", f"Limit must be 1 to 100, found {limit}")
        after = body.get("ExclusiveStartTableName", "")
        names = sorted(t.name for t in self._sim.live_tables() if t.name > after)
        answer: dict[str, Any] = {"TableNames": names[:limit]}
        if len(names) > limit:
            answer["LastEvaluatedTableName"] = names[limit - 1]
        return answer

    def _table_call(self, action: str, body: dict[str, Any]) -> dict[str, Any]:
        status, answer = self._ask_moto(action, body)
        parsed: dict[str, Any] = json.loads(answer)
        if status != 200:
            code = parsed["__type"].rsplit("#", 1)[-1]
            raise ApiError(code, parsed.get("message", parsed.get("Message", "")), status)
        return parsed

    def _enable(self, table: SimTable, view_type: str) -> None:
        sim = self._sim
        taken = {stream.label for stream in sim.streams_named(table.name)}
        sim.add_stream(
            table,
            Stream(
                table.name,
                table.arn,
                stream_label(sim.clock, taken),
                view_type,
                table.describe_keys(),
                shards=sim.initial_shards,
                clock=sim.clock,
                rng=sim.random,
                dice=sim.dice,
                faults=sim.faults,
            ),
        )

    def _described(self, table: SimTable, described: dict[str, Any]) -> dict[str, Any]:
        answer = {
            **described,
            "TableId": table.table_id,
            "ItemCount": len(table.current),
            "TableSizeBytes": sum(item.size for item in table.current.values()),
            "CreationDateTime": micros_of(table.created_at) / 1_000_000,
        }
        for empty in ("GlobalSecondaryIndexes", "LocalSecondaryIndexes"):
            if not answer.get(empty):
                answer.pop(empty, None)
        if table.stream is not None:
            answer["StreamSpecification"] = {
                "StreamEnabled": True,
                "StreamViewType": table.stream.view_type,
            }
        if table.streams:
            # A disabled stream stays the latest one.
            answer["LatestStreamLabel"] = table.streams[-1].label
            answer["LatestStreamArn"] = table.streams[-1].arn
        return answer


def _check_view_type(wanted: dict[str, Any]) -> None:
    view_type = wanted.get("StreamViewType")
    if wanted.get("StreamEnabled"):
        if view_type not in _VIEW_TYPES:
            raise ApiError(
                "ValidationException",
                "One or more parameter values were invalid: StreamViewType must be one of"
                f" {', '.join(_VIEW_TYPES)}, found {view_type}",
            )
    elif view_type is not None:
        raise ApiError(
            "ValidationException",
            "One or more parameter values were invalid: StreamViewType may only be given when"
            " StreamEnabled is true",
        )


def _with_plain_numbers(answer: bytes) -> bytes:
    parsed = json.loads(answer)
    normalise_request(parsed)
    return json.dumps(parsed).encode()
