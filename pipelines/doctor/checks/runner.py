# SPDX-License-Identifier: Apache-2.0
"""The runner: that it is one that can do this, and that it is there."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

from dynabeam.pipelines.doctor.checks.finding import Finding, failure, of_error, ok, warning
from dynabeam.pipelines.options.replicate import ReplicateOptions
from dynabeam.pipelines.options.runners import (
    ContinuousRunner,
    check_rounds,
    continuous_runner,
    option,
    round_runner,
)
from dynabeam.transforms.errors import DynabeamError
from dynabeam.transforms.sinks.registry import RunnerFacts

__all__ = ["facts_of", "runner_findings"]

_WHY = "without it nothing runs the job"
_IN_PROCESS = round_runner([])
_CONNECT_SECONDS = 3.0
_EMBEDDED = ("", "embed", "[local]", "[auto]", "[collection]")
_PRISM_CACHE = "~/.apache_beam/cache/prism/bin"


def facts_of(options: ReplicateOptions) -> RunnerFacts:
    """What sinks have to know of the run; of the in-process one if its runner is no good."""
    if options.mode != "continuous":
        return round_runner(options.beam_arguments)
    try:
        return continuous_runner(options.beam_arguments).facts
    except DynabeamError:
        return _IN_PROCESS


def runner_findings(options: ReplicateOptions) -> Iterator[Finding]:
    """Findings of the runner that the options name."""
    if options.mode != "continuous":
        yield _of_rounds(options)
        return
    try:
        runner = continuous_runner(options.beam_arguments)
    except DynabeamError as error:
        yield of_error("runner", "--runner", error, why=_WHY)
        return
    name, arguments = runner.facts.runner, options.beam_arguments
    if name == "PortableRunner":
        yield _endpoint(name, "--job_endpoint", option(arguments, "job_endpoint"))
    elif name == "FlinkRunner":
        yield _java(name)
        yield _endpoint(name, "--flink_master", option(arguments, "flink_master"))
    elif name == "PrismRunner":
        yield _prism(option(arguments, "prism_location"))
    else:
        yield _dataflow(runner)


def _of_rounds(options: ReplicateOptions) -> Finding:
    facts = round_runner(options.beam_arguments)
    if facts == _IN_PROCESS:
        return ok("runner", facts.runner, "rounds run in this process")
    if facts.shares_disk:
        return ok("runner", facts.runner, "each round is a job on this machine")
    local = [each for each in (options.state_dir, *options.sinks) if _is_here(each)]
    if not local:
        try:
            check_rounds(facts)
        except DynabeamError as error:
            return of_error("runner", "--runner", error, why="a round ends where it began")
    return failure(
        "runner",
        facts.runner,
        f"its workers do not see this machine's disk, where {', '.join(local)} is",
        why="what they write there would be lost",
        hint="Name an object store (s3:// or gs://), or leave --runner out",
    )


def _is_here(place: str) -> bool:
    """Whether a state directory or a sink is on this machine's disk."""
    scheme = place.partition(":")[0] if "://" in place or place.startswith("file:") else ""
    return scheme in ("", "file", "duckdb")


def _endpoint(runner: str, name: str, place: str) -> Finding:
    if place in _EMBEDDED:
        return ok("runner", runner, f"{name}: started by the command itself")
    found = urlsplit(place if "://" in place else f"//{place}")
    try:
        # Without a port of its own the place is no place: 0 is refused.
        with socket.create_connection((found.hostname or "", found.port or 0), _CONNECT_SECONDS):
            return ok("runner", runner, f"{name}={place} answers")
    except (OSError, ValueError) as error:
        return failure(
            "runner",
            runner,
            f"{name}={place} cannot be reached: {error}",
            why=_WHY,
            hint=f"Start it, or correct {name}; from here it has to be reachable by TCP",
        )


def _java(runner: str) -> Finding:
    home = os.environ.get("JAVA_HOME", "")
    java = shutil.which("java") or (shutil.which("java", path=f"{home}/bin") if home else None)
    if java:
        return ok("runner", runner, f"Java at {java}")
    return failure(
        "runner",
        runner,
        "there is no Java on this machine",
        why="FlinkRunner starts Flink's job server here, which is a Java program",
        hint="Install Java 11 or 17, or name a running job server: --runner=PortableRunner "
        "--job_endpoint=HOST:8099",
    )


def _prism(location: str) -> Finding:
    if location and "://" not in location:
        if os.path.exists(location):
            return ok("runner", "PrismRunner", f"Prism at {location}")
        return failure(
            "runner",
            "PrismRunner",
            f"--prism_location={location}: there is no such file",
            why=_WHY,
            hint="Correct the path, or leave the option out: Beam then downloads Prism",
        )
    cache = os.path.expanduser(_PRISM_CACHE)
    if os.path.isdir(cache) and os.listdir(cache):
        return ok("runner", "PrismRunner", f"Prism in {cache}")
    return warning(
        "runner",
        "PrismRunner",
        "Prism is not on this machine yet",
        why="Beam downloads it at the start, from GitHub",
        hint="Without access to GitHub give --prism_location=PATH",
    )


def _dataflow(runner: ContinuousRunner) -> Finding:
    missing = [
        f"--{name}" for name in ("project", "temp_location") if not option(runner.arguments, name)
    ]
    if missing:
        return failure(
            "runner",
            runner.facts.runner,
            f"{' and '.join(missing)} not given",
            why="Dataflow starts no job without them",
            hint="Give --project=PROJECT --temp_location=gs://BUCKET/tmp",
        )
    return ok("runner", runner.facts.runner, "options are complete; the service is not contacted")
