# SPDX-License-Identifier: Apache-2.0
"""The schedulers and threads that all readers of one job share within a worker process.

A runner gives the same reader now to one instance of the DoFn, now to another: Beam keeps a pool of
them and hands out whichever is free. So schedulers belong to the process. A reader acquires its own
for a call of `process` and parks it when the call has succeeded: a call that failed, or one that
goes on although its bundle was given up, keeps its scheduler to itself, and the reader starts a new
one.

While a scheduler is parked here, requests that fall due are sent all the same, so that their
responses are there when the reader's next slice comes: with many readers it is far away. Each shard
has one such request at most, because its response is taken in a slice only.
"""

from __future__ import annotations

import collections
import dataclasses
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

from dynabeam.transforms.stream.frontier import Frontier
from dynabeam.transforms.stream.pacing import Pacing
from dynabeam.transforms.stream.scheduler import LONGEST_WAIT, ShardScheduler

__all__ = ["ReaderCache", "ReaderKey", "cache_of", "release", "retain"]

ReaderKey: TypeAlias = tuple[str, int, int, int]
"""Stream, reader, readers, generation."""

_FORGET_AFTER = 60.0

_lock = threading.Lock()
_caches: dict[str, ReaderCache] = {}
_users: collections.Counter[str] = collections.Counter()


@dataclasses.dataclass(frozen=True)
class _Parked:
    """A reader between two slices.

    Attributes:
        scheduler: What is due for it.
        frontier: Its position: what its next slice begins with, unless another worker takes it.
    """

    scheduler: ShardScheduler
    frontier: Frontier


class ReaderCache:
    """What the readers of one job share in this process.

    Args:
        threads: Requests in flight at once.
    """

    def __init__(self, threads: int) -> None:
        self.pool = ThreadPoolExecutor(threads, "dynabeam-stream")
        self._parked: dict[ReaderKey, _Parked] = {}
        self._seen: dict[ReaderKey, tuple[float, int, int]] = {}
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._sender: threading.Thread | None = None
        self._over = False

    def acquire(self, key: ReaderKey, shards: int, together: int = 1) -> ShardScheduler | None:
        """The scheduler of a reader, which is then the caller's alone; None if there is none.

        Args:
            key: The reader.
            shards: How many open shards it reads.
            together: How many readers have their slices in one call of `process`.
        """
        now = time.monotonic()
        with self._lock:
            self._seen[key] = now, shards, together
            for each in [k for k, (at, *_) in self._seen.items() if now - at > _FORGET_AFTER]:
                # The reader has moved to another worker, or its stream has ended.
                del self._seen[each]
                self._parked.pop(each, None)
            parked = self._parked.pop(key, None)
        if parked is None:
            return None
        parked.scheduler.resume()
        return parked.scheduler

    def park(self, key: ReaderKey, scheduler: ShardScheduler, frontier: Frontier) -> None:
        """Gives a scheduler back after a call that succeeded.

        Args:
            key: The reader.
            scheduler: Its scheduler.
            frontier: What the call left.
        """
        with self._lock:
            self._parked[key] = _Parked(scheduler, frontier)
            if self._sender is None:
                self._sender = threading.Thread(
                    target=self._send, name="dynabeam-stream-sender", daemon=True
                )
                self._sender.start()
            self._changed.notify()

    def close(self) -> None:
        """Ends the threads; responses that are still to come are dropped."""
        with self._lock:
            self._over = True
            self._changed.notify()
        if self._sender is not None:
            self._sender.join()
        self.pool.shutdown(wait=False, cancel_futures=True)

    def _send(self) -> None:
        while True:
            with self._lock:
                if self._over:
                    return
                due = [
                    (each.scheduler.requests, request)
                    for each in self._parked.values()
                    for request in each.scheduler.prefetch(each.frontier)
                ]
                if not due:
                    readers = self._parked.values()
                    waits = [each.scheduler.seconds_until_prefetch() for each in readers]
                    self._changed.wait(min(waits, default=LONGEST_WAIT))
            # Without the lock: each lets go of the interpreter, and slices would wait for it too.
            for requests, request in due:
                requests.send(request)

    def shared(self, pacing: Pacing) -> Pacing:
        """The pacing of one of the readers of this process, see `Pacing.shared`."""
        with self._lock:
            seen = list(self._seen.values())
        shards = sum(shards for _, shards, _ in seen)
        return pacing.shared(len(seen), shards, sum(1 / together for *_, together in seen))


def cache_of(job: str, threads: int) -> ReaderCache:
    """The one cache of a job in this process."""
    with _lock:
        if job not in _caches:
            _caches[job] = ReaderCache(threads)
        return _caches[job]


def retain(job: str) -> None:
    """Counts one more user of a job in this process, who will `release` it."""
    with _lock:
        _users[job] += 1


def release(job: str) -> None:
    """Counts one user less; with the last the threads end, and responses to come are dropped."""
    with _lock:
        _users[job] -= 1
        if _users[job] > 0:
            return
        del _users[job]
        cache = _caches.pop(job, None)
    if cache is not None:
        cache.close()
