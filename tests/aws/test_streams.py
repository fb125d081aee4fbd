# SPDX-License-Identifier: Apache-2.0
"""The streams client over real boto3: raw bodies, errors, retries, checksums."""

import json
import zlib
from typing import ClassVar

import boto3
import pytest
from botocore.awsrequest import AWSResponse
from botocore.config import Config
from botocore.exceptions import ChecksumError, ClientError, IncompleteReadError

from dynabeam.transforms.aws.errors import AwsErrorKind, classify
from dynabeam.transforms.aws.session import AwsAccess, client, repeat_cut_answers
from dynabeam.transforms.aws.streams import Boto3Streams, ShardInfo, connect
from dynabeam.transforms.errors import AwsAccessError, CredentialsError, StreamError

ARN = "arn:aws:dynamodb:eu-west-1:111122223333:table/orders/stream/2026-01-01T00:00:00.000"
SHARD = "shardId-00000001541626099285-f35f62ef"
OTHER = "shardId-00000001541626099286-f35f62ef"
NUMBER = "1" * 21
BODY = b'{"Records":[{"odd":1}],"NextShardIterator":"n"}'


class _Raw:
    def __init__(self, content):
        self._content = content

    def stream(self, **_):
        yield self._content


class Wire:
    """Answers below boto3: everything above the socket is real."""

    def __init__(self, *answers, attempts=1):
        self.requests = []
        self._answers = list(answers)
        self.client = boto3.client(
            "dynamodbstreams",
            region_name="eu-west-1",
            aws_access_key_id="AKID",
            aws_secret_access_key="secret",
            config=Config(retries={"mode": "standard", "max_attempts": attempts}),
        )
        self.client.meta.events.register("before-send.dynamodb-streams.*", self._send)
        self.client.meta.events.register("needs-retry.dynamodb-streams", repeat_cut_answers)
        self.streams = Boto3Streams(self.client)

    def _send(self, request, **_):
        self.requests.append(request)
        status, headers, content = self._answers.pop(0)
        return AWSResponse(request.url, status, headers, _Raw(content))

    @property
    def asked(self):
        return json.loads(self.requests[-1].body)


def good(body=BODY, **headers):
    return 200, {"x-amz-crc32": str(zlib.crc32(body)), **headers}, body


def cut(answer):
    """The answer as it arrives if the connection closes in the middle."""
    status, headers, body = answer
    return status, {**headers, "content-length": str(len(body))}, body[: len(body) // 2]


def error(code, status=400):
    body = json.dumps({"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": "m"})
    return status, {}, body.encode()


class TestGetRecords:
    def test_the_body_is_handed_over_as_it_came(self):
        wire = Wire(good())
        assert wire.streams.get_records(ARN, "it") == BODY
        assert wire.asked == {"ShardIterator": "it", "Limit": 1000}

    def test_requests_are_signed_by_boto3(self):
        wire = Wire(good())
        wire.streams.get_records(ARN, "it")
        signature = wire.requests[0].headers["Authorization"]
        assert b"AKID" in (signature if isinstance(signature, bytes) else signature.encode())

    def test_a_wrong_checksum_is_an_error_that_passes(self):
        wire = Wire((200, {"x-amz-crc32": "5"}, BODY))
        with pytest.raises(ChecksumError) as caught:
            wire.streams.get_records(ARN, "it")
        assert classify(caught.value) is AwsErrorKind.UNREACHABLE

    def test_a_compressed_or_unsummed_answer_is_taken(self):
        sums = {"x-amz-crc32": "5", "content-encoding": "gzip"}
        wire = Wire((200, {}, BODY), (200, sums, BODY))
        assert wire.streams.get_records(ARN, "it") == BODY
        assert wire.streams.get_records(ARN, "it") == BODY

    @pytest.mark.parametrize(
        ("code", "kind"),
        [
            ("ExpiredIteratorException", AwsErrorKind.EXPIRED_ITERATOR),
            ("TrimmedDataAccessException", AwsErrorKind.TRIMMED),
            ("ResourceNotFoundException", AwsErrorKind.GONE),
            ("LimitExceededException", AwsErrorKind.THROTTLED),
            ("ValidationException", AwsErrorKind.UNKNOWN),
        ],
    )
    def test_errors_are_those_of_boto3(self, code, kind):
        wire = Wire(error(code), attempts=5)
        with pytest.raises(ClientError, match=code) as caught:
            wire.streams.get_records(ARN, "it")
        assert classify(caught.value) is kind

    def test_boto3_still_tries_again(self):
        wire = Wire(error("InternalServerError", 500), good(), attempts=2)
        assert wire.streams.get_records(ARN, "it") == BODY
        assert len(wire.requests) == 2

    def test_an_error_cut_in_the_middle_is_asked_again(self):
        wire = Wire(cut(error("ExpiredIteratorException")), error("ExpiredIteratorException"))
        with pytest.raises(ClientError, match="ExpiredIterator"):
            wire.streams.get_records(ARN, "it")
        assert len(wire.requests) == 2

    def test_errors_that_are_cut_again_and_again(self):
        wire = Wire(*[cut(error("ExpiredIteratorException"))] * 5)
        with pytest.raises(IncompleteReadError) as caught:
            wire.streams.get_records(ARN, "it")
        assert classify(caught.value) is AwsErrorKind.UNREACHABLE
        assert len(wire.requests) == 5

    def test_a_throttle_is_left_to_the_caller(self):
        wire = Wire(error("ThrottlingException"), attempts=5)
        with pytest.raises(ClientError, match="ThrottlingException"):
            wire.streams.get_records(ARN, "it")
        assert len(wire.requests) == 1

    def test_a_missing_right_names_action_and_stream(self):
        with pytest.raises(AwsAccessError, match="dynamodb:GetRecords") as caught:
            Wire(error("AccessDeniedException")).streams.get_records(ARN, "it")
        assert ARN in str(caught.value)

    def test_credentials_that_expired(self):
        with pytest.raises(CredentialsError):
            Wire(error("ExpiredTokenException")).streams.get_records(ARN, "it")

    def test_a_boto3_that_no_longer_calls_the_hook_is_an_error(self):
        wire = Wire(good())
        wire.client.meta.events.unregister(
            "before-parse.dynamodb-streams.GetRecords", unique_id="dynabeam-raw-records"
        )
        with pytest.raises(StreamError, match="release of boto3"):
            wire.streams.get_records(ARN, "it")

    def test_two_wrappers_of_one_client_do_not_disturb_each_other(self):
        wire = Wire(good(), good())
        other = Boto3Streams(wire.client)
        assert wire.streams.get_records(ARN, "it") == other.get_records(ARN, "it") == BODY


class TestDescribe:
    ANSWER: ClassVar = {
        "StreamDescription": {
            "StreamArn": ARN,
            "StreamStatus": "ENABLED",
            "StreamViewType": "KEYS_ONLY",
            "CreationRequestDateTime": 1.7e9,
            "TableName": "orders",
            "KeySchema": [
                {"AttributeName": "id", "KeyType": "HASH"},
                {"AttributeName": "n", "KeyType": "RANGE"},
            ],
            "Shards": [
                {
                    "ShardId": SHARD,
                    "SequenceNumberRange": {
                        "StartingSequenceNumber": "1",
                        "EndingSequenceNumber": "2",
                    },
                },
                {
                    "ShardId": "b",
                    "ParentShardId": SHARD,
                    "SequenceNumberRange": {"StartingSequenceNumber": "3"},
                },
                {"ShardId": "c", "ParentShardId": "x"},
            ],
            "LastEvaluatedShardId": "c",
        }
    }

    def wire(self):
        return Wire((200, {}, json.dumps(self.ANSWER).encode()))

    def test_a_page_of_the_listing(self):
        wire = self.wire()
        found = wire.streams.describe(ARN, after=OTHER)
        assert wire.asked == {"StreamArn": ARN, "ExclusiveStartShardId": OTHER}
        assert found.shards == (
            ShardInfo(SHARD, closed=True),
            ShardInfo("b", SHARD),
            ShardInfo("c", "x"),
        )
        assert (found.status, found.view_type, found.next_after) == ("ENABLED", "KEYS_ONLY", "c")
        assert (found.table_name, found.keys) == ("orders", ("id", "n"))
        assert found.created_us == 1_700_000_000_000_000

    def test_children_are_filtered_though_the_service_may_not_know_how(self):
        wire = self.wire()
        found = wire.streams.describe(ARN, children_of=SHARD)
        assert wire.asked["ShardFilter"] == {"Type": "CHILD_SHARDS", "ShardId": SHARD}
        assert found.shards == (ShardInfo("b", SHARD),)

    @pytest.mark.parametrize("cut", [b'{"StreamDescr', b"", b'{"StreamDescription":{}}'])
    def test_an_answer_that_was_cut_off_is_no_description(self, cut):
        with pytest.raises(StreamError, match="has no Stream"):
            Wire((200, {}, cut)).streams.describe(ARN)

    def test_a_missing_right_names_the_action(self):
        with pytest.raises(AwsAccessError, match="dynamodb:DescribeStream"):
            Wire(error("AccessDeniedException")).streams.describe(ARN)


class TestShardIterator:
    @pytest.mark.parametrize(
        ("options", "asked"),
        [
            ({}, {"ShardIteratorType": "TRIM_HORIZON"}),
            (
                {"after": NUMBER},
                {"ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "SequenceNumber": NUMBER},
            ),
            (
                {"at_us": 1_700_000_000_900_000},
                {"ShardIteratorType": "AT_TIMESTAMP", "Timestamp": 1_700_000_000.9},
            ),
        ],
    )
    def test_the_three_kinds(self, options, asked):
        wire = Wire((200, {}, b'{"ShardIterator":"it"}'))
        assert wire.streams.shard_iterator(ARN, SHARD, **options) == "it"
        assert wire.asked == {"StreamArn": ARN, "ShardId": SHARD, **asked}


def test_connect_uses_the_access(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
    access = AwsAccess(region="eu-west-3", endpoint_url="http://127.0.0.1:1")
    streams = connect(access)
    assert streams._client.meta.region_name == "eu-west-3"
    assert streams._client.meta.endpoint_url == "http://127.0.0.1:1"
    assert connect(access) is streams
    # The hooks are on a client that nobody else has.
    assert client(access, "dynamodbstreams") is not streams._client
