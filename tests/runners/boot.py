# SPDX-License-Identifier: Apache-2.0
"""One Python worker, started as a container would be: `python -m tests.runners.boot --id=... ...`.

Beam's own worker pool starts its processes without the pipeline's options: they get no state cache
and no file system settings, and log to nobody. This one asks the runner for the options first, as
the entry point of Beam's image does.

The variable `DYNABEAM_TEST_WORKERS` names a folder: each worker logs there to `<pid>.log`, and a
file `<pid>` tells that it runs. The file outlives a worker that was killed.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys

import grpc
from apache_beam.portability.api import (
    beam_provision_api_pb2,
    beam_provision_api_pb2_grpc,
    endpoints_pb2,
)
from apache_beam.runners.worker import sdk_worker_main
from apache_beam.runners.worker.worker_id_interceptor import WorkerIdInterceptor
from google.protobuf import json_format, text_format

from tests.runners.ahead import go_ahead

FOLDER = "DYNABEAM_TEST_WORKERS"
_TIMEOUT = 60


def main(arguments: list[str] | None = None) -> int:
    """Runs a worker until its runner is gone; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.runners.boot", description=__doc__)
    parser.add_argument("--id", required=True)
    for service in ("logging", "artifact", "provision", "control"):
        parser.add_argument(f"--{service}_endpoint", default="")
    given = parser.parse_args(arguments)
    folder = pathlib.Path(os.environ[FOLDER])
    folder.mkdir(parents=True, exist_ok=True)
    # The pool gives its workers a pipe that it never reads.
    log = os.open(folder / f"{os.getpid()}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, sys.stdout.fileno())
    os.dup2(log, sys.stderr.fileno())
    mark = folder / str(os.getpid())
    mark.write_text(given.id)
    go_ahead()
    try:
        os.environ.update(_variables(given))
        sdk_worker_main.main([])
    finally:
        mark.unlink(missing_ok=True)
    return 0


def _variables(given: argparse.Namespace) -> dict[str, str]:
    """What `sdk_worker_main` reads from its environment."""
    told = _provision(given)
    variables = {
        "WORKER_ID": given.id,
        "PIPELINE_OPTIONS": json_format.MessageToJson(told.pipeline_options),
        "RUNNER_CAPABILITIES": " ".join(told.runner_capabilities),
    }
    endpoints = {
        "CONTROL": given.control_endpoint or told.control_endpoint.url,
        "LOGGING": given.logging_endpoint or told.logging_endpoint.url,
        "STATUS": told.status_endpoint.url,
    }
    for service, url in endpoints.items():
        if url:
            descriptor = endpoints_pb2.ApiServiceDescriptor(url=url)
            variables[f"{service}_API_SERVICE_DESCRIPTOR"] = text_format.MessageToString(descriptor)
    return variables


def _provision(given: argparse.Namespace) -> beam_provision_api_pb2.ProvisionInfo:
    with grpc.insecure_channel(given.provision_endpoint) as channel:
        service = beam_provision_api_pb2_grpc.ProvisionServiceStub(
            grpc.intercept_channel(channel, WorkerIdInterceptor(given.id))
        )
        asked = beam_provision_api_pb2.GetProvisionInfoRequest()
        return service.GetProvisionInfo(asked, timeout=_TIMEOUT).info


if __name__ == "__main__":
    sys.exit(main())
