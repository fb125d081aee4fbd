# SPDX-License-Identifier: Apache-2.0
"""Contract of the branch's elements: by value through their coders, with golden bytes."""

import dataclasses

import apache_beam as beam
import pytest

from dynabeam.transforms.errors import ValueDecodeError
from dynabeam.transforms.export.elements import (
    DONE,
    FileSlice,
    FileSliceCoder,
    SnapshotRequest,
    SnapshotRequestCoder,
)
from dynabeam.transforms.export.manifest import DataFile
from tests.export.builders import ARN, TABLE, manifest_of, slices_of, write_full

SLICE = FileSlice(
    table=TABLE,
    generation=1,
    buckets=16,
    export_arn=f"{ARN}/export/1",
    export_time_us=5,
    file=DataFile("s3://b/k", 7, "md5"),
    start_line=3,
    max_bytes=9,
    files=2,
    export_format="DYNAMODB_JSON",
    export_type="FULL_EXPORT",
)
GOLDEN_SLICE = (
    b'{"buckets":16,"export_arn":"arn:aws:dynamodb:eu-west-1:111122223333:table/orders/export/1",'
    b'"export_format":"DYNAMODB_JSON","export_time_us":5,"export_type":"FULL_EXPORT",'
    b'"file":["s3://b/k",7,"md5"],"files":2,"format":1,"generation":1,"max_bytes":9,'
    b'"start_line":3,"table":{"arn":"arn:aws:dynamodb:eu-west-1:111122223333:table/orders",'
    b'"keys":[{"name":"id","type":"S"}],"name":"orders"},"view":""}'
)
GOLDEN_REQUEST = (
    b'{"bucket":"b","bucket_owner":"","buckets":16,"format":1,"generation":2,"loaded":{"f":3,'
    b'"g":"done"},"loaded_bytes":0,"manifest":null,"max_bytes":0,"not_before_us":0,"prefix":"",'
    b'"request_id":"","reuse":"","table":{"arn":'
    b'"arn:aws:dynamodb:eu-west-1:111122223333:table/orders","keys":[{"name":"id","type":"S"}],'
    b'"name":"orders"}}'
)
REQUEST = SnapshotRequest(TABLE, 2, 16, bucket="b", loaded={"f": 3, "g": DONE})


@pytest.mark.parametrize(
    ("coder", "value", "golden"),
    [
        (FileSliceCoder(), SLICE, GOLDEN_SLICE),
        (SnapshotRequestCoder(), REQUEST, GOLDEN_REQUEST),
    ],
)
def test_golden_bytes(coder, value, golden):
    assert coder.encode(value) == golden
    assert coder.decode(golden) == value
    assert coder.is_deterministic()
    assert beam.coders.registry.get_coder(type(value)) == coder


def test_a_request_names_the_id_of_its_table_if_it_is_known():
    coder = SnapshotRequestCoder()
    known = dataclasses.replace(REQUEST, table_id="11991185")
    assert b'"table_id":"11991185"' in coder.encode(known)
    assert coder.decode(coder.encode(known)) == known


@pytest.mark.parametrize("coder", [FileSliceCoder(), SnapshotRequestCoder()])
def test_unknown_format(coder):
    with pytest.raises(ValueDecodeError, match="unknown format; expected 1; found 2"):
        coder.decode(GOLDEN_SLICE.replace(b'"format":1', b'"format":2'))


def test_a_request_with_a_manifest(tmp_path):
    write_full(tmp_path)
    request = dataclasses.replace(REQUEST, manifest=manifest_of(tmp_path).to_json())
    coder = SnapshotRequestCoder()
    assert coder.decode(coder.encode(request)) == request
    assert all(
        FileSliceCoder().decode(FileSliceCoder().encode(s)) == s for s in slices_of(tmp_path)
    )
