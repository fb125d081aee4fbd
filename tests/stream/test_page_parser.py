# SPDX-License-Identifier: Apache-2.0
"""Pages to columns: nothing lost, nothing crashes, both ways agree."""

import json
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynabeam.transforms.errors import StreamError, ValueDecodeError
from dynabeam.transforms.model.block import SCHEMA
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.model.version import encode_version
from dynabeam.transforms.stream.page_parser import PageParser, event_time_us
from dynabeam.transforms.values.key_schema import KeyAttribute, KeySchema
from dynabeam.transforms.values.keys import encode_key
from tests.stream.scripted import ARN, TABLE, record

SHARD = "shardId-1"
S1, S2, S3 = "100000000000000000001", "100000000000000000002", "99"


def body(*records, iterator="next", **more):
    answer = {"Records": list(records), **more}
    if iterator:
        answer["NextShardIterator"] = iterator
    return json.dumps(answer).encode()


def parse(*records, table=TABLE, **options):
    return PageParser(table, 3, ARN).parse(body(*records, **options), SHARD)


def rows(page):
    assert page.rows.schema == SCHEMA
    return page.rows.to_pylist()


def plain(record, **outer):
    return record | outer


def without(record, *path):
    copy = json.loads(json.dumps(record))
    inner = copy
    for each in path[:-1]:
        inner = inner[each]
    del inner[path[-1]]
    return copy


class TestRows:
    def test_the_three_events(self):
        page = parse(
            record(S1, "a"), record(S2, "b", name="MODIFY"), record(S3, "c", name="REMOVE")
        )
        found = rows(page)
        assert [each["op"] for each in found] == ["c", "u", "d"]
        assert [each["version"] for each in found] == [encode_version(3, s) for s in (S1, S2, S3)]
        assert found[0]["key"] == encode_key({"id": {"S": "a"}}, TABLE.keys)
        assert [each["old"] is None for each in found] == [True, False, False]
        assert [each["new"] is None for each in found] == [False, False, True]
        assert json.loads(found[1]["old"]) == {"id": {"S": "b"}, "n": {"N": S2}}
        assert page.last_sequence == S2
        assert page.next_iterator == "next"
        assert page.records == 3
        assert page.bytes > 0

    def test_images_are_the_bytes_that_were_sent(self):
        image = b'{ "id":{"S":"\\u00e9\\ud83d\\ude00"} ,\n"n" : {"N":"1e3"}}'
        text = body(record(S1)).replace(
            json.dumps(record(S1)["dynamodb"]["NewImage"]).encode(), image
        )
        page = PageParser(TABLE, 1, ARN).parse(text, SHARD)
        assert rows(page)[0]["new"] == image

    def test_an_empty_page_and_the_last_page(self):
        page = parse(iterator="")
        assert (page.records, page.next_iterator, page.last_sequence) == (0, "", "")
        assert page.newest_event_us == 0
        assert rows(page) == []
        assert PageParser(TABLE, 1, ARN).parse(b'{"Records":[]}', SHARD).next_iterator == ""
        assert parse(NextShardIterator=None, iterator="").next_iterator == ""

    def test_a_composite_key_is_canonical(self):
        table = Table("t", KeySchema(KeyAttribute("id", "S"), KeyAttribute("n", "N")))
        keys = [{"id": {"S": "a"}, "n": {"N": each}} for each in ("1e3", "1000")]
        page = parse(*(record(S1, Keys=each) for each in keys), table=table)
        assert len({each["key"] for each in rows(page)}) == 1

    def test_any_attribute_name_can_be_a_key(self):
        for name in ('q"uo\\te', "naïve", "k 1", "dynamodb", "class"):
            table = Table("t", KeySchema(KeyAttribute(name, "B")))
            key = {name: {"B": "AAEC"}}
            page = parse(record(S1, Keys=key), table=table)
            assert rows(page)[0]["key"] == encode_key(key, table.keys)

    @pytest.mark.parametrize("kind", [("type", "principalId"), ("Type", "PrincipalId")])
    def test_time_to_live_in_both_spellings(self, kind):
        identity = {kind[0]: "Service", kind[1]: "dynamodb.amazonaws.com"}
        page = parse(
            plain(record(S1, name="REMOVE"), userIdentity=identity),
            plain(record(S2), userIdentity=identity),
            record(S2, name="REMOVE"),
            plain(record(S2, name="REMOVE"), userIdentity={kind[0]: "User"}),
            plain(record(S2, name="REMOVE"), userIdentity=None),
        )
        assert [each["ttl"] for each in rows(page)] == [True, False, False, False, False]
        assert json.loads(rows(page)[0]["envelope"])["userIdentity"] == identity


class TestEnvelope:
    def test_it_holds_what_is_in_no_column(self):
        assert json.loads(rows(parse(record(7)))[0]["envelope"]) == {
            "eventID": f"{7:032x}",
            "eventVersion": "1.1",
            "eventSource": "aws:dynamodb",
            "awsRegion": "eu-west-1",
            "dynamodb": {"SizeBytes": 12, "StreamViewType": "NEW_AND_OLD_IMAGES"},
        }

    def test_unknown_fields_are_kept_at_both_levels(self):
        odd = plain(record(S1, Precision={"deep": [1.50]}), brandNew="x")
        envelope = rows(parse(odd))[0]["envelope"]
        assert json.loads(envelope)["brandNew"] == "x"
        assert b'"Precision": {"deep": [1.5]}' in envelope or b'"Precision":{"deep"' in envelope

    def test_both_ways_agree(self):
        records = [
            record(S1, "a"),
            record(S2, "b", name="MODIFY", time=1.5e9),
            plain(record(S3, "c", name="REMOVE"), userIdentity={"type": "Service"}),
        ]
        fast = parse(*records)
        # One record with an unknown field sends the whole page the careful way.
        careful = parse(*records, plain(record(S3), odd=1))
        assert careful.rows.slice(0, 3).equals(fast.rows)
        assert careful.last_sequence == fast.last_sequence


class TestTimes:
    @pytest.mark.parametrize(
        ("text", "micros"),
        [
            ("1480642020", 1_480_642_020_000_000),
            ("1.46480646E9", 1_464_806_460_000_000),
            ("1480642020.123456", 1_480_642_020_123_456),
            ("1480642020.1234567", 1_480_642_020_123_456),
            ("1480642020.1", 1_480_642_020_100_000),
            ("0", 0),
            ("1480642020123", 1_480_642_020_123_000),
            ("1480642020123456", 1_480_642_020_123_456),
        ],
    )
    def test_no_float_comes_near(self, text, micros):
        assert event_time_us(text) == micros
        raw = body(record(S1, time=424242)).replace(b"424242", text.encode())
        page = PageParser(TABLE, 1, ARN).parse(raw, SHARD)
        moment = rows(page)[0]["event_time"]
        assert moment == datetime.fromtimestamp(0, timezone.utc) + (datetime.resolution * micros)
        assert page.newest_event_us == micros

    def test_what_microseconds_cannot_hold_stays_in_the_envelope(self):
        raw = body(record(S1, time=424242)).replace(b"424242", b"1480642020.1234567")
        page = PageParser(TABLE, 1, ARN).parse(raw, SHARD)
        assert b"1480642020.1234567" in rows(page)[0]["envelope"]

    @pytest.mark.parametrize(
        "text",
        [
            "1800000000.1234569999999999999999999999999",
            "1800000000.1234560000000000000000000000001",
            "1800000000.123456e0" + "0" * 40,
        ],
    )
    def test_more_digits_than_a_context_of_decimals_are_cut_not_rounded(self, text):
        assert event_time_us(text) == 1_800_000_000_123_456
        raw = body(record(S1, time=424242)).replace(b"424242", text.encode())
        envelope = rows(PageParser(TABLE, 1, ARN).parse(raw, SHARD))[0]["envelope"]
        assert (text.encode() in envelope) == ("e0" not in text)

    @pytest.mark.parametrize("text", ["-1", "1e40", '"now"', "null", "true", "[]"])
    def test_no_time_is_a_dead_letter(self, text):
        with pytest.raises(ValueDecodeError):
            event_time_us(text)
        raw = body(record(S1, time=424242)).replace(b"424242", text.encode())
        assert len(PageParser(TABLE, 1, ARN).parse(raw, SHARD).dead) == 1


BROKEN = {
    "not an object": 5,
    "null": None,
    "empty": {},
    "odd event": plain(record(S2), eventName="TRUNCATE"),
    "event is no text": plain(record(S2), eventName=5),
    "no change": without(record(S2), "dynamodb"),
    "change is a list": plain(record(S2), dynamodb=[]),
    "no new image": without(record(S2), "dynamodb", "NewImage"),
    "no old image": without(record(S2, name="MODIFY"), "dynamodb", "OldImage"),
    "no old image of a delete": without(record(S2, name="REMOVE"), "dynamodb", "OldImage"),
    "null image": record(S2, NewImage=None),
    "image is a list": record(S2, NewImage=[]),
    "no keys": without(record(S2), "dynamodb", "Keys"),
    "keys are a list": record(S2, Keys=[]),
    "another key": record(S2, Keys={"other": {"S": "x"}}),
    "key of another type": record(S2, Keys={"id": {"N": "1"}}),
    "key with two types": record(S2, Keys={"id": {"S": "1", "N": "1"}}),
    "no number": without(record(S2), "dynamodb", "SequenceNumber"),
    "number is no number": record(S2, SequenceNumber="12x"),
    "number is too long": record(S2, SequenceNumber="1" * 41),
    "number is empty": record(S2, SequenceNumber=""),
    "no time": without(record(S2), "dynamodb", "ApproximateCreationDateTime"),
}


class TestDeadLetters:
    @pytest.mark.parametrize("name", BROKEN)
    def test_a_broken_record_is_kept_and_the_rest_lives(self, name):
        broken = BROKEN[name]
        page = parse(record(S1, "a"), broken, record(S3, "b"))
        assert len(rows(page)) == 2
        (dead,) = page.dead
        assert json.loads(dead.raw) == broken
        assert dead.table == "orders"
        assert dead.stage == "stream"
        assert ARN in dead.place
        assert SHARD in dead.place
        assert dead.reason

    def test_its_number_still_moves_the_position(self):
        page = parse(record(S1), without(record(S2), "dynamodb", "Keys"))
        assert page.last_sequence == S2
        assert S2 in page.dead[0].place

    def test_positions_are_written_as_the_service_wrote_them(self):
        padded = "000000000000000000010"
        assert parse(record(9), record(padded)).last_sequence == padded
        assert parse(record(padded), {"dynamodb": {"SequenceNumber": "9"}}).last_sequence == padded

    def test_the_raw_bytes_are_exact(self):
        raw = b'{"Records":[ {"eventName" : "ODD",\t"x":1.0e2} ]}'
        page = PageParser(TABLE, 1, ARN).parse(raw, SHARD)
        assert page.dead[0].raw == b'{"eventName" : "ODD",\t"x":1.0e2}'

    def test_a_number_key_that_is_none(self):
        table = Table("t", KeySchema(KeyAttribute("id", "N")))
        page = parse(record(S1, Keys={"id": {"N": "x"}}), table=table)
        assert (len(rows(page)), len(page.dead)) == (0, 1)

    def test_a_binary_key_that_is_none(self):
        table = Table("t", KeySchema(KeyAttribute("id", "B")))
        page = parse(record(S1, Keys={"id": {"B": "?"}}), table=table)
        assert (len(rows(page)), len(page.dead)) == (0, 1)

    @pytest.mark.parametrize("levels", [32, 100, 250, 500, 1000, 20_000])
    @pytest.mark.parametrize("kind", ["L", "M", "names"])
    def test_a_record_that_nests_too_deep_is_alone(self, levels, kind):
        opening, closing = {
            "L": ('{"L":[', "]}"),
            "M": ('{"M":{"]\\"}":', "}}"),
            "names": ('{"[{\\\\":', "}"),
        }[kind]
        value = f'{opening * levels}{{"S":"]}}\\""}}{closing * levels}'
        deep = json.dumps(record(S2, "deep", NewImage={"id": {"S": "deep"}, "v": "@"}))
        deep = deep.replace('"@"', value)
        good = [json.dumps(record(each, key)) for each, key in ((S1, "a"), (S3, "b"))]
        text = f'{{"Records":[{good[0]}, {deep},{deep} ,{good[1]}],"NextShardIterator":"n[{{"}}'
        page = PageParser(TABLE, 1, ARN).parse(text.encode(), SHARD)
        assert (page.next_iterator, page.last_sequence) == ("n[{", S2)
        known = [encode_key({"id": {"S": each}}, TABLE.keys) for each in ("a", "b")]
        found = rows(page)
        assert [each["key"] for each in found if each["key"] in known] == known
        assert page.records == 4
        if levels <= 100:
            assert not page.dead
        elif levels >= 1000:
            assert [each.raw for each in page.dead] == [deep.encode()] * 2
        assert all(S2 in each.place for each in page.dead)
        assert {
            each["new"].count(value.encode()) for each in found if each["key"] not in known
        } in (
            {1},
            set(),
        )

    def test_a_body_that_nests_and_does_not_end(self):
        for text in (b'{"Records":' + b"[" * 5000, b"[" * 5000 + b"]" * 5000):
            with pytest.raises(StreamError, match="GetRecords"):
                PageParser(TABLE, 1, ARN).parse(text, SHARD)

    @pytest.mark.parametrize("text", [b"", b"<html>", b"[]", b'{"Records":5}', b'{"Records":[{}'])
    def test_a_body_that_is_no_answer_is_an_error(self, text):
        with pytest.raises(StreamError, match="GetRecords"):
            PageParser(TABLE, 1, ARN).parse(text, SHARD)

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5),
            lambda each: (
                st.lists(each, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["dynamodb", "eventName", "Keys", "NewImage", "SequenceNumber"])
                    | st.text(max_size=3),
                    each,
                    max_size=4,
                )
            ),
            max_leaves=8,
        )
    )
    def test_whatever_comes_it_is_a_row_or_a_dead_letter(self, odd):
        page = parse(record(S1), odd)
        assert page.records == 2
        assert len(page.dead) == 1
