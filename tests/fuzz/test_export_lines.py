# SPDX-License-Identifier: Apache-2.0
"""Lines of an export's data files: each is the row that a plain decoder reads, or a dead letter.

A row keeps the exact bytes of its image. What a sink would be told of an image that is no JSON is
in `test_sinks`; here such an image may be a row, as its line says, if no sink takes it.
"""

import json
import re
from datetime import datetime, timedelta, timezone

from hypothesis import example, given
from hypothesis import strategies as st

from dynabeam.transforms.errors import ValueDecodeError
from dynabeam.transforms.export.elements import FileSlice
from dynabeam.transforms.export.manifest import DataFile
from dynabeam.transforms.export.rows import rows_of_lines
from dynabeam.transforms.model.block import Block, BlockHeader
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.sinks.unfit_images import split_unfit
from dynabeam.transforms.values.key_schema import KeyAttribute, KeySchema
from dynabeam.transforms.values.keys import decode_key
from dynabeam.transforms.values.python_values import decode_item
from tests.fuzz.cases import cases
from tests.fuzz.hostile import compact, damaged, images
from tests.fuzz.plain_decoder import (
    DoubtfulError,
    UnreadableError,
    plain_ion,
    plain_item,
    plain_json,
    plain_key,
    plain_number,
    plain_value,
    told,
)
from tests.values.strategies import items, number_texts, texts

SCHEMAS = {
    "S": KeySchema(KeyAttribute("id", "S")),
    "N": KeySchema(KeyAttribute("id", "N")),
    "B N": KeySchema(KeyAttribute("id", "B"), KeyAttribute("a", "N")),
    "S S": KeySchema(KeyAttribute("a.b", "S"), KeyAttribute("~1", "S")),
}
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
TIME_US = 1_767_323_045_678_000
DOUBTFUL = object()


def part_of(schema, export_type="FULL_EXPORT", export_format="DYNAMODB_JSON", view=""):
    table = Table("orders", schema)
    file = DataFile("/x.json.gz", 1, "")
    return FileSlice(table, 1, 1, "arn", TIME_US, file, 0, 0, 1, export_format, export_type, view)


def good_key(draw, schema):
    values = {
        "S": texts.map(lambda text: {"S": text}),
        "N": number_texts().map(lambda text: {"N": text}),
        "B": st.sampled_from(["", "AA==", "aGk=", "////"]).map(lambda text: {"B": text}),
    }
    return {each.name: draw(values[each.type]) for each in schema.attributes}


@st.composite
def data_of(draw, line_of):
    """Lines, some of them damaged, and how they are ended."""
    lines = []
    for _ in range(draw(st.integers(1, 5))):
        line = line_of(draw)
        if draw(st.integers(0, 2)) == 0:
            line = draw(damaged(line)).replace(b"\n", b" ")
        lines.append(line)
    end = draw(st.sampled_from([b"\n", b"\r\n", b"\n\n", b"\n \t\n"]))
    return end.join(lines) + draw(st.sampled_from([b"", end]))


def outcomes(data, part):
    """What the product made of each line that is not blank: `(line, row or None)`."""
    rows, bad = rows_of_lines(data, part)
    lines = data.split(b"\n")
    for number, raw, reason in bad:
        assert raw == lines[number - 1]
        assert reason
    dead = [number for number, _, _ in bad]
    assert dead == sorted(set(dead))
    asked = [
        number
        for number, line in enumerate(lines, 1)
        if line.strip(b" \t\r") and number not in dead
    ]
    if part.export_format == "ION":
        asked = [number for number in asked if lines[number - 1].strip()]
    assert len(asked) == rows.num_rows
    found = dict(zip(asked, rows.to_pylist(), strict=True))
    header = BlockHeader(part.table, 0, 1, 1, "export")
    unfit = {
        json.loads(each.fields["letter"])["origin"]["key"]
        for each in split_unfit(Block(header, rows), "sink")[1]
    }
    for number in sorted({*dead, *asked}):
        yield lines[number - 1], found.get(number), unfit


def check_image(raw, image, unfit):
    """An image of a row is exact bytes of its line, and what the product reads is what they say."""
    assert image in raw
    try:
        parsed = plain_json(image)
    except UnreadableError:
        # The sinks refuse it: it is a dead letter there.
        assert unfit
        return DOUBTFUL
    except DoubtfulError:
        return DOUBTFUL
    try:
        expected = plain_item(parsed)
    except UnreadableError:
        expected = None
    try:
        found = {name: told(value) for name, value in decode_item(image).items()}
    except ValueDecodeError:
        found = None
    assert found == expected
    return parsed


def key_told(key, schema):
    decoded = decode_key(key, schema)
    return tuple(plain_value(decoded[each.name]) for each in schema.attributes)


def check_key(row, item, schema):
    assert key_told(row["key"], schema) == plain_key(item, schema)


class TestFullLines:
    @cases(0.6)
    @given(st.data(), st.sampled_from(sorted(SCHEMAS)))
    def test_each_line(self, data, name):
        schema = SCHEMAS[name]

        def line_of(draw):
            return b'{"Item":' + draw(images(good_key(draw, schema))) + b"}"

        self.check(data.draw(data_of(line_of)), schema)

    @cases(0.1)
    @given(st.data())
    @example(b'{"Item":{"id":{"S":"a"},"x":NaN}}\n')
    @example(b'{"Item":{"id":{"S":"a"},"x":[1,]}}')
    @example(b'{"Item":{"id":{"S":"a"}}}{"Item":{"id":{"S":"b"}}}')
    @example(b'\xef\xbb\xbf{"Item":{"id":{"S":"a"}}}\n{"Item":{"id":{"S":"b"}}}')
    @example(b'{"Item":{"id":{"S":"\\ud800"}}}\n{"Item":{"id":{"S":"\\ud83d\\ude00"}}}')
    @example(b'{"Item":{"id":{"S":"a"},"id":{"S":"b"}}}')
    @example(b'{"Item":{"id":{"S":"a\\u0000b"}}}\r\n\r\n{"Item":{"id":{"S":""}}}')
    def test_many_lines_at_once(self, data):
        """More rows than the ways of few rows take."""
        if isinstance(data, bytes):
            return self.check(data, SCHEMAS["S"])
        lines = [b'{"Item":{"id":{"S":"k%d"},"n":{"N":"%d"}}}' % (n, n) for n in range(150)]
        place = data.draw(st.integers(0, len(lines) - 1))
        lines[place] = data.draw(damaged(lines[place])).replace(b"\n", b"")
        text = b"\n".join(lines)
        rows, _ = rows_of_lines(text, part_of(SCHEMAS["S"]))
        others = {b"Sk%d" % n for n in range(150) if n != place}
        assert others <= set(rows.column("key").to_pylist())
        return self.check(text, SCHEMAS["S"])

    def check(self, text, schema):
        for line, row, unfit in outcomes(text, part_of(schema)):
            try:
                record = plain_json(line)
                key = plain_key(record["Item"], schema) if isinstance(record, dict) else None
                readable = key is not None
            except DoubtfulError:
                readable = None
            except (UnreadableError, KeyError):
                readable = False
            if row is None:
                assert not readable, "a good line is a dead letter"
                continue
            assert row["op"] == "r"
            refused = any(True for _ in unfit)
            item = check_image(line, row["new"], refused)
            if item is not DOUBTFUL:
                check_key(row, item, schema)
            if readable:
                assert item == record["Item"]


class TestIncrementalLines:
    @cases(0.5)
    @given(st.data(), st.sampled_from(["S", "B N"]), st.booleans())
    def test_each_line(self, data, name, both):
        schema = SCHEMAS[name]

        def line_of(draw):
            key = good_key(draw, schema)
            members = [
                b'"Metadata":{"WriteTimestampMicros":{"N":"%d"}}' % draw(st.integers(0, 2**58)),
                b'"Keys":' + compact(key),
            ]
            if both and draw(st.booleans()):
                members.append(b'"OldImage":' + draw(images(key)))
            if draw(st.booleans()):
                members.append(b'"NewImage":' + draw(images(key)))
            return b"{" + b",".join(members) + b"}"

        view = "NEW_AND_OLD_IMAGES" if both else "NEW_IMAGE"
        self.check(data.draw(data_of(line_of)), schema, view)

    def check(self, text, schema, view):
        part = part_of(schema, "INCREMENTAL_EXPORT", view=view)
        for line, row, unfit in outcomes(text, part):
            try:
                record = plain_json(line)
                key = plain_key(record["Keys"], schema)
                micros = whole(record["Metadata"]["WriteTimestampMicros"])
                readable = True
            except DoubtfulError:
                readable = None
            except (UnreadableError, KeyError, TypeError, ValueError):
                readable = False
            if row is None:
                assert not readable, "a good line is a dead letter"
                continue
            for image in (row["old"], row["new"]):
                if image is not None:
                    check_image(line, image, bool(unfit))
            if not readable:
                continue
            assert key_told(row["key"], schema) == key
            assert row["op"] == operation(record, view)
            assert row["event_time"] - EPOCH == timedelta(microseconds=micros)
            assert int(row["version"].decode()[-40:]) == micros
            for name, image in (("OldImage", row["old"]), ("NewImage", row["new"])):
                assert (image is None) == (name not in record)
                if image is not None:
                    assert plain_json(image) == record[name]


def whole(value):
    """A number of microseconds until the year 9999."""
    if not isinstance(value, dict):
        raise TypeError
    sign, digits, exponent = plain_number(value["N"])[1]
    found = int(digits) * 10**exponent if exponent >= 0 else None
    if sign or found is None or found > 253_402_300_799_999_999:
        raise ValueError
    return found


def operation(record, view):
    if "NewImage" not in record:
        return "d"
    return "c" if "OldImage" not in record and view == "NEW_AND_OLD_IMAGES" else "u"


def ion_text(value):
    """A value as Ion text, written by hand as the service's examples show it."""
    ((tag, payload),) = value.items()
    if tag == "S":
        return json.dumps(payload, ensure_ascii=True)
    if tag == "N":
        text = payload.lower().removeprefix("+")
        sign, text = ("-", text[1:]) if text.startswith("-") else ("", text)
        digits, _, exponent = text.partition("e")
        whole_part, point, fraction = digits.partition(".")
        digits = (whole_part.lstrip("0") or "0") + (point or ".") + fraction
        return f"{sign}{digits}d{exponent or 0}"
    if tag == "B":
        return "{{" + payload + "}}"
    if tag == "BOOL":
        return "true" if payload else "false"
    if tag == "NULL":
        return "null"
    if tag in ("SS", "NS", "BS"):
        return f"$dynamodb_{tag}::[" + ",".join(ion_text({tag[0]: each}) for each in payload) + "]"
    if tag == "L":
        return "[" + ",".join(map(ion_text, payload)) + "]"
    return ion_struct(payload)


_KEYWORDS = ("null", "true", "false", "nan")
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def ion_struct(item):
    names = {
        name: name if _PLAIN.fullmatch(name) and name not in _KEYWORDS else json.dumps(name)
        for name in item
    }
    return "{" + ",".join(f"{names[name]}:{ion_text(value)}" for name, value in item.items()) + "}"


class TestIonLines:
    @cases(0.6)
    @given(st.data(), st.sampled_from(["S", "N", "B N"]))
    def test_each_line(self, data, name):
        schema = SCHEMAS[name]
        good = []

        def line_of(draw):
            item = {**draw(items), **good_key(draw, schema)}
            marker = draw(st.sampled_from(["$ion_1_0 ", "", " $ion_1_0 "]))
            good.append(f"{marker}{{Item:{ion_struct(item)}}}".encode())
            return good[-1]

        self.check(data.draw(data_of(line_of)), schema, set(good))

    def check(self, text, schema, good):
        part = part_of(schema, export_format="ION")
        for line, row, _ in outcomes(text, part):
            if row is None:
                assert line.rstrip(b"\r") not in good, "a good line is a dead letter"
                continue
            assert row["op"] == "r"
            image = plain_json(row["new"])
            check_key(row, image, schema)
            found = {name: told(value) for name, value in decode_item(row["new"]).items()}
            assert found == plain_item(image)
            try:
                expected = plain_ion(line)["Item"]
            except DoubtfulError:
                continue
            assert found == expected
