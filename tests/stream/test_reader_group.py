# SPDX-License-Identifier: Apache-2.0
"""Groups of readers: how they are dealt out, what a savepoint keeps of them, and their tracker."""

import pytest
from apache_beam.utils.timestamp import Timestamp

from dynabeam.transforms.errors import ValueDecodeError
from dynabeam.transforms.stream.frontier import Counts, Frontier, FrontierCoder, ShardPosition
from dynabeam.transforms.stream.reader_group import (
    MOST_GROUPS,
    FrontierGroup,
    FrontierGroupCoder,
    GroupMember,
    GroupTracker,
    MemberClaim,
    ReaderGroup,
    ReaderGroupCoder,
    group_readers,
)
from dynabeam.transforms.stream.tracker import Closed, PageRead, Polled
from dynabeam.transforms.stream.watermark import GroupWatermarks
from tests.stream.scripted import NOW_US, shard_id, source

A, B = shard_id(0, 9), shard_id(1, 8)
STANDING = FrontierGroup((Frontier((ShardPosition(A),)), Frontier((ShardPosition(B),))))
AFTER = ShardPosition(A, "after", sequence="7")
READ = PageRead(ShardPosition(A), AFTER, Counts(changes=1, pages=1))


class TestDealing:
    @pytest.mark.parametrize("readers", [1, 3, MOST_GROUPS, 2 * MOST_GROUPS])
    @pytest.mark.parametrize("tables", [1, 3, 20])
    def test_every_reader_once_and_those_of_a_table_apart(self, readers, tables):
        sources = [
            source(stream_arn=f"arn{table}", reader=reader, readers=readers)
            for table in range(tables)
            for reader in range(readers)
        ]
        groups = group_readers(sources)
        dealt = [each for group in groups for each in group.sources]
        assert sorted(dealt, key=sources.index) == sources
        assert len(groups) == min(len(sources), max(MOST_GROUPS, readers))
        for group in groups:
            arns = [each.stream_arn for each in group.sources]
            assert len(set(arns)) == len(arns)
        sizes = {len(group.sources) for group in groups}
        assert max(sizes) - min(sizes) <= 1

    def test_nobody(self):
        assert group_readers([]) == []


class TestCoders:
    def test_golden_bytes(self):
        golden = (
            b'{"format":1,"frontiers":['
            + FrontierCoder().encode(STANDING.frontiers[0])
            + b","
            + FrontierCoder().encode(STANDING.frontiers[1])
            + b"]}"
        )
        # Decoded first: what was encoded here is only remembered.
        assert FrontierGroupCoder().decode(golden) == STANDING
        assert FrontierGroupCoder().encode(STANDING) == golden

    def test_what_was_encoded_last_is_not_decoded_again(self):
        coder = FrontierGroupCoder()
        groups = [
            FrontierGroup((Frontier((ShardPosition(A, "after", sequence=str(n)),)),))
            for n in range(1, 100)
        ]
        encoded = [coder.encode(each) for each in groups]
        found = [coder.decode(bytes(bytearray(each))) for each in encoded]
        assert found == groups
        assert [one is other for one, other in zip(found, groups, strict=True)][-MOST_GROUPS:] == [
            True
        ] * MOST_GROUPS
        assert found[0] is not groups[0], "it keeps the last ones only"

    def test_groups_come_back(self):
        group = ReaderGroup((source(STANDING.frontiers[0]), source(reader=1, readers=2)))
        coder = ReaderGroupCoder()
        assert coder.decode(coder.encode(group)) == group
        assert coder.encode(group).startswith(b'{"format":1,"sources":[{"buckets":')
        assert coder.is_deterministic()

    @pytest.mark.parametrize("coder", [FrontierGroupCoder(), ReaderGroupCoder()])
    def test_unknown_format(self, coder):
        with pytest.raises(ValueDecodeError, match="unknown format"):
            coder.decode(b'{"format":2}')


class TestTracker:
    def test_each_reader_claims_on_its_own(self):
        tracker = GroupTracker(STANDING)
        first, second = GroupMember(tracker, 0), GroupMember(tracker, 1)
        assert first.try_claim(READ)
        assert first.current_restriction().shard(A) == AFTER
        assert second.current_restriction() == STANDING.frontiers[1]
        with pytest.raises(ValueError, match="is at"):
            second.try_claim(READ)

    def test_a_split_is_a_checkpoint_of_all(self):
        tracker = GroupTracker(STANDING)
        assert tracker.try_split(0) is None, "nothing is claimed yet"
        assert tracker.try_claim(MemberClaim(0, READ))
        primary, residual = tracker.try_split(0.5)
        assert primary.closed
        assert tracker.current_restriction() == primary
        assert residual.frontiers[0].shard(A) == AFTER
        assert residual.frontiers[1] == STANDING.frontiers[1]
        assert not tracker.try_claim(MemberClaim(1, Polled()))
        assert tracker.try_split(0) is None
        assert tracker.check_done()

    def test_one_that_is_over_leaves_the_others(self):
        tracker = GroupTracker(STANDING)
        assert tracker.try_claim(MemberClaim(0, Closed()))
        assert not tracker.try_claim(MemberClaim(0, Polled()))
        assert not tracker.current_restriction().closed
        assert not tracker.is_bounded()
        with pytest.raises(ValueError, match=B):
            tracker.check_done()
        _, residual = tracker.try_split(0)
        again = GroupTracker(residual)
        assert GroupMember(again, 0).current_restriction().closed
        assert again.try_claim(MemberClaim(1, Closed()))
        assert again.current_restriction().closed
        assert again.is_bounded()
        assert again.check_done()
        assert again.try_split(0) is None
        assert again.current_progress().completed_work == 1.0


def test_the_watermark_begins_at_the_oldest():
    group = ReaderGroup((source(), source()))
    known = FrontierGroup((Frontier(), Frontier((ShardPosition(A, low_us=5),))))
    estimators = GroupWatermarks()
    assert estimators.initial_estimator_state(group, known) == Timestamp(micros=5)
    fresh = FrontierGroup((Frontier(), Frontier()))
    oldest = Timestamp(micros=NOW_US - 48 * 3_600_000_000)
    assert estimators.initial_estimator_state(group, fresh) == oldest
