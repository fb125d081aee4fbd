# SPDX-License-Identifier: Apache-2.0
"""Letters read again: of each source and format what the source itself would have read."""

import dataclasses
import json

import pytest

from dynabeam.transforms.dead_letters.replay import reparse
from dynabeam.transforms.export.elements import FileSlice
from dynabeam.transforms.export.manifest import DataFile
from dynabeam.transforms.export.rows import rows_of_lines
from dynabeam.transforms.model.dead_letter import DeadLetter
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.stream.page_parser import PageParser
from dynabeam.transforms.values.key_schema import KeyAttribute, KeySchema

ORDERS = Table("orders", KeySchema(KeyAttribute("id", "S")), "arn:aws:dynamodb:::table/orders")
LINES = {
    ("DYNAMODB_JSON", "FULL_EXPORT"): b'{"Item":{"id":{"S":"a"}}}',
    ("ION", "FULL_EXPORT"): b'$ion_1_0 {Item:{id:"a"}}',
    ("DYNAMODB_JSON", "INCREMENTAL_EXPORT"): (
        b'{"Metadata":{"WriteTimestampMicros":{"N":"7"}},"Keys":{"id":{"S":"a"}},'
        b'"NewImage":{"id":{"S":"a"}}}'
    ),
}


def part(export_format, export_type):
    return FileSlice(
        table=ORDERS,
        generation=3,
        buckets=16,
        export_arn="arn:export",
        export_time_us=1_000_000,
        file=DataFile("f.json.gz", 1, ""),
        start_line=0,
        max_bytes=0,
        files=1,
        export_format=export_format,
        export_type=export_type,
        view="NEW_AND_OLD_IMAGES",
    )


def of_export(raw, of):
    names = ("export_time_us", "export_format", "export_type", "view", "generation")
    return DeadLetter(
        table="orders",
        stage="export",
        place="f.json.gz:1",
        reason="before",
        raw=raw,
        origin={"export_arn": "arn:export", "file": "f.json.gz", "line": "1"},
        context={"table": ORDERS.to_json(), **{name: getattr(of, name) for name in names}},
        last_us=5,
    )


def record(**fields):
    change = {
        "ApproximateCreationDateTime": 1464806460,
        "Keys": {"id": {"S": "a"}},
        "NewImage": {"id": {"S": "a"}},
        "SequenceNumber": "1" * 21,
        **fields,
    }
    return json.dumps({"eventName": "INSERT", "dynamodb": change}).encode()


@pytest.mark.parametrize("of", LINES, ids="-".join)
def test_lines_of_an_export(of):
    slice_ = part(*of)
    (block,) = reparse(of_export(LINES[of], slice_))
    assert block.rows == rows_of_lines(LINES[of], slice_)[0]
    assert block.header.origin == {"export_arn": "arn:export", "file": "f.json.gz"}
    assert block.header.generation == 3


def test_a_line_of_ion_is_shown_as_it_was_read():
    lines = b'$ion_1_0 {Item:{id:"a"}}\n$ion_1_0 {Item:{other:"b"}}\n'
    rows, bad = rows_of_lines(lines, part("ION", "FULL_EXPORT"))
    assert rows.num_rows == 1
    assert [each[:2] for each in bad] == [(2, lines.splitlines()[1])]


def test_a_record_of_a_stream():
    spoiled = record(NewImage=None)
    parser = PageParser(ORDERS, 2, "arn:stream")
    (letter,) = parser.parse(b'{"Records":[' + spoiled + b"]}", "shardId-1").dead
    assert (letter.raw, letter.error, letter.severity) == (spoiled, "ValueDecodeError", "severe")
    assert letter.origin == {
        "stream_arn": "arn:stream",
        "shard_id": "shardId-1",
        "sequence": "1" * 21,
    }
    assert letter.first_us == letter.last_us > 0
    again = reparse(letter)
    assert isinstance(again, DeadLetter)
    assert (again.id, again.reason) == (letter.id, letter.reason)
    assert again.last_us >= letter.last_us
    (block,) = reparse(dataclasses.replace(letter, raw=record()))
    expected = parser.parse(b'{"Records":[' + record() + b"]}", "shardId-1").rows
    assert block.rows == expected
    assert block.header.origin == {"shard_id": "shardId-1", "stream_arn": "arn:stream"}


@pytest.mark.parametrize("raw", [b"", b"nonsense", b'{"Item":{}}', b"\xff", b"{}{}", b"],["])
@pytest.mark.parametrize("stage", ["export", "stream", "sink"])
def test_what_still_cannot_be_read_is_the_same_letter(stage, raw):
    letter = of_export(raw, part("DYNAMODB_JSON", "FULL_EXPORT"))
    origin = {**letter.origin, "stream_arn": "s", "shard_id": "t", "sink": "u"}
    letter = dataclasses.replace(letter, stage=stage, origin=origin)
    again = reparse(letter)
    assert isinstance(again, DeadLetter)
    assert (again.id, again.raw) == (letter.id, raw)
    assert again.last_us > letter.last_us


def test_a_letter_that_does_not_say_what_is_needed():
    letter = DeadLetter("orders", "export", "f:1", "no", b"{}")
    again = reparse(letter)
    assert isinstance(again, DeadLetter)
    assert again.severity == "severe"
