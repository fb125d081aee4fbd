# SPDX-License-Identifier: Apache-2.0
"""Contract of Ion lines: exact in every spelling that exports may use, strict in all others."""

import base64
import contextlib
import json
from collections.abc import Mapping
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynabeam.transforms.errors import ValueDecodeError
from dynabeam.transforms.values.ion_text import ion_line_to_json, ion_lines_to_json
from dynabeam.transforms.values.key_schema import KeyAttribute, KeySchema
from dynabeam.transforms.values.lines import parse_full_lines, parse_incremental_lines
from dynabeam.transforms.values.plain_json import canonical_json
from dynabeam.transforms.values.python_values import decode_item

from .strategies import items


def value_of(ion):
    line = ion_line_to_json(b"$ion_1_0 {Item:{a:" + ion.encode() + b"}}")
    return json.loads(line)["Item"]["a"]


class TestSpellings:
    @pytest.mark.parametrize(
        ("ion", "value"),
        [
            ('"text"', {"S": "text"}),
            ('""', {"S": ""}),
            ("'''long ''' '''text'''", {"S": "long text"}),
            ("''''''", {"S": ""}),
            ("'''it's ''quoted'' '''", {"S": "it's ''quoted'' "}),
            ('"it\'s"', {"S": "it's"}),
            (r'"\0\a\b\t\n\f\r\v\"\'\?\\\/"', {"S": "\0\a\b\t\n\f\r\v\"'?\\/"}),
            (r'"\U0001D800"', {"S": "\U0001d800"}),
            (r'"\x41\xe9\u00e9\U0001F600\ud83d\ude00"', {"S": "Aéé😀😀"}),
            ('"é😀\t\x0b\x7f"', {"S": "é😀\t\x0b\x7f"}),
            ("103.", {"N": "103"}),
            ("6d2", {"N": "600"}),
            ("2D3", {"N": "2000"}),
            ("1.5d-3", {"N": "0.0015"}),
            ("-1.50", {"N": "-1.5"}),
            ("1.d+2", {"N": "100"}),
            ("0.", {"N": "0"}),
            ("-0.0", {"N": "0"}),
            ("0d5", {"N": "0"}),
            ("7", {"N": "7"}),
            ("9" * 38 + ".", {"N": "9" * 38}),
            ("1d125", {"N": "1" + "0" * 125}),
            ("1d-130", {"N": "0." + "0" * 129 + "1"}),
            ("{{aGk=}}", {"B": "aGk="}),
            ("{{ aG k= }}", {"B": "aGk="}),
            ("{{}}", {"B": ""}),
            ("true", {"BOOL": True}),
            ("false", {"BOOL": False}),
            ("null", {"NULL": True}),
            ("null.null", {"NULL": True}),
            ("null.string", {"NULL": True}),
            ("null.struct", {"NULL": True}),
            ("$dynamodb_SS::[\"a\",'''b''']", {"SS": ["a", "b"]}),
            ("$dynamodb_NS::[103.,6d2, -1.5]", {"NS": ["103", "600", "-1.5"]}),
            ("$dynamodb_BS::[{{aGk=}},{{}}]", {"BS": ["aGk=", ""]}),
            ("$dynamodb_SS :: [ ]", {"SS": []}),
            ("'$dynamodb_SS'::[\"a\"]", {"SS": ["a"]}),
            ("[]", {"L": []}),
            (
                '[1., "a", [true], {b:null}]',
                {
                    "L": [
                        {"N": "1"},
                        {"S": "a"},
                        {"L": [{"BOOL": True}]},
                        {"M": {"b": {"NULL": True}}},
                    ]
                },
            ),
            ("{}", {"M": {}}),
            (
                (
                    "{S:{S:\"x\"},'a.b':1.,\"q\\\"\":2.,'it\\'s':3.,'':4.,$x:5.,_:6.,"
                    "'null':7.,'$10':8.,'''l''' :9.}"
                ),
                {
                    "M": {
                        "S": {"M": {"S": {"S": "x"}}},
                        "a.b": {"N": "1"},
                        'q"': {"N": "2"},
                        "it's": {"N": "3"},
                        "": {"N": "4"},
                        "$x": {"N": "5"},
                        "_": {"N": "6"},
                        "null": {"N": "7"},
                        "$10": {"N": "8"},
                        "l": {"N": "9"},
                    }
                },
            ),
        ],
    )
    def test_value(self, ion, value):
        assert value_of(ion) == value
        assert value_of(f" {ion} ") == value
        assert value_of(f"[{ion}]") == {"L": [value]}

    @pytest.mark.parametrize(
        "line",
        [
            b"$ion_1_0 {Item:{a:1.}}",
            b"$ion_1_0{Item:{a:1.}}",
            b"{Item:{a:1.}}\r",
            b" { 'Item' : { \"a\" : 1. } } ",
        ],
    )
    def test_line(self, line):
        assert ion_line_to_json(line) == b'{"Item":{"a":{"N":"1"}}}'

    def test_example_of_the_developer_guide(self):
        line = b'$ion_1_0 {Item:{Authors:$dynamodb_SS::["Author1","Author2"],Dimensions:"8.5 x 11",'
        line += b'ISBN:"333-3333333333",Id:103.,InPublication:false,'
        line += b'PageCount:6d2,Price:2d3,ProductCategory:"Book",Title:"Book 103 Title"}}'
        assert json.loads(ion_line_to_json(line)) == {
            "Item": {
                "Authors": {"SS": ["Author1", "Author2"]},
                "Dimensions": {"S": "8.5 x 11"},
                "ISBN": {"S": "333-3333333333"},
                "Id": {"N": "103"},
                "InPublication": {"BOOL": False},
                "PageCount": {"N": "600"},
                "Price": {"N": "2000"},
                "ProductCategory": {"S": "Book"},
                "Title": {"S": "Book 103 Title"},
            }
        }

    def test_depth(self):
        deep = "[" * 100 + "]" * 100
        assert json.dumps(value_of(deep)).count('"L"') == 100
        assert json.dumps(value_of("{a:" * 100 + "1." + "}" * 100)).count('"M"') == 100
        for deep in ("[" * 5000 + "]" * 5000, "{a:" * 5000):
            with pytest.raises(ValueDecodeError, match="nested"):
                value_of(deep)


REFUSED = [
    "",
    "symbol",
    "'symbol'",
    "nan",
    "+inf",
    "1e3",
    "1.5e0",
    "0x10",
    "0b1",
    "1_000.",
    "007.",
    "+1.",
    ".5",
    "1d",
    "1.2.3",
    "--1",
    "2024-01-01T",
    "2024T",
    "2024-01-01T00:00:00Z",
    '{{"clob"}}',
    "{{'''clob'''}}",
    "{{aGk}}",
    "{{a}}",
    "{{aGk==}}",
    "{{é}}",
    "(1 2)",
    "[1.,]",
    "[1. 2.]",
    "[,]",
    "[1.",
    "{a:1.,}",
    "{a 1.}",
    "{a:}",
    "{,}",
    "{a:1.",
    "{a:1.,a:2.}",
    "{null:1.}",
    "{$10:1.}",
    "{true:1.}",
    "{5:1.}",
    "{a:1.}}",
    "null.blub",
    "null.",
    "null.string2",
    "nullx",
    "$dynamodb_SS::[1.]",
    '$dynamodb_NS::["1"]',
    '$dynamodb_BS::["aGk="]',
    "$dynamodb_SS::[null]",
    "$dynamodb_SS::['a']",
    "$dynamodb_SS::{}",
    "$dynamodb_SS::null",
    "$dynamodb_XS::[]",
    "x::1.",
    "$dynamodb_SS::x::[]",
    '"open',
    "'''open",
    '"a\nb"',
    '"a\x00b"',
    '"a\x1fb"',
    r'"\q"',
    r'"\x4"',
    r'"\u12"',
    r'"\ud800"',
    r'"\ude00\ud83d"',
    r'"\U00110000"',
    r'"\UFFFFFFFF"',
    "1d126",
    "1d-131",
    "1" * 39 + ".",
    "1. // comment",
    "/* */ 1.",
    "$10",
    "true false",
    "truefalse",
    "1.]",
    '"a" "b"',
    "\\",
    "'a",
    "'",
    "''",
]


class TestRefusals:
    @pytest.mark.parametrize("ion", REFUSED, ids=repr)
    def test_value(self, ion):
        with pytest.raises(ValueDecodeError):
            value_of(ion)

    @pytest.mark.parametrize(
        "line",
        [
            b"",
            b"$ion_1_0",
            b"$ion_1_0 ",
            b"$ion_1_1 {Item:{}}",
            b"{Item:{}}{Item:{}}",
            b"[]",
            b"{Item:[]}",
            b"{Item:null.struct}",
            b"{Item:x::{}}",
            b"{Item:{},Item:{}}",
            b"{Record:1.}",
            b"{Record:{Keys:{}},Keys:{}}",
            b'{Item:{a:"\xff"}}',
            b"\xe0\x01\x00\xea\xd0",
            b"$ion_symbol_table::{}",
            b'{"Item":{"a":{"N":1.5e0}}}',
            b"{Keys:1.}",
        ],
    )
    def test_line(self, line):
        with pytest.raises(ValueDecodeError):
            ion_line_to_json(line)

    def test_the_column_is_named(self):
        with pytest.raises(ValueDecodeError, match=r"column 20: A symbol.*found 'oops"):
            ion_line_to_json(b"$ion_1_0 {Item:{ab:oops}}")

    @given(st.text(max_size=30))
    def test_junk_does_not_crash(self, text):
        for line in (text, "{Item:{a:" + text, "{Item:{a:" + text + "}}"):
            with contextlib.suppress(ValueDecodeError):
                json.loads(ion_line_to_json(line.encode()))


def ion_name(name, pick):
    if (
        name.isidentifier()
        and name.isascii()
        and name not in ("null", "true", "false", "nan")
        and pick(2)
    ):
        return name
    return ion_text(name, pick, "'" if pick(3) else '"')


def ion_text(text, pick, quote='"'):
    escapes = {"\n": "\\n", "\\": "\\\\", quote: "\\" + quote, "\0": "\\0"}
    out = []
    for letter in text:
        code = ord(letter)
        if letter in escapes:
            out.append(escapes[letter])
        elif code < 0x20 or (code < 0x100 and not pick(5)):
            out.append(f"\\x{code:02x}")
        elif not pick(5) and not (code > 0xFFFF and 0xD800 <= code & 0xFFFF < 0xE000):
            # (amazon.ion 0.15 cannot read such a long escape, so it cannot judge it.)
            out.append(f"\\U{code:08X}" if code > 0xFFFF or pick(2) else f"\\u{code:04x}")
        else:
            out.append(letter)
    return quote + "".join(out) + quote


def ion_decimal(text, pick):
    sign, digits, exponent = Decimal(text).as_tuple()
    body = "".join(map(str, digits))
    front = "-" if sign else ""
    if exponent == 0 and pick(2):
        return f"{front}{body}."
    if -len(body) < exponent < 0 and pick(2):
        return f"{front}{body[:exponent]}.{body[exponent:]}"
    return f"{front}{body}d{exponent}"


def ion_value(value, pick):
    ((tag, payload),) = value.items()
    space = " " * (not pick(4))
    if tag == "S":
        return ion_text(payload, pick)
    if tag == "N":
        return ion_decimal(payload, pick)
    if tag == "B":
        return "{{" + space + payload + "}}"
    if tag == "M":
        return ion_struct(payload, pick)
    if tag in ("BOOL", "NULL"):
        return {"BOOL": "true" if payload else "false", "NULL": "null"}[tag]
    inner = {"SS": "S", "NS": "N", "BS": "B"}.get(tag)
    members = [ion_value({inner: each} if inner else each, pick) for each in payload]
    return (f"$dynamodb_{tag}::" if inner else "") + space + "[" + f",{space}".join(members) + "]"


def ion_struct(item, pick):
    return (
        "{"
        + ",".join(
            f"{ion_name(name, pick)}:{ion_value(value, pick)}" for name, value in item.items()
        )
        + "}"
    )


class TestRoundTrip:
    @given(items, st.randoms(use_true_random=False))
    def test_every_item_comes_back(self, item, random):
        line = f"$ion_1_0 {{Item:{ion_struct(item, random.randrange)}}}"
        converted = json.loads(ion_line_to_json(line.encode()))
        assert list(converted) == ["Item"]
        assert list(converted["Item"]) == list(item)
        assert canonical_json(converted["Item"]) == canonical_json(item)

    @given(items, st.randoms(use_true_random=False))
    def test_the_public_library_reads_the_same(self, item, random):
        simpleion = pytest.importorskip("amazon.ion.simpleion")
        text = ion_struct(item, random.randrange)
        read = simpleion.loads("$ion_1_0 " + text)
        assert from_library(read) == decode_item(
            json.loads(ion_line_to_json(f"{{Item:{text}}}".encode()))["Item"]
        )

    @given(items)
    def test_what_the_public_library_writes(self, item):
        simpleion = pytest.importorskip("amazon.ion.simpleion")
        text = simpleion.dumps({"Item": to_library({"M": item})}, binary=False)
        line = text.replace("\n", " ").encode()
        assert canonical_json(json.loads(ion_line_to_json(line))["Item"]) == canonical_json(item)


def from_library(value):
    """Turn the library's values into our Python form."""
    from amazon.ion.simple_types import IonPyNull  # noqa: PLC0415

    from dynabeam.transforms.values.python_values import BinarySet, NumberSet, StringSet  # noqa: PLC0415

    kinds = {"$dynamodb_SS": StringSet, "$dynamodb_NS": NumberSet, "$dynamodb_BS": BinarySet}
    if value is None or isinstance(value, IonPyNull):
        return None
    annotations = [each.text for each in getattr(value, "ion_annotations", ())]
    if isinstance(value, Mapping):
        return {str(name): from_library(each) for name, each in value.items()}
    if isinstance(value, list):
        members = [from_library(each) for each in value]
        return kinds[annotations[0]](members) if annotations else members
    if isinstance(value, Decimal):
        return Decimal(f"{value:f}")
    if isinstance(value, bytes):
        return bytes(value)
    if type(value).__name__ in ("bool", "IonPyBool"):
        return bool(value)
    return str(value)


def to_library(value):
    from amazon.ion.core import IonType  # noqa: PLC0415
    from amazon.ion.simple_types import IonPyList  # noqa: PLC0415

    ((tag, payload),) = value.items()
    if tag == "N":
        return Decimal(payload)
    if tag == "B":
        return base64.b64decode(payload)
    if tag == "NULL":
        return None
    if tag == "M":
        return {name: to_library(each) for name, each in payload.items()}
    if tag == "L":
        return [to_library(each) for each in payload]
    if tag in ("SS", "NS", "BS"):
        members = [to_library({tag[0]: each}) for each in payload]
        return IonPyList.from_value(IonType.LIST, members, (f"$dynamodb_{tag}",))
    return payload


SCHEMA = KeySchema(KeyAttribute("id", "N"))


class TestFiles:
    def test_lines_keep_their_numbers(self):
        data = b'$ion_1_0 {Item:{id:1.}}\n\nnot ion\n{Item:{id:"x"}}\n$ion_1_0 {Item:{id:2d0}}\n'
        converted, bad = ion_lines_to_json(data)
        assert converted.count(b"\n") == data.count(b"\n")
        ((number, raw, reason),) = bad
        assert (number, raw) == (3, b"not ion")
        assert "column 1" in reason
        parsed = parse_full_lines(converted, SCHEMA)
        assert parsed.keys.to_pylist() == [b"N1", b"N2"]
        assert [each[0] for each in parsed.bad] == [4]

    def test_good_lines_have_the_service_form(self):
        converted, bad = ion_lines_to_json(
            memoryview(b"$ion_1_0 {Item:{id:1.}}\n$ion_1_0 {Item:{id:2.}}\n")
        )
        assert bad == []
        assert converted == b'{"Item":{"id":{"N":"1"}}}\n{"Item":{"id":{"N":"2"}}}\n'

    @pytest.mark.parametrize("wrap", ["%s", "{Record:%s}", "{Record:%s,Other:1.}"])
    @pytest.mark.parametrize("micros", ["1768386096366933.", "1768386096366933"])
    def test_incremental_records(self, wrap, micros):
        record = (
            "{Metadata:{WriteTimestampMicros:"
            + micros
            + '},Keys:{id:1.},OldImage:{id:1.},NewImage:{id:1.,a:"x"}}'
        )
        converted, bad = ion_lines_to_json(("$ion_1_0 " + wrap % record).encode())
        assert bad == []
        parsed = parse_incremental_lines(converted, SCHEMA)
        assert parsed.bad == []
        assert parsed.ops.to_pylist() == ["u"]
        assert parsed.write_micros.to_pylist() == [1768386096366933]
        assert parsed.old.to_pylist() == [b'{"id":{"N":"1"}}']
        assert parsed.new.to_pylist() == [b'{"id":{"N":"1"},"a":{"S":"x"}}']
