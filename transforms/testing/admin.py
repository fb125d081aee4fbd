# SPDX-License-Identifier: Apache-2.0
"""The admin route: how a test in another process controls the simulator.

`POST /_simulator/<method>` with a JSON object of arguments; the answer is `{"result": ...}`, or
status 400 with `{"error": ..., "message": ...}`. Times are ISO 8601 with a zone, durations seconds,
items DynamoDB JSON. `RemoteSimulator` speaks it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from dynabeam.transforms.testing.faults import Faults

if TYPE_CHECKING:
    from dynabeam.transforms.testing.simulator import Simulator

__all__ = ["ADMIN_PREFIX", "admin"]

ADMIN_PREFIX = "/_simulator/"


def admin(simulator: Simulator, method: str, arguments: dict[str, Any]) -> Any:
    """Carry out one admin call.

    Args:
        simulator: The simulator.
        method: Name of the call.
        arguments: Its arguments.

    Returns:
        What goes into `result`.

    Raises:
        KeyError: There is no such call, or an argument is missing.
        ApiError: As the simulator's method raises it.
    """
    return _CALLS[method](simulator, arguments)


def _now(sim: Simulator, _: dict[str, Any]) -> str:
    return sim.clock.now().isoformat()


def _advance(sim: Simulator, given: dict[str, Any]) -> str:
    return sim.clock.advance(timedelta(seconds=given["seconds"])).isoformat()


def _set_scale(sim: Simulator, given: dict[str, Any]) -> str:
    sim.clock.scale = float(given["scale"])
    return sim.clock.now().isoformat()


def _faults(sim: Simulator, _: dict[str, Any]) -> dict[str, Any]:
    return sim.faults.to_json()


def _set_faults(sim: Simulator, given: dict[str, Any]) -> dict[str, Any]:
    sim.faults = Faults.from_json(given)
    return sim.faults.to_json()


def _trim(sim: Simulator, given: dict[str, Any]) -> None:
    sim.trim(given["table"], before=datetime.fromisoformat(given["before"]))


_CALLS: dict[str, Callable[[Simulator, dict[str, Any]], Any]] = {
    "now": _now,
    "advance": _advance,
    "set_scale": _set_scale,
    "faults": _faults,
    "set_faults": _set_faults,
    "trim": _trim,
    "create_table": lambda sim, given: sim.create_table(**given),
    "create_bucket": lambda sim, given: sim.create_bucket(given["bucket"]),
    "put_many": lambda sim, given: sim.put_many(given["table"], given["items"]),
    "delete_many": lambda sim, given: sim.delete_many(given["table"], given["keys"]),
    "expire": lambda sim, given: sim.expire(given["table"], given["key"]),
    "roll": lambda sim, given: sim.roll(given["table"]),
    "split": lambda sim, given: sim.split(given["table"], given["n"], given.get("shard_id")),
    "items": lambda sim, given: sim.items(given["table"]),
    "records": lambda sim, given: sim.records(given["table"]),
    "set_policies": lambda sim, given: sim.set_policies(given["access_key"], given["policies"]),
    "used_permissions": lambda sim, given: [
        [permission.action, permission.resource, permission.context]
        for permission in sim.used_permissions(given["access_key"])
    ],
    "stats": lambda sim, _: sim.stats.to_json(),
}
