# SPDX-License-Identifier: Apache-2.0
"""A random workload: two tables of the simulator that change while they are replicated."""

import itertools
import random
import threading

TABLES = {"people": "id:S", "orders": "customer:S,order:N"}
_SERVICE = "DynamoDB_20120810"

_VALUES = [
    {"S": ""},
    {"S": 'quote" back\\ line\n\x00 \u2028 😀'},
    {"N": "0"},
    {"N": "12345678901234567890123456789012345678"},
    {"N": "1E-130"},
    {"B": "AAEC/w=="},
    {"BOOL": True},
    {"NULL": True},
    {"SS": ["b", "a"]},
    {"NS": ["1", "2.5"]},
    {"BS": ["AA=="]},
    {"L": [{"N": "1"}, {"L": []}, {"M": {}}]},
    {"M": {"a.b": {"S": "x"}, "SS": {"SS": ["z"]}}},
]


_MANY_STEPS, _SLOW_PACE = 400, 0.1
_ON = {"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"}


def make_table(sim, name):
    """Makes a table with a stream and point-in-time recovery."""
    sim.create_table(name, TABLES[name])
    recovery = {"PointInTimeRecoveryEnabled": True}
    body = {"TableName": name, "PointInTimeRecoverySpecification": recovery}
    # Without HTTP, as the faults that are for the replication are none of the workload's.
    sim.call(_SERVICE, "UpdateContinuousBackups", body)


class Workload:
    """Writes into a simulator what the seed says, by hand or on a thread.

    What it does to streams and tables goes on beside the thread.

    Args:
        sim: The simulator, with the tables made.
        seed: Decides all writes and their order, though not their times.
    """

    def __init__(self, sim, seed):
        self._sim = sim
        self._random = random.Random(f"workload {seed}")
        self._keys = self._random.randint(20, 70)
        self._pace = self._random.choice([0.005, 0.02, 0.08])
        self._lock = threading.RLock()
        self._stopped = threading.Event()
        self._failures = []
        self._thread = threading.Thread(target=self._run)

    def load(self):
        """The items that are there before anybody reads."""
        for name in TABLES:
            self._fill(name)

    def step(self):
        """One small random thing."""
        with self._lock:
            self._step()

    def switch_stream(self, name, writes):
        """Switches a table's stream off, does so many small things, and switches it on.

        Returns:
            The keys that were written in between.
        """
        table = self._sim.table(name)
        with self._lock:
            self._update(name, {"StreamEnabled": False})
            since = len(table.history)
        for _ in range(writes):
            self.step()
        with self._lock:
            self._update(name, _ON)
            return [change.keys for change in table.history[since:]]

    def make_again(self, name, writes):
        """Deletes a table, does so many small things, and makes another one of its name."""
        with self._lock:
            self._sim.call(_SERVICE, "DeleteTable", {"TableName": name})
        for _ in range(writes):
            self.step()
        with self._lock:
            make_table(self._sim, name)
            self._fill(name)
            self._step()

    def _update(self, name, stream):
        body = {"TableName": name, "StreamSpecification": stream}
        self._sim.call(_SERVICE, "UpdateTable", body)

    def _fill(self, name):
        numbers = range(self._keys) if self._random.random() < 0.5 else range(0, self._keys, 3)
        self._sim.put_many(name, [self._item(name, number) for number in numbers])

    def _step(self):
        rng, sim = self._random, self._sim
        name = rng.choice(list(TABLES))
        if not sim.has_table(name):
            return
        numbers = [rng.randrange(self._keys) for _ in range(rng.randint(1, 8))]
        what = rng.choices(
            ["put", "delete", "expire", "roll", "split"], weights=[60, 25, 10, 3, 3]
        )[0]
        if what == "put":
            sim.put_many(name, [self._item(name, number) for number in numbers])
        elif what == "delete":
            sim.delete_many(name, [self._key(name, number) for number in numbers])
        elif what == "expire":
            sim.expire(name, self._key(name, numbers[0]))
        elif sim.table(name).stream is None:
            pass  # it is off, and has no shards to roll
        elif what == "roll":
            sim.roll(name)
        elif len(sim.table(name).stream.open_shards()) < 8:
            sim.split(name, rng.randint(1, 3))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, kind, error, trace):
        self._stopped.set()
        self._thread.join()
        if self._failures and error is None:
            raise self._failures[0]

    def _run(self):
        try:
            for done in itertools.count():
                # Slower after a while: else there is the more to read the slower the machine is.
                if self._stopped.wait(self._pace if done < _MANY_STEPS else _SLOW_PACE):
                    break
                self.step()
        except Exception as problem:  # noqa: BLE001 - raised again where the test waits for the thread
            self._failures.append(problem)

    def _key(self, name, number):
        if name == "people":
            return {"id": {"S": f"p-{number} é"}}
        text = self._random.choice([f"{number}", f"{number}.0", f"{number}e0"])
        return {"customer": {"S": f"c{number % 5}"}, "order": {"N": text}}

    def _item(self, name, number):
        rng = self._random
        drawn = {f"a{rng.randrange(6)}": rng.choice(_VALUES) for _ in range(rng.randint(0, 4))}
        return {**self._key(name, number), **drawn, "stamp": {"N": str(rng.randrange(10**9))}}
