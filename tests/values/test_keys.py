# SPDX-License-Identifier: Apache-2.0
"""Contract of binary keys: injective, the same from every source, vectorised like one by one."""

import base64
import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynabeam.transforms.errors import ValueDecodeError
from dynabeam.transforms.values.key_schema import KeyAttribute, KeySchema
from dynabeam.transforms.values.keys import (
    _encode_many,
    bucket_numbers,
    decode_key,
    encode_key,
    encode_keys,
    key_columns,
)
from dynabeam.transforms.values.numbers import normalise_number

from .strategies import base64_text, number_texts, texts

payloads = {
    "S": texts,
    "N": number_texts(),
    "B": st.one_of(
        st.binary(max_size=6).map(base64_text),
        st.sampled_from([b"\x00", b"\x00\x00", b"\x00\xff", b"\xff\x00"]).map(base64_text),
    ),
}


@st.composite
def schemas(draw):
    kinds = draw(st.lists(st.sampled_from("SNB"), min_size=1, max_size=2))
    return KeySchema(*[KeyAttribute(f"k.{at}", kind) for at, kind in enumerate(kinds)])


@st.composite
def schema_and_keys(draw):
    schema = draw(schemas())
    row = st.fixed_dictionaries(
        {
            each.name: st.builds(lambda p, t=each.type: {t: p}, payloads[each.type])
            for each in schema.attributes
        }
    )
    return schema, draw(st.lists(row, max_size=6))


def canonical(key):
    return {
        name: {tag: normalise_number(payload) if tag == "N" else payload}
        for name, value in key.items()
        for tag, payload in value.items()
    }


HASH = KeySchema(KeyAttribute("h", "S"))
BOTH = KeySchema(KeyAttribute("h", "S"), KeyAttribute("r", "N"))


class TestGoldenBytes:
    """Savepoints and mirrors keep these bytes: a change here is a break."""

    @pytest.mark.parametrize(
        ("schema", "key", "data"),
        [
            (HASH, {"h": {"S": "aé\x00"}}, b"Sa\xc3\xa9\x00"),
            (KeySchema(KeyAttribute("h", "N")), {"h": {"N": "1e3"}}, b"N1000"),
            (KeySchema(KeyAttribute("h", "B")), {"h": {"B": "AP8="}}, b"B\x00\xff"),
            (BOTH, {"h": {"S": "a"}, "r": {"N": "-1.50"}}, b"Sa\x00\x00N-1.5"),
            (BOTH, {"h": {"S": "a\x00b\x00"}, "r": {"N": "0"}}, b"Sa\x00\xffb\x00\xff\x00\x00N0"),
            (
                KeySchema(KeyAttribute("h", "B"), KeyAttribute("r", "B")),
                {"h": {"B": "AAAA"}, "r": {"B": "AAAA"}},
                b"B\x00\xff\x00\xff\x00\xff\x00\x00B\x00\x00\x00",
            ),
        ],
    )
    def test_key(self, schema, key, data):
        assert encode_key(key, schema) == data
        assert decode_key(data, schema) == canonical(key)

    def test_buckets(self):
        keys = pa.array(
            [b"", b"S", b"Sa", b"N1000", b"Sa\x00\x00N-1.5", b"B" + bytes(range(256)), None]
        )
        assert bucket_numbers(keys, 1 << 62).tolist() == GOLDEN_HASHES
        assert bucket_numbers(keys, 16).tolist() == [each % 16 for each in GOLDEN_HASHES]


GOLDEN_HASHES = [
    0,
    361904423526620583,
    1107083859158653070,
    2088804168479613395,
    1875541107486338006,
    870563560523248751,
    0,
]


def reference_bucket(key, buckets):
    """The documented formula, one step after the other."""
    mask = (1 << 64) - 1
    h = (
        len(key)
        + sum((byte + 1) * pow(0x9E3779B97F4A7C15, i, 1 << 64) for i, byte in enumerate(key))
    ) & mask
    h = (h ^ h >> 30) * 0xBF58476D1CE4E5B9 & mask
    h = (h ^ h >> 27) * 0x94D049BB133111EB & mask
    return (h ^ h >> 31) % buckets


class TestOneByOne:
    @given(schema_and_keys())
    def test_comes_back(self, case):
        schema, keys = case
        for key in keys:
            assert decode_key(encode_key(key, schema), schema) == canonical(key)

    @given(schema_and_keys())
    def test_injective(self, case):
        schema, keys = case
        same = {encode_key(key, schema) for key in keys}
        assert len(same) == len({json.dumps(canonical(key), sort_keys=True) for key in keys})

    @pytest.mark.parametrize("text", ["1000", "1e3", "1000.0", "001000", "+1000"])
    def test_one_number_is_one_key(self, text):
        schema = KeySchema(KeyAttribute("n", "N"))
        assert encode_key({"n": {"N": text}}, schema) == b"N1000"

    @pytest.mark.parametrize(
        "key",
        [
            {},
            {"h": {"N": "1"}},
            {"h": None},
            {"h": "a"},
            {"h": {"S": 1}},
            {"h": {"S": "\ud800"}},
            {"h": {"S": "a", "N": "1"}},
            {"H": {"S": "a"}},
        ],
    )
    def test_what_is_no_key(self, key):
        with pytest.raises(ValueDecodeError):
            encode_key(key, HASH)

    @pytest.mark.parametrize(
        ("data", "schema"),
        [
            (b"", HASH),
            (b"N1", HASH),
            (b"S\xff", HASH),
            (b"Sa", BOTH),
            (b"Sa\x00\x00Sa", BOTH),
            (b"Sa\x00\x00", BOTH),
        ],
    )
    def test_what_is_no_key_data(self, data, schema):
        with pytest.raises(ValueDecodeError):
            decode_key(data, schema)
        with pytest.raises(ValueDecodeError):
            key_columns(pa.array([data, None]), schema)


def columns_of(keys, schema):
    return [
        pa.array([None if key is None else key[each.name][each.type] for key in keys], pa.string())
        for each in schema.attributes
    ]


def both_ways(columns, schema, *, invalid="raise"):
    """The keys of columns, by the way for many, which the one for a few equals."""
    encoded = encode_keys(columns, schema, invalid=invalid)
    assert encoded.equals(_encode_many(columns, schema, invalid))
    return encoded


class TestColumns:
    @given(schema_and_keys(), st.data())
    def test_columns_are_their_rows(self, case, data):
        schema, keys = case
        keys = [data.draw(st.sampled_from([key, None])) for key in keys]
        encoded = both_ways(columns_of(keys, schema), schema)
        assert encoded.type == pa.binary()
        assert encoded.to_pylist() == [
            None if key is None else encode_key(key, schema) for key in keys
        ]
        batch = key_columns(encoded, schema)
        batch.validate(full=True)
        for attribute in schema.attributes:
            expected = [
                None if key is None else canonical(key)[attribute.name][attribute.type]
                for key in keys
            ]
            if attribute.type == "B":
                expected = [None if each is None else base64.b64decode(each) for each in expected]
            assert batch.column(attribute.name).to_pylist() == expected

    @given(schema_and_keys(), st.integers(0, 3), st.integers(0, 3))
    def test_slices(self, case, skip, drop):
        schema, keys = case
        end = max(len(keys) - drop, 0)
        columns = [each[skip:end] for each in columns_of(keys, schema)]
        encoded = both_ways(columns, schema)
        whole = both_ways(columns_of(keys, schema), schema)
        assert encoded.equals(whole[skip:end])
        assert key_columns(whole[skip:end], schema).equals(key_columns(encoded, schema))

    def test_one_missing_attribute_makes_a_null_key(self):
        keys = both_ways([pa.array(["a", None, "c"]), pa.array(["1", "2", None])], BOTH)
        assert keys.to_pylist() == [b"Sa\x00\x00N1", None, None]

    def test_binary_columns_are_taken_as_they_are(self):
        schema = KeySchema(KeyAttribute("h", "B"))
        assert both_ways([pa.array([b"\x00", None])], schema).to_pylist() == [b"B\x00", None]

    @pytest.mark.parametrize(("kind", "bad"), [("N", "one"), ("B", "aGk")])
    def test_invalid_values(self, kind, bad):
        schema = KeySchema(KeyAttribute("h", kind))
        column = pa.array(["1234", bad, None])
        with pytest.raises(ValueDecodeError, match=bad):
            encode_keys([column], schema)
        assert both_ways([column], schema, invalid="null").null_count == 2

    def test_wrong_number_of_columns(self):
        with pytest.raises(ValueDecodeError):
            encode_keys([pa.array(["a"])], BOTH)

    def test_a_large_batch(self):
        count = 300_000
        keys = both_ways([pa.array([f"user-{at}" for at in range(count)])], HASH)
        batch = key_columns(keys, HASH)
        batch.validate(full=True)
        assert batch.column(0)[count - 1].as_py() == f"user-{count - 1}"


class TestBuckets:
    @given(
        st.lists(st.one_of(st.none(), st.binary(max_size=40))),
        st.integers(1, 100),
        st.integers(0, 2),
    )
    def test_is_the_documented_formula(self, keys, buckets, skip):
        array = pa.array(keys, pa.binary())[skip:]
        expected = [reference_bucket(key or b"", buckets) for key in keys[skip:]]
        numbers = bucket_numbers(array, buckets)
        assert numbers.dtype == np.int64
        assert numbers.tolist() == expected

    def test_slices_of_a_large_batch_agree_with_single_keys(self):
        keys = [b"S" + bytes([at % 256]) * (at % 900) for at in range(3000)] + [
            b"x" * 700_000,
            b"y",
        ]
        numbers = bucket_numbers(pa.array(keys), 64)
        for at in [0, 1, 999, 1500, 2999, 3000, 3001]:
            assert numbers[at] == reference_bucket(keys[at], 64)

    def test_buckets_are_even(self):
        keys = pa.array([f"Suser-{at}".encode() for at in range(64_000)])
        counts = np.bincount(bucket_numbers(keys, 64), minlength=64)
        assert counts.min() > 850
        assert counts.max() < 1150

    @pytest.mark.parametrize("buckets", [0, -1])
    def test_no_buckets(self, buckets):
        with pytest.raises(ValueError, match="bucket"):
            bucket_numbers(pa.array([b"a"]), buckets)
