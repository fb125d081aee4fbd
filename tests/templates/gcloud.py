# SPDX-License-Identifier: Apache-2.0
"""Google's command line, with nothing of Google's behind it."""

import json
import os
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.runners.conftest import or_skip
from tests.runners.parts import require


def gcloud(folder, *words, dataflow="http://127.0.0.1:9/"):
    """Runs `gcloud` with a configuration of its own and no credentials; gives what it prints."""
    program = or_skip(lambda: require("gcloud", "what Google's command line makes of a template"))
    done = subprocess.run(
        [program, *words, "--quiet"],
        env={
            **os.environ,
            "CLOUDSDK_CONFIG": str(folder),
            "CLOUDSDK_AUTH_DISABLE_CREDENTIALS": "true",
            "CLOUDSDK_CORE_DISABLE_PROMPTS": "true",
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_DATAFLOW": dataflow,
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class FakeLaunches:
    """Takes requests to launch a template while it is entered.

    Attributes:
        url: Where it listens.
        taken: Path and body of each request.
    """

    def __enter__(self):
        self.taken = taken = []

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                taken.append((self.path.partition("?")[0], body))
                parameter = body["launchParameter"]
                answer = {"job": {"id": "2026-1", "name": parameter["jobName"]}}
                content = json.dumps(answer).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
