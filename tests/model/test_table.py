# SPDX-License-Identifier: Apache-2.0
"""Contract of tables and key schemas: by value, through JSON, from DescribeTable."""

import json

import pytest

from dynabeam.transforms.errors import TableError
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.values.key_schema import KeyAttribute, KeySchema

HASH_ONLY = KeySchema(KeyAttribute("id", "S"))
COMPOSITE = KeySchema(KeyAttribute("a.b", "N"), KeyAttribute("S", "B"))


@pytest.mark.parametrize("schema", [HASH_ONLY, COMPOSITE])
def test_goes_through_json(schema):
    assert KeySchema.from_json(json.loads(json.dumps(schema.to_json()))) == schema
    table = Table("t", schema, "arn:aws:dynamodb:eu-west-1:111122223333:table/t")
    assert Table.from_json(json.loads(json.dumps(table.to_json()))) == table


def test_golden_json():
    assert json.dumps(Table("t", COMPOSITE).to_json()["keys"]) == (
        '[{"name": "a.b", "type": "N"}, {"name": "S", "type": "B"}]'
    )


def test_attributes_are_hash_first():
    assert [each.name for each in COMPOSITE.attributes] == ["a.b", "S"]
    assert [each.name for each in HASH_ONLY.attributes] == ["id"]


def test_describe_table_in_any_order_with_index_attributes():
    definitions = [
        {"AttributeName": "by_index", "AttributeType": "N"},
        {"AttributeName": "r", "AttributeType": "N"},
        {"AttributeName": "h", "AttributeType": "B"},
    ]
    key = [{"AttributeName": "r", "KeyType": "RANGE"}, {"AttributeName": "h", "KeyType": "HASH"}]
    assert KeySchema.from_describe_table(key, definitions) == KeySchema(
        KeyAttribute("h", "B"), KeyAttribute("r", "N")
    )
    assert KeySchema.from_describe_table(key[1:], definitions) == KeySchema(KeyAttribute("h", "B"))


@pytest.mark.parametrize(
    ("key", "definitions"),
    [
        ([], []),
        (
            [{"AttributeName": "r", "KeyType": "RANGE"}],
            [{"AttributeName": "r", "AttributeType": "S"}],
        ),
        ([{"AttributeName": "h", "KeyType": "HASH"}], []),
        (
            [{"AttributeName": "h", "KeyType": "HASH"}] * 2,
            [{"AttributeName": "h", "AttributeType": "S"}],
        ),
        (
            [{"AttributeName": "h", "KeyType": "HASH"}],
            [{"AttributeName": "h", "AttributeType": "M"}],
        ),
    ],
)
def test_impossible_describe_table_is_refused(key, definitions):
    with pytest.raises(TableError):
        KeySchema.from_describe_table(key, definitions)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        [1],
        [{"name": "a"}],
        [{"name": "", "type": "S"}],
        [{"name": "a", "type": "S"}] * 2,
        [{"name": "a", "type": "S"}] * 3,
    ],
)
def test_impossible_json_is_refused(value):
    with pytest.raises(TableError):
        KeySchema.from_json(value)
    with pytest.raises(TableError):
        Table.from_json({"name": "t", "keys": value})
