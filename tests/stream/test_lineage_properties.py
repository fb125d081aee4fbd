# SPDX-License-Identifier: Apache-2.0
"""The chief promise: any forest, any splits, any failures: each record once, parents first."""

import dataclasses
import itertools
from concurrent.futures import ThreadPoolExecutor

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from dynabeam.transforms.stream.frontier import Frontier
from dynabeam.transforms.stream.lineage import merge, partition
from dynabeam.transforms.stream.page_parser import PageParser
from dynabeam.transforms.stream.scheduler import ShardScheduler
from dynabeam.transforms.stream.shard_requests import RequestPool
from dynabeam.transforms.stream.tracker import FrontierTracker
from tests.stream.scripted import (
    NOW_US,
    QUICK,
    FixedClock,
    ScriptedStreams,
    Shard,
    api_error,
    record,
    run,
    shard_id,
    source,
    unreachable,
)

FAILURES = [
    None,
    None,
    unreachable,
    lambda: api_error("ThrottlingException"),
    lambda: api_error("ExpiredIteratorException"),
    lambda: api_error("ResourceNotFoundException"),
]


@st.composite
def forests(draw):
    """Shards with parents, pages (some empty) and numbers that rise along each lineage."""
    size = draw(st.integers(1, 8))
    shards, last, parents = [], {}, {}
    for number in range(size):
        name = shard_id(number, 9 - number)
        open_parents = [None, *range(number)]
        parent = draw(st.sampled_from(open_parents))
        parent_id = shard_id(parent, 9 - parent) if parent is not None else ""
        parents[name] = parent_id
        next_number = last.get(parent_id, 10**21 + number * 10**6)
        pages = []
        for length in draw(st.lists(st.integers(0, 3), max_size=4)):
            page = []
            for _ in range(length):
                next_number += draw(st.sampled_from([1, 1000 * size]))
                # The low digits make numbers of siblings differ.
                page.append(record(next_number * 10 + number, key=f"k{next_number % 3}"))
            pages.append(page)
        last[name] = next_number
        shards.append(Shard(name, parent_id, pages, empty_tail=draw(st.booleans())))
    for each in shards:
        each.closed = any(parent == each.shard_id for parent in parents.values()) or draw(
            st.booleans()
        )
    return shards


def numbers_of(shards):
    return {
        each.shard_id: [
            int(r["dynamodb"]["SequenceNumber"]) for page in each.pages for r in page or []
        ]
        for each in shards
    }


def check(shards, found):
    expected = numbers_of(shards)
    assert sorted(found) == sorted(number for part in expected.values() for number in part)
    place = {number: n for n, number in enumerate(found)}
    for each in shards:
        mine = expected[each.shard_id]
        assert [number for number in found if number in set(mine)] == mine
        for before in expected.get(each.parent_id, []):
            assert all(place[before] < place[number] for number in mine)


PATIENT = QUICK.__class__(**{**QUICK.__dict__, "tip_empties": 5, "retries": 1000})


class TestForest:
    @given(forests(), st.lists(st.sampled_from(FAILURES), max_size=12), st.data())
    def test_failures_and_splits_lose_and_repeat_nothing(self, shards, failures, data):
        client = ScriptedStreams(*shards)
        client.per_page = data.draw(st.integers(1, 4))
        for operation in ("get_records", "shard_iterator", "describe", "children"):
            client.failures[operation] = [
                make()
                for make in failures
                if make is not None
                and not (operation != "get_records" and "Expired" in str(make()))
                and not (operation == "describe" and "NotFound" in str(make()))
            ]
        splits = data.draw(st.lists(st.integers(1, 6), max_size=4))
        restriction, found = source(buckets=1).first_restriction(), []
        for after in [*splits, None]:
            tracker = FrontierTracker(restriction, bounded=True)
            residuals = _split_after(client, tracker, after)
            result = run(client, source(buckets=1), tracker=tracker, pacing=PATIENT)
            found += result.sequences
            assert tracker.check_done()
            if not residuals:
                assert len(result.reports()) == 1
                break
            assert result.reports() == []
            restriction = residuals[0]
        check(shards, found)

    # What is stuck takes its time to be found so: shrinking it would take minutes.
    @settings(phases=[Phase.explicit, Phase.reuse, Phase.generate])
    @given(forests(), st.lists(st.integers(1, 4), max_size=6))
    def test_splits_of_a_reader_that_keeps_its_scheduler(self, shards, splits):
        client, element = ScriptedStreams(*shards), source(buckets=1)
        pacing = dataclasses.replace(PATIENT, tip_slice=0.004, slice=0.05)
        restriction, found = element.first_restriction(), []
        total = sum(map(len, numbers_of(shards).values()))
        with ThreadPoolExecutor(4) as pool:
            parser = PageParser(element.table, element.generation, element.stream_arn)
            requests = RequestPool(element.stream_arn, client, parser, FixedClock(), pool)
            scheduler = ShardScheduler(requests, 0)
            for after in itertools.chain(splits, itertools.repeat(None, 300)):
                tracker = FrontierTracker(restriction, bounded=False)
                residuals = _split_after(client, tracker, after)
                found += run(
                    client,
                    element,
                    bounded=False,
                    pacing=pacing,
                    scheduler=scheduler,
                    tracker=tracker,
                ).sequences
                if not residuals and (rest := tracker.try_split(0)) is not None:
                    residuals.append(rest[1])
                restriction = residuals[0]
                if len(found) >= total and after is None:
                    break
        check(shards, found)

    @given(forests(), st.integers(1, 3), st.lists(st.integers(1, 2000), max_size=3))
    def test_rounds_and_another_number_of_readers(self, shards, readers, budgets):
        client = ScriptedStreams(*shards)
        frontiers = [Frontier() for _ in range(readers)]
        found = []
        for number, budget in enumerate([*budgets, 0]):
            # Time passes between rounds, so that listings become due.
            clock = FixedClock(NOW_US + number * 120_000_000)
            reports = []
            for reader, frontier in enumerate(frontiers):
                element = source(
                    frontier, buckets=1, reader=reader, readers=len(frontiers), max_bytes=budget
                )
                result = run(client, element, pacing=PATIENT, clock=clock)
                found += result.sequences
                reports += result.reports()
            stored = [Frontier.from_json(each["frontier"]) for each in reports]
            frontiers = partition(merge(stored), number % 3 + 1)
        check(shards, found)


def _split_after(client, tracker, polls):
    """Splits from the thread of a request, after so many polls of this call."""
    residuals, seen = [], [0]

    def split(name):
        seen[0] += 1
        if polls is not None and seen[0] == polls:
            found = tracker.try_split(0)
            if found is not None:
                residuals.append(found[1])

    client.on_records = split
    return residuals
