# SPDX-License-Identifier: Apache-2.0
"""How long a change takes from the table to the mirror: probes, sent and looked for."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Sequence

import psycopg

from tests.runners.continuous_world import ContinuousWorld

__all__ = ["Probes", "distribution"]

_SEND_EVERY = 0.1
_POLL_EVERY = 0.02


class Probes:
    """Sends ten probes a second into a table whose key is `id:S` until it is left.

    A probe is visible when a SELECT on the mirror's view shows it. The look itself, every 20 ms, is
    part of the figure.

    Args:
        world: Where.
        table: The table.
    """

    def __init__(self, world: ContinuousWorld, table: str = "table0") -> None:
        self._world = world
        self._table = table
        self._sent: dict[int, float] = {}
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=each, daemon=True) for each in (self._send, self._look)
        ]
        self.latencies: list[tuple[float, float]] = []
        """Time of sending (monotonic) and seconds until it was visible."""

    def __enter__(self) -> Probes:
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for each in self._threads:
            each.join()

    @property
    def unseen(self) -> int:
        """Probes that were not visible yet."""
        return len(self._sent)

    def _send(self) -> None:
        number = 0
        while not self._stopped.wait(_SEND_EVERY):
            number += 1
            self._sent[number] = time.monotonic()
            item = {"id": {"S": f"probe-{number:08d}"}, "probe": {"N": str(number)}}
            self._world.sim.put_many(self._table, [item])

    def _look(self) -> None:
        newest = 0
        query = f'SELECT probe FROM dynabeam."{self._table}" WHERE probe > %s'
        connection = None
        while not (self._stopped.wait(_POLL_EVERY) and (not self._sent or self._is_late())):
            try:
                connection = connection or self._world.postgres.connect()
                found = [int(number) for (number,) in connection.execute(query, [newest])]
            except psycopg.Error:
                # The server is down, or the table has no such column yet.
                connection = None
                continue
            now = time.monotonic()
            for number in found:
                sent = self._sent.pop(number, None)
                if sent is not None:
                    self.latencies.append((sent, now - sent))
            # Several shards: probes may come out of order, so some are looked at again.
            newest = max(newest, min(self._sent, default=newest + 1) - 1)

    def _is_late(self) -> bool:
        return bool(self._sent) and time.monotonic() - max(self._sent.values()) > 15


def distribution(seconds: Sequence[float]) -> str:
    """Percentiles of latencies, for people."""
    if len(seconds) < 2:
        return "too few probes"
    ordered = sorted(seconds)
    cuts = statistics.quantiles(ordered, n=100)
    shown = ", ".join(f"p{p} {cuts[p - 1]:.2f} s" for p in (50, 90, 95, 99))
    return f"{shown}, longest {ordered[-1]:.2f} s ({len(ordered)} probes)"
