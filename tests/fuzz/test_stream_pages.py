# SPDX-License-Identifier: Apache-2.0
"""Answers of GetRecords: each record is the row that a plain decoder reads, or a dead letter.

Or the answer as a whole is none, which a `StreamError` says that names the shard.
"""

import json
from datetime import datetime, timedelta, timezone
from decimal import localcontext

from hypothesis import example, given
from hypothesis import strategies as st

from dynabeam.transforms.errors import DynabeamError, StreamError
from dynabeam.transforms.model.block import Block, BlockHeader
from dynabeam.transforms.model.dead_letter import DeadLetter
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.model.version import decode_version
from dynabeam.transforms.sinks.unfit_images import split_unfit
from dynabeam.transforms.stream.page_parser import PageParser
from tests.fuzz.cases import cases
from tests.fuzz.hostile import compact, damaged, images, odd_values
from tests.fuzz.plain_decoder import (
    DoubtfulError,
    TooDeepError,
    UnreadableError,
    plain_json,
    plain_key,
    plain_time,
)
from tests.fuzz.test_export_lines import SCHEMAS, check_image, good_key, key_told
from tests.stream.scripted import ARN, ScriptedStreams, Shard, record, run, shard_id, source

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
SHARD = "shardId-00000001800000000000-00000001"
FIRST = 100_000_000_000_000_000_000
PARSERS = {name: PageParser(Table("orders", schema), 1, ARN) for name, schema in SCHEMAS.items()}
OPS = {"INSERT": "c", "MODIFY": "u", "REMOVE": "d"}
TIMES = [
    *("1", "1.8e9", "1.46480646E9", "1800000000.123456", "1800000000.1234567", "1800000000123"),
    *("1800000000123456", "-1", "0", "1e400", "1e-400", "253402300799", "1e" + "9" * 20, "null"),
    *("1800000000.1234569999999999999999999999999", "1800000000.123456" + "0" * 30 + "1"),
    *("1e-999999999999999999", "1e-1000000000000000010", '"1800000000"', "1E+18", "-0", "[]"),
]


@st.composite
def records(draw, schema, number):
    """One record; now and then with an odd member."""
    key = good_key(draw, schema)
    name = draw(st.sampled_from(sorted(OPS)))
    sequence = f'"{FIRST + number}"'
    if draw(st.integers(0, 9)) == 0:
        sequence = draw(
            st.sampled_from(["null", "1", '""', '"x"', f'"{"9" * 40}"', '"-1"', '"1 "'])
        )
    inner = {
        "ApproximateCreationDateTime": draw(
            st.one_of(st.integers(0, 2_000_000_000).map(str), st.sampled_from(TIMES))
        ),
        "Keys": compact(key).decode(),
        "SequenceNumber": sequence,
        "SizeBytes": draw(st.sampled_from(["12", "0", "null", "1e3", "-1", "9" * 30, '"1"'])),
        "StreamViewType": '"NEW_AND_OLD_IMAGES"',
    }
    if name != "REMOVE":
        inner["NewImage"] = draw(images(key)).decode("utf-8", "surrogateescape")
    if name != "INSERT":
        inner["OldImage"] = draw(images(key)).decode("utf-8", "surrogateescape")
    outer = {"eventID": '"x"', "eventName": f'"{name}"', "eventVersion": '"1.1"'}
    if draw(st.integers(0, 4)) == 0:
        outer["userIdentity"] = draw(
            st.sampled_from(
                [
                    '{"type":"Service","principalId":"dynamodb.amazonaws.com"}',
                    '{"Type":"Service","PrincipalId":"dynamodb.amazonaws.com"}',
                    *("null", "[]", '"x"', "{}"),
                ]
            )
        )
    if draw(st.integers(0, 5)) == 0:
        place = draw(st.sampled_from([inner, outer]))
        place[draw(st.sampled_from([*place, "New", "SizeBytes"]))] = draw(odd_values)
    if draw(st.integers(0, 9)) == 0:
        del inner[draw(st.sampled_from(sorted(inner)))]
    outer["dynamodb"] = joined(inner, draw(st.booleans()))
    return joined(outer, draw(st.booleans())).encode("utf-8", "surrogateescape")


def joined(members, spaces=False):
    colon, comma = (" : ", " , ") if spaces else (":", ",")
    return "{" + comma.join(f'"{name}"{colon}{text}' for name, text in members.items()) + "}"


@st.composite
def pages(draw, schema):
    """The records of a page, each as it was damaged or not."""
    found = []
    for number in range(draw(st.integers(1, 4))):
        one = draw(records(schema, number))
        if draw(st.integers(0, 5)) == 0:
            one = draw(damaged(one))
        found.append(one)
    return found


def wanted(raw, schema):
    """What a record says: `(key, op, old, new, micros, sequence)`; None if it is broken."""
    change = plain_json(raw)
    inner = change["dynamodb"]
    name = change["eventName"]
    op = OPS[name]
    time = plain_time(inner["ApproximateCreationDateTime"])
    sequence = inner["SequenceNumber"]
    if type(sequence) is not str or not sequence.isascii() or not sequence.isdigit():
        raise UnreadableError("no sequence number")
    if len(sequence) > 40 or time is None or not time >= 0:
        raise UnreadableError("no time, or too long")
    digits = 0 if time >= 10**14 else 3 if time >= 10**11 else 6
    with localcontext() as context:
        context.prec = 200
        micros = int(time.scaleb(digits)) if time.adjusted() > -30 else 0
    if micros > 253_402_300_799 * 10**6:
        raise UnreadableError("no time")
    old, new = inner.get("OldImage"), inner.get("NewImage")
    if (op != "c" and old is None) or (op != "d" and new is None):
        raise UnreadableError("an image is missing")
    if not all(each is None or isinstance(each, dict) for each in (old, new)):
        raise UnreadableError("an image is none")
    return plain_key(inner["Keys"], schema), op, old, new, micros, int(sequence)


def check_page(page, raws, schema):
    """Compares a parsed page with its records; returns those that are dead letters."""
    dead = list(page.dead)
    rows = iter(page.rows.to_pylist())
    header = BlockHeader(Table("orders", schema), 0, 1, 1, "stream", {"shard_id": SHARD})
    refused = bool(split_unfit(Block(header, page.rows), "sink")[1])
    for raw in raws:
        if dead and dead[0].raw == raw.strip():
            letter = dead.pop(0)
            assert letter.reason
            assert SHARD in letter.place
            try:
                found = wanted(raw, schema)
            except (DoubtfulError, UnreadableError, KeyError, TypeError):
                continue
            # A number that leaps away from the others' is no error of one record alone.
            assert "leaps" in letter.reason, (found, letter.reason)
            continue
        row = next(rows)
        for image in (row["old"], row["new"]):
            if image is not None:
                assert image in raw
                check_image(raw, image, refused)
        try:
            key, op, old, new, micros, sequence = wanted(raw, schema)
        except DoubtfulError:
            continue
        except UnreadableError:
            # What nobody looked into while the page was parsed (an image, a member that is not
            # known) the sinks refuse.
            assert refused
            continue
        assert key_told(row["key"], schema) == key
        assert (row["op"], row["event_time"] - EPOCH) == (op, timedelta(microseconds=micros))
        assert decode_version(row["version"]) == (1, sequence)
        for image, expected in ((row["old"], old), (row["new"], new)):
            assert (None if image is None else plain_json(image)) == expected
        if row["envelope"] is not None:
            assert isinstance(json.loads(row["envelope"]), dict)
    assert not dead
    assert next(rows, None) is None
    return page.dead


def body_of(raws, last=b',"NextShardIterator":"next"'):
    return b'{"Records":[' + b",".join(raws) + b"]" + last + b"}"


class TestPages:
    @cases()
    @given(st.data(), st.sampled_from(sorted(SCHEMAS)))
    def test_each_record(self, data, name):
        raws = data.draw(pages(SCHEMAS[name]))
        body = body_of(raws)
        try:
            page = PARSERS[name].parse(body, SHARD)
        except StreamError as error:
            assert_names(error, SHARD)
            # Damage that reaches over its record: the whole is no JSON.
            assert not all(is_json(each) for each in raws)
            return
        if page.records != len(raws):
            # A damaged record may be read as several, or several as one.
            assert not all(is_json(each) for each in raws)
            return
        check_page(page, raws, SCHEMAS[name])
        assert page.next_iterator == "next"

    @cases(0.5)
    @given(st.data())
    @example(b'{"Records":[],"NextShardIterator":""}')
    @example(b'{"Records":[],"Records":[]}')
    @example(b'{"Records":null}')
    @example(b'{"NextShardIterator":"x"}')
    @example(b"")
    @example(b'\xef\xbb\xbf{"Records":[]}')
    @example(b'{"Records":[' + b"[" * 100_000 + b"]}")
    def test_whole_answers(self, data):
        body = (
            data
            if isinstance(data, bytes)
            else data.draw(damaged(body_of([compact(record(FIRST + n)) for n in range(2)]), 4))
        )
        try:
            page = PARSERS["S"].parse(body, SHARD)
        except StreamError as error:
            assert_names(error, SHARD)
            return
        # What is taken for an answer is a JSON object with a list of records.
        try:
            answer = plain_json(body)
        except UnreadableError:
            assert page.dead or page.rows.num_rows or b"NextShardIterator" not in body
            return
        except DoubtfulError:
            return
        assert page.records == len(answer["Records"])
        assert page.next_iterator == (answer.get("NextShardIterator") or "")


def is_json(raw):
    """Whether a record is certainly JSON."""
    try:
        plain_json(raw)
    except (TooDeepError, UnreadableError):
        return False
    except DoubtfulError:
        return True
    return True


def assert_names(error, place):
    assert place in str(error)


def read_to_the_end(client):
    """All that rounds give; one ends where a change is younger than its beginning."""
    outputs, frontier = [], None
    for _ in range(4):
        result = run(client, source(frontier))
        outputs += result.outputs
        frontier = result.tracker.current_restriction()
    return outputs


class _Bodies(ScriptedStreams):
    """Gives the second page as it was damaged."""

    damaged = None

    def get_records(self, stream_arn, iterator):
        body = super().get_records(stream_arn, iterator)
        at = int(iterator.split("|")[1])
        if at == 1 and self.damaged is not None:
            answer = json.loads(body)
            last = answer.get("NextShardIterator")
            end = b"" if last is None else b',"NextShardIterator":' + compact(last)
            return body_of([self.damaged], end)
        return body


class TestReader:
    """A hostile record between good ones, through the reader of a bounded run."""

    @cases(0.1)
    @given(st.data())
    @example(compact(record(FIRST + 2, "c")).replace(b"INSERT", b"UPDATE"))
    @example(compact(record(FIRST + 2, "c")).replace(b'"c"', b'"\\ud800"'))
    @example(b"{}")
    def test_others_are_read(self, data):
        hostile = (
            data
            if isinstance(data, bytes)
            else data.draw(records(SCHEMAS["S"], 2) | damaged(compact(record(FIRST + 2, "c"))))
        )
        first = [record(FIRST + n, f"a{n}") for n in range(2)]
        last = [record(FIRST + 3 + n, f"b{n}") for n in range(2)]
        client = _Bodies(Shard(shard_id(1), pages=[first, [record(FIRST + 2)], last], closed=True))
        client.damaged = hostile
        try:
            outputs = read_to_the_end(client)
        except DynabeamError as error:
            # A number that leaps away would make all that follow look like repeats.
            if is_json(hostile):
                assert_names(error, "do not rise")
            assert_names(error, shard_id(1))
            return
        rows = [
            row for block in outputs if isinstance(block, Block) for row in block.rows.to_pylist()
        ]
        dead = [each for each in outputs if isinstance(each, DeadLetter)]
        by_key = {row["key"]: row for row in rows}
        for each in (*first, *last):
            inner = each["dynamodb"]
            key = b"S" + inner["Keys"]["id"]["S"].encode()
            if not is_json(hostile) and key not in by_key:
                continue
            assert plain_json(by_key[key]["new"]) == plain_json(compact(inner["NewImage"]))
        if is_json(hostile):
            assert len(rows) + len(dead) == 5
            assert all(each.raw == hostile.strip() for each in dead)
