# SPDX-License-Identifier: Apache-2.0
"""A steady workload on simulated tables: so many changes a second, with rollovers and splits."""

from __future__ import annotations

import base64
import itertools
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from dynabeam.transforms.testing.remote import RemoteSimulator

__all__ = ["KEYS", "SteadyWork", "key_of"]

KEYS = ("id:S", "customer:S,order:N", "id:B")
"""Key schemas that tables take in turn."""

_BATCHES = 10
_AT_ONCE = 3
"""Tables are written to in turns, so that the writer's own work depends on the rate alone."""
_KEPT = 400
_VALUES: Sequence[dict[str, Any]] = (
    {"S": ""},
    {"S": 'quote" line\n\x00 😀'},
    {"N": "12345678901234567890123456789012345678"},
    {"N": "-0.5"},
    {"B": "AAEC/w=="},
    {"BOOL": True},
    {"NULL": True},
    {"SS": ["b", "a"]},
    {"L": [{"N": "1"}, {"M": {}}]},
    {"M": {"a.b": {"S": "x"}}},
)


def key_of(schema: str, number: int) -> dict[str, Any]:
    """The key of an item of a table with one of `KEYS`."""
    if schema == "id:S":
        return {"id": {"S": f"p{number}"}}
    if schema == "id:B":
        return {"id": {"B": base64.b64encode(number.to_bytes(4, "big")).decode()}}
    return {"customer": {"S": f"c{number % 7}"}, "order": {"N": str(number)}}


class SteadyWork:
    """Writes on a thread of its own until it is left.

    Args:
        sim: The simulator.
        tables: Table → its key schema.
        rate: Changes a second over all tables.
        roll_every: Seconds between two rollovers of every table's shards; 0 for none.
        splits: Rollovers in the beginning that are splits in two instead.
        on_roll: Told of each rollover.
    """

    def __init__(
        self,
        sim: RemoteSimulator,
        tables: dict[str, str],
        *,
        rate: float,
        roll_every: float = 0.0,
        splits: int = 0,
        on_roll: Callable[[], None] = lambda: None,
    ) -> None:
        self._sim = sim
        self._tables = tables
        self._rate = rate
        self._roll_every = roll_every
        self._splits = splits
        self._on_roll = on_roll
        self._random = random.Random("steady work")
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="steady-work", daemon=True)
        self._failure: BaseException | None = None
        self.written = 0
        self.seconds = 0.0

    def __enter__(self) -> SteadyWork:
        self._thread.start()
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._stopped.set()
        self._thread.join()
        if self._failure is not None and error is None:
            raise self._failure

    def _run(self) -> None:
        began = time.monotonic()
        rolled = began
        turns = itertools.cycle(self._tables.items())
        at_once = min(_AT_ONCE, len(self._tables))
        try:
            while not self._stopped.is_set():
                for name, schema in itertools.islice(turns, at_once):
                    self._write(name, schema, self._rate / at_once / _BATCHES)
                if self._roll_every and time.monotonic() - rolled >= self._roll_every:
                    rolled = time.monotonic()
                    self._roll()
                # By the time that should have passed, so that a slow call is made up for.
                due = began + self.written / self._rate
                self._stopped.wait(max(0.0, due - time.monotonic()))
        except BaseException as failure:  # noqa: BLE001 - raised again where it is left
            self._failure = failure
        self.seconds = time.monotonic() - began

    def _write(self, name: str, schema: str, count: float) -> None:
        rng = self._random
        whole = int(count) + (rng.random() < count % 1)
        numbers = rng.sample(range(_KEPT), min(_KEPT, whole))
        deleted = [key_of(schema, number) for number in numbers if number % 20 == 0]
        items = [
            {
                **key_of(schema, number),
                f"a{rng.randrange(8)}": rng.choice(_VALUES),
                "stamp": {"N": str(rng.randrange(10**12))},
            }
            for number in numbers
        ]
        self._sim.put_many(name, items)
        if deleted and rng.random() < 0.5:
            self._sim.delete_many(name, deleted)
        self.written += whole

    def _roll(self) -> None:
        for name in self._tables:
            if self._splits > 0:
                self._sim.split(name, 2)
            else:
                self._sim.roll(name)
        self._splits -= 1
        self._on_roll()
