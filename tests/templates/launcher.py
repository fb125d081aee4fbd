# SPDX-License-Identifier: Apache-2.0
"""Starts `main.py` as Dataflow's launcher does, and opens the job file that it leaves."""

import base64
import bz2
import contextlib
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import time
import zlib
from pathlib import Path

from apache_beam.portability.api import beam_runner_api_pb2

ROOT = Path(__file__).resolve().parents[2]
MAIN = ROOT / "pipelines" / "templates" / "main.py"
_BASE64 = re.compile(rb"[A-Za-z0-9+/]{16,}={0,2}")
IMAGE = "europe-docker.pkg.dev/p/r/dynabeam:1"
_NOBODY = ("--no_auth=true", "--dataflow_endpoint=http://localhost")
"""They keep Beam from asking Google anything."""
_REGION = {"CLOUDSDK_COMPUTE_REGION": "europe-west1"}


@dataclasses.dataclass
class Launch:
    """A launch that has ended.

    Attributes:
        code: The exit code.
        out: What was written to the console.
        err: The same, of errors and the log.
        seconds: How long it took.
        left: The folder that the launcher named for the job file.
        after: Seconds between the job file and the end; None without one.
    """

    code: int
    out: str
    err: str
    seconds: float
    left: Path
    after: float | None

    @property
    def job(self):
        """The request that the launcher would send."""
        return json.loads((self.left / "job_object").read_text())

    @property
    def pipeline(self):
        """The graph beside it."""
        (path,) = self.left.rglob("pipeline.pb")
        return beam_runner_api_pb2.Pipeline.FromString(path.read_bytes())

    @property
    def errors(self):
        """Lines that tell of an error."""
        return [each for each in self.err.splitlines() if each.startswith("dynabeam: ")]


def start(folder, parameters, *more, environment=None):
    """Runs `main.py` with the launcher's flags: sorted, each with a value.

    Google's side is left out: nobody is asked, and what would go to its storage goes to a folder.
    """
    place = Path(folder) / "template"
    place.mkdir(exist_ok=True)
    shutil.copyfile(MAIN, place / "main.py")
    left = Path(folder) / "template_launches"
    left.mkdir(exist_ok=True)
    flags = {
        "job_name": "orders",
        "project": "project",
        "region": "europe-west1",
        "runner": "DataflowRunner",
        "sdk_container_image": IMAGE,
        "service_account_email": "dynabeam@project.iam.gserviceaccount.com",
        "staging_location": str(left),
        "temp_location": str(left),
        "template_location": str(left / "job_object"),
        **parameters,
    }
    words = sorted(f"--{name}={value}" for name, value in flags.items())
    begun = time.time()
    done = subprocess.run(
        [sys.executable, "main.py", *words, *more, *_NOBODY],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(ROOT), **_REGION, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    ended = time.time()
    path = left / "job_object"
    after = ended - path.stat().st_mtime if path.exists() else None
    return Launch(done.returncode, done.stdout, done.stderr, ended - begun, left, after)


def unpacked(content):
    """The content of a file, and all that is compressed inside, as often as it is.

    Beam writes a DoFn or a coder into the proto as base64 of what zlib or bz2 made of its pickle.
    """
    found, todo = [], [content]
    while todo:
        each = todo.pop()
        found.append(each)
        for match in _BASE64.finditer(each):
            # A tag or a length of the proto in front may be a letter too.
            todo += [inner for cut in range(4) if (inner := _inflated(match[0][cut:]))]
    return found


def _inflated(text):
    """What is compressed in base64; None if nothing is."""
    try:
        # Behind the end there may be letters of the next field.
        packed = base64.b64decode(text[: len(text) // 4 * 4])
    except ValueError:
        return None
    for unpack in (zlib.decompressobj, bz2.BZ2Decompressor):
        with contextlib.suppress(zlib.error, OSError):
            return unpack().decompress(packed)
    return None
