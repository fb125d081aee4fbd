# SPDX-License-Identifier: Apache-2.0
"""Submits a pipeline and goes: `python -m tests.runners.submit MODULE:FUNCTION ARGUMENTS OPTIONS`.

`FUNCTION(pipeline, **ARGUMENTS)` builds the pipeline; `ARGUMENTS` is a JSON object; the rest are
Beam options. It ends when the job runs: before that, a job server may still lose it. With `--stay`
as the first word it ends with the job, as LOOPBACK workers need, which live in this process.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
import traceback
from typing import Any, NoReturn

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineState

from tests.runners.processes import wait_until

__all__ = ["build", "main"]

_START = 120


def build(function: str, arguments: dict[str, Any], options: list[str]) -> beam.Pipeline:
    """The pipeline that `MODULE:FUNCTION` builds."""
    module, _, name = function.partition(":")
    pipeline = beam.Pipeline(options=PipelineOptions(options))
    getattr(importlib.import_module(module), name)(pipeline, **arguments)
    return pipeline


def main(words: list[str]) -> int:
    """Submits; returns the exit status."""
    stay = words[0] == "--stay"
    function, arguments, *options = words[1:] if stay else words
    result = build(function, json.loads(arguments), options).run()
    if stay:
        result.wait_until_finish()
        return 0
    state = wait_until(lambda: _begun(result), "running job", _START)
    if state == PipelineState.FAILED:
        result.wait_until_finish()  # raises what the runner says
    return 0


def _begun(result: Any) -> str | None:
    state = result.state
    begun = state == PipelineState.RUNNING or PipelineState.is_terminal(state)
    return str(state) if begun else None


def _leave(words: list[str]) -> NoReturn:
    """Runs `main` and ends this process at once.

    A `PipelineResult` holds open answers of the job server. When the interpreter takes them down at
    its end, gRPC waits now and then for a lock that a dead thread holds, for ever.
    """
    status = 1
    try:
        status = main(words)
    except Exception:  # noqa: BLE001 - reported, and the status tells
        traceback.print_exc()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    _leave(sys.argv[1:])
