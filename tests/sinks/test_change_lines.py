# SPDX-License-Identifier: Apache-2.0
"""Contract of keys as JSON objects: the same text, however many keys there are."""

import json

import pyarrow as pa
import pytest
from hypothesis import example, given

from dynabeam.transforms.errors import ValueDecodeError
from dynabeam.transforms.sinks.files.change_lines import (
    _few_key_objects,
    _many_key_objects,
    key_objects,
)
from dynabeam.transforms.values.key_schema import KeyAttribute, KeySchema
from dynabeam.transforms.values.keys import decode_key, encode_key
from dynabeam.transforms.values.row_decoder import SMALL_BATCH_ROWS
from tests.values.test_keys import schema_and_keys

ID = KeySchema(KeyAttribute("id", "S"))


@given(schema_and_keys())
@example((ID, [{"id": {"S": 'control \x1f\\u001f\x0b "quote"/\u2028'}}]))
@example((KeySchema(KeyAttribute('q"\x1e', "S")), [{'q"\x1e': {"S": "é"}}]))
def test_few_are_as_many(given_keys):
    schema, keys = given_keys
    column = pa.array([*(encode_key(key, schema) for key in keys), None], pa.binary())
    few = _few_key_objects(column, schema)
    assert few.equals(_many_key_objects(column, schema))
    for key, text in zip(column.to_pylist()[:-1], few.to_pylist(), strict=False):
        assert json.loads(text) == decode_key(key, schema)


@pytest.mark.parametrize("count", [1, SMALL_BATCH_ROWS + 1])
@pytest.mark.parametrize("key", [b"Nx", b"S\xff", b""])
def test_what_is_no_key_is_an_error(count, key):
    assert len(key_objects(pa.array([b"Sx"] * count), ID)) == count
    with pytest.raises(ValueDecodeError):
        key_objects(pa.array([key] * count), ID)
