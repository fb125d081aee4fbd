# SPDX-License-Identifier: Apache-2.0
"""What a stateful DoFn knows of many keys: runs in Beam's state, and a copy of them in the worker.

Keys are in groups, one group per key of Beam's state. The state of a group is three cells:

========  ========================  =====================================================
cell      Beam's state              content
========  ========================  =====================================================
token     ReadModifyWrite, bytes    8 random bytes, new with each write of the group
small     Bag, bytes                a run for each update: the keys that it changed
merged    Bag, bytes                runs that were made of many small ones
========  ========================  =====================================================

A run is an encoded mapping of keys to what is known of them. A key may be in many runs; which of
its values is the newest follows from the values alone (`newer`), so the order of the runs does not
matter: bags have none.

**Reading.** A worker keeps a decoded copy of each group that it has seen. If the copy's token is
that of the state, the copy is current and neither bag is read. If it is not, another worker wrote
the state last, or a bundle failed and the runner went back to the state before it: then both bags
are read. Copies are bounded in bytes (estimated), whatever the number of groups: the least recently
used are dropped first. The one in use stays, however large it is.

**Writing.** An update appends one small run, so it writes what it changes. After `SMALL_RUNS` of
them they are merged into one run; once the merged runs on top of the largest one, the base, would
be as large as it is, everything becomes one new base. So each key is written some four times,
however many updates there are, and superseded values never take more than about half of the state.

**Forgetting.** A group may have a limit of keys (`max_keys`). Those whose values are the oldest
(`age`) leave the copy at once, and the state with the next base. Until then even the small runs of
a forgotten key are merged with its newest value: if only an older one were left, a worker that
reads the state could take that one for the newest.

Only ReadModifyWrite and Bag state are used, because only these (and event-time timers) work on
every runner.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

__all__ = ["CACHE_BYTES", "SMALL_RUNS", "GroupCells", "GroupCopy", "KeyedMemory", "RunFormat"]

CACHE_BYTES = 64 << 20
"""What the copies of one DoFn instance take, estimated; a worker has a few instances."""

SMALL_RUNS = 64
"""Small runs of a group before they are merged."""

_TOKEN_BYTES = 8

V = TypeVar("V")
X = TypeVar("X")


@dataclasses.dataclass(frozen=True)
class RunFormat(Generic[V]):
    """What is known of a key, and how it is stored.

    Attributes:
        encode: What is known of some keys, as a run.
        decode: The reverse, as pairs.
        newer: Whether the first value replaces the second.
        value_bytes: What a value and its places in dicts take in memory, estimated, in addition to
            the bytes of its key.
        age: Orders `(key, value)`, the oldest first, the same on every worker. Needed for groups
            with a limit of keys.
    """

    encode: Callable[[Mapping[bytes, V]], bytes]
    decode: Callable[[bytes], Iterable[tuple[bytes, V]]]
    newer: Callable[[V, V], bool]
    value_bytes: int
    age: Callable[[tuple[bytes, V]], Any] | None = None


class GroupCells(NamedTuple):
    """The state of one group, as Beam hands it to a DoFn.

    Attributes:
        token: ReadModifyWrite cell. A DoFn may write a mark of its own into it, of another length
            than a token's, when it has cleared the bags: the group is empty then.
        small: Bag of small runs.
        merged: Bag of merged runs.
    """

    token: Any
    small: Any
    merged: Any


class GroupCopy(Generic[V, X]):
    """What is known of one group, as of the state with this token.

    Attributes:
        known: Key → what is known of it. With a limit of keys, the oldest first.
        extra: What the DoFn keeps for the group in cells of its own, decoded; None if it has none,
            or if this copy was made just now: then the DoFn is to read it. `KeyedMemory.update` has
            to be called whenever it changes.
        token: That of the state; None for a group without any.
        memory_bytes: What the copy takes, estimated, without `extra`.
        state_bytes: What its runs take in the state.
    """

    def __init__(self, token: bytes | None = None) -> None:
        self.known: dict[bytes, V] = {}
        self.extra: X | None = None
        self.token = token
        self.memory_bytes = 0
        self._recent: dict[bytes, V] = {}
        self._small, self._small_bytes = 0, 0
        self._base_bytes, self._above_bytes = 0, 0

    @property
    def state_bytes(self) -> int:
        """Bytes of all runs in the state."""
        return self._small_bytes + self._base_bytes + self._above_bytes


class KeyedMemory(Generic[V, X]):
    """The groups that one DoFn instance knows.

    Args:
        runs: How it is stored.
        limit: What all copies may take, bytes, estimated.
    """

    def __init__(self, runs: RunFormat[V], limit: int = CACHE_BYTES) -> None:
        self._runs = runs
        self._limit = limit
        self._copies: collections.OrderedDict[str, GroupCopy[V, X]] = collections.OrderedDict()
        self._bytes = 0

    @property
    def memory_bytes(self) -> int:
        """What the copies take, estimated."""
        return self._bytes

    def recall(self, group: str, cells: GroupCells, max_keys: int | None = None) -> GroupCopy[V, X]:
        """The copy of a group: the worker's if it is current, else read from the state.

        Args:
            group: The key of Beam's state.
            cells: Its state.
            max_keys: How many keys are known at most; None for any number.
        """
        token = _token(cells.token.read())
        copy = self._copies.pop(group, None)
        if copy is not None:
            self._bytes -= copy.memory_bytes
        if copy is None or copy.token != token:
            # Another worker, or an earlier attempt of this bundle, wrote the state last.
            copy = self._read(token, cells, max_keys)
        self._copies[group] = copy
        self._bytes += copy.memory_bytes
        self._shrink()
        return copy

    def update(
        self,
        copy: GroupCopy[V, X],
        fresh: Mapping[bytes, V],
        cells: GroupCells,
        max_keys: int | None = None,
    ) -> None:
        """Stores new values, in the copy and in the state.

        Args:
            copy: What `recall` returned.
            fresh: Key → value, each newer than the known one, in the order in which they became
                known; empty if only `copy.extra` changed.
            cells: The state of the group.
            max_keys: As for `recall`.
        """
        # Random, so that the copy of a bundle that failed never matches what its retry wrote. First
        # of all, so that neither does a copy that an error left half changed.
        copy.token = os.urandom(_TOKEN_BYTES)
        cells.token.write(copy.token)
        if not fresh:
            return
        before = copy.memory_bytes
        self._learn(copy, fresh.items(), in_order=max_keys is not None)
        if max_keys is not None:
            self._forget_oldest(copy, max_keys)
        self._keep_recent(copy, fresh)
        if copy._small >= SMALL_RUNS:
            self._merge(copy, cells)
        else:
            run = self._runs.encode(fresh)
            cells.small.add(run)
            copy._small += 1
            copy._small_bytes += len(run)
        self._bytes += copy.memory_bytes - before
        self._shrink()

    def _keep_recent(self, copy: GroupCopy[V, X], fresh: Mapping[bytes, V]) -> None:
        recent = copy._recent
        for key, value in fresh.items():
            # Newer than what is known, but of a forgotten key nothing is known.
            if key not in recent or self._runs.newer(value, recent[key]):
                recent[key] = value

    def _merge(self, copy: GroupCopy[V, X], cells: GroupCells) -> None:
        run = self._runs.encode(copy._recent)
        cells.small.clear()
        copy._small, copy._small_bytes = 0, 0
        copy._recent = {}
        if copy._above_bytes + len(run) < copy._base_bytes:
            cells.merged.add(run)
            copy._above_bytes += len(run)
            return
        base = self._runs.encode(copy.known)
        cells.merged.clear()
        cells.merged.add(base)
        copy._base_bytes, copy._above_bytes = len(base), 0

    def _read(
        self, token: bytes | None, cells: GroupCells, max_keys: int | None
    ) -> GroupCopy[V, X]:
        copy: GroupCopy[V, X] = GroupCopy(token)
        if token is None:
            return copy
        for run in cells.merged.read():
            # The base is the largest; bags have no order.
            larger = max(copy._base_bytes, len(run))
            copy._above_bytes += copy._base_bytes + len(run) - larger
            copy._base_bytes = larger
            self._learn(copy, self._runs.decode(run))
        recent: set[bytes] = set()
        for run in cells.small.read():
            pairs = list(self._runs.decode(run))
            self._learn(copy, pairs)
            copy._small += 1
            copy._small_bytes += len(run)
            recent.update(key for key, _ in pairs)
        copy._recent = {key: copy.known[key] for key in recent}
        if max_keys is not None:
            assert self._runs.age is not None
            copy.known = dict(sorted(copy.known.items(), key=self._runs.age))
            self._forget_oldest(copy, max_keys)
        return copy

    def _learn(
        self, copy: GroupCopy[V, X], pairs: Iterable[tuple[bytes, V]], in_order: bool = False
    ) -> None:
        known = copy.known
        for key, value in pairs:
            stored = known.get(key)
            if stored is None:
                copy.memory_bytes += len(key) + self._runs.value_bytes
            if stored is None or self._runs.newer(value, stored):
                if in_order:
                    known.pop(key, None)
                known[key] = value

    def _forget_oldest(self, copy: GroupCopy[V, X], max_keys: int) -> None:
        known = copy.known
        # At once: each look for the first of a dict passes all that were removed from its front.
        for key in list(itertools.islice(known, max(0, len(known) - max_keys))):
            del known[key]
            copy.memory_bytes -= len(key) + self._runs.value_bytes

    def _shrink(self) -> None:
        while self._bytes > self._limit and len(self._copies) > 1:
            _, dropped = self._copies.popitem(last=False)
            self._bytes -= dropped.memory_bytes


def _token(stored: bytes | None) -> bytes | None:
    """What a token's cell holds, if it is a token."""
    return stored if stored is not None and len(stored) == _TOKEN_BYTES else None
