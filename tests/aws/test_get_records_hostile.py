# SPDX-License-Identifier: Apache-2.0
"""Whatever an endpoint answers, a request ends once: in bounded time, and with bounded memory."""

import contextlib
import dataclasses
import json
import queue
import socket
import threading
import time

import pytest
from botocore.exceptions import BotoCoreError, ClientError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dynabeam.transforms.aws.connection_pool import Bounds, ConnectionPool, Place
from dynabeam.transforms.errors import AwsAccessError, DynabeamError, StreamError
from tests.aws.services import ARN, PAGE, RawService, answer, ask, short, streams_of

BOUNDS = Bounds(seconds=2.0, short_seconds=0.5, body_bytes=1 << 20)
DEEP = b"[" * 100_000


@pytest.fixture
def service():
    with RawService() as made:
        yield made


@pytest.fixture
def streams(service):
    made = streams_of(service.url, bounds=BOUNDS, attempts=1)
    assert ask(made) == PAGE
    return made


def slowly(data, seconds=0.05):
    def send(connection):
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        for number in range(100):
            connection.sendall(data(number))
            time.sleep(seconds)

    return send


def for_ever(head, data):
    def send(connection):
        connection.sendall(head)
        while True:
            connection.sendall(data)

    return send


LEFT_TO_BOTO3 = {
    "nothing": b"",
    "garbage": b"\x00\x01\xff" * 50 + b"\r\n\r\n",
    "another protocol": b"SSH-2.0-OpenSSH_9.0\r\n",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "half a body": answer(PAGE)[:-5],
    "a length that is none": b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n" + PAGE,
    "a negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n" + PAGE,
    "a length beyond numbers": b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 40 + b"\r\n\r\n",
    "two lengths": answer(PAGE, "Content-Length: 3"),
    "no length": b"HTTP/1.1 200 OK\r\n\r\n" + PAGE,
    "a chunk without end": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
    "a chunk of no size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nab",
    "compressed": answer(PAGE, "Content-Encoding: gzip"),
    "header that is no UTF-8": answer(PAGE, "X-A: ?").replace(b"?", b"\xff"),
    "informational only": b"HTTP/1.1 199 x\r\n\r\n",
    "redirect": answer(b"", "Location: http://127.0.0.1:1/", status="301 x"),
    "fault": answer(b"[", status="500 x"),
    "wrong sum": answer(PAGE, "x-amz-crc32: 1"),
    "sum that is no number": answer(PAGE, "x-amz-crc32: abc"),
    "empty sum": answer(PAGE, "x-amz-crc32: "),
    "refusal nested deeply": answer(DEEP, status="400 x"),
    "refusal that is a list": answer(b"[1]", status="400 x"),
    "refusal with a list as code": answer(b'{"__type":["a"]}', status="400 x"),
    "refusal without a code": answer(b'{"__type":""}', status="400 x"),
    "refusal that is no UTF-8": answer(b'{"__type":"X\xff"}', status="400 x"),
    "refusal that is empty": answer(b"", status="403 x"),
    "trickling head": slowly(lambda n: b"x-%d: y\r\n" % n),
    "trickling body": slowly(lambda n: b"Content-Length: 500\r\n\r\n" if n == 0 else b" "),
}


class TestOneOutcome:
    @pytest.mark.parametrize("raw", LEFT_TO_BOTO3.values(), ids=LEFT_TO_BOTO3.keys())
    @pytest.mark.parametrize("close", [False, True], ids=["open", "closed"])
    def test_what_is_no_answer_is_left_to_boto3_and_the_next_poll_is_answered(
        self, service, streams, raw, close
    ):
        service.raw, service.close = raw, close
        found = queue.SimpleQueue()
        assert streams.begin_records(ARN, "it-1", found.put)
        assert found.get(timeout=20) is None
        service.close = False
        assert ask(streams) == PAGE
        assert found.empty()

    @pytest.mark.parametrize("raw", LEFT_TO_BOTO3.values(), ids=LEFT_TO_BOTO3.keys())
    @pytest.mark.parametrize("close", [False, True], ids=["open", "closed"])
    def test_what_boto3_finds_is_an_error_with_a_name(self, service, streams, raw, close):
        """An endpoint that never answers otherwise; boto3's own connections have no bounds."""
        service.always, service.raw, service.close = True, raw, close
        with pytest.raises((ClientError, BotoCoreError, DynabeamError)):
            streams.get_records(ARN, "it-1")

    @pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b'{"Records":' + DEEP, b"\xff"])
    def test_a_body_that_is_no_page_is_for_the_parser(self, service, streams, body):
        service.raw = answer(body)
        assert short(streams) == body

    def test_chunks_are_put_together(self, service, streams):
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        parts = [b"%x\r\n%b\r\n" % (1, PAGE[n : n + 1]) for n in range(len(PAGE))]
        service.raw = head + b"".join(parts) + b"0\r\n\r\n"
        assert short(streams) == PAGE

    def test_an_answer_after_informational_ones_is_taken(self, service, streams):
        service.raw = b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + answer(PAGE)
        assert short(streams) == PAGE

    def test_a_message_that_is_no_text_is_told_all_the_same(self, service, streams):
        body = b'{"__type":"AccessDeniedException","message":{"a":1}}'
        service.raw = answer(body, status="400 x")
        assert isinstance(short(streams), AwsAccessError)

    @pytest.mark.parametrize("cut", range(0, len(answer(PAGE)), 7))
    def test_a_connection_closed_at_any_byte_costs_no_page(self, service, streams, cut):
        service.raw, service.close = answer(PAGE)[:cut], True
        assert ask(streams) == PAGE

    def test_an_answer_while_nobody_asks_is_nobodys(self, service, streams):
        forged = answer(b'{"Records":[{"forged":true}],"NextShardIterator":"next"}')
        service.raw = answer(PAGE) + forged
        assert ask(streams) == PAGE
        pool = streams._short._learned.pool
        deadline = time.monotonic() + 20
        # The connection is given back after the answer was told, and closed after that.
        while pool._open and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not pool._open
        assert [ask(streams) for _ in range(3)] == [PAGE] * 3

    @settings(
        max_examples=60,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(
        status=st.one_of(st.integers(0, 999).map(str), st.text(max_size=4)),
        headers=st.lists(
            st.tuples(
                st.sampled_from(
                    ["content-length", "transfer-encoding", "connection", "x-amz-crc32", "date"]
                ),
                st.one_of(
                    st.integers(-1, 99).map(str),
                    st.sampled_from(["chunked", "close", "gzip", "x", "", "\xff", "\x00"]),
                ),
            ),
            max_size=4,
        ),
        body=st.one_of(
            st.binary(max_size=60),
            st.sampled_from([PAGE, DEEP, b"3\r\nabc\r\n0\r\n\r\n"]),
            st.recursive(st.one_of(st.none(), st.text(max_size=3)), st.lists).map(
                lambda value: json.dumps({"__type": value, "message": value}).encode()
            ),
        ),
        close=st.booleans(),
    )
    def test_any_answer_ends_once(self, service, streams, status, headers, body, close):
        lines = [f"HTTP/1.1 {status} x", *(f"{name}: {value}" for name, value in headers), "", ""]
        raw = "\r\n".join(lines).encode("utf-8", "surrogatepass") + body
        service.raw, service.close = raw, close
        found = queue.SimpleQueue()
        if streams.begin_records(ARN, "it-1", found.put):
            outcome = found.get(timeout=20)
            assert outcome is None or isinstance(
                outcome, (bytes, ClientError, BotoCoreError, DynabeamError)
            )
        service.raw, service.close = None, False
        assert ask(streams) == PAGE
        assert found.empty()


class TestBounds:
    @pytest.mark.parametrize(
        ("head", "data"),
        [
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                b"400\r\n%b\r\n" % (b"a" * 1024),
            ),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n", b"a" * 1024),
        ],
        ids=["chunks", "length"],
    )
    def test_a_body_beyond_the_bound_is_an_error_of_its_own(self, service, streams, head, data):
        for outcome in (short, lambda each: each.get_records(ARN, "it-1")):
            service.raw = for_ever(head, data)
            try:
                found = outcome(streams)
            except StreamError as error:
                found = error
            assert isinstance(found, StreamError)
            assert "more than 1048576 bytes" in str(found)
            assert ask(streams) == PAGE

    def test_a_large_page_within_the_bound_is_taken(self, service, streams):
        body = b" " * ((1 << 20) - len(PAGE)) + PAGE
        service.raw = answer(body)
        assert short(streams) == body

    @pytest.mark.parametrize(
        "raw",
        [
            LEFT_TO_BOTO3["trickling head"],
            LEFT_TO_BOTO3["trickling body"],
            lambda _: time.sleep(5),
        ],
        ids=["head", "body", "silence"],
    )
    def test_boto3s_own_request_is_bounded_in_time_as_well(self, service, streams, raw):
        service.raw = raw
        began = time.monotonic()
        with pytest.raises(BotoCoreError, match="Read timeout"):
            streams.get_records(ARN, "it-1")
        assert time.monotonic() - began < 20
        assert ask(streams) == PAGE

    def test_a_service_that_closes_each_connection_at_once_is_no_loop(self, streams):
        with socket.create_server(("127.0.0.1", 0)) as server:
            accepted = []

            def close_each():
                with contextlib.suppress(OSError):
                    while True:
                        server.accept()[0].close()
                        accepted.append(1)

            thread = threading.Thread(target=close_each, daemon=True)
            thread.start()
            pool = ConnectionPool(Place("127.0.0.1", server.getsockname()[1]), BOUNDS)
            learned = streams._short._learned
            streams._short._learned = dataclasses.replace(learned, pool=pool)
            assert [short(streams) for _ in range(5)] == [None] * 5
            assert 1 <= len(accepted) <= 20
            server.shutdown(socket.SHUT_RDWR)
            thread.join(20)
