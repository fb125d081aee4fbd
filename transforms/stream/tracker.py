# SPDX-License-Identifier: Apache-2.0
"""The restriction tracker of the stream's splittable DoFn.

`process` claims each step *before* it emits what the step brought: a page, an empty poll, children
that replace their parent, a listing adopted, a gap passed over, the end. Each claim moves the
frontier by a pure function. A split is always a checkpoint at what is claimed: the residual is the
frontier as it is, and every later claim of this `process` is refused.

An empty split is declined: Dataflow checkpoints a streaming SDF about every five seconds, and one
that hit `process` before its first claim would hand the work over untouched for ever (the Java SDK
guards against it in apache/beam pull request 32044; the Python SDK has no guard).
"""

from __future__ import annotations

import dataclasses

from apache_beam.io.iobase import RestrictionProgress, RestrictionTracker

from dynabeam.transforms.stream.frontier import Counts, Frontier, ShardPosition
from dynabeam.transforms.stream.lineage import replace_parent

__all__ = [
    "ChildrenFound",
    "Claim",
    "Closed",
    "FrontierTracker",
    "Moved",
    "PageRead",
    "Polled",
    "Step",
    "apply",
    "progress",
]


@dataclasses.dataclass(frozen=True)
class PageRead:
    """A page of one shard was read; it may be empty, and it may be the shard's last.

    Attributes:
        before: The position that the page was read from.
        after: The position after it.
        counts: What the page adds to the counts.
    """

    before: ShardPosition
    after: ShardPosition
    counts: Counts


@dataclasses.dataclass(frozen=True)
class ChildrenFound:
    """The children of a shard that was read to its end; they replace it in the same claim."""

    parent_id: str
    children: tuple[str, ...]
    now_us: int


@dataclasses.dataclass(frozen=True)
class Moved:
    """Another frontier in place of the present one: a listing adopted, or a gap passed over."""

    before: Frontier
    after: Frontier


@dataclasses.dataclass(frozen=True)
class Polled:
    """A round of `process` has begun: without a claim there would be no residual to defer."""

    counts: Counts = dataclasses.field(default_factory=Counts)


@dataclasses.dataclass(frozen=True)
class Closed:
    """Nothing is left to be done: a catch-up run is at the tip, or the stream is at its end."""


Claim = PageRead | ChildrenFound | Moved | Polled | Closed


@dataclasses.dataclass(frozen=True)
class Step:
    """A claim with what it leads to, so that it is worked out once and not on both sides.

    Attributes:
        claim: The claim.
        before: The frontier that it is applied to.
        after: The frontier after it.
    """

    claim: Claim
    before: Frontier
    after: Frontier

    @classmethod
    def of(cls, frontier: Frontier, claim: Claim) -> Step:
        """Applies a claim.

        Raises:
            ValueError: See `apply`.
        """
        return cls(claim, frontier, apply(frontier, claim))


class FrontierTracker(RestrictionTracker):
    """Tracks a frontier; thread-safe inside Beam's lock, as its state is immutable values.

    Args:
        frontier: The restriction.
        bounded: True in catch-up mode.
    """

    def __init__(self, frontier: Frontier, *, bounded: bool) -> None:
        self._frontier = frontier
        self._bounded = bounded
        self._claimed = False
        self._split = False

    def current_restriction(self) -> Frontier:
        """The frontier after everything that is claimed."""
        return self._frontier

    def try_claim(self, position: Claim | Step) -> bool:
        """Claims one step.

        Returns:
            False if the restriction was checkpointed or closed: then `process` emits nothing of
            the step and returns.

        Raises:
            ValueError: If the step does not begin at the frontier: emitting it would
                repeat or lose records.
        """
        if self._split or self._frontier.closed:
            return False
        if isinstance(position, Step):
            known = position.before is self._frontier
            self._frontier = position.after if known else apply(self._frontier, position.claim)
        else:
            self._frontier = apply(self._frontier, position)
        self._claimed = True
        return True

    def try_split(self, fraction_of_remainder: float) -> tuple[Frontier, Frontier] | None:
        """Hands the rest over, whatever the fraction: an endless rest has no other cut.

        Returns:
            The primary, closed and empty, and the residual; None if nothing was claimed yet or
            nothing is left.
        """
        if self._split or not self._claimed or self._frontier.closed:
            return None
        self._split = True
        residual = self._frontier
        self._frontier = Frontier(closed=True)
        return self._frontier, residual

    def check_done(self) -> bool:
        """True if the restriction was closed or handed over.

        Raises:
            ValueError: If `process` returned with work left: Beam would otherwise drop it.
        """
        if not self._frontier.closed:
            left = ", ".join(each.shard_id for each in self._frontier.shards) or "no shard yet"
            raise ValueError(f"the frontier was neither closed nor deferred; it holds {left}")
        return True

    def current_progress(self) -> RestrictionProgress:
        """Done or not done: how much an endless stream still holds is unknown."""
        return progress(done=self._frontier.closed)

    def is_bounded(self) -> bool:
        """True in catch-up mode, and for what is closed."""
        return self._bounded or self._frontier.closed


def progress(*, done: bool) -> RestrictionProgress:
    """Done or not done, as Beam takes it."""
    return RestrictionProgress(completed=1.0 if done else 0.0, remaining=0.0 if done else 1.0)


def apply(frontier: Frontier, claim: Claim) -> Frontier:
    """The frontier after a claim.

    Raises:
        ValueError: If the claim does not begin at the frontier.
    """
    if isinstance(claim, PageRead):
        return _page_read(frontier, claim)
    if isinstance(claim, ChildrenFound):
        added = len(frontier.shards)
        frontier = replace_parent(frontier, claim.parent_id, claim.children, claim.now_us)
        added = len(frontier.shards) - added + 1
        return _counted(frontier, Counts(children=added))
    if isinstance(claim, Moved):
        if claim.before is not frontier and claim.before != frontier:
            raise ValueError("the frontier has moved since the claim was computed")
        return claim.after
    if isinstance(claim, Polled):
        return _counted(frontier, claim.counts)
    return dataclasses.replace(frontier, closed=True)


def _page_read(frontier: Frontier, claim: PageRead) -> Frontier:
    standing = frontier.shard(claim.before.shard_id)
    if standing != claim.before or claim.after.shard_id != claim.before.shard_id:
        raise ValueError(
            f"a page of shard {claim.before.shard_id} was read from {claim.before}, but the "
            f"frontier is at {standing}"
        )
    if claim.before.ended:
        raise ValueError(f"shard {claim.before.shard_id} was read to its end already")
    if int(claim.after.sequence or 0) < int(claim.before.sequence or 0):
        raise ValueError(
            f"a page of shard {claim.before.shard_id} moves back from sequence number "
            f"{claim.before.sequence} to {claim.after.sequence or 'none'}"
        )
    return frontier.with_shard(claim.after, frontier.counts.plus(claim.counts))


def _counted(frontier: Frontier, counts: Counts) -> Frontier:
    return dataclasses.replace(frontier, counts=frontier.counts.plus(counts))
