# SPDX-License-Identifier: Apache-2.0
"""What a reader makes of listings of shards, against a scripted client."""

import pytest

from dynabeam.transforms.stream.frontier import Frontier, ShardPosition
from tests.stream.scripted import (
    NOW_US,
    FixedClock,
    ScriptedStreams,
    Shard,
    api_error,
    pages,
    resumed,
    run,
    shard_id,
    source,
    unreachable,
)

A, B, C, D = (shard_id(n, 9 - n) for n in range(4))


class TestListing:
    def test_all_pages_are_read(self):
        client = ScriptedStreams(*(Shard(shard_id(n), "", pages([n + 1])) for n in range(7)))
        client.per_page = 2
        assert sorted(run(client).sequences) == list(range(1, 8))

    def test_a_listing_that_fails_midway_goes_on_where_it_was(self):
        client = ScriptedStreams(*(Shard(shard_id(n), "", pages([n + 1])) for n in range(6)))
        client.per_page = 2
        client.failures["describe"] = [None, unreachable(), api_error("ThrottlingException")]
        result = run(client)
        assert sorted(result.sequences) == list(range(1, 7))
        asked = [call[1] for call in client.calls if call[0] == "describe"]
        assert asked == ["", shard_id(1), shard_id(1), shard_id(1), shard_id(3)]
        assert result.reports()[0]["throttles"] == 1

    def test_readers_share_the_roots(self):
        shards = [Shard(shard_id(n), "", pages([n + 1])) for n in range(12)]
        found = [
            run(ScriptedStreams(*shards), source(reader=r, readers=3)).sequences for r in range(3)
        ]
        assert sorted(n for part in found for n in part) == list(range(1, 13))

    def test_a_known_frontier_is_not_listed_at_each_round(self):
        client = ScriptedStreams(Shard(A, "", pages([1])))
        first = run(client)
        run(client, resumed(first), clock=FixedClock(NOW_US + 5_000_000))
        assert client.count("describe") == 1
        run(client, resumed(first), clock=FixedClock(NOW_US + 61_000_000))
        assert client.count("describe") == 2

    def test_a_sibling_that_is_listed_late_is_found_soon(self):
        client = ScriptedStreams(
            Shard(A, "", pages([1]), closed=True),
            Shard(B, A, pages([2])),
            Shard(C, A, pages([3]), listed=False),
        )
        first = run(client)
        assert first.sequences == [1, 2]
        client.shards[C].listed = True
        second = run(client, resumed(first), clock=FixedClock(NOW_US + 2_000_000))
        assert second.sequences == [3]

    def test_a_parent_that_a_listing_replaces_is_listed_once_more(self):
        """Its children come with that listing; one of them may be missing in it, as in others."""
        client = ScriptedStreams(
            Shard(A, "", pages([1]), closed=True),
            Shard(B, A, pages([2])),
            Shard(C, A, pages([3]), listed=False),
        )
        asked = []

        def describe(*arguments, **options):
            asked.append(1)
            client.shards[C].listed = len(asked) > 1
            return ScriptedStreams.describe(client, *arguments, **options)

        client.describe = describe
        ended = ShardPosition(A, "ended", sequence=str(1), since_us=NOW_US, ended_us=NOW_US)
        result = run(client, source(Frontier((ended,), swept_us=1)))
        assert sorted(result.sequences) == [2, 3]
        assert result.reports()[0]["caught_up"]

    @pytest.mark.parametrize("known", [False, True])
    def test_a_young_parent_that_is_listed_late_is_waited_for(self, known):
        """Neither it nor its child may be begun before, and the run is not at the tip without."""
        parent, child = shard_id(1, 0.02), shard_id(2, 0.01)
        client = ScriptedStreams(
            Shard(A, "", pages([1])),
            Shard(parent, "", pages([2], [3]), closed=True, listed=False),
            Shard(child, parent, pages([4])),
        )
        asked = []

        def describe(*arguments, **options):
            asked.append(1)
            client.shards[parent].listed = len(asked) > 3
            return ScriptedStreams.describe(client, *arguments, **options)

        client.describe = describe
        element = (
            source(Frontier((ShardPosition(A, since_us=NOW_US),), swept_us=1))
            if known
            else source()
        )
        result = run(client, element)
        assert sorted(result.sequences) == [1, 2, 3, 4]
        assert [each for each in result.sequences if each > 1] == [2, 3, 4]
        assert result.reports()[0]["caught_up"]

    def test_start_at_latest(self):
        client = ScriptedStreams(
            Shard(A, "", pages([1], time=NOW_US // 10**6 - 99), closed=True),
            Shard(
                B, A, [*pages([2], time=NOW_US // 10**6 - 50), *pages([3], time=NOW_US // 10**6)]
            ),
        )
        assert run(client, source(start="latest")).sequences == [3]
        assert ("shard_iterator", B, "", NOW_US - 2_000_000) in client.calls

    def test_start_at_a_timestamp_goes_on_into_children(self):
        start = NOW_US // 10**6 - 60
        client = ScriptedStreams(
            Shard(A, "", pages([1], time=start - 9), closed=True),
            Shard(B, A, [*pages([2], time=start - 5), *pages([3], time=start)], closed=True),
            Shard(C, B, pages([4], time=start - 1)),
        )
        text = "2027-01-15T07:59:00Z"
        assert source(start=text).starting_point().at_us == start * 10**6
        # A gave nothing, so B begins at the time too; B gave a record, so C is read whole.
        assert run(client, source(start=text)).sequences == [3, 4]
