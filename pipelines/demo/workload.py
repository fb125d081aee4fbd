# SPDX-License-Identifier: Apache-2.0
"""What the demo replicates: three tables of a simulated account, and a workload that changes them.

Promise: the same seed makes the same items and requests the same kinds of changes; how many changes
fit into the time is up to the machine. Changes go through the simulator, so each of them has its
stream record, and `Counts` says how many of each kind there were.
"""

from __future__ import annotations

import base64
import dataclasses
import random
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from dynabeam.transforms.testing.simulator import Simulator

__all__ = ["AGE", "BUCKET", "TABLES", "ChangingTable", "Counts", "Item", "Workload", "make_tables"]

Item = dict[str, Any]
"""An item or a key as DynamoDB JSON."""

TABLES = {"orders": "customer:S,number:N", "all_types": "id:S", "devices": "serial:B"}
"""Table name to key, in the simulator's notation."""
BUCKET = "demo-exports"
AGE = timedelta(minutes=10)
"""How far in the past the tables and their streams are made."""

_SIZES = {"orders": 1000, "all_types": 500, "devices": 500}
_BEFORE = 200
"""Changes per table between the streams' start and the first run: a backlog to catch up with."""
_BATCH = 20
_PAUSE = 0.02
_BIG = "12345678901234567890123456789012345678"
_NUMBERS = (_BIG, f"-0.{_BIG}", "9.9999999999999999999999999999999999999E+125", "1E-130", "0", "-7")


@dataclasses.dataclass
class Counts:
    """What was done to one table.

    Attributes:
        start: Items when the first run of the replication began.
        inserts: Items that were put under a new key.
        updates: Items that were put over another.
        deletes: Items that were deleted by a call.
        expired: Items that time to live deleted.
        rolls: How often all open shards were closed, with one child each.
        splits: How often a shard was closed with two children.
    """

    start: int = 0
    inserts: int = 0
    updates: int = 0
    deletes: int = 0
    expired: int = 0
    rolls: int = 0
    splits: int = 0


def make_tables(sim: Simulator, rng: random.Random) -> dict[str, ChangingTable]:
    """Makes and fills the tables, lets `AGE` pass, and returns what there is of each.

    The simulator's clock must be `AGE` in the past: a snapshot waits until its stream has been
    there for a while, and a demo must not. Most items are older than their stream, so that only an
    export holds them.

    Args:
        sim: A simulator without tables.
        rng: Decides keys, items and changes.
    """
    sim.create_bucket(BUCKET)
    client = sim.client("dynamodb")
    made = {}
    for name, key in TABLES.items():
        sim.create_table(name, key, stream=None)
        table = ChangingTable(sim, name, rng)
        table.insert(_SIZES[name])
        client.update_table(
            TableName=name,
            StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"},
        )
        client.update_continuous_backups(
            TableName=name,
            PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": True},
        )
        made[name] = table
    sim.clock.advance(AGE / 2)
    for table in made.values():
        for _ in range(_BEFORE // _BATCH):
            table.change()
    sim.clock.advance(AGE / 2)
    for table in made.values():
        table.counts = Counts(start=len(table.keys))
    return made


class ChangingTable:
    """One table as the workload sees it; used by one thread at a time.

    Attributes:
        counts: What was done so far.
        keys: The keys of the items that are there.
    """

    def __init__(self, sim: Simulator, name: str, rng: random.Random) -> None:
        self._sim = sim
        self._name = name
        self._rng = rng
        self._made = 0
        self.counts = Counts()
        self.keys: list[Item] = []

    def change(self) -> None:
        """Does a small mixture of everything."""
        self.insert(self._rng.randint(_BATCH // 4, _BATCH // 2))
        self.update(_BATCH // 2)
        self.delete(self._rng.randint(1, _BATCH // 4))
        self.expire(self._rng.randint(0, 2))

    def insert(self, count: int) -> None:
        """Puts items under new keys."""
        keys = [self._new_key() for _ in range(count)]
        self.counts.inserts += self._sim.put_many(self._name, map(self._item, keys))
        self.keys += keys

    def update(self, count: int) -> None:
        """Puts other items under keys that are there; some keys several times in a row."""
        keys = self._rng.choices(self.keys, k=count)
        self.counts.updates += self._sim.put_many(self._name, map(self._item, keys))

    def delete(self, count: int) -> None:
        """Deletes items; every other one comes back under the same key."""
        gone = [self._take() for _ in range(count)]
        self.counts.deletes += self._sim.delete_many(self._name, gone)
        back = gone[::2]
        self.counts.inserts += self._sim.put_many(self._name, map(self._item, back))
        self.keys += back

    def expire(self, count: int) -> None:
        """Deletes items as time to live does."""
        for _ in range(count):
            self.counts.expired += self._sim.expire(self._name, self._take())

    def roll(self) -> None:
        """Replaces each open shard by one child."""
        self.counts.rolls += bool(self._sim.roll(self._name))

    def split(self) -> None:
        """Replaces the busiest shard by two children."""
        self.counts.splits += bool(self._sim.split(self._name, 2))

    def _take(self) -> Item:
        at = self._rng.randrange(len(self.keys))
        self.keys[at], self.keys[-1] = self.keys[-1], self.keys[at]
        return self.keys.pop()

    def _new_key(self) -> Item:
        self._made += 1
        if self._name == "orders":
            customer = f"customer {self._rng.randrange(50):02}"
            return {"customer": {"S": customer}, "number": {"N": str(self._made)}}
        if self._name == "devices":
            return {"serial": {"B": _base64(b"\x00\xff" + self._made.to_bytes(4, "big"))}}
        return {"id": {"S": f"é\U0001f600 {self._made}"}}

    def _item(self, key: Item) -> Item:
        return key | _ATTRIBUTES[self._name](self._rng)


class Workload(threading.Thread):
    """Changes the tables until it is stopped, with shards that are rolled and split meanwhile.

    Args:
        tables: The tables; nobody else may use them before `finish` has returned.
        seconds: How long, at most.
    """

    def __init__(self, tables: dict[str, ChangingTable], seconds: float) -> None:
        super().__init__(name="demo workload", daemon=True)
        self._tables = list(tables.values())
        self._seconds = seconds
        self._failed: BaseException | None = None
        self._halt = threading.Event()

    def run(self) -> None:
        """The thread's work: at least one change of each table before and after each new shard."""
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - raised again by finish()
            self._failed = error

    def finish(self) -> None:
        """Waits for the last change.

        Raises:
            RuntimeError: The workload failed; its cause says why.
        """
        self.join()
        if self._failed is not None:
            raise RuntimeError("The demo's workload failed; see the cause") from self._failed

    def halt(self) -> None:
        """Stops early."""
        self._halt.set()

    def _work(self) -> None:
        began = time.monotonic()
        steps: list[Callable[[ChangingTable], None]] = [
            ChangingTable.roll,
            ChangingTable.split,
            ChangingTable.roll,
        ]
        for done, step in enumerate(steps, 1):
            self._change_until(began + self._seconds * done / (len(steps) + 1))
            for table in self._tables:
                step(table)
        self._change_until(began + self._seconds)

    def _change_until(self, moment: float) -> None:
        while True:
            for table in self._tables:
                table.change()
            if time.monotonic() >= moment or self._halt.wait(_PAUSE):
                return


def _order(rng: random.Random) -> Item:
    item = {
        "state": {"S": rng.choice(("new", "paid", "sent", "returned"))},
        "total": {"N": f"{rng.randrange(1, 100_000)}.{rng.randrange(100):02}"},
        "paid": {"BOOL": rng.random() < 0.5},
        "lines": {
            "L": [
                {"M": {"article": {"S": f"article {rng.randrange(99)}"}, "count": _number(rng)}}
                for _ in range(rng.randrange(4))
            ]
        },
    }
    if rng.random() < 0.3:
        item["note"] = {"S": "quotes \" and 'lines'\n, tabs\t, nothing:  \u0000 and 木"}
    return item


def _everything(rng: random.Random) -> Item:
    item = {
        "text": {"S": rng.choice(("", "plain", "ünïcode 木 \U0001f680"))},
        "number": {"N": rng.choice(_NUMBERS)},
        "bytes": {"B": _base64(rng.randbytes(rng.randrange(20)))},
        "truth": {"BOOL": rng.random() < 0.5},
        "nothing": {"NULL": True},
        "texts": {"SS": sorted({f"s{rng.randrange(9)}" for _ in range(3)} | {""})},
        "numbers": {"NS": sorted(rng.sample(_NUMBERS, 3))},
        "binaries": {"BS": [_base64(each) for each in (b"\x00", b"\xff\xfe", rng.randbytes(5))]},
        "list": {"L": [{"L": []}, {"N": rng.choice(_NUMBERS)}, {"NULL": True}, {"S": ""}]},
        "map": {
            "M": {"": {"M": {}}, "deep": {"M": {"er": {"L": [{"BOOL": False}, _number(rng)]}}}}
        },
        "of any type": rng.choice(
            ({"S": "12"}, {"N": "12"}, {"BOOL": True}, {"B": _base64(b"12")}, {"NULL": True})
        ),
    }
    kept = rng.sample(sorted(item), rng.randrange(len(item) // 2, len(item) + 1))
    return {name: item[name] for name in sorted(kept)}


def _device(rng: random.Random) -> Item:
    item: Item = {
        "reading": {"N": f"{rng.randrange(-9999, 9999)}E-{rng.randrange(1, 9)}"},
        "firmware": {"B": _base64(rng.randbytes(32))},
        "tags": {"SS": sorted({f"tag{rng.randrange(20)}" for _ in range(4)})},
    }
    if rng.random() < 0.5:
        item["expires"] = {"N": str(1_900_000_000 + rng.randrange(1_000_000))}
    return item


def _number(rng: random.Random) -> Item:
    return {"N": str(rng.randrange(1, 10))}


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


_ATTRIBUTES: dict[str, Callable[[random.Random], Item]] = {
    "orders": _order,
    "all_types": _everything,
    "devices": _device,
}
