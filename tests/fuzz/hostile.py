# SPDX-License-Identifier: Apache-2.0
"""Makes hostile input: valid texts, valid texts that were damaged, and odd ones by hand."""

import json
import re

from hypothesis import strategies as st

from tests.values.strategies import items, wire_values

ODD_NUMBERS = [
    *("1E400", "1e-400", "NaN", "-0", "-0.0", "0E999999999999", "1" * 40, "9" * 38, "+1", ".5"),
    *("1.", "0x1", "1_0", "\u0661", " 1", "1 ", "", "-", "Infinity", "1e", "9" * 5000, "00"),
    *("9.9999999999999999999999999999999999999E+125", "1E-130", "1E126", "1e" + "9" * 20),
    *("1e" + "9" * 21, "1e-" + "9" * 30),
]
ODD_TEXTS = [
    *(r"\u0000", r"\ud800", r"\udc00\ud800", r"\ud83d\ude00", r"\u00e9", r"\/", r"\x41", r"\u12"),
    *("\x00", "\x01", "\x7f", "\u2028", "\u202e", "\ufeff", "é", "😀", "\t", "nan,]", '"', "\\"),
]
ODD_BYTES = [
    *(b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b"\xc0\xaf", b"\xed\xa0\x80", b"\xe2\x82"),
    *(b"\r", b"\x00", b"\x0b", b"\x0c", b"\x1a", b"\x85", b"\xa0"),
]
ODD_VALUES = [
    *("null", "true", "0", "-0", "1e400", "NaN", "-Infinity", "[]", "{}", '""', "[1,]"),
    *('{"a":1,}', '{"S":null}'),
    *(
        '{"S":1}',
        '{"N":1}',
        '{"N":"1e999"}',
        '{"N":"NaN"}',
        '{"N":null}',
        '{"B":"?"}',
        '{"B":"YQ"}',
    ),
    *(
        '{"X":"a"}',
        '{"s":"a"}',
        '{"S":"a","N":"1"}',
        '{"S":"a","S":"b"}',
        '{"SS":"a"}',
        '{"SS":[]}',
    ),
    *('{"SS":["a",1]}', '{"NS":["1","x"]}', '{"BS":["YQ==","="]}', '{"BOOL":"true"}', '{"BOOL":0}'),
    *('{"NULL":false}', '{"NULL":null}', '{"L":{}}', '{"L":[null]}', '{"M":[]}', '{"M":{"":{}}}'),
    *('{"M":{"a":{"S":"x"},"a":{"S":"y"}}}', '{"S":"a" }', ' { "S" : "a" } ', '{"\\u0053":"a"}'),
    *("1" * 5000, "1e" + "9" * 30, '{"S":null}', "-", "--1", "01", "tru", "'a'", "{{}}", "/*x*/1"),
]
_DEPTHS = [10, 33, 129, 255, 400, 520, 1100, 3000]


def compact(value):
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def deep_values():
    """Values that nest, closed or not."""

    def made(depth, kind, closed):
        opening, closing = {"L": ('{"L":[', "]}"), "M": ('{"M":{"a":', "}}"), "[": ("[", "]")}[kind]
        return opening * depth + '{"S":"x"}' + closing * (depth if closed else depth - 1)

    return st.builds(
        made, st.sampled_from(_DEPTHS), st.sampled_from(["L", "M", "["]), st.booleans()
    )


odd_values = st.one_of(
    st.sampled_from(ODD_VALUES),
    st.sampled_from(ODD_NUMBERS).map(lambda text: json.dumps({"N": text}, ensure_ascii=False)),
    st.sampled_from(ODD_TEXTS).map(lambda text: f'{{"S":"{text}"}}'),
    deep_values(),
)
"""Texts in place of a value: some are values, most are none."""

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s"{}\[\],:]+')


@st.composite
def damaged(draw, data, most=2):
    """A text after a few changes, each of a byte, a run of bytes or a token."""
    for _ in range(draw(st.integers(1, most))):
        data = draw(st.sampled_from(_DAMAGES))(draw, data)
    return data


def _flip(draw, data):
    if not data:
        return draw(st.binary(max_size=3))
    at = draw(st.integers(0, len(data) - 1))
    return data[:at] + bytes([data[at] ^ (1 << draw(st.integers(0, 7)))]) + data[at + 1 :]


def _cut(draw, data):
    return data[: draw(st.integers(0, len(data)))]


def _drop(draw, data):
    begin = draw(st.integers(0, len(data)))
    return data[:begin] + data[begin + draw(st.integers(1, 8)) :]


def _repeat(draw, data):
    begin = draw(st.integers(0, len(data)))
    end = begin + draw(st.integers(1, 30))
    return data[:end] + data[begin:]


def _put_bytes(draw, data):
    at = draw(st.integers(0, len(data)))
    return data[:at] + draw(st.sampled_from(ODD_BYTES)) + data[at:]


def _front(draw, data):
    return (
        draw(st.sampled_from([b"\xef\xbb\xbf", b" ", b"\t", b"\x00", b"[", b"//\r", b"1 "])) + data
    )


def _back(draw, data):
    return data + draw(st.sampled_from([b"\r", b" ", b",", b"}", b"{}", b"\x00", b"null", b"\xa0"]))


def _token(draw, data):
    tokens = list(_TOKEN.finditer(data))
    if not tokens:
        return data
    found = draw(st.sampled_from(tokens))
    new = draw(
        st.one_of(
            st.sampled_from([each.group() for each in tokens]),
            st.sampled_from(ODD_TEXTS).map(lambda text: f'"{text}"'.encode("utf-8", "replace")),
            odd_values.map(str.encode),
            st.just(b""),
        )
    )
    return data[: found.start()] + new + data[found.end() :]


def _swap(draw, data):
    """Two tokens change places: wrong types, doubled names, missing ones."""
    tokens = list(_TOKEN.finditer(data))
    if len(tokens) < 2:
        return data
    first, second = sorted(
        draw(st.lists(st.sampled_from(tokens), min_size=2, max_size=2, unique=True)),
        key=lambda each: each.start(),
    )
    return (
        data[: first.start()]
        + second.group()
        + data[first.end() : second.start()]
        + first.group()
        + data[second.end() :]
    )


_DAMAGES = [_flip, _cut, _drop, _repeat, _put_bytes, _front, _back, _token, _token, _token, _swap]


@st.composite
def images(draw, key):
    """An item with this key, in compact JSON; now and then with an odd value."""
    item = compact({**key, **draw(items)})
    if draw(st.integers(0, 3)) == 0:
        # The value stands where no other text decides: at the end of the object.
        name = draw(st.sampled_from(['"odd"', '"id"', '""', r'"\u0000"', r'"\ud800"', '"a"']))
        item = item[:-1] + b"," + f"{name}:{draw(odd_values)}".encode("utf-8", "replace") + b"}"
    return item


@st.composite
def documents(draw, document):
    """A stored document, as its bytes: damaged, or with a value of another type."""
    if draw(st.booleans()):
        return draw(damaged(document if isinstance(document, bytes) else compact(document)))
    if isinstance(document, bytes):
        try:
            document = json.loads(document)
        except ValueError:
            return draw(damaged(document))
    return compact(_with_odd_value(draw, document))


_JSON_VALUES = [
    *(
        None,
        True,
        0,
        -1,
        1.5,
        10**30,
        "",
        "x",
        [],
        {},
        [1],
        [[]],
        ["a", "b"],
        {"a": 1},
        "../../etc",
    ),
    *("\x00", "a\nb", {"format": 1}, [None], [{}], 1e308, "1", "\U0001f600"),
]


def _with_odd_value(draw, document):
    """The document with one value replaced, taken away or added, at any depth."""
    places = []

    def see(value, path):
        places.append(path)
        if isinstance(value, dict):
            for name, each in value.items():
                see(each, (*path, name))
        elif isinstance(value, list):
            for at, each in enumerate(value[:5]):
                see(each, (*path, at))

    see(document, ())
    path = draw(st.sampled_from(places))
    new = draw(st.sampled_from(_JSON_VALUES))
    if not path:
        return new
    copy = json.loads(json.dumps(document))
    inside = copy
    for step in path[:-1]:
        inside = inside[step]
    what = draw(st.integers(0, 3))
    if what == 0:
        del inside[path[-1]]
    elif what == 1 and isinstance(inside, dict):
        inside[draw(st.sampled_from(["new", "", "self", "format"]))] = new
    else:
        inside[path[-1]] = new
    return copy


__all__ = ["compact", "damaged", "deep_values", "documents", "images", "odd_values", "wire_values"]
