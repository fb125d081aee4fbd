# SPDX-License-Identifier: Apache-2.0
"""How listings change a frontier."""

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynabeam.transforms.aws.streams import ShardInfo
from dynabeam.transforms.stream.frontier import Frontier, ShardPosition, owner
from dynabeam.transforms.stream.lineage import (
    Start,
    adopt_listing,
    drop_childless,
    merge,
    partition,
    redistribute,
    replace_parent,
    replace_vanished,
)
from tests.stream.scripted import HOUR_US, NOW_US, shard_id


def adopt(frontier, shards, *, complete=True, reader=0, readers=1, start=None, now=NOW_US):
    return adopt_listing(
        frontier,
        shards,
        complete=complete,
        reader=reader,
        readers=readers,
        start=start or Start(),
        began_us=now,
    )


def ids(frontier):
    return [each.shard_id for each in frontier.shards]


A, B, C, D, E = (shard_id(n, 20 - 4 * n) for n in range(5))


class TestAdoption:
    def test_roots_are_taken_up_and_descendants_wait(self):
        frontier = adopt(Frontier(), [ShardInfo(A), ShardInfo(B, A), ShardInfo(C, B)])
        assert ids(frontier) == [A]
        assert frontier.pending == ((B, A), (C, B))
        assert frontier.swept_us == NOW_US

    def test_a_parent_that_is_no_longer_listed_makes_a_root(self):
        assert ids(adopt(Frontier(), [ShardInfo(B, A)])) == [B]

    def test_each_root_has_exactly_one_reader(self):
        roots = [ShardInfo(shard_id(n)) for n in range(40)]
        taken = [ids(adopt(Frontier(), roots, reader=r, readers=3)) for r in range(3)]
        assert sorted(itertools.chain(*taken)) == [each.shard_id for each in roots]
        assert all(taken)

    def test_a_shard_whose_foreign_parent_left_the_listing_stays_foreign(self):
        other = next(r for r in range(2) if r != owner(A, 2))
        before = adopt(Frontier(), [ShardInfo(A), ShardInfo(B, A)], reader=other, readers=2)
        assert before.shards == ()
        after = adopt(before, [ShardInfo(B, A)], reader=other, readers=2)
        assert after.shards == ()

    def test_old_foreign_ids_collapse_into_one_number(self):
        other = next(r for r in range(2) if r != owner(A, 2))
        chain = [ShardInfo(A), ShardInfo(B, A), ShardInfo(C, B), ShardInfo(D, C)]
        frontier = adopt(Frontier(), chain, reader=other, readers=2)
        assert frontier.foreign == (D,)
        # A, B and C are remembered all the same.
        again = adopt(frontier, chain[1:], reader=other, readers=2)
        assert again.shards == ()

    def test_a_late_root_is_found_by_a_later_listing(self):
        frontier = adopt(Frontier(), [ShardInfo(A)])
        frontier = adopt(frontier, [ShardInfo(A), ShardInfo(E)], now=NOW_US + 1)
        assert ids(frontier) == [A, E]

    def test_children_of_an_ended_shard_replace_it(self):
        frontier = Frontier((ShardPosition(A, "ended", sequence="5", ended_us=NOW_US),), swept_us=1)
        frontier = adopt(frontier, [ShardInfo(A, closed=True), ShardInfo(B, A), ShardInfo(C, A)])
        assert ids(frontier) == [B, C]
        assert frontier.finished == ((A, NOW_US),)

    def test_a_late_child_of_a_finished_shard_is_taken_up(self):
        frontier = Frontier((ShardPosition(B),), finished=((A, NOW_US),), swept_us=1)
        frontier = adopt(frontier, [ShardInfo(A), ShardInfo(B, A), ShardInfo(C, A)])
        assert ids(frontier) == [B, C]
        assert frontier.shard(C).kind == "trim_horizon"

    def test_late_descendants_of_a_known_shard_are_taken_up_though_old(self):
        frontier = Frontier((ShardPosition(A),), foreign_before_ms=NOW_US // 1000, swept_us=1)
        listing = [ShardInfo(A), ShardInfo(B, A), ShardInfo(C, B)]
        assert adopt(frontier, listing).pending == ((B, A), (C, B))

    def test_finished_shards_are_not_begun_again(self):
        frontier = Frontier((ShardPosition(B),), finished=((A, NOW_US),), swept_us=1)
        assert ids(adopt(frontier, [ShardInfo(A), ShardInfo(B, A)])) == [B]

    def test_finished_ids_are_kept_two_days(self):
        frontier = Frontier(finished=((A, NOW_US - 47 * HOUR_US), (B, NOW_US - 49 * HOUR_US)))
        assert [each for each, _ in adopt(frontier, []).finished] == [A]

    def test_a_listing_that_is_not_at_its_end_keeps_what_is_sure(self):
        listing = [ShardInfo(A), ShardInfo(B, A), ShardInfo(D, C)]
        frontier = adopt(Frontier(), listing, complete=False)
        assert ids(frontier) == [A]
        assert frontier.pending == ((B, A),)
        assert frontier.swept_us == 0
        # D's parent may be on a later page; only the whole listing says that it is a root.
        assert ids(adopt(frontier, listing)) == [A, D]

    @given(st.permutations(range(6)))
    def test_the_order_of_a_listing_does_not_matter(self, order):
        chain = [ShardInfo(A), ShardInfo(B, A), ShardInfo(C, B), ShardInfo(D, C), ShardInfo(E)]
        chain.append(ShardInfo(shard_id(9), A))
        assert adopt(Frontier(), [chain[n] for n in order]) == adopt(Frontier(), chain)


@st.composite
def young_forests(draw):
    """Listings of shards made within the last minutes, in any shape, parents first."""
    ages = st.floats(0.001, 0.2)
    names = [shard_id(n, age) for n, age in enumerate(sorted(draw(st.lists(ages)), reverse=True))]
    parents = [draw(st.sampled_from(["", *names[:n]])) for n in range(len(names))]
    return [ShardInfo(*each) for each in zip(names, parents, strict=True)]


class TestOneOwner:
    """Readers see different listings, and shards late; each shard still has one reader."""

    @given(young_forests(), st.integers(1, 3), st.data())
    def test_shards_that_are_listed_late(self, forest, readers, data):
        owners = []
        for reader in range(readers):
            frontier = Frontier()
            partial = st.sets(st.sampled_from(forest)) if forest else st.just(set())
            for seen in [*data.draw(st.lists(partial, max_size=3)), forest]:
                listing = [each for each in forest if each in seen]
                frontier = adopt(frontier, listing, reader=reader, readers=readers)
            owners += [each for each, _ in frontier.pending] + ids(frontier)
            # No shard is begun whose parent is to be read first.
            parents = {each.shard_id: each.parent_id for each in forest}
            assert not [each for each in ids(frontier) if parents[each]]
        assert sorted(owners) == sorted(each.shard_id for each in forest)

    def test_a_listing_without_a_young_parent_is_not_complete(self):
        parent, child = shard_id(1, 0.1), shard_id(2, 0.05)
        frontier = adopt(Frontier(), [ShardInfo(child, parent)])
        assert frontier == Frontier()
        assert adopt(frontier, [ShardInfo(parent), ShardInfo(child, parent)]).swept_us == NOW_US

    @pytest.mark.parametrize(("parent_age", "child_age"), [(24.01, 0.1), (1, 0.26)])
    def test_a_parent_that_cannot_come_any_more(self, parent_age, child_age):
        parent, child = shard_id(1, parent_age), shard_id(2, child_age)
        assert ids(adopt(Frontier(), [ShardInfo(child, parent)])) == [child]


class TestStart:
    def test_latest_begins_with_open_shards_and_closed_leaves(self):
        listing = [
            ShardInfo(A, closed=True),
            ShardInfo(B, A),
            ShardInfo(C, closed=True),
            ShardInfo(D, "gone"),
        ]
        start = Start("at_timestamp", 77, open_only=True)
        frontier = adopt(Frontier(), listing, start=start)
        assert [(each.shard_id, each.kind, each.at_us) for each in frontier.shards] == [
            (B, "at_timestamp", 77),
            (C, "at_timestamp", 77),
            (D, "at_timestamp", 77),
        ]
        # What comes later is new: it is read from its beginning.
        later = adopt(frontier, [*listing, ShardInfo(E, A)], start=start)
        assert later.shard(E).kind == "trim_horizon"

    def test_latest_waits_for_the_whole_listing(self):
        start = Start("at_timestamp", 77, open_only=True)
        assert adopt(Frontier(), [ShardInfo(A)], complete=False, start=start) == Frontier()

    def test_a_timestamp_is_for_the_roots_of_the_first_listing(self):
        start = Start("at_timestamp", 77)
        frontier = adopt(Frontier(), [ShardInfo(A), ShardInfo(B, A)], start=start)
        assert frontier.shard(A) == ShardPosition(
            A, "at_timestamp", at_us=77, low_us=77, since_us=NOW_US
        )
        frontier = adopt(frontier, [ShardInfo(A), ShardInfo(B, A), ShardInfo(E)], start=start)
        assert frontier.shard(E).kind == "trim_horizon"


class TestChildren:
    def test_children_begin_at_the_trim_horizon(self):
        parent = ShardPosition(A, "ended", sequence="5", at_us=3, low_us=9, ended_us=11)
        frontier = replace_parent(Frontier((parent,)), A, [B, C], NOW_US)
        assert frontier.shards == tuple(
            ShardPosition(each, parent_id=A, low_us=9, since_us=11) for each in (B, C)
        )

    def test_children_inherit_a_timestamp_until_a_record_was_read(self):
        parent = ShardPosition(A, "ended", at_us=3, low_us=9, ended_us=11)
        frontier = replace_parent(Frontier((parent,)), A, [B], NOW_US)
        assert (frontier.shards[0].kind, frontier.shards[0].at_us) == ("at_timestamp", 3)

    def test_pending_children_enter_with_those_found(self):
        frontier = Frontier((ShardPosition(A, "ended"),), pending=((B, A), (D, B)))
        frontier = replace_parent(frontier, A, [C], NOW_US)
        assert ids(frontier) == [B, C]
        assert frontier.pending == ((D, B),)

    def test_only_an_ended_shard_has_successors(self):
        with pytest.raises(ValueError, match="read to its end"):
            replace_parent(Frontier((ShardPosition(A),)), A, [B], NOW_US)

    def test_a_childless_shard_is_kept_25_hours(self):
        young = ShardPosition(A, "ended", ended_us=NOW_US - 24 * HOUR_US)
        old = ShardPosition(B, "ended", ended_us=NOW_US - 26 * HOUR_US)
        frontier = Frontier((young, old, ShardPosition(C)))
        kept, aged = drop_childless(frontier, disabled=False, now_us=NOW_US)
        assert (ids(kept), aged) == ([A, C], (old,))
        kept, aged = drop_childless(frontier, disabled=True, now_us=NOW_US)
        assert (ids(kept), aged) == ([C], ())


class TestVanished:
    def test_the_nearest_listed_descendants_take_its_place(self):
        frontier = Frontier((ShardPosition(A, sequence="5"),), pending=((B, A), (C, B), (D, C)))
        frontier = replace_vanished(frontier, A, [C, D], NOW_US)
        assert ids(frontier) == [C]
        assert frontier.pending == ((B, A), (D, C))

    def test_without_descendants_nothing_is_left(self):
        assert replace_vanished(Frontier((ShardPosition(A),)), A, [], NOW_US).shards == ()


shard_ids = st.integers(0, 30).map(shard_id)
forests = st.dictionaries(st.integers(0, 30), st.integers(0, 30), min_size=1, max_size=20).map(
    lambda parents: [
        ShardInfo(shard_id(n), shard_id(p) if p < n and p in parents else "")
        for n, p in sorted(parents.items())
    ]
)


class TestManyReaders:
    @given(forests, st.integers(1, 5), st.integers(1, 5))
    def test_another_number_of_readers_loses_and_doubles_nothing(self, forest, before, after):
        old = [adopt(Frontier(), forest, reader=r, readers=before) for r in range(before)]
        new = partition(merge(old), after)
        new = [adopt(f, forest, reader=r, readers=after) for r, f in enumerate(new)]
        for frontiers in (old, new):
            shards = sorted(each for frontier in frontiers for each in ids(frontier))
            pending = sorted(each for frontier in frontiers for each, _ in frontier.pending)
            assert shards == [each.shard_id for each in forest if not each.parent_id]
            assert pending == [each.shard_id for each in forest if each.parent_id]

    @given(forests, st.integers(2, 4))
    def test_a_root_that_only_some_readers_saw_is_taken_up(self, forest, readers):
        # The reader of number 0 listed before the newest shard came, the others after.
        late = forest[-1]
        old = [
            adopt(Frontier(), forest if r else forest[:-1], reader=r, readers=readers)
            for r in range(readers)
        ]
        whole = adopt(merge(old), forest)
        known = {*ids(whole), *(each for each, _ in whole.pending)}
        assert late.shard_id in known

    def test_of_two_positions_of_one_shard_the_earlier_is_kept(self):
        frontiers = [
            Frontier((ShardPosition(A, "after", sequence=each),)) for each in ("10", "9", "11")
        ]
        assert merge(frontiers).shards[0].sequence == "9"

    def test_no_reader_takes_up_what_another_one_was_given(self):
        finished = ((A, NOW_US),)
        frontier = Frontier((ShardPosition(B, parent_id=A), ShardPosition(C, parent_id=A)))
        frontier = dataclasses.replace(frontier, finished=finished, swept_us=NOW_US)
        forest = [ShardInfo(A, closed=True), ShardInfo(B, A), ShardInfo(C, A), ShardInfo(E, "x")]
        for readers in range(2, 6):
            parts = partition(frontier, readers)
            for _ in range(2):
                parts = [
                    adopt(part, forest, reader=r, readers=readers) for r, part in enumerate(parts)
                ]
            assert sorted(itertools.chain(*(ids(part) for part in parts))) == [B, C, E]

    def test_the_same_number_of_readers_goes_on_unchanged(self):
        frontiers = [Frontier((ShardPosition(each),)) for each in (A, B)]
        assert redistribute(frontiers, 2) == frontiers
        assert sorted(itertools.chain(*(ids(each) for each in redistribute(frontiers, 3)))) == [
            A,
            B,
        ]
        assert redistribute([], 2) == [Frontier(), Frontier()]
