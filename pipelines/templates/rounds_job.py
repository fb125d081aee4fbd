# SPDX-License-Identifier: Apache-2.0
"""Catch-up rounds as a batch job: one element, whose worker runs `dynabeam replicate`.

Rounds have a driver: a process that commits the positions of a round before it begins the next. The
launcher cannot be it, since it is there to write a job file and to go away. So the job is one step
with one element, and the worker that gets it runs the command, in a process of its own, as any
scheduler would.

A service that has lost a worker, or a step that has failed, gives the element to a worker again.
That is safe: who comes waits for the lease of the state directory, which a process that died loses
within half a minute (`transforms.storage.lease`), and goes on behind the last committed round.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator, Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from dynabeam.pipelines.doctor.checks.quick import check_quickly
from dynabeam.pipelines.options.arguments import beam_arguments
from dynabeam.pipelines.options.google_cloud import DATAFLOW, check_dataflow
from dynabeam.pipelines.options.replicate import parse_replicate
from dynabeam.pipelines.options.runners import option, runner_name
from dynabeam.pipelines.rounds.progress import say
from dynabeam.transforms.errors import ConfigurationError, DynabeamError
from dynabeam.transforms.sinks.registry import (
    RunnerFacts,
    check_capabilities,
    check_place,
    open_sink,
)

__all__ = ["RunRounds", "submit_rounds"]

_UNTIL = "--until=caught_up"
_COMMAND = (sys.executable, "-m", "dynabeam.pipelines.command_line", "replicate")
_PINNED = {"num_workers": "1", "max_num_workers": "1"}
_LEVELS = {"dynabeam:": logging.ERROR, "warning:": logging.WARNING}
_LOGGER = logging.getLogger("dynabeam.pipelines.replicate")


def submit_rounds(words: Sequence[str], for_beam: Sequence[str]) -> None:
    """Checks what can be checked without running a round, and submits the job.

    Args:
        words: Options of `replicate`.
        for_beam: Options of Beam.

    Raises:
        DynabeamError: The rounds cannot work; nothing is submitted.
    """
    words = [*words, _UNTIL]
    options = parse_replicate(words)
    runner = runner_name(for_beam)
    if not runner:
        raise ConfigurationError(
            "a job needs a runner", where="--runner", hint="Give --runner=DataflowRunner"
        )
    if runner == DATAFLOW:
        check_dataflow(for_beam)
    facts = RunnerFacts(runner, continuous=False, shares_disk=False)
    check_capabilities([open_sink(each) for each in options.sinks], facts)
    check_place(options.state_dir, facts, "--state_dir")
    check_quickly(options, sys.stderr)
    given = {each.partition("=")[0].removeprefix("--") for each in for_beam}
    pinned = [f"--{name}={value}" for name, value in _PINNED.items() if name not in given]
    beam_options = PipelineOptions([*beam_arguments(for_beam), *pinned])
    # Options that Beam does not understand end it here.
    beam_options.get_all_options()
    pipeline = beam.Pipeline(options=beam_options)
    _ = (
        pipeline
        | "Rounds" >> beam.Create([json.dumps(words)])
        | "CatchUp" >> beam.ParDo(RunRounds())
    )
    pipeline.run().wait_until_finish()
    if place := option(for_beam, "template_location"):
        say(f"The job is written down in {place}", sys.stderr)


class RunRounds(beam.DoFn):
    """Runs `dynabeam replicate` with the options of each element, a JSON list of words.

    What the command says goes to the worker's log. Delivery: as often as the runner repeats the
    element; the state directory decides what there is to do.

    Raises:
        DynabeamError: The command failed, or some table is not replicated.
    """

    def process(self, element: str) -> Iterator[str]:
        """Runs the command; emits nothing."""
        words = json.loads(element)
        last = ""
        with subprocess.Popen(  # noqa: S603 - our own command
            [*_COMMAND, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="backslashreplace",
        ) as process:
            assert process.stdout is not None
            for line in map(str.rstrip, process.stdout):
                if line:
                    last = line
                    _LOGGER.log(_LEVELS.get(line.split()[0], logging.INFO), "%s", line)
        if process.returncode:
            raise DynabeamError(
                f"the rounds ended with exit code {process.returncode}: {last}",
                where="dynabeam replicate",
                hint="The worker's log has all that was said",
            )
        # What a DoFn emits; there is nothing to hand on.
        yield from ()
