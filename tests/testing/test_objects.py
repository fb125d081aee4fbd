# SPDX-License-Identifier: Apache-2.0
"""S3 through a real client."""

import socket
from urllib.parse import urlsplit

import pytest

from dynabeam.transforms.testing.api_error import ApiError
from tests.testing.conftest import ONE_TRY
from tests.testing.reading import code_of

ODD_KEY = "a folder/ä+b %20=c&d.gz"


@pytest.fixture
def s3(sim):
    sim.create_bucket("bucket")
    return sim.client("s3", config=ONE_TRY)


def test_put_get_range_list_delete(s3):
    s3.put_object(Bucket="bucket", Key=ODD_KEY, Body=b"0123456789")
    assert s3.get_object(Bucket="bucket", Key=ODD_KEY)["Body"].read() == b"0123456789"
    part = s3.get_object(Bucket="bucket", Key=ODD_KEY, Range="bytes=2-4")
    assert part["Body"].read() == b"234"
    assert part["ResponseMetadata"]["HTTPStatusCode"] == 206
    assert s3.head_object(Bucket="bucket", Key=ODD_KEY)["ContentLength"] == 10
    listed = s3.list_objects_v2(Bucket="bucket", Prefix="a folder/")
    assert [(found["Key"], found["Size"]) for found in listed["Contents"]] == [(ODD_KEY, 10)]
    s3.delete_object(Bucket="bucket", Key=ODD_KEY)
    assert s3.list_objects_v2(Bucket="bucket")["KeyCount"] == 0


def test_pages_of_a_listing(sim, s3):
    for number in range(5):
        sim.s3_put("bucket", f"key{number}", b"x")
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket="bucket", MaxKeys=2)
    assert [found["Key"] for page in pages for found in page["Contents"]] == sim.objects.keys(
        "bucket"
    )


def test_parts(sim, s3):
    upload = s3.create_multipart_upload(Bucket="bucket", Key="big")["UploadId"]
    body, parts = b"x" * (5 * 1024 * 1024), []
    for number in (1, 2):
        answer = s3.upload_part(
            Bucket="bucket", Key="big", UploadId=upload, PartNumber=number, Body=body
        )
        parts.append({"PartNumber": number, "ETag": answer["ETag"]})
    s3.complete_multipart_upload(
        Bucket="bucket", Key="big", UploadId=upload, MultipartUpload={"Parts": parts}
    )
    assert sim.s3_get("bucket", "big") == body * 2


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 10\r\n\r\n01234",
        b"Content-Length: 10\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\na\r\n01234",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n",
    ],
)
def test_a_request_whose_body_breaks_off_does_nothing(sim, s3, framing):
    place = urlsplit(sim.endpoint_url)
    with socket.create_connection((place.hostname, place.port)) as client:
        client.sendall(b"PUT /bucket/half HTTP/1.1\r\nHost: s3\r\n" + framing)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1000) == b""
    assert sim.objects.keys("bucket") == []
    assert sim.defects == []


def test_conditional_put(s3):
    s3.put_object(Bucket="bucket", Key="once", Body=b"1", IfNoneMatch="*")
    again = {"Bucket": "bucket", "Key": "once", "Body": b"2", "IfNoneMatch": "*"}
    assert code_of(s3.put_object, **again) == "PreconditionFailed"


def test_without_http(sim, s3):
    sim.s3_put("bucket", "key", b"body")
    assert s3.get_object(Bucket="bucket", Key="key")["Body"].read() == b"body"
    assert sim.s3_get("bucket", "key") == b"body"
    assert sim.bucket_exists("bucket")
    assert not sim.bucket_exists("nope")
    with pytest.raises(ApiError, match="NoSuchBucket"):
        sim.s3_put("nope", "key", b"")
    with pytest.raises(ApiError, match="NoSuchKey"):
        sim.s3_get("bucket", "nope")


def test_what_is_missing(s3):
    assert code_of(s3.get_object, Bucket="bucket", Key="nope") == "NoSuchKey"
    assert code_of(s3.get_object, Bucket="nope", Key="nope") == "NoSuchBucket"
    assert code_of(s3.head_object, Bucket="bucket", Key="nope") == "404"
