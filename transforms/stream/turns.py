# SPDX-License-Identifier: Apache-2.0
"""The memories and threads that all readers of one job share within a worker process.

A runner gives the same reader now to one instance of the DoFn, now to another: Beam keeps a pool of
them and hands out whichever is free. So memories belong to the process. A memory is taken for a
call of `process` and given back when it has succeeded: a call that failed, or one that goes on
although its bundle was given up, keeps its memory to itself, and the reader starts a new one.
"""

from __future__ import annotations

import collections
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

from transforms.stream.memory import ReaderMemory

__all__ = ["ReaderKey", "Turns", "hold", "release", "turns_of"]

ReaderKey: TypeAlias = tuple[str, int, int, int]
"""Stream, reader, readers, generation."""

_FORGET_AFTER = 60.0

_lock = threading.Lock()
_jobs: dict[str, Turns] = {}
_holders: collections.Counter[str] = collections.Counter()


class Turns:
    """What the readers of one job share in this process.

    Args:
        threads: Requests under way at once.
    """

    def __init__(self, threads: int) -> None:
        self.pool = ThreadPoolExecutor(threads, "dynabeam-stream")
        self._memories: dict[ReaderKey, ReaderMemory] = {}
        self._seen: dict[ReaderKey, tuple[float, int]] = {}
        self._lock = threading.Lock()

    def take(self, key: ReaderKey, shards: int) -> ReaderMemory | None:
        """The memory of a reader, which is then the caller's alone; None if there is none.

        Args:
            key: The reader.
            shards: How many open shards it reads.
        """
        now = time.monotonic()
        with self._lock:
            self._seen[key] = now, shards
            for each in [k for k, (at, _) in self._seen.items() if now - at > _FORGET_AFTER]:
                # The reader has moved to another worker, or its stream has ended.
                del self._seen[each]
                self._memories.pop(each, None)
            return self._memories.pop(key, None)

    def give(self, key: ReaderKey, memory: ReaderMemory) -> None:
        """Gives a memory back after a call that succeeded."""
        with self._lock:
            self._memories[key] = memory

    @property
    def readers(self) -> int:
        """How many readers take turns in this process."""
        with self._lock:
            return len(self._seen)

    @property
    def shards(self) -> int:
        """How many open shards they read."""
        with self._lock:
            return sum(shards for _, shards in self._seen.values())


def turns_of(job: str, threads: int) -> Turns:
    """The one object of a job in this process."""
    with _lock:
        if job not in _jobs:
            _jobs[job] = Turns(threads)
        return _jobs[job]


def hold(job: str) -> None:
    """Counts one more user of a job in this process, who will `release` it."""
    with _lock:
        _holders[job] += 1


def release(job: str) -> None:
    """Counts one user less; with the last the threads end, and answers under way are dropped."""
    with _lock:
        _holders[job] -= 1
        if _holders[job] > 0:
            return
        del _holders[job]
        turns = _jobs.pop(job, None)
    if turns is not None:
        turns.pool.shutdown(wait=False, cancel_futures=True)
