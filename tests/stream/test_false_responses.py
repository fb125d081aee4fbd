# SPDX-License-Identifier: Apache-2.0
"""Responses that cannot be true: false ends, numbers that do not rise, times that cannot be."""

import dataclasses
import json

import pytest

from dynabeam.transforms.errors import StreamError
from dynabeam.transforms.model.dead_letter import DeadLetter
from dynabeam.transforms.model.version import decode_version
from dynabeam.transforms.stream.frontier import Frontier
from dynabeam.transforms.testing.faults import Faults
from tests.stream.scripted import (
    NOW_US,
    QUICK,
    ScriptedStreams,
    Shard,
    record,
    run,
    shard_id,
    source,
)
from tests.stream.test_simulator import World

A, B = shard_id(0, 9), shard_id(1, 5)
BASE = 10**21
NINES = "9" * 40
NOW_S = NOW_US // 10**6
YEAR_9999 = 253_402_300_000


def numbers(*offsets, **options):
    return [record(BASE + each, **options) for each in offsets]


class Disturbed(ScriptedStreams):
    """Answers of GetRecords can be replaced: `replace` has the shard, the count and the body."""

    def __init__(self, *shards, replace, **options):
        super().__init__(*shards, **options)
        self.replace = replace
        self.answered = 0

    def get_records(self, stream_arn, iterator):
        body = super().get_records(stream_arn, iterator)
        self.answered += 1
        other = self.replace(iterator.split("|")[0], self.answered, json.loads(body))
        return body if other is None else other


NO_ANSWERS = [
    b"{}",
    b"",
    b"[]",
    b"null",
    b'{"message":"Service Unavailable"}',
    b'{"Output":{"__type":"com.amazon.coral.service#InternalFailure"}}',
    b'{"Records":null}',
    b'{"Records":{}}',
    b'{"Records":"none"}',
    b'{"Records":[],"NextShardIterator":5}',
    b'{"Records":[],"NextShardIterator":""}',
    b'{"Records":[],"NextShardIterator":["x"]}',
    b'{"Records":[],"Records":[],"NextShardIterator":"x"}',
    b'{"Records":[],"NextShardIterator":"x","NextShardIterator":null}',
    b'{"Records":[{"eventName":"INSERT"',
]


class TestEnds:
    @pytest.mark.parametrize("body", NO_ANSWERS)
    @pytest.mark.parametrize("closed", [True, False])
    def test_a_body_that_is_no_answer_ends_nothing(self, body, closed):
        client = Disturbed(
            Shard(A, "", [numbers(1), numbers(2), numbers(3)], closed=closed),
            *([Shard(B, A, [numbers(4)])] if closed else []),
            replace=lambda shard, count, answer: body if count % 2 else None,
        )
        result = run(client)
        assert result.sequences == [BASE + n for n in ((1, 2, 3, 4) if closed else (1, 2, 3))]
        assert result.reports()[0]["caught_up"]

    @pytest.mark.parametrize("body", NO_ANSWERS)
    def test_a_service_that_answers_nothing_else_is_an_error(self, body):
        client = Disturbed(Shard(A, "", [numbers(1)]), replace=lambda *_: body)
        with pytest.raises(StreamError, match="GetRecords failed") as caught:
            run(client)
        assert A in str(caught.value)

    @pytest.mark.parametrize("closed", [True, False])
    @pytest.mark.parametrize("at", [1, 2, 3])
    def test_an_empty_page_without_iterator_ends_no_shard_that_goes_on(self, closed, at):
        client = Disturbed(
            Shard(A, "", [numbers(1), numbers(2), numbers(3)], closed=closed),
            Shard(B, A, [numbers(4)]),
            replace=lambda shard, count, answer: b'{"Records":[]}' if count == at else None,
        )
        client.shards[B].listed = closed
        result = run(client)
        assert result.sequences[:3] == [BASE + n for n in (1, 2, 3)]
        assert closed is (BASE + 4 in result.sequences)
        assert result.reports()[0]["caught_up"]

    def test_a_page_that_lost_its_iterator_ends_nothing(self):
        def cut(shard, count, answer):
            answer.pop("NextShardIterator", None)
            return json.dumps(answer).encode() if count == 1 else None

        client = Disturbed(Shard(A, "", [numbers(1), numbers(2)]), replace=cut)
        result = run(client)
        assert result.sequences == [BASE + 1, BASE + 2]
        assert result.tracker.check_done()
        (shard,) = Frontier.from_json(result.reports()[0]["frontier"]).shards
        assert (shard.kind, shard.sequence) == ("after", str(BASE + 2))

    def test_an_open_shard_that_always_ends_is_an_error_and_never_finished(self):
        client = Disturbed(Shard(A, "", [numbers(1)]), replace=lambda *_: b'{"Records":[]}')
        with pytest.raises(StreamError, match="at its end, and it is not") as caught:
            run(client)
        assert A in str(caught.value)

    def test_an_end_is_asked_for_a_few_times_and_no_more(self):
        client = ScriptedStreams(
            Shard(A, "", [numbers(1), numbers(2)], closed=True), Shard(B, A, [numbers(3)])
        )
        result = run(client)
        assert result.sequences == [BASE + n for n in (1, 2, 3)]
        asked = [each for each in client.calls if each[:2] == ("get_records", A)]
        assert len(asked) == 2 + QUICK.end_asks

    def test_the_simulator_with_false_answers(self):
        it = World(
            faults=Faults(
                roll_after=20,
                roll_children=2,
                hollow_page=0.15,
                false_end=0.05,
                repeated_page=0.1,
                late_end=0.3,
            ),
            seed=5,
        )
        with it.sim:
            found, result = [], None
            for _ in range(3):
                it.put(60)
                result = it.read(result)
                found += result.sequences
            it.sim.faults = Faults()
            found += it.read(result).sequences
            assert sorted(found) == sorted(it.numbers())


class TestNumbers:
    @pytest.mark.parametrize("place", [0, 1, 2])
    def test_the_number_of_a_dead_letter_moves_nothing(self, place):
        broken = record(NINES, time="x")
        first = numbers(1, 2)
        first.insert(place, broken)
        client = ScriptedStreams(Shard(A, "", [first, numbers(3), numbers(4)]))
        result = run(client)
        assert result.sequences == [BASE + n for n in (1, 2, 3, 4)]
        (dead,) = result.of(DeadLetter)
        assert json.loads(dead.raw) == broken
        (shard,) = Frontier.from_json(result.reports()[0]["frontier"]).shards
        assert shard.sequence == str(BASE + 4)

    def test_a_page_of_nothing_but_dead_letters_moves_nothing(self):
        broken = [record(BASE + 900, time="x"), record(NINES, time="x")]
        client = ScriptedStreams(Shard(A, "", [numbers(1), broken, numbers(2)]))
        result = run(client)
        assert result.sequences == [BASE + 1, BASE + 2]
        assert len(result.of(DeadLetter)) == 2

    @pytest.mark.parametrize("place", [0, 1, 2])
    def test_a_number_that_leaps_makes_a_dead_letter(self, place):
        odd = record(NINES)
        first = numbers(1, 2)
        first.insert(place, odd)
        client = ScriptedStreams(Shard(A, "", [first, numbers(3)]))
        result = run(client)
        assert result.sequences == [BASE + n for n in (1, 2, 3)]
        (dead,) = result.of(DeadLetter)
        assert json.loads(dead.raw) == odd
        assert NINES in dead.reason

    def test_a_page_that_leaps_away_from_the_one_before_is_an_error(self):
        client = ScriptedStreams(Shard(A, "", [numbers(1), [record(NINES)], numbers(2)]))
        with pytest.raises(StreamError) as caught:
            run(client)
        assert all(each in str(caught.value) for each in (A, NINES, str(BASE + 1)))

    @pytest.mark.parametrize(
        ("pages", "one", "other"),
        [
            ([[1, 2, 2]], 2, 2),
            ([[1, 3, 2]], 3, 2),
            ([[1, 3], [2, 4]], 3, 2),
            ([[1, 3], [3, 4]], 3, 3),
        ],
    )
    def test_numbers_that_do_not_rise_are_an_error(self, pages, one, other):
        client = ScriptedStreams(Shard(A, "", [numbers(*page) for page in pages]))
        with pytest.raises(StreamError, match="do not rise") as caught:
            run(client)
        text = str(caught.value)
        assert A in text
        assert f"{BASE + one} is followed by {BASE + other}" in text

    def test_a_page_that_comes_twice_by_mistake_is_asked_for_again(self):
        kept = {}

        def repeat(shard, count, answer):
            kept.setdefault("first", answer)
            return json.dumps(kept["first"]).encode() if count == 2 else None

        client = Disturbed(Shard(A, "", [numbers(1), numbers(2), numbers(3)]), replace=repeat)
        result = run(client)
        assert result.sequences == [BASE + n for n in (1, 2, 3)]

    def test_what_a_new_iterator_repeats_is_dropped_and_counted(self):
        class Again(ScriptedStreams):
            """Its iterators begin one record too early, as those by time may."""

            def shard_iterator(self, stream_arn, shard_id, *, after="", at_us=0):
                early = str(int(after) - 1) if after else ""
                return super().shard_iterator(stream_arn, shard_id, after=early, at_us=at_us)

        client = Again(Shard(A, "", [numbers(1, 2)]))
        first = run(client)
        client.shards[A].pages.append(numbers(3))
        frontier = Frontier.from_json(first.reports()[0]["frontier"])
        stale = dataclasses.replace(frontier.shards[0], iterator="")
        result = run(client, source(frontier.with_shard(stale)))
        assert result.sequences == [BASE + 3]
        assert result.reports()[0]["repeats"] == 1
        assert first.reports()[0]["repeats"] == 0


class TestTimes:
    @pytest.mark.parametrize("place", [0, 1, 2])
    @pytest.mark.parametrize("time", [0, 1, YEAR_9999])
    def test_a_senseless_time_moves_neither_watermark_nor_lag(self, place, time):
        first = numbers(1, 2, time=NOW_S - 3600)
        first.insert(place, None)
        for number, each in enumerate(first):
            sequence = BASE + 10 + number
            first[number] = each or record(sequence, time=time)
            first[number]["dynamodb"]["SequenceNumber"] = str(sequence)
        client = ScriptedStreams(Shard(A, "", [first]))
        result = run(client, bounded=False, pacing=dataclasses.replace(QUICK, tip_empties=10**6))
        assert result.sequences == [BASE + 10, BASE + 11, BASE + 12]
        assert result.reader.watermark_us() == (NOW_S - 3600) * 10**6
        assert result.reports()[0]["newest_event_us"] == (NOW_S - 3600) * 10**6

    def test_a_time_in_the_future_does_not_prove_the_tip(self):
        first = [record(BASE + 1, time=YEAR_9999)]
        client = ScriptedStreams(Shard(A, "", [first, None, numbers(2), numbers(3)]))
        result = run(client)
        assert result.sequences == [BASE + 1, BASE + 2, BASE + 3]


ODD_RECORDS = {
    "unknown event": {"eventName": "ARCHIVE"},
    "identity is a number": {"userIdentity": 5},
    "identity is a list": {"userIdentity": [{"type": "Service"}]},
    "identity is empty": {"userIdentity": {}},
    "identity of odd types": {"userIdentity": {"type": ["Service"], "principalId": None}},
}


class TestRecords:
    @pytest.mark.parametrize("name", ODD_RECORDS)
    def test_odd_members_crash_nothing_and_lose_nothing(self, name):
        odd = record(BASE + 2, name="REMOVE") | ODD_RECORDS[name]
        client = ScriptedStreams(Shard(A, "", [[*numbers(1), odd, *numbers(3)]]))
        result = run(client)
        assert len(result.sequences) + len(result.of(DeadLetter)) == 3
        assert {BASE + 1, BASE + 3} <= set(result.sequences)
        for block in result.outputs:
            if hasattr(block, "rows"):
                flags = block.rows.column("ttl").to_pylist()
                assert not any(flags)
                assert all(decode_version(v)[1] for v in block.rows.column("version").to_pylist())
