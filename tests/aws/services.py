# SPDX-License-Identifier: Apache-2.0
"""Services on loopback: plain, with TLS, behind a proxy, and such as answer with any bytes."""

import base64
import contextlib
import http.server
import ipaddress
import json
import queue
import select
import socket
import socketserver
import ssl
import threading
from datetime import datetime, timedelta, timezone

import boto3
from botocore.config import Config
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from dynabeam.transforms.aws.get_records import GetRecords
from dynabeam.transforms.aws.streams import Boto3Streams

ARN = "arn:aws:dynamodb:eu-west-1:111122223333:table/orders/stream/2026-01-01T00:00:00.000"
PAGE = b'{"Records":[],"NextShardIterator":"next"}'
SHORT, BOTO3 = "short", "boto3"
STATIC = {"aws_access_key_id": "AKID", "aws_secret_access_key": "secret"}


def client_of(url, *, config=None, verify=None, attempts=2, connect_timeout=5, **credentials):
    """A boto3 client for an endpoint."""
    given = Config(
        retries={"mode": "standard", "total_max_attempts": attempts},
        connect_timeout=connect_timeout,
    )
    # Not boto3's own session, which keeps the configuration of the first client.
    return boto3.session.Session(region_name="eu-west-1").client(
        "dynamodbstreams",
        endpoint_url=url,
        verify=verify,
        config=given.merge(config) if config else given,
        **(credentials or STATIC),
    )


def streams_of(url, *, bounds=None, **options):
    """The streams client for an endpoint, with the short way."""
    client = client_of(url, **options)
    return Boto3Streams(client, GetRecords(client, bounds))


def ask(streams, iterator="it-1", seconds=30):
    """One page, as the reader asks for it: the short way if there is one, else boto3."""
    found = short(streams, iterator, seconds)
    if isinstance(found, Exception):
        raise found
    return streams.get_records(ARN, iterator) if found is None else found


def short(streams, iterator="it-1", seconds=30):
    """The outcome of the short way; None too if it is off."""
    taken = queue.SimpleQueue()
    if not streams.begin_records(ARN, iterator, taken.put):
        return None
    return taken.get(timeout=seconds)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        """A client that goes away, or does not trust this service."""


def _serve(server):
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    return thread


class _Served:
    """What has a `_server` that a `_thread` serves, until the end of a block."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server6(_Server):
    address_family = socket.AF_INET6


class Service:
    """An HTTP(S) service that gives prepared answers and remembers who asked.

    Args:
        answers: Bodies, or pairs of status and body; afterwards empty pages.
        contexts: TLS of the first connections; that of the last goes for all further ones.
        host: Where it listens.
        name: Its name in URLs.
    """

    def __init__(self, *answers, contexts=(), host="127.0.0.1", name=None):
        self.askers, self.requests, self.sockets, self.headers = [], [], [], {}
        self.answers, self.echo = list(answers), False
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self):
                super().setup()
                service.sockets.append(self.connection)

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                # boto3 numbers its tries; the short way has none.
                service.askers.append(BOTO3 if "amz-sdk-request" in self.headers else SHORT)
                service.requests.append((dict(self.headers.items()), body))
                answer = service.answers.pop(0) if service.answers else PAGE
                if service.echo:
                    page = {"Records": [], "NextShardIterator": json.loads(body)["ShardIterator"]}
                    answer = json.dumps(page).encode()
                status, content = answer if isinstance(answer, tuple) else (200, answer)
                self.send_response_only(status)
                given = {"Date": self.date_time_string(), "Content-Length": str(len(content))}
                for name, value in {**given, **service.headers}.items():
                    if value is not None:
                        self.send_header(name, value)
                self.end_headers()
                if status == 200 and content.startswith(b"CUT"):
                    self.wfile.write(content[: len(content) // 2])
                    self.close_connection = True
                    return
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        class Listening(_Server6 if ":" in host else _Server):
            def finish_request(self, request, client_address):
                if not contexts:
                    super().finish_request(request, client_address)
                    return
                number = min(len(service.accepted), len(contexts) - 1)
                service.accepted.append(client_address)
                with contexts[number].wrap_socket(
                    request, server_side=True, do_handshake_on_connect=False
                ) as encrypted:
                    encrypted.settimeout(20)
                    encrypted.do_handshake()
                    super().finish_request(encrypted, client_address)

        self.accepted = []
        self.server = Listening((host, 0), Handler)
        self.port = self.server.server_address[1]
        shown = name or (f"[{host}]" if ":" in host else host)
        self.url = f"{'https' if contexts else 'http'}://{shown}:{self.port}"
        self._thread = _serve(self.server)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()
        self.cut()

    @property
    def connections(self):
        return len(self.sockets)

    def cut(self):
        """Closes all connections, from this side."""
        for each in self.sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def streams(self, **options):
        return streams_of(self.url, **options)


class RawService(_Served):
    """Answers each request with given bytes, and then perhaps closes the connection.

    `raw` is what the next request gets, or with `always` each: bytes, or a function that is called
    with the socket; after it good pages come.
    """

    def __init__(self):
        self.raw, self.close, self.always, self.asked = None, False, False, 0
        service = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                with contextlib.suppress(OSError):
                    while _read_request(self.request):
                        service.asked += 1
                        raw = service.raw
                        if not service.always:
                            service.raw = None
                        if raw is None:
                            self.request.sendall(answer(PAGE))
                        elif callable(raw):
                            raw(self.request)
                            return
                        else:
                            self.request.sendall(raw)
                            if service.close:
                                return

        class Listening(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True

        self._server = Listening(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = _serve(self._server)


def answer(body, *headers, status="200 OK"):
    """The bytes of a good answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def _read_request(connection):
    received = b""
    while b"\r\n\r\n" not in received:
        more = connection.recv(65536)
        if not more:
            return b""
        received += more
    head, _, body = received.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").lower().split("\r\n")
    [length] = [int(line.split(":")[1]) for line in lines if line.startswith("content-length:")]
    while len(body) < length:
        body += connection.recv(65536)
    return received


class Tunnel(_Served):
    """A proxy that knows CONNECT, and plain requests only to refuse them.

    Args:
        user: `name:password` to ask for; None for nobody.
    """

    def __init__(self, user=None):
        self.targets, self.refused = [], []
        tunnel = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_CONNECT(self):
                expected = user and "Basic " + base64.b64encode(user.encode()).decode()
                if self.headers.get("Proxy-Authorization") != expected:
                    tunnel.refused.append(self.path)
                    self.send_response(407)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                tunnel.targets.append(self.path)
                host, _, port = self.path.rpartition(":")
                with socket.create_connection((host.strip("[]"), int(port)), timeout=20) as far:
                    self.send_response(200)
                    self.end_headers()
                    _pass_on(self.connection, far)
                self.close_connection = True

            def log_message(self, *_):
                pass

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = _serve(self._server)


def _pass_on(near, far):
    ends = {near: far, far: near}
    while True:
        for each in select.select(list(ends), [], [])[0]:
            try:
                data = each.recv(65536)
            except OSError:
                return
            if not data:
                return
            ends[each].sendall(data)


class Authority:
    """A certificate authority and the certificates that it gives.

    Args:
        folder: Where its files go.
        name: Its name.
    """

    def __init__(self, folder, name="authority"):
        self._folder, self._name = folder, _name(name)
        self._key = ec.generate_private_key(ec.SECP256R1())
        usage = dict.fromkeys(
            (
                "content_commitment",
                "key_encipherment",
                "data_encipherment",
                "key_agreement",
                "encipher_only",
                "decipher_only",
            ),
            False,
        )
        self._certificate = (
            _builder(self._name, self._name, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(
                x509.KeyUsage(digital_signature=True, key_cert_sign=True, crl_sign=True, **usage),
                critical=True,
            )
            .sign(self._key, hashes.SHA256())
        )
        self.bundle = folder / f"{name}.pem"
        self.bundle.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def files(self, *names, days=(-1, 1), client=False):
        """A file with a key and a certificate for names and addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        kind = x509.ExtendedKeyUsageOID
        purpose = kind.CLIENT_AUTH if client else kind.SERVER_AUTH
        certificate = (
            _builder(_name(names[0]), self._name, key, days)
            .add_extension(
                x509.SubjectAlternativeName([_alternative(each) for each in names]), critical=False
            )
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        path = self._folder / f"{len(list(self._folder.iterdir()))}.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        return path

    def context(self, *names, days=(-1, 1)):
        """TLS of a server with such a certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.files(*names, days=days))
        return context


def _builder(subject, issuer, key, days=(-1, 1)):
    now = datetime.now(timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=days[0]))
        .not_valid_after(now + timedelta(days=days[1]))
    )


def _name(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _alternative(text):
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)
