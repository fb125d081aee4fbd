# SPDX-License-Identifier: Apache-2.0
"""The cases of public decoders' own tests, through every way that we decode a value.

The cases are facts (wire text and meaning), taken from these suites, all Apache-2.0:

* go-sdk: aws/aws-sdk-go-v2 feature/dynamodb/attributevalue/serde_json_test.go @ db7b03dd, and
  empty_collections_test.go @ 30d0af0f
* scylla: scylladb/scylla-migrator DynamoDBS3ExportDecoderTest.scala @ 1bae88a6
* lambda: aws/aws-lambda-go events/attributevalue_test.go @ 065d9b13
* boto3: boto/boto3 tests/unit/dynamodb/test_types.py @ 08b8fc14
* js-sdk: aws/aws-sdk-js-v3 packages/util-dynamodb/src/convertToNative.spec.ts @ 037b213c

Where a suite takes what the service never sends, and taking it would hide an error, we differ on
purpose: those cases are in `DIFFERENT`.
"""

import json
from decimal import Decimal

import pyarrow as pa
import pytest

from dynabeam.transforms.errors import ValueDecodeError
from dynabeam.transforms.values.columns import discover, unpack
from dynabeam.transforms.values.key_schema import KeyAttribute, KeySchema
from dynabeam.transforms.values.lines import parse_full_lines
from dynabeam.transforms.values.plain_json import canonical_value_json
from dynabeam.transforms.values.python_values import (
    BinarySet,
    NumberSet,
    StringSet,
    decode_item,
    decode_value,
    encode_value,
)

MAX, MIN = 9223372036854775807, -9223372036854775808
GO_MAP = {
    "types.AttributeValueMemberB": {"B": "dGVzdA=="},
    "types.AttributeValueMemberBOOL:false": {"BOOL": False},
    "types.AttributeValueMemberBS": {"BS": ["dGVzdA=="]},
    "types.AttributeValueMemberM": {"M": {"M": {"M": {"M": {"M": {"S": {"S": "test"}}}}}}},
    "types.AttributeValueMemberN": {"N": "1.5"},
    "types.AttributeValueMemberNS": {"NS": ["4.2"]},
    "types.AttributeValueMemberNULL:true": {"NULL": True},
    "types.AttributeValueMemberSS": {"SS": ["test"]},
}
GO_MAP_MEANS = {
    "types.AttributeValueMemberB": b"test",
    "types.AttributeValueMemberBOOL:false": False,
    "types.AttributeValueMemberBS": BinarySet([b"test"]),
    "types.AttributeValueMemberM": {"M": {"M": {"S": "test"}}},
    "types.AttributeValueMemberN": Decimal("1.5"),
    "types.AttributeValueMemberNS": NumberSet([Decimal("4.2")]),
    "types.AttributeValueMemberNULL:true": None,
    "types.AttributeValueMemberSS": StringSet(["test"]),
}

VECTORS = [
    ("go-sdk", '{"S":"test"}', "test"),
    ("go-sdk", '{"N":"1.5"}', Decimal("1.5")),
    ("go-sdk", '{"B":"dGVzdA=="}', b"test"),
    ("go-sdk", '{"BOOL":true}', True),
    ("go-sdk", '{"BOOL":false}', False),
    ("go-sdk", '{"NULL":true}', None),
    ("go-sdk", '{"SS":["test"]}', StringSet(["test"])),
    ("go-sdk", '{"NS":["4.2"]}', NumberSet([Decimal("4.2")])),
    ("go-sdk", '{"BS":["dGVzdA=="]}', BinarySet([b"test"])),
    ("go-sdk", json.dumps({"M": GO_MAP}, indent=2), GO_MAP_MEANS),
    ("go-sdk", '{"L":[{"B": "dGVzdA=="},{"M":{"S":{"S":"test"}}}]}', [b"test", {"S": "test"}]),
    ("go-sdk", '{"BS":[]}', BinarySet()),
    ("go-sdk", '{"NS":[]}', NumberSet()),
    ("go-sdk", '{"SS":[]}', StringSet()),
    ("go-sdk", '{"L":[]}', []),
    ("go-sdk", '{"M":{}}', {}),
    ("go-sdk", '{"S":""}', ""),
    ("go-sdk", '{"B":""}', b""),
    ("go-sdk", '{"N":"123"}', Decimal(123)),
    ("go-sdk", '{"N":"123.456"}', Decimal("123.456")),
    ("go-sdk", f'{{"N":"{MAX}.{MAX}"}}', Decimal(f"{MAX}.{MAX}")),
    ("go-sdk", f'{{"N":"{MIN}.{MAX}"}}', Decimal(f"{MIN}.{MAX}")),
    ("go-sdk", '{"N":"0"}', Decimal(0)),
    ("go-sdk", '{"N":"-5"}', Decimal(-5)),
    (
        "go-sdk",
        '{"M":{"testList":{"L":[{"B":"dGVzdA=="},{"BOOL":true},{"BS":["dGVzdA=="]}]}}}',
        {"testList": [b"test", True, BinarySet([b"test"])]},
    ),
    ("scylla", '{"S":"hello"}', "hello"),
    ("scylla", '{"N":"42"}', Decimal(42)),
    ("scylla", '{"B":"AQIDBA=="}', b"\1\2\3\4"),
    ("scylla", '{"SS":["a","b","c"]}', StringSet("abc")),
    ("scylla", '{"NS":["1","2","3"]}', NumberSet(map(Decimal, "123"))),
    ("scylla", '{"BS":["AQI=","AwQ="]}', BinarySet([b"\1\2", b"\3\4"])),
    ("scylla", '{"L":[{"S":"a"},{"N":"1"},{"BOOL":false}]}', ["a", Decimal(1), False]),
    ("scylla", '{"M":{"k1":{"S":"v1"},"k2":{"N":"99"}}}', {"k1": "v1", "k2": Decimal(99)}),
    ("lambda", '{ "B": "AAEqQQ=="}', b"\0\1*A"),
    ("lambda", '{ "BOOL": true}', True),
    ("lambda", '{ "BS": ["AAEqQQ==", "AAEqQQ=="] }', BinarySet([b"\0\1*A"])),
    (
        "lambda",
        '{ "L": [\n { "S": "Cookies"},\n { "S": "Coffee"},\n { "N": "3.14159" }\n ] }',
        ["Cookies", "Coffee", Decimal("3.14159")],
    ),
    (
        "lambda",
        '\n { "M": \n {\n "Name": { "S": "Joe" },\n "Age":  { "N": "35" }\n }\n }',
        {"Name": "Joe", "Age": Decimal(35)},
    ),
    ("lambda", '{ "N": "123.45"}', Decimal("123.45")),
    ("lambda", '{ "NS": ["1234", "567.8"] }', NumberSet([Decimal(1234), Decimal("567.8")])),
    ("lambda", '{ "NULL": true}', None),
    ("lambda", '{ "S": "Hello"}', "Hello"),
    ("lambda", '{ "SS": [ "Giraffe", "Zebra" ] }', StringSet(["Giraffe", "Zebra"])),
    ("lambda", '{ "SS": [ ] }', StringSet()),
    ("boto3", '{"N": "1.25"}', Decimal("1.25")),
    ("boto3", '{"B": "AA=="}', b"\0"),
    ("boto3", '{"NS": ["1", "1.25"]}', NumberSet([Decimal(1), Decimal("1.25")])),
    ("boto3", '{"SS": ["foo", "bar"]}', StringSet(["foo", "bar"])),
    ("boto3", '{"BS": ["AA==", "AQ=="]}', BinarySet([b"\0", b"\1"])),
    (
        "boto3",
        '{"L": [{"N": "1"}, {"S": "foo"}, {"L": [{"N": "1.25"}]}]}',
        [Decimal(1), "foo", [Decimal("1.25")]],
    ),
    (
        "boto3",
        '{"M": {"foo": {"S": "mystring"}, "bar": {"M": {"baz": {"N": "1"}}}}}',
        {"foo": "mystring", "bar": {"baz": Decimal(1)}},
    ),
    ("js-sdk", '{"N":"9007199254740991"}', Decimal(2**53 - 1)),
    ("js-sdk", '{"N":"-9007199254740991"}', Decimal(1 - 2**53)),
    ("js-sdk", '{"N":"9007199254740992"}', Decimal(2**53)),
    ("js-sdk", '{"N":"9007199254740993.1"}', Decimal("9007199254740993.1")),
    ("js-sdk", '{"N":"-9007199254740993.1"}', Decimal("-9007199254740993.1")),
    ("js-sdk", '{"N":"3.141592653589793"}', Decimal("3.141592653589793")),
    ("js-sdk", '{"N":"2.220446049250313e-16"}', Decimal("2.220446049250313e-16")),
    ("js-sdk", '{"N":"0.00000000000000000001"}', Decimal("1e-20")),
    ("js-sdk", '{"N":"1e-7"}', Decimal("0.0000001")),
    ("js-sdk", '{"N":"1e15"}', Decimal(10**15)),
    ("js-sdk", '{"S":"\'single-quote\'"}', "'single-quote'"),
    ("js-sdk", '{"S":"\\"double-quote\\""}', '"double-quote"'),
    ("js-sdk", '{"L":[{"NULL":true},{"BOOL":false}]}', [None, False]),
    (
        "js-sdk",
        '{"NS":["9007199254740996","-9007199254740996"]}',
        NumberSet([Decimal(2**53 + 4), Decimal(-(2**53) - 4)]),
    ),
    (
        "js-sdk",
        '{"M":{"nullKey":{"NULL":true},"boolKey":{"BOOL":false}}}',
        {"nullKey": None, "boolKey": False},
    ),
]

REFUSED = [
    ("go-sdk", '{"L":'),
    ("go-sdk", '["asd"]'),
    ("scylla", '{"UNKNOWN":"value"}'),
    ("boto3", '{"FOO": "bar"}'),
    ("boto3", "{}"),
    ("js-sdk", '{"A":"data"}'),
    ("js-sdk", '{"P":"data"}'),
    ("js-sdk", '{"LS":"data"}'),
]

DIFFERENT = [
    ("go-sdk writes an empty binary as null", '{"B":null}'),
    ("go-sdk writes an empty number", '{"N":""}'),
    ("js-sdk takes NaN", '{"N":"NaN"}'),
    ("js-sdk takes Infinity", '{"N":"Infinity"}'),
    ("js-sdk takes numbers below the service's range", '{"N":"5e-324"}'),
    ("js-sdk takes numbers above the service's range", '{"N":"1.7976931348623157e308"}'),
]

SCHEMA = KeySchema(KeyAttribute("id", "S"))


def item_text(value):
    return '{"id":{"S":"1"},"a":' + value + "}"


@pytest.mark.parametrize(("source", "text", "means"), VECTORS)
class TestVectors:
    def test_python_form_and_back(self, source, text, means):
        decoded = decode_value(text)
        assert decoded == means, source
        assert type(decoded) is type(means)
        assert decode_value(encode_value(means)) == means
        assert decode_item(item_text(text).encode()) == {"id": "1", "a": means}

    def test_export_line(self, source, text, means):
        image = item_text(text).replace("\n", " ").encode()
        parsed = parse_full_lines(b'{"Item":' + image + b"}\n", SCHEMA)
        assert parsed.bad == [], source
        assert parsed.keys.to_pylist() == [b"S1"]
        assert decode_item(parsed.images[0].as_py())["a"] == means

    def test_columns(self, source, text, means):
        images = pa.array([item_text(text)])
        unpacked = unpack(images, discover(images), numbers="text")
        row = unpacked.batch.to_pylist()[0]
        if means is None:
            assert json.loads(unpacked.other[0].as_py()) == {"a": {"NULL": True}}, source
        elif isinstance(means, (list, dict)):
            (tag,) = json.loads(text)
            payload = f'{{"{tag}":{row["a"]}}}'
            assert canonical_value_json(payload) == canonical_value_json(text)
        elif isinstance(means, (StringSet, BinarySet)):
            assert type(means)(row["a"]) == means
        elif isinstance(means, NumberSet):
            assert NumberSet(map(Decimal, row["a"])) == means
        else:
            assert (Decimal(row["a"]) if isinstance(means, Decimal) else row["a"]) == means


@pytest.mark.parametrize("text", [text for _, text in REFUSED + DIFFERENT])
def test_refused(text):
    with pytest.raises(ValueDecodeError):
        decode_value(text)


def test_null_false_is_taken_as_the_sdks_do():
    assert decode_value('{"NULL":false}') is None


def test_js_sdk_big_map():
    big = {"M": {str(number): {"N": "1.00"} for number in range(100_000)}}
    assert decode_value(big) == {str(number): Decimal(1) for number in range(100_000)}
