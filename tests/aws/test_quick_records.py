# SPDX-License-Identifier: Apache-2.0
"""The quick way to GetRecords: the same answers and errors as boto3's, and boto3 behind it."""

import http.server
import ipaddress
import json
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
from transforms.aws.quick_records import QuickRecords
from transforms.aws.streams import Boto3Streams
from transforms.errors import AwsAccessError

ARN = "arn:aws:dynamodb:eu-west-1:111122223333:table/orders/stream/2026-01-01T00:00:00.000"
PAGE = b'{"Records":[],"NextShardIterator":"next"}'
QUICK, BOTO3 = "quick", "boto3"


class Service:
    """An HTTP(S) service that gives prepared answers and remembers who asked."""

    def __init__(self, *answers, context=None):
        self.askers, self.requests = [], []
        self.answers = list(answers)
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                # boto3 numbers its tries; the quick way has none.
                service.askers.append(BOTO3 if "amz-sdk-request" in self.headers else QUICK)
                service.requests.append((dict(self.headers.items()), body))
                answer = service.answers.pop(0) if service.answers else PAGE
                status, content = answer if isinstance(answer, tuple) else (200, answer)
                self.send_response(status)
                self.send_header("Content-Length", str(abs(len(content))))
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


def signature(headers):
    return {name.lower(): value for name, value in headers.items()}


class TestAsking:
    def test_boto3_asks_first_and_then_the_quick_way_does(self, service):
        streams = service.streams()
        assert [streams.get_records(ARN, f"it{n}") for n in range(3)] == [PAGE] * 3
        assert service.askers == [BOTO3, QUICK, QUICK]
        assert [json.loads(body) for _, body in service.requests] == [
            {"ShardIterator": f"it{n}", "Limit": 1000} for n in range(3)
        ]

    def test_requests_are_signed_as_boto3_signs_them(self, service):
        streams = service.streams(aws_session_token="token")
        streams.get_records(ARN, "it")
        streams.get_records(ARN, "it")
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
            streams.get_records(ARN, "it")
        assert streams._quick._idle.qsize() == 1


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
        streams.get_records(ARN, "it")
        service.answers = [refusal(code)]
        with pytest.raises(ClientError, match=f"{code}.*GetRecords operation: m") as caught:
            streams.get_records(ARN, "it")
        assert classify(caught.value) is kind
        assert service.askers == [BOTO3, QUICK]

    def test_a_missing_right_is_named(self, service):
        streams = service.streams()
        streams.get_records(ARN, "it")
        service.answers = [refusal("AccessDeniedException")]
        with pytest.raises(AwsAccessError, match="dynamodb:GetRecords"):
            streams.get_records(ARN, "it")

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
        streams.get_records(ARN, "it")
        service.answers = [answer]
        assert streams.get_records(ARN, "it") == PAGE
        assert service.askers == [BOTO3, QUICK, BOTO3]
        # One bad answer is no reason to leave the quick way.
        streams.get_records(ARN, "it")
        assert service.askers[-1] == QUICK

    def test_a_connection_that_the_service_has_closed_costs_no_page(self, service):
        streams = service.streams()
        streams.get_records(ARN, "it")
        streams.get_records(ARN, "it")
        streams._quick._idle.queue[0].sock.shutdown(2)
        assert streams.get_records(ARN, "it") == PAGE
        assert service.askers == [BOTO3, QUICK, BOTO3]


class TestWays:
    def test_behind_a_proxy_boto3_does_everything(self, service, monkeypatch):
        with Service() as proxy:
            monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy._server.server_port}")
            monkeypatch.setenv("NO_PROXY", "")
            streams = service.streams()
            assert [streams.get_records(ARN, "it") for _ in range(2)] == [PAGE] * 2
            assert (proxy.askers, service.askers) == ([BOTO3, BOTO3], [])

    def test_tls_with_a_bundle_of_the_environment(self, tmp_path, monkeypatch):
        bundle = tmp_path / "ca.pem"
        with Service(context=_tls(bundle)) as service:
            monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
            streams = service.streams()
            assert [streams.get_records(ARN, "it") for _ in range(2)] == [PAGE] * 2
            assert service.askers == [BOTO3, QUICK]

    def test_an_unknown_certificate_is_never_accepted(self, tmp_path, monkeypatch):
        known, other = tmp_path / "known.pem", tmp_path / "other.pem"
        _tls(other)
        with Service(context=_tls(known)) as service:
            monkeypatch.setenv("AWS_CA_BUNDLE", str(known))
            streams = service.streams()
            # The quick way looks at the environment when it learns, boto3 when it is made.
            monkeypatch.setenv("AWS_CA_BUNDLE", str(other))
            assert [streams.get_records(ARN, "it") for _ in range(3)] == [PAGE] * 3
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
