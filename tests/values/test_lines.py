# SPDX-License-Identifier: Apache-2.0
"""Contract of export lines: images as exact bytes, canonical keys, bad lines kept, order kept."""

import json

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynabeam.transforms.values.key_schema import KeyAttribute, KeySchema
from dynabeam.transforms.values.keys import encode_key
from dynabeam.transforms.values.lines import (
    keys_of_images,
    parse_full_lines,
    parse_incremental_lines,
)

from .strategies import items, number_texts, texts

SCHEMA = KeySchema(KeyAttribute("p.k", "S"), KeyAttribute("S", "N"))
ID = KeySchema(KeyAttribute("id", "S"))

SEPARATORS = [(",", ":"), (", ", ": "), (",  ", ":\t")]


@st.composite
def keyed_items(draw):
    """Items of a table with `SCHEMA`, in arbitrary order of attributes."""
    item = draw(items)
    item["p.k"] = {"S": draw(texts)}
    item["S"] = {"N": draw(number_texts())}
    return {name: item[name] for name in draw(st.permutations(sorted(item)))}


def compact(value, ascii_only=False):
    return json.dumps(value, separators=(",", ":"), ensure_ascii=ascii_only).encode()


class TestFullLines:
    def test_a_deep_item_is_a_row_whatever_stands_beside_it(self):
        deep = b'{"id":{"S":"d"},"v":' + b'{"L":[' * 700 + b'{"S":"x"}' + b"]}" * 700 + b"}"
        lines = [b'{"Item":{"id":{"S":"a"}}}', b'{"Item":%b}' % deep]
        assert parse_full_lines(b"\n".join(lines), ID).images[1].as_py() == deep
        parsed = parse_full_lines(b"\n".join([*lines, b"broken", b'{"Item":%b,}' % deep]), ID)
        assert parsed.images.to_pylist() == [b'{"id":{"S":"a"}}', deep]
        assert [number for number, _, _ in parsed.bad] == [3, 4]

    @given(st.lists(keyed_items(), max_size=5), st.booleans(), st.booleans())
    def test_service_form(self, rows, ascii_only, final_newline):
        images = [compact(row, ascii_only) for row in rows]
        data = b"\n".join(b'{"Item":' + image + b"}" for image in images)
        parsed = parse_full_lines(data + b"\n" * final_newline, SCHEMA)
        assert parsed.bad == []
        assert parsed.images.to_pylist() == images
        assert parsed.keys.to_pylist() == [encode_key(row, SCHEMA) for row in rows]
        assert parsed.keys.type == parsed.images.type == pa.binary()

    @given(st.lists(keyed_items(), max_size=5), st.data())
    def test_other_forms(self, rows, data):
        lines, images = [], []
        for row in rows:
            comma, colon = data.draw(st.sampled_from(SEPARATORS))
            image = json.dumps(row, separators=(comma, colon))
            front, back = data.draw(
                st.sampled_from(
                    [
                        ('{"Item":', "}"),
                        ('{"Item": ', " } "),
                        ('{"Item":', ',"x":[1,{"Item":2}]}'),
                        ('{"x":"}","Item":', "}\r"),
                        (' {"a":null,"Item" :', "}"),
                    ]
                )
            )
            lines.append(front + image + back)
            images.append(image.encode())
        parsed = parse_full_lines("\n".join(lines).encode(), SCHEMA)
        assert parsed.bad == []
        assert parsed.images.to_pylist() == images
        assert parsed.keys.to_pylist() == [encode_key(row, SCHEMA) for row in rows]

    @pytest.mark.parametrize(
        "line",
        [
            b"not json",
            b"{",
            b"[]",
            b'"Item"',
            b"{}",
            b'{"item":{"id":{"S":"a"}}}',
            b'{"Item":null}',
            b'{"Item":[]}',
            b'{"Item":"id"}',
            b'{"Item":{}}',
            b'{"Item":{"other":{"S":"a"}}}',
            b'{"Item":{"id":{"N":"1"}}}',
            b'{"Item":{"id":{"S":1}}}',
            b'{"Item":{"id":{"S":null}}}',
            b'{"Item":{"id":{"S":"a","N":"1"}}}',
            b'{"Item":{"id":{"S":"a","x":1}}}',
            b'{"Item":{"id":["S"]}}',
            b'{"Item":{"id":"a"}}',
            b'{"Item":{"id":{"S":"\xff"}}}',
            b'{"Item":{"id":{"S":"\\ud800"}}}',
            b'{"Item":{"id":{"S":"a"}}',
            b'{"Item":{"id":{"S":"a"}}}}',
            b'{"Item":{"id":{"S":"a"},}}',
            b'{"Item":{"id":{"S":"a"}}}{"Item":{"id":{"S":"b"}}}',
            b'{"Item":{"id":{"S":"a"},"n":{"N":NaN}}}',
            b'{"Item":{"id":{"S":"a"},"n":{"N":-Infinity}}}',
            b'{"Item":{"id":{"S":"a"},"b":{"S":"\xc3"}}}',
            b"\xef\xbb\xbf" + b'{"Item":{"id":{"S":"a"}}}',
            b"\x00",
            b"\x0b",
        ],
    )
    def test_bad_line_is_kept_and_the_rest_goes_on(self, line):
        before, after = b'{"Item":{"id":{"S":"1"}}}\n\n', b'\n{"Item":{"id":{"S":"2"}}}\n'
        parsed = parse_full_lines(before + line + after, ID)
        ((number, raw, reason),) = parsed.bad
        assert (number, raw) == (3, line)
        assert reason
        assert parsed.keys.to_pylist() == [b"S1", b"S2"]
        assert parsed.images.to_pylist() == [b'{"id":{"S":"1"}}', b'{"id":{"S":"2"}}']

    @pytest.mark.parametrize(
        ("kind", "payload"), [("N", "one"), ("N", "1" * 39), ("B", "aGk"), ("B", "?")]
    )
    def test_impossible_key_payload_is_bad(self, kind, payload):
        schema = KeySchema(KeyAttribute("k", kind))
        line = compact({"Item": {"k": {kind: payload}}})
        parsed = parse_full_lines(line, schema)
        assert len(parsed.keys) == len(parsed.images) == 0
        ((number, raw, reason),) = parsed.bad
        assert (number, raw) == (1, line)
        assert payload[:38] in reason

    def test_reason_names_the_attribute_and_the_type(self):
        parsed = parse_full_lines(b'{"Item":{"id":{"N":"5"}}}', ID)
        assert "'id'" in parsed.bad[0][2]
        assert "'S'" in parsed.bad[0][2]

    @pytest.mark.parametrize("data", [b"", b"\n", b"\n\r\n  \n"])
    def test_nothing(self, data):
        parsed = parse_full_lines(data, ID)
        assert (len(parsed.keys), len(parsed.images), parsed.bad) == (0, 0, [])
        assert parsed.keys.type == parsed.images.type == pa.binary()

    @pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview])
    def test_bytes_likes(self, wrap):
        assert parse_full_lines(wrap(b'{"Item":{"id":{"S":"a"}}}\n'), ID).keys.to_pylist() == [
            b"Sa"
        ]

    @given(
        st.lists(
            st.one_of(st.binary(max_size=12), keyed_items().map(lambda row: compact({"Item": row})))
        )
    )
    def test_every_line_is_accounted_for(self, lines):
        lines = [line.replace(b"\n", b"") for line in lines]
        parsed = parse_full_lines(b"\n".join(lines), SCHEMA)
        # JSON's blanks only: a lone vertical tab, which `strip()` would take off, is a bad line.
        filled = [at for at, line in enumerate(lines, 1) if line.strip(b" \t\r")]
        assert len(parsed.keys) == len(parsed.images) == len(filled) - len(parsed.bad)
        assert parsed.keys.null_count == 0
        for number, raw, _ in parsed.bad:
            assert lines[number - 1] == raw

    @given(st.binary(max_size=60))
    def test_junk_does_not_crash(self, data):
        parse_full_lines(data, SCHEMA)
        parse_full_lines(b'{"Item":' + data + b"}\n", ID)
        parse_incremental_lines(data, ID)

    def test_real_export(self):
        """Lines of a real export of ScyllaDB's migrator tests (Apache-2.0), verbatim."""
        data = (
            b'{"Item":{"id":{"S":"bar"},"baz":{"N":"0"}}}\n'
            b'{"Item":{"id":{"S":"K3TXQk84Si"},"a":{"BOOL":false},"b":{"NULL":true},"d":{"NS":["3","2"]},'
            b'"f":{"M":{"h":{"NULL":true},"g":{"N":"9"}}},"j":{"B":"aGVsbG8="}}}\n'
        )
        parsed = parse_full_lines(data, ID)
        assert parsed.keys.to_pylist() == [b"Sbar", b"SK3TXQk84Si"]
        assert parsed.bad == []


def change(micros="1768386096366933", **members):
    return {"Metadata": {"WriteTimestampMicros": {"N": micros}}, **members}


KEYS = {"id": {"S": "a"}}
OLD = {"id": {"S": "a"}, "n": {"N": "1"}}
NEW = {"id": {"S": "a"}, "n": {"N": "2"}}


class TestIncrementalLines:
    @pytest.mark.parametrize(
        ("members", "view", "op"),
        [
            ({"NewImage": NEW}, "NEW_AND_OLD_IMAGES", "c"),
            ({"OldImage": OLD, "NewImage": NEW}, "NEW_AND_OLD_IMAGES", "u"),
            ({"OldImage": OLD}, "NEW_AND_OLD_IMAGES", "d"),
            ({}, "NEW_AND_OLD_IMAGES", "d"),
            ({"NewImage": NEW}, "NEW_IMAGE", "u"),
            ({}, "NEW_IMAGE", "d"),
        ],
    )
    @pytest.mark.parametrize("separators", SEPARATORS)
    def test_cases(self, members, view, op, separators):
        line = json.dumps(change(Keys=KEYS, **members), separators=separators).encode()
        parsed = parse_incremental_lines(line + b"\n", ID, view=view)
        assert parsed.bad == []
        assert parsed.keys.to_pylist() == [b"Sa"]
        assert parsed.ops.to_pylist() == [op]
        assert parsed.write_micros.to_pylist() == [1768386096366933]
        for name, column in [("OldImage", parsed.old), ("NewImage", parsed.new)]:
            image = members.get(name)
            expected = None if image is None else json.dumps(image, separators=separators).encode()
            assert column.to_pylist() == [expected]

    @pytest.mark.parametrize(
        "line",
        [
            b"not json",
            compact({"Item": NEW}),
            compact({"Keys": KEYS, "NewImage": NEW}),
            compact(change(NewImage=NEW)),
            compact(change(Keys={"other": {"S": "a"}})),
            compact(change(Keys={"id": {"N": "1"}}, NewImage=NEW)),
            compact(change(Keys=None)),
            compact(change(micros="1.5", Keys=KEYS)),
            compact(change(micros="-1", Keys=KEYS)),
            compact(change(micros="soon", Keys=KEYS)),
            compact(change(micros="9223372036854775808", Keys=KEYS)),
            compact(change(micros="253402300800000000", Keys=KEYS)),
            compact({"Metadata": {"WriteTimestampMicros": 1768386096366933}, "Keys": KEYS}),
            compact({"Metadata": {}, "Keys": KEYS}),
        ],
    )
    def test_bad_line_is_kept_and_the_rest_goes_on(self, line):
        good = compact(change(Keys=KEYS, NewImage=NEW))
        parsed = parse_incremental_lines(b"\n".join([good, line, b"", good, b""]), ID)
        ((number, raw, reason),) = parsed.bad
        assert (number, raw) == (2, line)
        assert reason
        assert parsed.keys.to_pylist() == [b"Sa", b"Sa"]
        assert (
            len(parsed.ops) == len(parsed.old) == len(parsed.new) == len(parsed.write_micros) == 2
        )

    def test_nothing(self):
        parsed = parse_incremental_lines(b"\n", ID)
        assert [len(parsed.keys), len(parsed.ops), len(parsed.bad)] == [0, 0, 0]
        assert parsed.write_micros.type == pa.int64()


class TestKeysOfImages:
    def test_nulls_stay_nulls(self):
        images = pa.array([None, compact(NEW), None, b"{}"], pa.binary())
        keys, reasons = keys_of_images(images, ID)
        assert keys.to_pylist() == [None, b"Sa", None, None]
        assert list(reasons) == [3]

    def test_doubled_attribute_is_reported(self):
        _, reasons = keys_of_images(pa.array([b'{"id":{"N":"1"},"id":{"S":"a"}}']), ID)
        assert "twice" in reasons[0]
