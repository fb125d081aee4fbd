# SPDX-License-Identifier: Apache-2.0
"""Google's side of a launch: the metadata server of its machines, and Cloud Storage."""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.fake_gcs import FakeGCS

_ACCOUNT = "/computeMetadata/v1/instance/service-accounts/default"
_EMAIL = "dynabeam@project.iam.gserviceaccount.com"


class MetadataServer:
    """Says, while it is entered, that this is a machine of the project `project`.

    Attributes:
        host: What `GCE_METADATA_HOST` and `GCE_METADATA_IP` are to be.
        asked: The paths that were asked for.
    """

    def __enter__(self):
        self.asked = asked = []
        answers = {
            "/": "",
            "/computeMetadata/v1/project/project-id": "project",
            **dict.fromkeys(
                # By its address too: so a credential asks that is refreshed once more.
                (f"{_ACCOUNT}/", f"{_ACCOUNT.removesuffix('default')}{_EMAIL}/"),
                json.dumps({"email": _EMAIL, "scopes": ["all"]}),
            ),
            f"{_ACCOUNT}/token": json.dumps(
                {"access_token": "token", "expires_in": 3600, "token_type": "Bearer"}
            ),
        }

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                path = self.path.partition("?")[0]
                asked.append(path)
                found = answers.get(path)
                content = (found or "").encode()
                self.send_response(404 if found is None else 200)
                self.send_header("Metadata-Flavor", "Google")
                kind = "application/json" if content.startswith(b"{") else "text/plain"
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()


class Google:
    """Both, while it is entered.

    Attributes:
        storage: Cloud Storage.
        machine: The metadata server.
        variables: What makes Google's libraries find them.
    """

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            self.storage = stack.enter_context(FakeGCS())
            self.machine = stack.enter_context(MetadataServer())
            self._stack = stack.pop_all()
        self.variables = {
            "STORAGE_EMULATOR_HOST": self.storage.url,
            "GCE_METADATA_HOST": self.machine.host,
            "GCE_METADATA_IP": self.machine.host,
            # Google's library looks up the regions of a machine's account, which here has none.
            "HTTPS_PROXY": "http://127.0.0.1:9",
        }
        return self

    def __exit__(self, *_):
        self._stack.close()
