# SPDX-License-Identifier: Apache-2.0
"""A simulator in another process, controlled over HTTP."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from dynabeam.transforms.testing.admin import ADMIN_PREFIX
from dynabeam.transforms.testing.faults import Faults
from dynabeam.transforms.testing.iam import Permission

__all__ = ["RemoteSimulator"]


class RemoteSimulator:
    """The methods of `Simulator` that make sense from outside, under the same names.

    Each call opens its own connection, so it is safe to use from several threads. Items are
    DynamoDB JSON with binaries in base64.

    Args:
        endpoint_url: As `python -m dynabeam.testing` prints it.
        timeout: Seconds to wait for an answer.
    """

    def __init__(self, endpoint_url: str, *, timeout: float = 60.0) -> None:
        self.endpoint_url = endpoint_url
        place = urlsplit(endpoint_url)
        self._host, self._port = place.hostname or "127.0.0.1", place.port
        self._timeout = timeout

    def create_table(
        self,
        name: str,
        key: str = "id:S",
        *,
        stream: str | None = "NEW_AND_OLD_IMAGES",
        tags: Mapping[str, str] | None = None,
    ) -> str:
        """See `Simulator.create_table`."""
        named = None if tags is None else dict(tags)
        return str(self._call("create_table", name=name, key=key, stream=stream, tags=named))

    def create_bucket(self, bucket: str) -> None:
        """See `Simulator.create_bucket`."""
        self._call("create_bucket", bucket=bucket)

    def put_many(self, table: str, items: Iterable[Mapping[str, Any]]) -> int:
        """See `Simulator.put_many`."""
        return int(self._call("put_many", table=table, items=list(items)))

    def delete_many(self, table: str, keys: Iterable[Mapping[str, Any]]) -> int:
        """See `Simulator.delete_many`."""
        return int(self._call("delete_many", table=table, keys=list(keys)))

    def expire(self, table: str, key: Mapping[str, Any]) -> bool:
        """See `Simulator.expire`."""
        return bool(self._call("expire", table=table, key=key))

    def roll(self, table: str) -> list[str]:
        """See `Simulator.roll`."""
        return list(self._call("roll", table=table))

    def split(self, table: str, n: int, shard_id: str | None = None) -> list[str]:
        """See `Simulator.split`."""
        return list(self._call("split", table=table, n=n, shard_id=shard_id))

    def trim(self, table: str, *, before: datetime) -> None:
        """See `Simulator.trim`."""
        self._call("trim", table=table, before=before.isoformat())

    def items(self, table: str) -> list[dict[str, Any]]:
        """See `Simulator.items`."""
        return list(self._call("items", table=table))

    def records(self, table: str) -> list[dict[str, Any]]:
        """See `Simulator.records`."""
        return list(self._call("records", table=table))

    def set_policies(self, access_key: str, policies: Sequence[Mapping[str, Any]] | None) -> None:
        """See `Simulator.set_policies`."""
        given = None if policies is None else list(policies)
        self._call("set_policies", access_key=access_key, policies=given)

    def used_permissions(self, access_key: str) -> list[Permission]:
        """See `Simulator.used_permissions`."""
        return [
            Permission(action, resource, tuple((key, value) for key, value in context))
            for action, resource, context in self._call("used_permissions", access_key=access_key)
        ]

    def stats(self) -> dict[str, Any]:
        """`Stats.to_json` of the simulator."""
        return dict(self._call("stats"))

    def now(self) -> datetime:
        """The simulated time, UTC."""
        return datetime.fromisoformat(self._call("now"))

    def advance(self, by: timedelta) -> datetime:
        """Let simulated time pass, and return the new time."""
        return datetime.fromisoformat(self._call("advance", seconds=by.total_seconds()))

    def set_scale(self, scale: float) -> None:
        """Simulated seconds per real second; 0 stops the clock."""
        self._call("set_scale", scale=scale)

    @property
    def faults(self) -> Faults:
        """What goes wrong; assign to change it."""
        return Faults.from_json(self._call("faults"))

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._call("set_faults", **faults.to_json())

    def _call(self, method: str, **arguments: Any) -> Any:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)
        try:
            connection.request(
                "POST",
                ADMIN_PREFIX + method,
                json.dumps(arguments),
                {"Content-Type": "application/json"},
            )
            response = connection.getresponse()
            answer = json.loads(response.read())
        finally:
            connection.close()
        if response.status != http.client.OK:
            raise ValueError(f"{method}: {answer['error']}: {answer['message']}")
        return answer["result"]
