# SPDX-License-Identifier: Apache-2.0
"""The restriction tracker of a group: each reader claims on its own frontier, all split at once."""

from __future__ import annotations

import dataclasses
from typing import Any

from apache_beam.io.iobase import RestrictionProgress, RestrictionTracker

from dynabeam.transforms.stream.frontier import Frontier
from dynabeam.transforms.stream.reader_group import FrontierGroup
from dynabeam.transforms.stream.tracker import Claim, FrontierTracker, Step, progress

__all__ = ["GroupTracker", "Part", "PartClaim"]


@dataclasses.dataclass(frozen=True)
class PartClaim:
    """A step of one reader of the group.

    Attributes:
        part: The reader's place in the group.
        claim: Its step.
    """

    part: int
    claim: Claim | Step


class GroupTracker(RestrictionTracker):
    """Tracks the frontiers of a group that never ends, see `FrontierTracker`.

    A split is a checkpoint of all of them at what is claimed.

    Args:
        restriction: The frontiers.
    """

    def __init__(self, restriction: FrontierGroup) -> None:
        self._parts = [FrontierTracker(each, bounded=False) for each in restriction.frontiers]
        self._claimed = False

    def current_restriction(self) -> FrontierGroup:
        """The frontiers after everything that is claimed."""
        return FrontierGroup(tuple(each.current_restriction() for each in self._parts))

    def try_claim(self, position: PartClaim) -> bool:
        """Claims one step of one reader.

        Returns:
            False if the restriction was checkpointed, or this reader's is closed.

        Raises:
            ValueError: As `FrontierTracker.try_claim`.
        """
        if not self._parts[position.part].try_claim(position.claim):
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
        self._parts = [FrontierTracker(Frontier(closed=True), bounded=False) for _ in self._parts]
        return self.current_restriction(), residual

    def check_done(self) -> bool:
        """True if every reader's frontier was closed or handed over.

        Raises:
            ValueError: If `process` returned with work left: Beam would otherwise drop it.
        """
        return all(each.check_done() for each in self._parts)

    def current_progress(self) -> RestrictionProgress:
        """Done or not done: how much an endless stream still holds is unknown."""
        return progress(done=self.current_restriction().closed)

    def is_bounded(self) -> bool:
        """False, but for what is closed."""
        return self.current_restriction().closed


class Part:
    """One reader's view of the group's tracker: that of a frontier of its own.

    Args:
        tracker: Beam's view of the group's tracker.
        part: The reader's place in the group.
    """

    def __init__(self, tracker: Any, part: int) -> None:
        self._tracker = tracker
        self._part = part

    def current_restriction(self) -> Frontier:
        """The reader's frontier after everything that is claimed."""
        restriction: FrontierGroup = self._tracker.current_restriction()
        return restriction.frontiers[self._part]

    def try_claim(self, claim: Claim | Step) -> bool:
        """Claims a step of the reader, see `GroupTracker.try_claim`."""
        return bool(self._tracker.try_claim(PartClaim(self._part, claim)))
