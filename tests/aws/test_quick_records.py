# SPDX-License-Identifier: Apache-2.0
"""The quick way to GetRecords: the same answers and errors as boto3's, and boto3 behind it."""

import contextlib
import dataclasses
import functools
import http.server
import ipaddress
import json
import queue
import socket
import ssl
import threading
from datetime import datetime, timedelta, timezone

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from transforms.aws.errors import AwsErrorKind, classify
from transforms.aws.quick_connection import Connections, Place
from transforms.aws.quick_records import QuickRecords
from transforms.aws.quick_signature import RequestSigner
from transforms.aws.streams import Boto3Streams
from transforms.errors import AwsAccessError, CredentialsError

ARN = "arn:aws:dynamodb:eu-west-1:111122223333:table/orders/stream/2026-01-01T00:00:00.000"
PAGE = b'{"Records":[],"NextShardIterator":"next"}'
QUICK, BOTO3 = "quick", "boto3"


class Service:
    """An HTTP(S) service that gives prepared answers and remembers who asked."""

    def __init__(self, *answers, context=None):
        self.askers, self.requests, self.sockets = [], [], []
        self.answers, self.echo, self.head = list(answers), False, ""
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self):
                super().setup()
                service.sockets.append(self.connection)

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                # boto3 numbers its tries; the quick way has none.
                service.askers.append(BOTO3 if "amz-sdk-request" in self.headers else QUICK)
                service.requests.append((dict(self.headers.items()), body))
                answer = service.answers.pop(0) if service.answers else PAGE
                if service.echo:
                    answer = PAGE.replace(b"next", json.loads(body)["ShardIterator"].encode())
                    answer = json.dumps(json.loads(answer)).encode()
                status, content = answer if isinstance(answer, tuple) else (200, answer)
                self.send_response(status)
                if service.head:
                    name, value = service.head.split(": ")
                    self.send_header(name, value)
                    content = b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content)
                    service.head, self.close_connection = "", True
                else:
                    self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if status == 200 and content.startswith(b"CUT"):
                    self.wfile.write(content[: len(content) // 2])
                    self.close_connection = True
                    return
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.scheme = "http" if context is None else "https"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def connections(self):
        return len(self.sockets)

    def cut(self):
        """Closes all connections, from this side."""
        for each in self.sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def streams(self, **credentials):
        found = {"aws_access_key_id": "AKID", "aws_secret_access_key": "secret", **credentials}
        client = boto3.client(
            "dynamodbstreams",
            region_name="eu-west-1",
            endpoint_url=f"{self.scheme}://127.0.0.1:{self._server.server_port}",
            config=Config(retries={"mode": "standard", "max_attempts": 2}),
            **found,
        )
        return Boto3Streams(client, QuickRecords(client))


def refusal(code, status=400):
    text = {"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": "m"}
    return status, json.dumps(text).encode()


@pytest.fixture
def service():
    with Service() as made:
        yield made


def ask(streams, iterator="it"):
    """One page, as the reader asks for it: the quick way if there is one, else boto3."""
    taken = queue.SimpleQueue()
    if streams.begin_records(ARN, iterator, taken.put):
        found = taken.get(timeout=20)
        if isinstance(found, Exception):
            raise found
        if found is not None:
            return found
    return streams.get_records(ARN, iterator)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def signature(headers):
    return {name.lower(): value for name, value in headers.items()}


class TestAsking:
    def test_boto3_asks_first_and_then_the_quick_way_does(self, service):
        streams = service.streams()
        assert [ask(streams, f"it{n}") for n in range(3)] == [PAGE] * 3
        assert service.askers == [BOTO3, QUICK, QUICK]
        assert [json.loads(body) for _, body in service.requests] == [
            {"ShardIterator": f"it{n}", "Limit": 1000} for n in range(3)
        ]

    def test_requests_are_signed_as_boto3_signs_them(self, service):
        streams = service.streams(aws_session_token="token")
        ask(streams)
        ask(streams)
        (by_boto3, _), (quick, _) = ((signature(h), b) for h, b in service.requests)
        for name in ("x-amz-target", "content-type", "x-amz-security-token", "host"):
            assert quick[name] == by_boto3[name]
        scope, signed, _ = quick["authorization"].split(", ")
        assert [scope, signed] == by_boto3["authorization"].split(", ")[:2]
        if quick["x-amz-date"] == by_boto3["x-amz-date"]:
            assert quick["authorization"] == by_boto3["authorization"]

    def test_connections_are_kept_open(self, service):
        streams = service.streams()
        for _ in range(5):
            ask(streams)
        assert streams._quick._learned.connections.idle == 1
        assert service.connections == 2


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
        assert service.askers == [BOTO3, QUICK]

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
            (200, b"CUT" + PAGE),
        ],
        ids=["fault", "unavailable", "torn error", "torn page"],
    )
    def test_what_is_no_whole_answer_is_asked_again_by_boto3(self, service, answer):
        streams = service.streams()
        ask(streams)
        service.answers = [answer]
        assert ask(streams) == PAGE
        assert service.askers == [BOTO3, QUICK, BOTO3]
        # One bad answer is no reason to leave the quick way.
        ask(streams)
        assert service.askers[-1] == QUICK

    def test_a_connection_that_the_service_has_closed_costs_no_page(self, service):
        streams = service.streams()
        ask(streams)
        ask(streams)
        service.cut()
        assert ask(streams) == PAGE
        assert service.askers[:2] == [BOTO3, QUICK]

    def test_requests_under_way_at_once_get_each_its_own_answer(self, service):
        streams = service.streams()
        ask(streams)
        service.echo = True
        taken = queue.SimpleQueue()
        for number in range(100):
            taken_as = functools.partial(lambda number, found: taken.put((number, found)), number)
            assert streams.begin_records(ARN, f"it{number}", taken_as)
        found = dict(taken.get(timeout=20) for _ in range(100))
        assert found == {
            number: json.dumps({"Records": [], "NextShardIterator": f"it{number}"}).encode()
            for number in range(100)
        }

    @pytest.mark.parametrize("head", ["Transfer-Encoding: chunked", "X-Nothing: 1"])
    def test_an_answer_of_another_kind_is_left_to_boto3(self, service, head):
        streams = service.streams()
        ask(streams)
        service.head = head
        assert ask(streams) == PAGE
        assert service.askers == [BOTO3, QUICK, BOTO3]

    def test_a_credential_that_is_gone_is_an_error(self, service):
        streams = service.streams()
        ask(streams)
        streams._client._request_signer._credentials = None
        with pytest.raises(CredentialsError, match="Unable to locate credentials"):
            ask(streams)

    def test_an_error_of_many_that_wait_reaches_each(self, service):
        streams = service.streams()
        ask(streams)
        streams._client._request_signer._credentials = None
        taken = queue.SimpleQueue()
        for _ in range(2000):
            assert streams.begin_records(ARN, "it", taken.put)
        found = [taken.get(timeout=20) for _ in range(2000)]
        assert {type(each) for each in found} == {CredentialsError}

    def test_nobody_there_is_left_to_boto3(self, service):
        streams = service.streams()
        ask(streams)
        place = Place("127.0.0.1", free_port())
        learned = dataclasses.replace(streams._quick._learned, connections=Connections(place, 2))
        streams._quick._learned = learned
        taken = queue.SimpleQueue()
        for _ in range(5):
            assert streams.begin_records(ARN, "it", taken.put)
        assert [taken.get(timeout=20) for _ in range(5)] == [None] * 5


class TestWays:
    def test_another_signature_than_botocores_is_never_sent(self, service, monkeypatch):
        monkeypatch.setattr(RequestSigner, "authorization", lambda *_: "AWS4-HMAC-SHA256 other")
        streams = service.streams()
        assert [ask(streams) for _ in range(3)] == [PAGE] * 3
        assert service.askers == [BOTO3] * 3

    def test_behind_a_proxy_boto3_does_everything(self, service, monkeypatch):
        with Service() as proxy:
            monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy._server.server_port}")
            monkeypatch.setenv("NO_PROXY", "")
            streams = service.streams()
            assert [ask(streams) for _ in range(2)] == [PAGE] * 2
            assert (proxy.askers, service.askers) == ([BOTO3, BOTO3], [])

    def test_tls_with_a_bundle_of_the_environment(self, tmp_path, monkeypatch):
        bundle = tmp_path / "ca.pem"
        with Service(context=_tls(bundle)) as service:
            monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
            streams = service.streams()
            assert [ask(streams) for _ in range(2)] == [PAGE] * 2
            assert service.askers == [BOTO3, QUICK]

    def test_an_unknown_certificate_is_never_accepted(self, tmp_path, monkeypatch):
        known, other = tmp_path / "known.pem", tmp_path / "other.pem"
        _tls(other)
        with Service(context=_tls(known)) as service:
            monkeypatch.setenv("AWS_CA_BUNDLE", str(known))
            streams = service.streams()
            # The quick way looks at the environment when it learns, boto3 when it is made.
            monkeypatch.setenv("AWS_CA_BUNDLE", str(other))
            assert [ask(streams) for _ in range(3)] == [PAGE] * 3
            assert service.askers == [BOTO3] * 3


def _tls(bundle):
    """A server's context with a certificate of its own, which is written to the bundle."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(timezone.utc)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    bundle.write_bytes(pem)
    both = bundle.with_name("both.pem")
    both.write_bytes(private + pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    return context
