# SPDX-License-Identifier: Apache-2.0
"""The memories and threads that all readers of one job share within a worker process.

A runner gives the same reader now to one instance of the DoFn, now to another: Beam keeps a pool of
them and hands out whichever is free. So memories belong to the process. A memory is taken for a
call of `process` and given back when it has succeeded: a call that failed, or one that goes on
although its bundle was given up, keeps its memory to itself, and the reader starts a new one.

While a memory waits here for its reader's next turn, requests that fall due are sent off all the
same, so that their answers are there when the turn comes: with many readers a turn is far away.
Each shard has one such request at most, because its answer is taken in a turn only.
"""

from __future__ import annotations

import collections
import dataclasses
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

from dynabeam.transforms.stream.frontier import Frontier
from dynabeam.transforms.stream.pacing import Clock, Pacing
from dynabeam.transforms.stream.scheduler import ReaderMemory
from dynabeam.transforms.stream.shard_requests import ReadPage, Requests

__all__ = ["ReaderKey", "Turns", "hold", "release", "turns_of"]

ReaderKey: TypeAlias = tuple[str, int, int, int]
"""Stream, reader, readers, generation."""

_FORGET_AFTER = 60.0
_LONGEST_SLEEP = 1.0

_lock = threading.Lock()
_jobs: dict[str, Turns] = {}
_holders: collections.Counter[str] = collections.Counter()


@dataclasses.dataclass
class _Waiting:
    """A reader between two turns.

    Attributes:
        memory: Its memory.
        frontier: Where it stands: what its next turn begins with, unless another worker takes it.
        pacing: Its pacing.
        clock: Its clocks.
        left: Shards whose next request is a matter for its next turn.
    """

    memory: ReaderMemory
    frontier: Frontier
    pacing: Pacing
    clock: Clock
    left: list[str] = dataclasses.field(default_factory=list)

    def due(self) -> Iterator[tuple[Requests, ReadPage]]:
        """The requests that are due and need no decision, counted: next pages of open shards."""
        now = self.clock.monotonic()
        while self._has_room() and (shard_id := self.memory.take_due(now)) is not None:
            position = self.frontier.shard(shard_id)
            work = self.memory.work(shard_id)
            if position is None or position.kind != "after" or work.gone is not None:
                self.left.append(shard_id)
                continue
            work.running = True
            request = ReadPage(position, fresh=work.fresh)
            self.memory.requests.count(request)
            yield self.memory.requests, request

    def seconds_until_due(self) -> float:
        """In how many seconds something is due, if nothing changes before."""
        due = self.memory.next_due() if self._has_room() else None
        return _LONGEST_SLEEP if due is None else max(0.0, due - self.clock.monotonic())

    def woken(self) -> ReaderMemory:
        """The memory, for a turn."""
        for shard_id in self.left:
            self.memory.schedule(shard_id, 0.0)
        return self.memory

    def _has_room(self) -> bool:
        requests, pacing = self.memory.requests, self.pacing
        held = (requests.reading + 1) * pacing.page_bytes
        return held <= pacing.memory_bytes and requests.running < pacing.threads


class Turns:
    """What the readers of one job share in this process.

    Args:
        threads: Requests under way at once.
    """

    def __init__(self, threads: int) -> None:
        self.pool = ThreadPoolExecutor(threads, "dynabeam-stream")
        self._waiting: dict[ReaderKey, _Waiting] = {}
        self._seen: dict[ReaderKey, tuple[float, int, int]] = {}
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._sender: threading.Thread | None = None
        self._over = False

    def take(self, key: ReaderKey, shards: int, together: int = 1) -> ReaderMemory | None:
        """The memory of a reader, which is then the caller's alone; None if there is none.

        Args:
            key: The reader.
            shards: How many open shards it reads.
            together: How many readers take their turns in one.
        """
        now = time.monotonic()
        with self._lock:
            self._seen[key] = now, shards, together
            for each in [k for k, (at, *_) in self._seen.items() if now - at > _FORGET_AFTER]:
                # The reader has moved to another worker, or its stream has ended.
                del self._seen[each]
                self._waiting.pop(each, None)
            waiting = self._waiting.pop(key, None)
        return None if waiting is None else waiting.woken()

    def give(
        self,
        key: ReaderKey,
        memory: ReaderMemory,
        frontier: Frontier,
        pacing: Pacing,
        clock: Clock,
    ) -> None:
        """Gives a memory back after a call that succeeded.

        Args:
            key: The reader.
            memory: Its memory.
            frontier: What the call left.
            pacing: The reader's pacing.
            clock: The reader's clocks.
        """
        with self._lock:
            self._waiting[key] = _Waiting(memory, frontier, pacing, clock)
            if self._sender is None:
                self._sender = threading.Thread(
                    target=self._send, name="dynabeam-stream-sender", daemon=True
                )
                self._sender.start()
            self._changed.notify()

    def close(self) -> None:
        """Ends the threads; answers under way are dropped."""
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
                due = [found for each in self._waiting.values() for found in each.due()]
                if not due:
                    waits = [each.seconds_until_due() for each in self._waiting.values()]
                    self._changed.wait(min(waits, default=_LONGEST_SLEEP))
            # Without the lock: each lets go of the interpreter, and turns would wait for it too.
            for requests, request in due:
                requests.send(request)

    def shared(self, pacing: Pacing) -> Pacing:
        """The pacing of one of the readers of this process, see `Pacing.shared`."""
        with self._lock:
            seen = list(self._seen.values())
        shards = sum(shards for _, shards, _ in seen)
        return pacing.shared(len(seen), shards, sum(1 / together for *_, together in seen))


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
        turns.close()
