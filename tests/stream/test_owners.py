# SPDX-License-Identifier: Apache-2.0
"""Whatever is listed when, trimmed, late or unseen for days: each shard has exactly one reader."""

import dataclasses
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynabeam.transforms.aws.streams import ShardInfo
from dynabeam.transforms.stream.frontier import Frontier, ShardPosition, owner
from dynabeam.transforms.stream.lineage import (
    Start,
    adopt_listing,
    adopt_together,
    agree,
    redistribute,
    replace_parent,
    replace_vanished,
)
from tests.stream.scripted import HOUR_US, NOW_US, shard_id

MINUTE_US = HOUR_US // 60
PAUSES = [MINUTE_US, HOUR_US, 5 * HOUR_US, 23 * HOUR_US, 25 * HOUR_US, 31 * HOUR_US, 80 * HOUR_US]
LATE_US = 20_000_000


@dataclasses.dataclass
class Made:
    """A shard of the service."""

    name: str
    parent: str
    born_us: int
    closes_us: int
    late_us: int


class Service:
    """A stream whose shards roll over about every four hours; a seed decides how."""

    def __init__(self, seed, roots):
        self._draw = random.Random(seed)
        self._made = []
        self._edge = []
        for _ in range(roots):
            self._make("", NOW_US - self._draw.randrange(40 * HOUR_US, 44 * HOUR_US))

    def _make(self, parent, born_us):
        name = f"shardId-{born_us // 1000:020d}-{self._draw.randrange(2**32):08x}"
        closes_us = born_us + self._draw.choice([1, 60, 240, 270]) * MINUTE_US
        late_us = self._draw.choice([0, 0, LATE_US])
        made = Made(name, parent, born_us, closes_us, late_us)
        self._made.append(made)
        self._edge.append(made)

    def roll(self, now_us):
        """Closes what is old enough, and gives it children."""
        while ripe := [each for each in self._edge if each.closes_us <= now_us]:
            for each in ripe:
                self._edge.remove(each)
                for _ in range(self._draw.choice([1, 1, 1, 2]) if len(self._edge) < 8 else 1):
                    self._make(each.name, each.closes_us)

    def listing(self, now_us):
        """What DescribeStream shows."""
        self.roll(now_us)
        return [
            ShardInfo(each.name, each.parent, each.closes_us <= now_us)
            for each in sorted(self._made, key=lambda each: each.name)
            if each.born_us + each.late_us <= now_us < each.closes_us + 24 * HOUR_US
        ]

    def draw(self, share):
        """True for such a share of times."""
        return self._draw.random() < share


def known(frontier):
    shards = [each.shard_id for each in frontier.shards]
    return [*shards, *(k for k, _ in frontier.pending), *(k for k, _ in frontier.finished)]


def read(service, frontier, reader, readers, now_us, *, pages):
    """One reader's run: a listing, perhaps in parts, and some shards read to their end."""
    listing = service.listing(now_us)
    for end in [*pages, len(listing)]:
        frontier = adopt_listing(
            frontier,
            listing[:end],
            complete=end >= len(listing),
            reader=reader,
            readers=readers,
            start=Start(),
            began_us=now_us,
        )
    listed = {each.shard_id: each for each in listing}
    for position in frontier.shards:
        if position.shard_id not in listed:
            frontier = replace_vanished(frontier, position.shard_id, listed, now_us)
        elif listed[position.shard_id].closed and service.draw(0.6):
            ended = dataclasses.replace(position, kind="ended", ended_us=now_us)
            frontier = frontier.with_shard(ended)
            found = [k for k, each in listed.items() if each.parent_id == position.shard_id]
            if found or any(each[1] == position.shard_id for each in frontier.pending):
                frontier = replace_parent(frontier, position.shard_id, found, now_us)
    return frontier


def assert_one_owner(frontiers, listing, *, complete):
    owners = {}
    for reader, frontier in enumerate(frontiers):
        for name in known(frontier):
            assert name not in owners, f"{name} is read by {owners[name]} and by {reader}"
            owners[name] = reader
    if complete:
        assert [each.shard_id for each in listing if each.shard_id not in owners] == []


class TestRounds:
    """Between two runs all frontiers are at hand, as the position document keeps them."""

    @settings(max_examples=100, deadline=None)
    @given(
        st.integers(0, 2**32),
        st.integers(1, 6),
        st.lists(st.tuples(st.sampled_from(PAUSES), st.integers(1, 8)), min_size=1, max_size=7),
        st.data(),
    )
    def test_every_shard_is_read_by_exactly_one_reader(self, seed, roots, runs, data):
        service = Service(seed, roots)
        frontiers = [Frontier() for _ in range(runs[0][1])]
        now_us = NOW_US
        for pause_us, readers in runs:
            now_us += pause_us
            frontiers = agree(redistribute(frontiers, readers))
            if now_us - min(each.swept_us for each in frontiers) > 12 * HOUR_US:
                frontiers = adopt_together(frontiers, service.listing(now_us), Start(), now_us)
            # Each reader begins and lists at a time of its own, and may not get round to it.
            for reader in range(readers):
                began_us = now_us + data.draw(st.integers(0, 10)) * MINUTE_US
                if data.draw(st.integers(0, 9)):
                    pages = data.draw(st.lists(st.integers(0, 20), max_size=2).map(sorted))
                    frontiers[reader] = read(
                        service, frontiers[reader], reader, readers, began_us, pages=pages
                    )
            now_us += 15 * MINUTE_US
            assert_one_owner(frontiers, (), complete=False)
        # No listing is late any more: all readers list once.
        frontiers = agree(frontiers)
        if now_us - min(each.swept_us for each in frontiers) > 12 * HOUR_US:
            frontiers = adopt_together(frontiers, service.listing(now_us), Start(), now_us)
        service.roll(now_us)
        now_us += 1  # nothing rolls over while all of them look
        frontiers = [
            read(service, each, reader, len(frontiers), now_us, pages=())
            for reader, each in enumerate(frontiers)
        ]
        hidden = {
            each.name
            for each in service._made
            if each.born_us + each.late_us > now_us - 1 or now_us - each.born_us < LATE_US
        }
        listing = [each for each in service.listing(now_us) if each.shard_id not in hidden]
        assert_one_owner(frontiers, listing, complete=not hidden)


class TestAlone:
    """A reader of a continuous job goes on from a savepoint with nothing but its own frontier."""

    @settings(max_examples=100, deadline=None)
    @given(
        st.integers(0, 2**32),
        st.integers(1, 6),
        st.integers(1, 8),
        st.lists(st.sampled_from(PAUSES), min_size=1, max_size=6),
    )
    def test_readers_that_saw_the_same_listings_agree(self, seed, roots, readers, pauses):
        service = Service(seed, roots)
        frontiers = [Frontier() for _ in range(readers)]
        now_us = NOW_US
        for pause_us in pauses:
            now_us += pause_us
            service.roll(now_us)
            frontiers = [
                read(service, each, reader, readers, now_us, pages=())
                for reader, each in enumerate(frontiers)
            ]
            assert_one_owner(frontiers, (), complete=False)
        if all(each.swept_us == now_us for each in frontiers):
            assert_one_owner(frontiers, service.listing(now_us), complete=True)

    @pytest.mark.parametrize("readers", [2, 3, 8])
    def test_a_child_of_a_trimmed_shard_belongs_to_whom_its_parent_belonged(self, readers):
        root = shard_id(0, 6.0)
        # Of another reader by its own hash.
        child = next(
            name
            for name in (shard_id(n, 2.0) for n in range(1, 100))
            if owner(name, readers) != owner(root, readers)
        )
        frontiers = [
            adopt_listing(
                Frontier(),
                [ShardInfo(root)],
                complete=True,
                reader=reader,
                readers=readers,
                start=Start(),
                began_us=NOW_US - 5 * HOUR_US,
            )
            for reader in range(readers)
        ]
        # The root leaves the listing before its child is seen.
        frontiers = [
            adopt_listing(
                each,
                [ShardInfo(child, root)],
                complete=True,
                reader=reader,
                readers=readers,
                start=Start(),
                began_us=NOW_US + 24 * HOUR_US,
            )
            for reader, each in enumerate(frontiers)
        ]
        holders = [reader for reader, each in enumerate(frontiers) if child in known(each)]
        assert holders == [owner(root, readers)]


class TestAgreement:
    A, B, C = (shard_id(n, 9 - n) for n in range(3))

    def test_what_one_has_is_foreign_to_the_others(self):
        mine = Frontier((ShardPosition(self.A),), pending=((self.B, self.A),), swept_us=1)
        other = Frontier((ShardPosition(self.C),), foreign=("shardId-x",), swept_us=2)
        first, second = agree([mine, other])
        assert known(first) == [self.A, self.B]
        assert first.foreign == (self.C,)
        assert known(second) == [self.C]
        assert second.foreign == (self.A, self.B)
        # Nobody has it, so it is nobody's yet.
        assert "shardId-x" not in first.foreign + second.foreign
        assert (first.swept_us, second.swept_us) == (1, 2)

    def test_a_shard_of_two_readers_stays_with_the_one_that_is_less_far(self):
        far = Frontier((ShardPosition(self.A, "after", sequence="10" * 12),))
        near = Frontier((ShardPosition(self.A, "after", sequence="9" * 21),))
        for frontiers in ([far, near], [near, far]):
            agreed = agree(frontiers)
            holders = [each.shard(self.A) for each in agreed if each.shard(self.A)]
            assert [each.sequence for each in holders] == ["9" * 21]

    def test_a_shard_that_one_still_reads_is_not_taken_for_finished(self):
        reads = Frontier((ShardPosition(self.A, "after", sequence="5"),))
        finished = Frontier(finished=((self.A, NOW_US),))
        for frontiers in ([reads, finished], [finished, reads]):
            agreed = agree(frontiers)
            assert [each.shards for each in agreed if each.shards] == [reads.shards]
            assert [each.finished for each in agreed if each.finished] == []

    def test_one_reader_has_nobody_to_agree_with(self):
        alone = Frontier((ShardPosition(self.A),), foreign=(self.B,), foreign_before_ms=7)
        assert agree([alone]) == [alone]

    def test_agreement_does_not_change_what_is_agreed(self):
        frontiers = [Frontier((ShardPosition(self.A),)), Frontier((ShardPosition(self.C),))]
        once = agree(frontiers)
        assert agree(once) == once
