# SPDX-License-Identifier: Apache-2.0
"""What a stateful DoFn remembers of many keys: a copy in the worker, and runs in Beam's state.

The state of a group is an 8-byte token, a bag of small runs and a bag of merged ones, each a few
keys with what is known of them. A worker that holds a copy with the token of the state reads
neither bag; any other, or one whose bundle failed, reads both. What changes is added to the small
runs, so a block costs what it changes. When there are many, they become one merged run, and when
these have grown as large as the largest of them, all becomes one again: each key is written some
four times, whatever the number of blocks, and superseded ones never take more than half.

Copies are bounded in bytes, not in groups: the ones used longest ago are dropped first.
"""

from __future__ import annotations

import collections
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

__all__ = ["BYTES_IN_MEMORY", "SMALL_RUNS", "Copies", "Copy"]

BYTES_IN_MEMORY = 64 << 20
"""What the copies of one DoFn instance take, estimated; a worker has a few instances."""

SMALL_RUNS = 64
"""Small runs of a group before they are merged."""

V = TypeVar("V")


class Copy(Generic[V]):
    """What is known of one group, as of the state with this token.

    Attributes:
        known: Key → what is known of it.
        token: That of the state; None for a group without any.
        state_bytes: What its runs take in the state.
    """

    def __init__(self, token: bytes | None = None) -> None:
        self.known: dict[bytes, V] = {}
        self.token = token
        self.memory_bytes = 0
        self._recent: dict[bytes, V] = {}
        self._small, self._small_bytes = 0, 0
        self._base_bytes, self._above_bytes = 0, 0

    @property
    def state_bytes(self) -> int:
        """Bytes of all runs in the state."""
        return self._small_bytes + self._base_bytes + self._above_bytes


class Copies(Generic[V]):
    """The copies of one DoFn instance.

    Args:
        encode: What is known of some keys, as a run.
        decode: The other way, as pairs.
        newer: Whether the first value replaces the second: so the order of runs does not matter.
        value_bytes: What a value takes in memory, about, beside its key.
        limit: What all copies may take, about.
    """

    def __init__(
        self,
        encode: Callable[[Mapping[bytes, V]], bytes],
        decode: Callable[[bytes], Iterable[tuple[bytes, V]]],
        newer: Callable[[V, V], bool],
        value_bytes: int,
        limit: int = BYTES_IN_MEMORY,
    ) -> None:
        self._encode, self._decode, self._newer = encode, decode, newer
        self._value_bytes = value_bytes
        self._limit = limit
        self._copies: collections.OrderedDict[str, Copy[V]] = collections.OrderedDict()
        self._bytes = 0

    @property
    def memory_bytes(self) -> int:
        """What the copies take, about."""
        return self._bytes

    def recall(self, group: str, token: bytes | None, small: Any, merged: Any) -> Copy[V]:
        """The copy of a group, from memory or from its state.

        Args:
            group: The key of the state.
            token: What the token's cell holds; None if there is nothing in the bags.
            small: Bag of small runs.
            merged: Bag of merged runs.
        """
        copy = self._copies.pop(group, None)
        if copy is not None:
            self._bytes -= copy.memory_bytes
        if copy is None or copy.token != token:
            # Another worker, or an earlier attempt of this bundle, wrote the state last.
            copy = Copy(token) if token is None else self._read(token, small, merged)
        self._copies[group] = copy
        self._bytes += copy.memory_bytes
        self._shrink()
        return copy

    def add(
        self, copy: Copy[V], fresh: Mapping[bytes, V], token: Any, small: Any, merged: Any
    ) -> None:
        """Remembers what is new, in the copy and in the state.

        Args:
            copy: What `recall` gave.
            fresh: Key → value, each newer than what is known.
            token: The token's cell.
            small: Bag of small runs.
            merged: Bag of merged runs.
        """
        before = copy.memory_bytes
        self._learn(copy, fresh.items())
        copy._recent.update(fresh)
        if copy._small >= SMALL_RUNS:
            self._merge(copy, small, merged)
        else:
            run = self._encode(fresh)
            small.add(run)
            copy._small += 1
            copy._small_bytes += len(run)
        # Random, so that the copy of a bundle that failed never matches what its retry wrote.
        copy.token = os.urandom(8)
        token.write(copy.token)
        self._bytes += copy.memory_bytes - before
        self._shrink()

    def _merge(self, copy: Copy[V], small: Any, merged: Any) -> None:
        run = self._encode(copy._recent)
        small.clear()
        copy._small, copy._small_bytes = 0, 0
        copy._recent = {}
        if copy._above_bytes + len(run) < copy._base_bytes:
            merged.add(run)
            copy._above_bytes += len(run)
            return
        if len(copy.known) > 0:
            run = self._encode(copy.known)
        merged.clear()
        merged.add(run)
        copy._base_bytes, copy._above_bytes = len(run), 0

    def _read(self, token: bytes, small: Any, merged: Any) -> Copy[V]:
        copy: Copy[V] = Copy(token)
        for run in merged.read():
            # The largest is the one that all became; bags have no order.
            larger = max(copy._base_bytes, len(run))
            copy._above_bytes += copy._base_bytes + len(run) - larger
            copy._base_bytes = larger
            self._learn(copy, self._decode(run))
        for run in small.read():
            pairs = list(self._decode(run))
            self._learn(copy, pairs)
            copy._small += 1
            copy._small_bytes += len(run)
            for key, _ in pairs:
                copy._recent[key] = copy.known[key]
        return copy

    def _learn(self, copy: Copy[V], pairs: Iterable[tuple[bytes, V]]) -> None:
        known = copy.known
        for key, value in pairs:
            stored = known.get(key)
            if stored is None:
                copy.memory_bytes += len(key) + self._value_bytes
            if stored is None or self._newer(value, stored):
                known[key] = value

    def _shrink(self) -> None:
        while self._bytes > self._limit and len(self._copies) > 1:
            _, dropped = self._copies.popitem(last=False)
            self._bytes -= dropped.memory_bytes
