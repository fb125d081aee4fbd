# SPDX-License-Identifier: Apache-2.0
"""A small part of Google Cloud Storage's JSON API, for Google's own client.

Knows buckets, lists, metadata, media, multipart and resumable uploads and deletion, with
`ifGenerationMatch` on each as the service judges it: 412 `conditionNotMet`, 404 where nothing is, 0
for "nothing may be".
"""

import base64
import email.parser
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from awscrt.checksums import crc32c


class FakeGCS:
    """Listens on loopback while it is entered.

    Attributes:
        objects: `bucket/name` → content and generation.
        faults: What is answered instead, once each: a status, or `cut` to carry it out and hang up.
    """

    def __init__(self):
        self.objects = {}
        self.faults = []
        self.uploads = {}
        self._generation = 1000
        self._lock = threading.Lock()

    def __enter__(self):
        handler = type("Handler", (_Handler,), {"fake": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def write(self, key, content, match):
        """Writes an object; its generation, or None if the condition does not hold."""
        with self._lock:
            if match is not None and match != self.objects.get(key, (b"", 0))[1]:
                return None
            self._generation += 1
            self.objects[key] = content, self._generation
            return self._generation


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request, client_address):
        # A process that ends resets its connections.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        """A bucket, its objects, metadata of one, or the content with `alt=media`."""
        bucket, rest = urlsplit(self.path).path.split("/b/", 1)[1].partition("/")[::2]
        if not rest:
            self._json(200, {"kind": "storage#bucket", "name": bucket, "location": "EU"})
            return
        key, query = self._asked()
        if rest == "o":
            self._list(bucket, query.get("prefix", ""))
            return
        found = self.fake.objects.get(key)
        if found is None:
            self._error(404, "notFound", f"No such object: {key}")
        elif int(query.get("ifGenerationMatch", found[1])) != found[1]:
            self._error(412, "conditionNotMet", "At least one of the pre-conditions did not hold")
        elif query.get("alt") == "media":
            self._answer(200, found[0], "application/octet-stream", found[1])
        else:
            self._json(200, _resource(key, *found))

    def do_POST(self):
        """A multipart upload, or the begin of a resumable one."""
        parts = urlsplit(self.path)
        query = {name: each[0] for name, each in parse_qs(parts.query).items()}
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if query["uploadType"] == "resumable":
            self._begin(parts, query, json.loads(body))
            return
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        described, media = email.parser.BytesParser().parsebytes(head + body).get_payload()
        bucket = parts.path.split("/b/", 1)[1].split("/", 1)[0]
        key = f"{bucket}/{json.loads(described.get_payload())['name']}"
        fault = self.fake.faults.pop(0) if self.fake.faults else None
        if isinstance(fault, int):
            self._error(fault, "rateLimitExceeded" if fault == 429 else "backendError", "Again")
            return
        match = query.get("ifGenerationMatch")
        content = media.get_payload(decode=True)
        generation = self.fake.write(key, content, None if match is None else int(match))
        if fault == "cut":
            self.close_connection = True
        elif generation is None:
            self._error(412, "conditionNotMet", "At least one of the pre-conditions did not hold")
        else:
            self._json(200, _resource(key, content, generation))

    def do_PUT(self):
        """A part of a resumable upload; the one that tells the whole size ends it."""
        upload = urlsplit(self.path).query.partition("upload_id=")[2]
        key, match, content = self.fake.uploads[upload]
        content += self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Content-Range"].endswith("/*"):
            self.send_response(308)
            self.send_header("Range", f"bytes=0-{len(content) - 1}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        generation = self.fake.write(key, bytes(content), match)
        if generation is None:
            self._error(412, "conditionNotMet", "At least one of the pre-conditions did not hold")
        else:
            self._json(200, _resource(key, content, generation))

    def _begin(self, parts, query, described):
        bucket = parts.path.split("/b/", 1)[1].split("/", 1)[0]
        name = query.get("name") or described["name"]
        match = query.get("ifGenerationMatch")
        upload = str(len(self.fake.uploads))
        self.fake.uploads[upload] = (
            f"{bucket}/{name}",
            None if match is None else int(match),
            bytearray(),
        )
        self.send_response(200)
        self.send_header("Location", f"{self.fake.url}{parts.path}?upload_id={upload}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _list(self, bucket, prefix):
        found = [
            _resource(key, *self.fake.objects[key])
            for key in sorted(self.fake.objects)
            if key.startswith(f"{bucket}/{prefix}")
        ]
        self._json(200, {"kind": "storage#objects", "items": found})

    def _asked(self):
        parts = urlsplit(self.path)
        bucket, _, name = parts.path.split("/b/", 1)[1].partition("/o/")
        query = {name: each[0] for name, each in parse_qs(parts.query).items()}
        return f"{bucket}/{unquote(name)}", query

    def _error(self, status, reason, message):
        self._json(
            status,
            {"error": {"code": status, "message": message, "errors": [{"reason": reason}]}},
        )

    def _json(self, status, document):
        self._answer(status, json.dumps(document).encode(), "application/json")

    def _answer(self, status, body, kind, generation=None):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if generation is not None:
            self.send_header("X-Goog-Generation", str(generation))
        self.end_headers()
        self.wfile.write(body)


def _resource(key, content, generation):
    bucket, _, name = key.partition("/")
    return {
        "kind": "storage#object",
        "bucket": bucket,
        "name": name,
        "generation": str(generation),
        "metageneration": "1",
        "size": str(len(content)),
        # Without it Google's client sends an upload again.
        "crc32c": base64.b64encode(crc32c(bytes(content)).to_bytes(4, "big")).decode(),
        "updated": "2026-01-01T00:00:00Z",
        "timeCreated": "2026-01-01T00:00:00Z",
    }
