# SPDX-License-Identifier: Apache-2.0
"""How listings of shards change a frontier: pure functions, no I/O, no clock of their own.

A *lineage* is a shard with all its descendants. A root (no parent, or a parent that is no longer
listed) belongs to the reader that a fixed hash of its id names; whatever descends from a reader's
shards belongs to that reader, which therefore reads a parent to its end before any child. Between
two runs all readers' frontiers are at hand and are made to agree (`agree`); in between each decides
alone, from what it remembers: a shard whose parent was trimmed belongs to whom the parent belonged.

Facts that the rules rest on: a child names exactly one parent, so lineages never merge; a parent
may have several children; DescribeStream may show a closed shard before its children, or a child
late; a parent is no longer listed once it is older than the retention of 24 hours.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

from dynabeam.transforms.aws.streams import ShardInfo
from dynabeam.transforms.stream.frontier import (
    Counts,
    Frontier,
    PositionKind,
    ShardPosition,
    created_ms,
    owner,
    sort_shards,
)

__all__ = [
    "Start",
    "adopt_listing",
    "adopt_together",
    "agree",
    "drop_childless",
    "merge",
    "partition",
    "redistribute",
    "replace_parent",
    "replace_vanished",
]

HOUR_US = 3_600 * 1_000_000
DAY_US = 24 * HOUR_US
FINISHED_KEPT_US = 48 * HOUR_US
CHILDLESS_KEPT_US = 25 * HOUR_US
_COLLAPSE_MS = 3_600 * 1_000
_LISTED_WITHIN_MS = 15 * 60 * 1_000


@dataclasses.dataclass(frozen=True)
class Start:
    """Where the roots of the first listing are read from.

    Attributes:
        kind: `trim_horizon` or `at_timestamp`.
        at_us: The timestamp, microseconds since 1970.
        open_only: True to pass over shards that are closed already (`latest`).
    """

    kind: PositionKind = "trim_horizon"
    at_us: int = 0
    open_only: bool = False


def replace_parent(
    frontier: Frontier, parent_id: str, children: Iterable[str], now_us: int
) -> Frontier:
    """Replaces an ended shard by its children.

    Children begin at the trim horizon, so that nothing between parent and child is missed. Only if
    the parent gave no record since a start at a timestamp, its children begin there too.

    Args:
        frontier: The frontier, which holds the parent.
        parent_id: A shard that was read to its end.
        children: Ids of its children; pending ones that name it are added.
        now_us: Wall clock, microseconds since 1970.

    Raises:
        ValueError: If the parent is not in the frontier or not read to its end.
    """
    parent = frontier.shard(parent_id)
    if parent is None or not parent.ended:
        raise ValueError(f"shard {parent_id} is not one that was read to its end")
    waiting = [child for child, its_parent in frontier.pending if its_parent == parent_id]
    known = _known(frontier)
    fresh = sorted((set(children) - known) | set(waiting))
    added = [_child_of(parent, child) for child in fresh]
    return _without(frontier, parent_id, added, now_us)


def replace_vanished(
    frontier: Frontier, shard_id: str, listed: Iterable[str], now_us: int
) -> Frontier:
    """Replaces an unfinished shard that no longer exists by its nearest descendants that do.

    Args:
        frontier: A frontier that has adopted the listing.
        shard_id: The shard that vanished.
        listed: Ids of all shards of a complete listing.
        now_us: Wall clock, microseconds since 1970.
    """
    gone = frontier.shard(shard_id)
    if gone is None:
        raise ValueError(f"shard {shard_id} is not in the frontier")
    there = set(listed)
    nearest: list[str] = []
    parents = [shard_id]
    while parents:
        parent = parents.pop()
        for child in (child for child, its_parent in frontier.pending if its_parent == parent):
            (nearest if child in there else parents).append(child)
    added = [ShardPosition(child, parent_id=shard_id, since_us=now_us) for child in sorted(nearest)]
    return _without(frontier, shard_id, added, now_us)


def adopt_listing(
    frontier: Frontier,
    shards: Sequence[ShardInfo],
    *,
    complete: bool,
    reader: int,
    readers: int,
    start: Start,
    began_us: int,
) -> Frontier:
    """Adopts what a listing shows: late roots, and children of ended and finished shards.

    Args:
        frontier: The frontier so far.
        shards: The shards listed so far, from the beginning of the listing.
        complete: False for a listing that is not at its end. Then only what needs no more
            knowledge is decided: shards without a parent, and children of known shards.
        reader: Number of this reader.
        readers: Number of readers of the stream.
        start: Where roots begin that the first complete listing shows. Later roots are new and
            begin at the trim horizon.
        began_us: Wall clock at which the listing was begun, microseconds since 1970.
    """
    if start.open_only and not complete and not frontier.swept_us:
        return frontier
    work = _Adoption(
        frontier, shards, complete=complete, reader=reader, readers=readers, began_us=began_us
    )
    decided = work.classify()
    return work.result(decided, start if not frontier.swept_us else Start(), began_us)


def drop_childless(
    frontier: Frontier,
    *,
    disabled: bool,
    now_us: int,
    is_sure: Callable[[str], bool] = lambda _: True,
) -> tuple[Frontier, tuple[ShardPosition, ...]]:
    """Drops ended shards that can have no children any more, after a complete listing.

    Args:
        frontier: A frontier that has adopted a complete listing.
        disabled: True if the stream is switched off: then no shard will have a child.
        now_us: Wall clock, microseconds since 1970.
        is_sure: Says of a shard whether its end is certain: of a stream that is switched off only
            such are dropped.

    Returns:
        The frontier without them, and those that were dropped for their age.
    """
    aged = tuple(
        each
        for each in frontier.ended
        if not disabled and now_us - each.ended_us > CHILDLESS_KEPT_US
    )
    sure = tuple(each for each in frontier.ended if is_sure(each.shard_id))
    dropped = sure if disabled else aged
    for each in dropped:
        frontier = _without(frontier, each.shard_id, [], now_us)
    return frontier, aged


def merge(frontiers: Sequence[Frontier]) -> Frontier:
    """The frontier of one reader that reads what several read.

    A shard counts as foreign afterwards only if *every* reader had seen it: one that only some of
    them had seen may be a root that its owner has not seen yet.
    """
    if not frontiers:
        return Frontier()
    shards: dict[str, ShardPosition] = {}
    for each in (position for frontier in frontiers for position in frontier.shards):
        other = shards.get(each.shard_id)
        shards[each.shard_id] = each if other is None else _earlier(each, other)
    finished = dict(entry for frontier in frontiers for entry in frontier.finished)
    pending = dict(entry for frontier in frontiers for entry in frontier.pending)
    mine = {*shards, *finished, *pending}
    before = min(frontier.foreign_before_ms for frontier in frontiers)
    candidates = {shard_id for frontier in frontiers for shard_id in frontier.foreign} - mine
    foreign = {
        shard_id
        for shard_id in candidates
        if all(_is_foreign(frontier, shard_id) for frontier in frontiers)
    }
    counts = Counts()
    for frontier in frontiers:
        counts = counts.plus(frontier.counts)
    return Frontier(
        shards=sort_shards(list(shards.values())),
        pending=tuple(sorted((k, v) for k, v in pending.items() if k not in shards)),
        finished=tuple(sorted((k, v) for k, v in finished.items() if k not in shards)),
        foreign=tuple(sorted(foreign)),
        foreign_before_ms=before,
        swept_us=min(frontier.swept_us for frontier in frontiers),
        counts=counts,
    )


def partition(frontier: Frontier, readers: int) -> list[Frontier]:
    """Cuts one frontier into those of `readers` readers, none lost, none twice.

    A shard goes to the reader that owns its id as a root; its pending descendants go with it.
    """
    parents = dict(frontier.pending)
    homes = {each.shard_id: owner(each.shard_id, readers) for each in frontier.shards}
    homes.update((shard_id, owner(shard_id, readers)) for shard_id, _ in frontier.finished)
    for shard_id in parents:
        ancestor = shard_id
        while ancestor in parents:
            ancestor = parents[ancestor]
        homes[shard_id] = homes.get(ancestor, owner(ancestor, readers))
    return [
        Frontier(
            shards=tuple(each for each in frontier.shards if homes[each.shard_id] == reader),
            pending=tuple(each for each in frontier.pending if homes[each[0]] == reader),
            finished=tuple(each for each in frontier.finished if homes[each[0]] == reader),
            foreign=tuple(
                sorted({*frontier.foreign, *(k for k, home in homes.items() if home != reader)})
            ),
            foreign_before_ms=frontier.foreign_before_ms,
            swept_us=frontier.swept_us,
        )
        for reader in range(readers)
    ]


def redistribute(frontiers: Sequence[Frontier], readers: int) -> list[Frontier]:
    """Stored frontiers, in the order of their readers, for a run with perhaps another number."""
    if len(frontiers) == readers:
        return list(frontiers)
    return partition(merge(frontiers), readers)


def agree(frontiers: Sequence[Frontier]) -> list[Frontier]:
    """The frontiers of all readers of a stream, each with what the others know.

    Readers list at different times, so one may have seen a shard, or an end of one, that another
    has not. If both stay away until it is trimmed, the one takes its children for its own and the
    other for roots. Here all of them are known, so what one owns is foreign to all others, and what
    none owns is nobody's until a listing shows it. A shard that two hold stays with one of them, at
    the position that lies further back.

    Args:
        frontiers: One for each reader, in their order.
    """
    if len(frontiers) < 2:
        return list(frontiers)
    owners: dict[str, int] = {}
    for reader, frontier in enumerate(frontiers):
        for shard_id in _known(frontier):
            standing = owners.get(shard_id)
            if standing is None or _is_kept(frontier, frontiers[standing], shard_id):
                owners[shard_id] = reader
    before_ms = min(each.foreign_before_ms for each in frontiers)
    return [
        _agreed(frontier, {k: v == reader for k, v in owners.items()}, before_ms)
        for reader, frontier in enumerate(frontiers)
    ]


def _is_kept(one: Frontier, other: Frontier, shard_id: str) -> bool:
    """True if a shard that both hold stays with `one`: what is still read, and least far."""
    mine, theirs = one.shard(shard_id), other.shard(shard_id)
    if mine is None or theirs is None:
        return mine is not None
    return _earlier(mine, theirs) is mine and mine != theirs


def _agreed(frontier: Frontier, is_mine: Mapping[str, bool], before_ms: int) -> Frontier:
    return dataclasses.replace(
        frontier,
        shards=tuple(each for each in frontier.shards if is_mine[each.shard_id]),
        pending=tuple(each for each in frontier.pending if is_mine[each[0]]),
        finished=tuple(each for each in frontier.finished if is_mine[each[0]]),
        foreign=tuple(sorted(shard_id for shard_id, mine in is_mine.items() if not mine)),
        foreign_before_ms=before_ms,
    )


def adopt_together(
    frontiers: Sequence[Frontier], shards: Sequence[ShardInfo], start: Start, began_us: int
) -> list[Frontier]:
    """One complete listing compared with the frontiers of all readers of a stream.

    Needed where a shard may be trimmed between the listings of two readers, so that the one would
    see a lineage from its parent on and the other from its child on: after a day, and at the
    beginning. That the readers have listed is not claimed: they judge by it what was lost.

    Args:
        frontiers: One for each reader, in their order.
        shards: All shards of the stream.
        start: Where roots begin that a first listing shows.
        began_us: Wall clock at which the listing was begun, microseconds since 1970.
    """
    readers = len(frontiers)
    adopted = [
        adopt_listing(
            frontier,
            shards,
            complete=True,
            reader=reader,
            readers=readers,
            start=start,
            began_us=began_us,
        )
        for reader, frontier in enumerate(agree(frontiers))
    ]
    return [
        dataclasses.replace(each, swept_us=frontier.swept_us)
        for each, frontier in zip(adopted, frontiers, strict=True)
    ]


class _Adoption:
    """One listing compared with one frontier."""

    def __init__(
        self,
        frontier: Frontier,
        shards: Sequence[ShardInfo],
        *,
        complete: bool,
        reader: int,
        readers: int,
        began_us: int,
    ) -> None:
        self._frontier = frontier
        self._began_ms = began_us // 1_000
        self._listed = {each.shard_id: each for each in shards}
        self._complete = complete
        self._reader = reader
        self._readers = readers
        self._mine = _known(frontier)
        self._foreign = frozenset(frontier.foreign)

    def classify(self) -> dict[str, bool]:
        """For each listed shard that can be decided: is it this reader's?"""
        decided: dict[str, bool] = {}
        for shard_id in sorted(self._listed):
            chain = [shard_id]
            # Walk up to the first ancestor whose owner is known: what descends from it is alike.
            while (answer := self._decide(chain[-1], decided)) is None:
                parent = self._listed[chain[-1]].parent_id
                if parent not in self._listed or parent in chain:
                    break
                chain.append(parent)
            if answer is not None:
                decided.update(dict.fromkeys(chain, answer))
        return decided

    def _decide(self, shard_id: str, decided: Mapping[str, bool]) -> bool | None:
        parent = self._listed[shard_id].parent_id
        if shard_id in decided or shard_id in self._mine:
            return decided.get(shard_id, True)
        if shard_id in self._foreign:
            return False
        if parent in self._mine:
            return True
        if parent in self._listed or (parent and not self._complete):
            return None
        # Trimmed, but known: what descends from another reader's shard is that reader's. Taking it
        # for a root would have it read twice, by its owner and by whom a hash names.
        if self._is_foreign(parent) or self._is_foreign(shard_id):
            return False
        if self._parent_may_come(shard_id, parent):
            return None
        return owner(shard_id, self._readers) == self._reader

    def _is_foreign(self, shard_id: str) -> bool:
        return shard_id not in self._mine and _is_foreign(self._frontier, shard_id)

    def _parent_may_come(self, shard_id: str, parent: str) -> bool:
        """True if a parent that is not listed is more likely listed late than trimmed.

        A shard younger than the retention cannot have been trimmed. Taking its child for a root
        would give one lineage two owners, or none, as readers see different listings. But a listing
        that lags is a matter of seconds: where the child is older the parent is taken for gone.
        """
        made, parent_made = created_ms(shard_id), created_ms(parent)
        if made is None or parent_made is None:
            return False
        lags = self._began_ms - made < _LISTED_WITHIN_MS
        return lags and self._began_ms - parent_made < DAY_US // 1_000

    def result(self, decided: Mapping[str, bool], start: Start, began_us: int) -> Frontier:
        """The frontier with every decision carried out."""
        frontier = self._frontier
        new = sorted(each for each, mine in decided.items() if mine and each not in self._mine)
        if start.open_only:
            frontier, new = self._pass_over_closed(frontier, new, began_us)
        pending = [(each, self._listed[each].parent_id) for each in new]
        frontier = self._remember(frontier, pending, decided, began_us)
        return _begin(frontier, start, began_us)

    def _pass_over_closed(
        self, frontier: Frontier, new: list[str], began_us: int
    ) -> tuple[Frontier, list[str]]:
        # A closed shard without a listed child is read too: its child may be listed late.
        parents = {each.parent_id for each in self._listed.values()}
        passed = [each for each in new if self._listed[each].closed and each in parents]
        finished = {**dict(frontier.finished), **dict.fromkeys(passed, began_us)}
        frontier = dataclasses.replace(frontier, finished=tuple(sorted(finished.items())))
        return frontier, [each for each in new if each not in set(passed)]

    def _remember(
        self,
        frontier: Frontier,
        pending: list[tuple[str, str]],
        decided: Mapping[str, bool],
        began_us: int,
    ) -> Frontier:
        theirs = [each for each, mine in decided.items() if not mine]
        before = frontier.foreign_before_ms
        foreign = {*frontier.foreign, *theirs}
        # A listing that leaves a shard undecided is not complete: it is requested again.
        complete = self._complete and self._listed.keys() <= decided.keys()
        if complete:
            made = [ms for each in self._listed if (ms := created_ms(each)) is not None]
            before = max(before, max(made, default=0) - _COLLAPSE_MS)
            foreign = {each for each in foreign if self._must_be_named(each, before)}
        return dataclasses.replace(
            frontier,
            pending=tuple(sorted({*frontier.pending, *pending})),
            foreign=tuple(sorted(foreign)),
            foreign_before_ms=before,
            swept_us=began_us if complete else frontier.swept_us,
        )

    def _must_be_named(self, shard_id: str, before_ms: int) -> bool:
        # Old ids are covered by the number, unless a parent of this reader would claim them.
        made = created_ms(shard_id)
        if made is not None and made >= before_ms:
            return True
        listed = self._listed.get(shard_id)
        return listed is not None and (made is None or listed.parent_id in self._mine)


def _begin(frontier: Frontier, start: Start, now_us: int) -> Frontier:
    """Moves pending shards into the frontier whose parents no longer come before them."""
    for parent in frontier.ended:
        if any(its_parent == parent.shard_id for _, its_parent in frontier.pending):
            frontier = replace_parent(frontier, parent.shard_id, (), now_us)
    waited_for = {each.shard_id for each in frontier.shards} | {
        each for each, _ in frontier.pending
    }
    finished = dict(frontier.finished)
    shards = list(frontier.shards)
    pending = []
    for shard_id, parent_id in frontier.pending:
        if parent_id in waited_for:
            pending.append((shard_id, parent_id))
        elif parent_id in finished and not start.open_only:
            shards.append(
                ShardPosition(shard_id, parent_id=parent_id, since_us=finished[parent_id])
            )
        else:
            shards.append(
                ShardPosition(
                    shard_id,
                    start.kind,
                    parent_id=parent_id,
                    at_us=start.at_us,
                    low_us=start.at_us,
                    since_us=now_us,
                )
            )
    return dataclasses.replace(
        frontier,
        shards=sort_shards(shards),
        pending=tuple(pending),
        finished=_kept(finished, frontier.swept_us),
    )


def _child_of(parent: ShardPosition, child: str) -> ShardPosition:
    inherits = bool(parent.at_us) and not parent.sequence
    return ShardPosition(
        child,
        "at_timestamp" if inherits else "trim_horizon",
        parent_id=parent.shard_id,
        at_us=parent.at_us if inherits else 0,
        low_us=parent.low_us,
        since_us=parent.ended_us,
    )


def _without(
    frontier: Frontier, shard_id: str, added: list[ShardPosition], now_us: int
) -> Frontier:
    names = {each.shard_id for each in added}
    finished = {**dict(frontier.finished), shard_id: now_us}
    return dataclasses.replace(
        frontier,
        shards=sort_shards([e for e in frontier.shards if e.shard_id != shard_id] + added),
        pending=tuple(each for each in frontier.pending if each[0] not in names),
        finished=_kept(finished, frontier.swept_us),
        foreign=tuple(each for each in frontier.foreign if each not in names),
    )


def _kept(finished: Mapping[str, int], swept_us: int) -> tuple[tuple[str, int], ...]:
    """What is still to be known of finished shards.

    Their age counts up to the last complete listing, not up to now: a listing after a long pause
    may show their children only on a later page, and without them these would be nobody's.
    """
    return tuple(sorted((k, v) for k, v in finished.items() if swept_us - v <= FINISHED_KEPT_US))


def _known(frontier: Frontier) -> set[str]:
    return {
        *(each.shard_id for each in frontier.shards),
        *(shard_id for shard_id, _ in frontier.pending),
        *(shard_id for shard_id, _ in frontier.finished),
    }


def _is_foreign(frontier: Frontier, shard_id: str) -> bool:
    return shard_id in frontier.foreign or _is_old(shard_id, frontier.foreign_before_ms)


def _is_old(shard_id: str, before_ms: int) -> bool:
    made = created_ms(shard_id)
    return made is not None and made < before_ms


def _earlier(one: ShardPosition, other: ShardPosition) -> ShardPosition:
    # Rather read a stretch twice than not at all.
    def rank(each: ShardPosition) -> tuple[bool, int]:
        return each.ended, int(each.sequence or 0)

    return min(one, other, key=rank)
