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
import uuid
import zlib
from pathlib import Path

from apache_beam.portability.api import beam_runner_api_pb2

ROOT = Path(__file__).resolve().parents[2]
MAIN = ROOT / "pipelines" / "templates" / "main.py"
_LONGEST = 300.0
_BASE64 = re.compile(rb"[A-Za-z0-9+/]{16,}={0,2}")
IMAGE = "europe-docker.pkg.dev/p/r/dynabeam:1"
_NOBODY = ("--dataflow_endpoint=http://localhost",)
"""With this name Beam asks the service nothing before it writes the job file."""
_STAGING = "staging/template_launches"
_JOB = f"{_STAGING}/1/job_object"


@dataclasses.dataclass
class Launch:
    """A launch that has ended.

    Attributes:
        code: The exit code.
        out: What was written to the console.
        err: The same, of errors and the log.
        after: Seconds between the job file and the end; None without one.
        left: Name of each object that was staged → its content.
    """

    code: int
    out: str
    err: str
    after: float | None
    left: dict

    @property
    def job(self):
        """The request that the launcher would send; None if there is none."""
        return json.loads(self.left[_JOB]) if _JOB in self.left else None

    @property
    def pipeline(self):
        """The graph beside it."""
        (content,) = [each for name, each in self.left.items() if name.endswith("/pipeline.pb")]
        return beam_runner_api_pb2.Pipeline.FromString(content)

    @property
    def errors(self):
        """Lines that tell of an error."""
        return [each for each in self.err.splitlines() if each.startswith("dynabeam: ")]


def start(folder, google, parameters, environment=None):
    """Runs `main.py` with the launcher's flags: sorted, each with a value.

    Args:
        folder: For what is this launch's alone.
        google: Google's side of it.
        parameters: Parameters of the template, and flags besides those that are always there.
        environment: Variables besides those of this process.
    """
    place = Path(folder) / "template"
    place.mkdir()
    shutil.copyfile(MAIN, place / "main.py")
    bucket = f"bucket-{uuid.uuid4().hex}"
    flags = {
        "job_name": "orders",
        "project": "project",
        "region": "europe-west1",
        "runner": "DataflowRunner",
        "sdk_container_image": IMAGE,
        "service_account_email": "dynabeam@project.iam.gserviceaccount.com",
        "staging_location": f"gs://{bucket}/staging",
        "temp_location": f"gs://{bucket}/tmp",
        "template_location": f"gs://{bucket}/{_JOB}",
        **parameters,
    }
    words = sorted(f"--{name}={value}" for name, value in flags.items())
    written = None
    with (
        (place / "out").open("w+b") as out,
        (place / "err").open("w+b") as err,
        subprocess.Popen(
            [sys.executable, "main.py", *words, *_NOBODY],
            cwd=place,
            env={
                **os.environ,
                **google.variables,
                **(environment or {}),
                "PYTHONPATH": str(ROOT),
            },
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        ) as process,
    ):
        until = time.monotonic() + _LONGEST
        while process.poll() is None:
            if time.monotonic() > until:
                process.kill()
            if written is None and f"{bucket}/{_JOB}" in google.storage.objects:
                written = time.monotonic()
            time.sleep(0.02)
        ended = time.monotonic()
    left = {
        key.removeprefix(f"{bucket}/"): bytes(content)
        for key, (content, _) in list(google.storage.objects.items())
        if key.startswith(f"{bucket}/")
    }
    return Launch(
        process.returncode,
        (place / "out").read_text("utf-8"),
        (place / "err").read_text("utf-8"),
        None if written is None else ended - written,
        left,
    )


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
