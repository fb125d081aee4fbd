# SPDX-License-Identifier: Apache-2.0
"""Google's metadata server on loopback: ID tokens of a service account, as Google makes them.

Tokens are JWTs whose signature nobody can check; everything else is as on a machine of Google's.
"""

import base64
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

SUBJECT = "112233445566778899001"
EMAIL = "worker@project.iam.gserviceaccount.com"
_ACCOUNT = "/computeMetadata/v1/instance/service-accounts/default"


class FakeMetadata:
    """Listens while it is entered.

    Attributes:
        seconds: How long tokens last that are given from now on.
        given: The tokens given so far.
        faults: HTTP statuses that are answered instead, once each.
        flavor: The header by which the server is known.
        issuer: Who signs.
    """

    def __init__(self):
        self.seconds = 3600
        self.given = []
        self.faults = []
        self.flavor = "Google"
        self.issuer = "https://accounts.google.com"

    def __enter__(self):
        handler = type("Handler", (_Handler,), {"fake": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def token(self, audience):
        """A token; it is not counted as given."""
        now = int(time.time())
        claims = {
            "aud": audience,
            "azp": SUBJECT,
            "email": EMAIL,
            "email_verified": True,
            "exp": now + self.seconds,
            "iat": now,
            "iss": self.issuer,
            "sub": SUBJECT,
        }
        parts = (json.dumps(each).encode() for each in ({"alg": "RS256", "kid": "k"}, claims))
        signature = b"MARKsignature" + str(len(self.given)).encode()
        return ".".join(
            base64.urlsafe_b64encode(each).decode().rstrip("=") for each in (*parts, signature)
        )


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        status, text = self._answer()
        self.send_response(status)
        if self.fake.flavor:
            self.send_header("Metadata-Flavor", self.fake.flavor)
        kind = "application/json" if text.startswith("{") else "application/text"
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(text.encode())

    def _answer(self):
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if self.headers.get("Metadata-Flavor") != "Google":
            return 403, "Missing required header: Metadata-Flavor"
        if parts.path == "/":
            return 200, "computeMetadata/"
        if self.fake.faults:
            return self.fake.faults.pop(0), "not now"
        if parts.path == f"{_ACCOUNT}/token":
            token = {"access_token": "MARKaccess", "expires_in": 3600, "token_type": "Bearer"}
            return 200, json.dumps(token)
        if parts.path == "/computeMetadata/v1/project/project-id":
            return 200, "project"
        if parts.path == f"{_ACCOUNT}/" and query.get("recursive") == "true":
            return 200, json.dumps({"aliases": ["default"], "email": EMAIL, "scopes": []})
        if parts.path == f"{_ACCOUNT}/identity" and query.get("audience"):
            self.fake.given.append(self.fake.token(query["audience"]))
            return 200, self.fake.given[-1]
        return 404, "not found"
