# SPDX-License-Identifier: Apache-2.0
"""The HTTP front: one port for DynamoDB, DynamoDB Streams, S3 and STS.

Requests with `X-Amz-Target` go to DynamoDB or its streams, those below `/_simulator/` to the admin
route, all others to S3. HTTP/1.1 with keep-alive, one thread per connection. Of a signature only
the access key id is looked at, for its policies.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
import traceback
import uuid
import zlib
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from dynabeam.transforms.testing.admin import ADMIN_PREFIX, admin
from dynabeam.transforms.testing.api_error import ApiError
from dynabeam.transforms.testing.disturbance import Disturbance, as_faulty, draw, resource_of
from dynabeam.transforms.testing.iam import key_of_caller
from dynabeam.transforms.testing.iam_requests import (
    dynamodb_permissions,
    hide_absence,
    refuse_denied,
    s3_permissions,
)
from dynabeam.transforms.testing.iam_simulation import simulate_principal_policy
from dynabeam.transforms.testing.objects import is_conditional_write
from dynabeam.transforms.testing.s3_errors import check_digest, s3_action, s3_error
from dynabeam.transforms.testing.sts import is_sts

if TYPE_CHECKING:
    from dynabeam.transforms.testing.simulator import Simulator

__all__ = ["Front"]

_JSON = "application/x-amz-json-1.0"


class Front:
    """The listening server of one simulator.

    Args:
        simulator: What answers.
        port: The port to listen on; 0 for any free one.
        host: The address to listen at.
    """

    def __init__(self, simulator: Simulator, port: int, host: str) -> None:
        handler = type("Handler", (_Handler,), {"sim": simulator})
        self._server = _Server((host, port), handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.01},
            name="simulator",
            daemon=True,
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop listening and cut all connections."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._server.cut_all()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *args: Any) -> None:
        self._connections: set[socket.socket] = set()
        self._guard = threading.Lock()
        super().__init__(*args)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        with self._guard:
            self._connections.add(request)
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._guard:
                self._connections.discard(request)

    def cut_all(self) -> None:
        with self._guard:
            for connection in self._connections:
                with contextlib.suppress(OSError):  # it may have gone by itself
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are nobody's fault; `_Handler` reports everything else."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    raw_requestline: bytes
    sim: Simulator

    def parse_request(self) -> bool:
        """Does as the base class, whose parser is one for mail: a third of a small request."""
        words = self.raw_requestline.decode("latin-1").split()
        if len(words) != 3 or words[2] != self.protocol_version:
            return super().parse_request()
        self.requestline = " ".join(words)
        self.command, self.path, self.request_version = words
        self.headers = Message()
        for line in iter(self.rfile.readline, b"\r\n"):
            if not line:
                return False
            name, _, value = line.decode("latin-1").partition(":")
            self.headers.set_raw(name, value.strip())
        self.close_connection = self.headers.get("Connection", "").lower() == "close"
        expected = self.headers.get("Expect", "").lower() == "100-continue"
        return not expected or self.handle_expect_100()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Say nothing: `Simulator.stats` counts."""

    def do_GET(self) -> None:
        """Answer any request."""
        try:
            body = self._body()
            target = self.headers.get("X-Amz-Target")
            if self.path.startswith(ADMIN_PREFIX):
                self._admin(body)
            elif target is not None:
                self._json_api(target, body)
            elif self.command == "POST" and is_sts(body):
                self._sts(body)
            elif self.command == "POST" and b"Action=SimulatePrincipalPolicy" in body:
                self._simulate_policy(body)
            else:
                self._s3(body)
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    do_POST = do_PUT = do_DELETE = do_HEAD = do_OPTIONS = do_GET  # noqa: N815 - as HTTP has them

    @property
    def _now(self) -> float:
        """What time it is for the service that is asked, seconds: the tables go by their clock."""
        tables = self.headers.get("X-Amz-Target") is not None
        return self.sim.clock.micros() / 1e6 if tables else time.time()

    def _body(self) -> bytes:
        """The request's body.

        Raises:
            ConnectionError: The client went away before it was sent: such a request does nothing.
        """
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            parts = []
            while size := int(self._line().split(b";")[0], 16):
                parts.append(self._exactly(size))
                self.rfile.readline()
            while self._line().strip():
                pass
            return b"".join(parts)
        return self._exactly(int(self.headers.get("Content-Length") or 0))

    def _line(self) -> bytes:
        found = self.rfile.readline()
        if not found:
            raise ConnectionResetError("a body in chunks broke off")
        return found

    def _exactly(self, size: int) -> bytes:
        found = self.rfile.read(size)
        if len(found) < size:
            raise ConnectionResetError(f"{len(found)} of {size} bytes came")
        return found

    # DynamoDB and its streams.

    def _json_api(self, target: str, body: bytes) -> None:
        service, _, action = target.partition(".")
        try:
            request = _parsed(body)
        except ApiError:
            request = {}
        disturbed = draw(self.sim, action, "dynamodb", lambda: resource_of(self.sim, request))
        if self._before(disturbed):
            return
        try:
            disturbed.refuse()
            self.sim.sts.check(self.headers, "ExpiredTokenException")
            caller = key_of_caller(self.headers)
            refuse_denied(self.sim, caller, dynamodb_permissions(self.sim, action, request))
            status, answer = self.sim.call(service, action, request or _parsed(body), caller)
        except ApiError as error:
            status, answer = error.status, self._error_text(service, error)
        except Exception as error:  # noqa: BLE001 - a defect of the simulator: kept and answered
            self._defect(error)
            status, answer = 500, b'{"__type":"InternalServerError","message":"simulator defect"}'
        crc = {"Content-Type": _JSON, "x-amz-crc32": str(zlib.crc32(answer))}
        self._send(status, crc, answer, disturbed)

    def _error_text(self, service: str, error: ApiError) -> bytes:
        self.sim.stats.count_error(error.code)
        space = "com.amazonaws.dynamodb.v20120810"
        if error.code in ("ValidationException", "ThrottlingException", "AccessDeniedException"):
            space = (
                "com.amazon.coral.validate" if error.code[0] == "V" else "com.amazon.coral.service"
            )
        answer = {"__type": f"{space}#{error.code}", "message": error.message}
        return json.dumps(answer).encode()

    def _before(self, disturbed: Disturbance) -> bool:
        if disturbed.delay:
            time.sleep(disturbed.delay)
        if disturbed.drop == "before":
            self.close_connection = True
        return disturbed.drop == "before"

    # The others.

    def _s3(self, body: bytes) -> None:
        action = s3_action(self.command, self.path)
        place = self.path.split("?", 1)[0].lstrip("/")
        disturbed = draw(self.sim, action, "s3", lambda: f"arn:aws:s3:::{place}")
        if self._before(disturbed):
            return
        try:
            disturbed.refuse()
            self.sim.stats.count_call(action)
            headers = dict(self.headers.items())
            self.sim.sts.check(self.headers, "ExpiredToken")
            caller = key_of_caller(self.headers)
            permissions = s3_permissions(self.command, self.path, self.headers, body)
            refuse_denied(self.sim, caller, permissions)
            check_digest(self.headers, body)
            if is_conditional_write(self.command, headers):
                headers = as_faulty(self.sim, headers)
            status, answer_headers, answer = self.sim.objects.handle(
                self.command, self.path, headers, body
            )
            if status == 404 and action == "GetObject":
                hide_absence(self.sim, caller, permissions)
        except ApiError as error:
            self.sim.stats.count_error(error.code)
            status, answer_headers, answer = s3_error(error)
        except NotImplementedError as error:
            status, answer_headers, answer = s3_error(ApiError("NotImplemented", str(error), 501))
        except Exception as error:  # noqa: BLE001 - a defect of the simulator: kept and answered
            self._defect(error)
            status, answer_headers, answer = s3_error(ApiError("InternalError", repr(error), 500))
        self._send(status, answer_headers, answer, disturbed)

    def _sts(self, body: bytes) -> None:
        status, answer = self.sim.sts.answer(self.headers, body)
        self._send(status, {"Content-Type": "text/xml"}, answer)

    def _simulate_policy(self, body: bytes) -> None:
        caller = key_of_caller(self.headers)
        status, answer = simulate_principal_policy(self.sim, caller, body)
        self._send(status, {"Content-Type": "text/xml"}, answer)

    def _admin(self, body: bytes) -> None:
        method = self.path[len(ADMIN_PREFIX) :]
        try:
            answer: Any = {"result": admin(self.sim, method, _parsed(body))}
            status = 200
        except (ApiError, ValueError, TypeError, KeyError) as error:
            answer, status = {"error": type(error).__name__, "message": str(error)}, 400
        self._send(status, {"Content-Type": "application/json"}, json.dumps(answer).encode())

    def _defect(self, error: Exception) -> None:
        self.sim.defects.append(error)
        traceback.print_exception(error)

    def _send(
        self,
        status: int,
        headers: dict[str, str],
        body: bytes,
        disturbed: Disturbance | None = None,
    ) -> None:
        self.send_response_only(status)
        self.send_header("Server", "Server")
        self.send_header("Date", self.date_time_string(self._now))
        self.send_header("x-amzn-RequestId", uuid.uuid4().hex.upper())
        for name, value in headers.items():
            if name.lower() not in _OURS:
                self.send_header(name, value)
        bodiless = self.command == "HEAD" or status in (204, 304)
        length = headers.get("Content-Length", headers.get("content-length"))
        if self.command == "HEAD" and length is not None:
            self.send_header("Content-Length", length)
        elif status != 204:
            self.send_header("Content-Length", str(len(body)))
        head = b"".join(self._headers_buffer) + b"\r\n"
        self._headers_buffer: list[bytes] = []
        message = head if bodiless else head + body
        if disturbed is not None and disturbed.drop == "after":
            self.close_connection = True
            # Never within the headers: clients take a cut there for the end of an empty answer.
            cut = int(len(body) * disturbed.share)
            message = head + body[:cut] if cut and not bodiless else b""
        self.wfile.write(message)


_OURS = {"server", "date", "content-length", "status", "x-amzn-requestid", "connection"}


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(body or b"{}")
    except ValueError as error:
        raise ApiError("SerializationException", "The request is not JSON") from error
    if not isinstance(parsed, dict):
        raise ApiError("SerializationException", "The request is not a JSON object")
    return parsed
