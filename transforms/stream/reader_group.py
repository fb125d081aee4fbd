# SPDX-License-Identifier: Apache-2.0
"""Several readers as one element of the stream's splittable DoFn.

Each call of `process` costs a runner the same, some five milliseconds on Flink: a timer, a bundle,
the restriction out of its state and back into it. A record waits for a call, and with dozens of
readers in one process there was little time left in between. So readers of many tables share a few
elements: as many as keep all workers busy, and no more. In the restriction tracker of a group each
reader claims on its own frontier; they are all split at once.
"""

from __future__ import annotations

import collections
import dataclasses
import threading
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
from apache_beam.io.iobase import RestrictionProgress, RestrictionTracker

from dynabeam.transforms.runtime.json_coder import JsonCoder, element_format
from dynabeam.transforms.runtime.stored_format import Document, typed_fields
from dynabeam.transforms.stream.frontier import Frontier
from dynabeam.transforms.stream.reader_spec import ReaderSpec
from dynabeam.transforms.stream.tracker import Claim, FrontierTracker, Step, progress

__all__ = [
    "MOST_GROUPS",
    "FrontierGroup",
    "FrontierGroupCoder",
    "GroupMember",
    "GroupTracker",
    "MemberClaim",
    "ReaderGroup",
    "ReaderGroupCoder",
    "group_readers",
]

MOST_GROUPS = 8
"""More than there are subtasks, so that they spread evenly over these."""


@dataclasses.dataclass(frozen=True)
class ReaderGroup:
    """Readers that have their slices in one call, in this order."""

    sources: tuple[ReaderSpec, ...]

    def to_json(self) -> dict[str, Any]:
        """The group as a JSON-able dict."""
        return _SOURCES.dump({"sources": [each.to_json() for each in self.sources]})

    @classmethod
    def from_json(cls, document: Document) -> ReaderGroup:
        """Reads what `to_json` wrote.

        Raises:
            ValueDecodeError: If it is damaged, or the format number is unknown.
        """
        with _SOURCES.load(document) as fields:
            sources = tuple(map(ReaderSpec.from_json, fields["sources"]))
            return typed_fields(cls, fields, sources=sources)


@dataclasses.dataclass(frozen=True)
class FrontierGroup:
    """The restriction of a group: the frontier of each of its readers, in the same order."""

    frontiers: tuple[Frontier, ...]

    @property
    def closed(self) -> bool:
        """True if no reader has anything left to do."""
        return all(each.closed for each in self.frontiers)

    def to_json(self) -> dict[str, Any]:
        """The frontiers as a JSON-able dict."""
        return _FRONTIERS.dump({"frontiers": [each.to_json() for each in self.frontiers]})

    @classmethod
    def from_json(cls, document: Document) -> FrontierGroup:
        """Reads what `to_json` wrote.

        Raises:
            ValueDecodeError: If it is damaged, or the format number is unknown.
        """
        with _FRONTIERS.load(document) as fields:
            frontiers = tuple(map(Frontier.from_json, fields["frontiers"]))
            return typed_fields(cls, fields, frontiers=frontiers)


_SOURCES = element_format("a group of stream sources", "group of stream sources")
_FRONTIERS = element_format("a group of stream positions", "group of stream positions")


def group_readers(sources: Sequence[ReaderSpec]) -> list[ReaderGroup]:
    """Deals readers out to groups, those of one table to different ones.

    Args:
        sources: All readers, those of one table one after the other.
    """
    # More readers of a table are given to work side by side.
    count = min(len(sources), max([MOST_GROUPS, *(each.readers for each in sources)]))
    return [ReaderGroup(tuple(sources[at::count])) for at in range(count)]


class ReaderGroupCoder(JsonCoder[ReaderGroup]):
    """Versioned, deterministic coder of groups of readers: canonical JSON."""

    kind = ReaderGroup


class FrontierGroupCoder(JsonCoder[FrontierGroup]):
    """Versioned, deterministic coder of the restrictions of groups: canonical JSON.

    A runner gives back at the next call what it was given at the end of the last one, so what was
    encoded here last is remembered.
    """

    kind = FrontierGroup

    def encode(self, value: FrontierGroup) -> bytes:
        """Encodes a group."""
        encoded = super().encode(value)
        with _lock:
            _encoded[encoded] = value
            while len(_encoded) > _REMEMBERED:
                _encoded.popitem(last=False)
        return encoded

    def decode(self, encoded: bytes) -> FrontierGroup:
        """Decodes a group.

        Raises:
            ValueDecodeError: If the bytes are of an unknown format.
        """
        with _lock:
            known = _encoded.get(encoded)
        return super().decode(encoded) if known is None else known


_REMEMBERED = 4 * MOST_GROUPS
_lock = threading.Lock()
_encoded: collections.OrderedDict[bytes, FrontierGroup] = collections.OrderedDict()


beam.coders.registry.register_coder(ReaderGroup, ReaderGroupCoder)
beam.coders.registry.register_coder(FrontierGroup, FrontierGroupCoder)


@dataclasses.dataclass(frozen=True)
class MemberClaim:
    """A step of one reader of the group.

    Attributes:
        member: The reader's place in the group.
        claim: Its step.
    """

    member: int
    claim: Claim | Step


class GroupTracker(RestrictionTracker):
    """Tracks the frontiers of a group that never ends, see `FrontierTracker`.

    A split is a checkpoint of all of them at what is claimed.

    Args:
        restriction: The frontiers.
    """

    def __init__(self, restriction: FrontierGroup) -> None:
        self._members = [FrontierTracker(each, bounded=False) for each in restriction.frontiers]
        self._claimed = False

    def current_restriction(self) -> FrontierGroup:
        """The frontiers after everything that is claimed."""
        return FrontierGroup(tuple(each.current_restriction() for each in self._members))

    def try_claim(self, position: MemberClaim) -> bool:
        """Claims one step of one reader.

        Returns:
            False if the restriction was checkpointed, or this reader's is closed.

        Raises:
            ValueError: As `FrontierTracker.try_claim`.
        """
        if not self._members[position.member].try_claim(position.claim):
            return False
        self._claimed = True
        return True

    def try_split(self, fraction_of_remainder: float) -> tuple[FrontierGroup, FrontierGroup] | None:
        """Hands the rest of all readers over, whatever the fraction.

        Returns:
            The primary, closed and empty, and the residual; None if nothing was claimed yet or
            nothing is left.
        """
        residual = self.current_restriction()
        if not self._claimed or residual.closed:
            return None
        # Closed ones take no claim and cannot be split again.
        self._members = [
            FrontierTracker(Frontier(closed=True), bounded=False) for _ in self._members
        ]
        return self.current_restriction(), residual

    def check_done(self) -> bool:
        """True if every reader's frontier was closed or handed over.

        Raises:
            ValueError: If `process` returned with work left: Beam would otherwise drop it.
        """
        return all(each.check_done() for each in self._members)

    def current_progress(self) -> RestrictionProgress:
        """Done or not done: how much an endless stream still holds is unknown."""
        return progress(done=self.current_restriction().closed)

    def is_bounded(self) -> bool:
        """False, but for what is closed."""
        return self.current_restriction().closed


class GroupMember:
    """One reader's view of the group's tracker: that of a frontier of its own.

    Args:
        tracker: Beam's view of the group's tracker.
        member: The reader's place in the group.
    """

    def __init__(self, tracker: Any, member: int) -> None:
        self._tracker = tracker
        self._member = member

    def current_restriction(self) -> Frontier:
        """The reader's frontier after everything that is claimed."""
        restriction: FrontierGroup = self._tracker.current_restriction()
        return restriction.frontiers[self._member]

    def try_claim(self, claim: Claim | Step) -> bool:
        """Claims a step of the reader, see `GroupTracker.try_claim`."""
        return bool(self._tracker.try_claim(MemberClaim(self._member, claim)))
