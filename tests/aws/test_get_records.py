# SPDX-License-Identifier: Apache-2.0
"""The short way to GetRecords: the same answers and errors as boto3's, and boto3 behind it."""

import dataclasses
import functools
import json
import logging
import queue
import socket
import threading
import time
import zlib
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import boto3
import botocore.auth
import botocore.session
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import (
    CredentialProvider,
    CredentialResolver,
    DeferredRefreshableCredentials,
    ReadOnlyCredentials,
)
from botocore.exceptions import ChecksumError, ClientError
from hypothesis import given
from hypothesis import strategies as st

from dynabeam.transforms.aws.connection_pool import Bounds, ConnectionPool, Place
from dynabeam.transforms.aws.errors import AwsErrorKind, classify
from dynabeam.transforms.aws.get_records import GetRecords
from dynabeam.transforms.aws.signed_requests import RequestMaker
from dynabeam.transforms.aws.signing_credentials import SigningCredentials
from dynabeam.transforms.aws.streams import Boto3Streams
from dynabeam.transforms.errors import AwsAccessError, CredentialsError
from tests.aws.services import ARN, BOTO3, PAGE, SHORT, Service, ask, short

TARGET = "DynamoDBStreams_20120810.GetRecords"
words = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=30)
tokens = st.one_of(st.none(), words)


def refusal(code, status=400):
    text = {"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": "m"}
    return status, json.dumps(text).encode()


@pytest.fixture
def service():
    with Service() as made:
        yield made


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def lowered(headers):
    return {name.lower(): value for name, value in headers.items()}


class TestAsking:
    def test_boto3_asks_first_and_then_the_short_way_does(self, service):
        streams = service.streams()
        assert [ask(streams, f"it-{n}") for n in range(3)] == [PAGE] * 3
        assert service.askers == [BOTO3, SHORT, SHORT]
        assert [json.loads(body) for _, body in service.requests] == [
            {"ShardIterator": f"it-{n}", "Limit": 1000} for n in range(3)
        ]

    def test_requests_are_signed_as_boto3_signs_them(self, service):
        streams = service.streams(
            aws_access_key_id="AKID", aws_secret_access_key="secret", aws_session_token="token"
        )
        ask(streams)
        ask(streams)
        (by_boto3, _), (here, _) = ((lowered(h), b) for h, b in service.requests)
        for name in ("x-amz-target", "content-type", "x-amz-security-token", "host", "user-agent"):
            assert here[name] == by_boto3[name]
        scope, signed, _ = here["authorization"].split(", ")
        assert [scope, signed] == by_boto3["authorization"].split(", ")[:2]
        if here["x-amz-date"] == by_boto3["x-amz-date"]:
            assert here["authorization"] == by_boto3["authorization"]

    def test_boto3_and_the_short_way_share_connections_that_are_kept_open(self, service):
        streams = service.streams()
        for _ in range(5):
            ask(streams)
        assert streams._short._learned.pool.idle == 1
        assert service.connections == 1

    def test_requests_under_way_at_once_get_each_its_own_answer(self, service):
        streams = service.streams()
        ask(streams)
        service.echo = True
        taken = queue.SimpleQueue()
        for number in range(100):
            taken_as = functools.partial(lambda number, found: taken.put((number, found)), number)
            assert streams.begin_records(ARN, f"it-{number}", taken_as)
        found = dict(taken.get(timeout=20) for _ in range(100))
        assert found == {
            number: json.dumps({"Records": [], "NextShardIterator": f"it-{number}"}).encode()
            for number in range(100)
        }
        assert service.connections <= Bounds().connections


class TestErrors:
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
    def test_a_refusal_is_the_error_that_boto3_raises_and_is_not_asked_again(
        self, service, code, kind
    ):
        streams = service.streams()
        ask(streams)
        service.answers = [refusal(code)]
        with pytest.raises(ClientError, match=f"{code}.*GetRecords operation: m") as caught:
            ask(streams)
        assert classify(caught.value) is kind
        assert service.askers == [BOTO3, SHORT]

    def test_a_missing_right_is_named(self, service):
        streams = service.streams()
        ask(streams)
        service.answers = [refusal("AccessDeniedException")]
        with pytest.raises(AwsAccessError, match="dynamodb:GetRecords"):
            ask(streams)

    @pytest.mark.parametrize(
        "answer",
        [
            (500, b'{"__type":"x#InternalServerError"}'),
            (503, b""),
            (400, b"torn {"),
            (302, b""),
            (204, b""),
            (200, b"CUT" + PAGE),
        ],
        ids=["fault", "unavailable", "torn error", "redirect", "no content", "torn page"],
    )
    def test_what_is_no_whole_answer_is_asked_again_by_boto3(self, service, answer):
        streams = service.streams()
        ask(streams)
        service.answers = [answer]
        assert ask(streams) == PAGE
        assert service.askers == [BOTO3, SHORT, BOTO3]
        # One bad answer is no reason to leave the short way.
        ask(streams)
        assert service.askers[-1] == SHORT

    def test_a_connection_that_the_service_has_closed_costs_no_page(self, service):
        streams = service.streams()
        ask(streams)
        ask(streams)
        service.cut()
        assert ask(streams) == PAGE
        assert service.askers[:2] == [BOTO3, SHORT]

    def test_nobody_there_is_left_to_boto3(self, service):
        streams = service.streams()
        ask(streams)
        pool = ConnectionPool(Place("127.0.0.1", free_port()), Bounds(connections=2))
        streams._short._learned = dataclasses.replace(streams._short._learned, pool=pool)
        taken = queue.SimpleQueue()
        for _ in range(5):
            assert streams.begin_records(ARN, "it-1", taken.put)
        assert [taken.get(timeout=20) for _ in range(5)] == [None] * 5

    def test_a_taker_that_raises_is_reported_and_holds_nobody_else(self, service, caplog):
        streams = service.streams()
        ask(streams)
        for error in (ValueError("mine"), SystemExit(3), KeyboardInterrupt()):

            def raises(_, error=error):
                raise error

            with caplog.at_level(logging.ERROR):
                assert streams.begin_records(ARN, "it-1", raises)
                assert ask(streams) == PAGE
                deadline = time.monotonic() + 20
                while "could not be taken" not in caplog.text and time.monotonic() < deadline:
                    time.sleep(0.01)
            assert type(error).__name__ in caplog.text
            caplog.clear()
        assert set(service.askers[1:]) == {SHORT}


class TestSums:
    @pytest.mark.parametrize("given", ["abc", "", "-1", "٣", "1" * 5000])
    def test_a_wrong_sum_is_asked_again_and_then_an_error_that_passes(self, service, given):
        streams = service.streams()
        ask(streams)
        service.headers = {"x-amz-crc32": given.encode().decode("latin-1")}
        assert short(streams) is None
        with pytest.raises(ChecksumError) as caught:
            streams.get_records(ARN, "it-1")
        assert classify(caught.value) is AwsErrorKind.UNREACHABLE
        service.headers = {}
        assert ask(streams) == PAGE

    def test_a_right_sum_is_taken(self, service):
        streams = service.streams()
        service.headers = {"x-amz-crc32": str(zlib.crc32(PAGE))}
        assert ask(streams) == ask(streams) == PAGE
        assert service.askers == [BOTO3, SHORT]


class TestSignature:
    @given(st.lists(st.tuples(st.datetimes(), words, words, tokens), min_size=1), st.binary())
    def test_is_that_of_botocore(self, uses, content):
        """One maker through changes of credentials and days."""
        headers = {"X-Amz-Target": TARGET, "Content-Type": "a/b;  c", "User-Agent": "x/1 y"}
        url = "https://streams.dynamodb.eu-west-1.amazonaws.com/"
        maker = RequestMaker(url, headers, region="eu-west-1", service="dynamodb")
        for naive, access, secret, token in uses:
            # The runtime counts seconds from 1970.
            at = naive.replace(tzinfo=timezone.utc, year=1970 + naive.year % 300, day=1)
            credentials = ReadOnlyCredentials(access, secret, token)
            request = AWSRequest("POST", url, headers=headers, data=content)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(botocore.auth, "get_current_datetime", lambda at=at: at)
                SigV4Auth(credentials, "dynamodb", "eu-west-1").add_auth(request)
            made = maker.request(credentials, content, at)
            sent = dict(made.headers)
            assert (made.method, made.path) == ("POST", "/")
            assert sent.pop("Host") == "streams.dynamodb.eu-west-1.amazonaws.com"
            assert sent.pop("Accept-Encoding") == "identity"
            assert sent.pop("Content-Length") == str(len(content))
            assert sent == dict(request.headers.items())

    @pytest.mark.parametrize("place", ["127.0.0.1:8000/a/b", "[::1]:8000/", "host:80/"])
    def test_the_host_is_as_botocore_says_it(self, place):
        headers = {"X-Amz-Target": TARGET}
        url = f"http://{place}"
        maker = RequestMaker(url, headers, region="eu-west-1", service="dynamodb")
        credentials = ReadOnlyCredentials("AKID", "secret", None)
        request = AWSRequest("POST", url, headers=headers, data=b"{}")
        SigV4Auth(credentials, "dynamodb", "eu-west-1").add_auth(request)
        at = datetime.strptime(request.headers["X-Amz-Date"] + "+0000", "%Y%m%dT%H%M%SZ%z")
        found = maker.request(credentials, b"{}", at).headers.get("Authorization")
        assert found == request.headers["Authorization"]

    def test_another_signature_than_botocores_is_never_sent(self, service, monkeypatch):
        make = RequestMaker.request

        def other(self, credentials, content, at):
            return make(self, credentials, content, at + timedelta(seconds=1))

        monkeypatch.setattr(RequestMaker, "request", other)
        streams = service.streams()
        assert [ask(streams) for _ in range(3)] == [PAGE] * 3
        assert service.askers == [BOTO3] * 3


class TestClock:
    @pytest.mark.parametrize("hours", [-3, 2])
    @pytest.mark.parametrize("code", ["InvalidSignatureException", "RequestTimeTooSkewed"])
    def test_the_services_clock_is_used_once_a_time_was_refused(self, service, code, hours):
        streams = service.streams()
        ask(streams)
        ahead = timedelta(hours=hours)
        now = datetime.now(timezone.utc) + ahead
        service.headers = {"Date": format_datetime(now, usegmt=True)}
        service.answers = [refusal(code)]
        assert ask(streams) == ask(streams) == PAGE
        assert service.askers == [BOTO3, SHORT, SHORT, SHORT]
        for headers, _ in service.requests[2:]:
            signed = lowered(headers)["x-amz-date"] + "+0000"
            at = datetime.strptime(signed, "%Y%m%dT%H%M%SZ%z")
            assert abs(at - now) < timedelta(seconds=30)
        offset = timedelta(microseconds=streams._short.clock_offset_us)
        assert abs(offset - ahead) < timedelta(seconds=30)

    def test_a_right_clock_is_no_reason(self, service):
        streams = service.streams()
        ask(streams)
        service.answers = [refusal("InvalidSignatureException")] * 2
        with pytest.raises(CredentialsError, match="InvalidSignatureException"):
            ask(streams)
        assert service.askers == [BOTO3, SHORT, BOTO3]

    def test_the_offset_is_known_from_the_first_answer(self, service):
        streams = service.streams()
        assert streams._short.clock_offset_us is None
        ask(streams)
        assert abs(streams._short.clock_offset_us) < 30_000_000

    @pytest.mark.parametrize("date", ["", "yesterday", "Tue, 99 Foo 2026 00:00:00 GMT", None])
    def test_no_date_is_no_offset(self, service, date):
        service.headers = {"Date": date}
        streams = service.streams()
        assert ask(streams) == ask(streams) == PAGE
        assert streams._short.clock_offset_us is None


class _Given(CredentialProvider):
    METHOD = "assume-role"

    def __init__(self, fetch):
        super().__init__()
        self._fetch = fetch

    def load(self):
        return DeferredRefreshableCredentials(self._fetch, "assume-role")


def renewing(service, fetch):
    """A client whose credentials come from a function, as those of a role do."""
    core = botocore.session.get_session()
    core.register_component("credential_provider", CredentialResolver([_Given(fetch)]))
    session = boto3.session.Session(botocore_session=core, region_name="eu-west-1")
    client = session.client("dynamodbstreams", endpoint_url=service.url)
    return Boto3Streams(client, GetRecords(client))


class Fetch:
    """Fetches sessions with rising numbers, which last for so many seconds."""

    def __init__(self, seconds):
        self.seconds, self.times, self.error = seconds, 0, None
        self.begun, self._free = threading.Event(), threading.Event()
        self._free.set()

    def hold(self):
        """The next fetch waits."""
        self.begun.clear()
        self._free.clear()

    def go_on(self):
        self._free.set()

    def __call__(self):
        self.times += 1
        number = self.times
        self.begun.set()
        assert self._free.wait(60)
        if self.error:
            raise self.error
        until = datetime.now(timezone.utc) + timedelta(seconds=self.seconds)
        return {
            "access_key": f"AKID{number}",
            "secret_key": "secret",
            "token": f"token{number}",
            "expiry_time": until.isoformat(),
        }


def tokens_of(service):
    found = (lowered(headers).get("x-amz-security-token") for headers, _ in service.requests)
    return [each for each in found if each]


class TestCredentials:
    def test_a_slow_renewal_holds_no_poll_of_another_client(self, service):
        fetch = Fetch(seconds=2)
        role, other = renewing(service, fetch), service.streams()
        ask(role)
        ask(other)
        fetch.hold()
        taken = queue.SimpleQueue()
        assert role.begin_records(ARN, "it-1", taken.put)
        assert fetch.begun.wait(20)
        # The renewal ends only when these polls are done.
        assert [short(other) for _ in range(5)] == [PAGE] * 5
        assert taken.empty()
        fetch.seconds = 3600
        fetch.go_on()
        assert taken.get(timeout=20) == PAGE
        assert tokens_of(service)[-1] == f"token{fetch.times}"

    def test_polls_go_on_with_what_is_valid_while_it_is_renewed(self, service):
        # Less than fifteen minutes and more than ten: botocore tries to renew, but need not.
        fetch = Fetch(seconds=12 * 60)
        role = renewing(service, fetch)
        ask(role)
        ask(role)
        fetch.hold()
        deadline = time.monotonic() + 20
        while not fetch.begun.is_set() and time.monotonic() < deadline:
            assert short(role) == PAGE
        assert [short(role) for _ in range(3)] == [PAGE] * 3
        assert tokens_of(service)[-1] == f"token{fetch.times - 1}"
        fetch.seconds = 3600
        fetch.go_on()
        while tokens_of(service)[-1] != f"token{fetch.times}" and time.monotonic() < deadline:
            ask(role)
        assert tokens_of(service)[-1] == f"token{fetch.times}"

    def test_renewed_credentials_are_used(self, service):
        # Always in the last ten minutes: each look renews them, as each call of boto3 does.
        role = renewing(service, Fetch(seconds=60))
        for _ in range(4):
            ask(role)
        numbers = [int(each[5:]) for each in tokens_of(service)]
        assert numbers == sorted(set(numbers))
        assert service.askers == [BOTO3, SHORT, SHORT, SHORT]

    def test_a_renewal_that_fails_is_a_typed_error_of_each_that_waits(self, service):
        fetch = Fetch(seconds=2)
        role = renewing(service, fetch)
        ask(role)
        fetch.error = AwsAccessError("AWS refused sts:AssumeRole", where="the role")
        taken = queue.SimpleQueue()
        for _ in range(50):
            assert role.begin_records(ARN, "it-1", taken.put)
        found = [taken.get(timeout=20) for _ in range(50)]
        assert {type(each) for each in found} == {AwsAccessError}
        fetch.error = None
        assert ask(role) == PAGE

    def test_credentials_that_are_gone_are_an_error_of_each_that_waits(self, service):
        streams = service.streams()
        ask(streams)
        streams._client._request_signer._credentials = None
        taken = queue.SimpleQueue()
        for _ in range(2000):
            assert streams.begin_records(ARN, "it-1", taken.put)
        found = [taken.get(timeout=20) for _ in range(2000)]
        assert {type(each) for each in found} == {CredentialsError}
        with pytest.raises(CredentialsError, match="Unable to locate credentials"):
            ask(streams)

    def test_an_expired_session_is_looked_up_by_boto3(self, service):
        streams = service.streams()
        ask(streams)
        service.answers = [refusal("ExpiredTokenException")]
        assert ask(streams) == PAGE
        assert service.askers == [BOTO3, SHORT, BOTO3]

    def test_a_process_that_never_ends_is_an_error(self):
        over = threading.Event()

        class Signer:
            _credentials = None

            def get_auth_instance(self, *_):
                over.wait(60)

        found = queue.SimpleQueue()
        SigningCredentials(Signer(), "dynamodb", "eu-west-1", refresh_timeout=0.2).use(found.put)
        error = found.get(timeout=20)
        over.set()
        assert classify(error) is AwsErrorKind.CREDENTIALS
        assert "no answer within 0.2 s" in str(error)

    def test_a_process_gives_credentials(self, service, tmp_path, monkeypatch):
        config = tmp_path / "config"
        given = json.dumps({"Version": 1, "AccessKeyId": "PROC", "SecretAccessKey": "s"})
        (tmp_path / "given.json").write_text(given)
        config.write_text(f"[profile p]\ncredential_process = cat {tmp_path}/given.json\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
        session = boto3.session.Session(profile_name="p", region_name="eu-west-1")
        client = session.client("dynamodbstreams", endpoint_url=service.url)
        streams = Boto3Streams(client, GetRecords(client))
        assert ask(streams) == ask(streams) == PAGE
        assert service.askers == [BOTO3, SHORT]
        scopes = [lowered(headers)["authorization"] for headers, _ in service.requests]
        assert all("Credential=PROC/" in each for each in scopes)
