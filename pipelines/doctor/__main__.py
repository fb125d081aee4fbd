# SPDX-License-Identifier: Apache-2.0
"""`dynabeam doctor`: whether a replication will work, one line a check, with how to fix it.

Takes the options of `replicate`. Nothing is changed: no object is written (unless
`--probe_writes`), no sink is made or bound, no export is requested. Exit code 0 if nothing failed,
else 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TextIO

from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystems import FileSystems

from dynabeam.pipelines.doctor.checks.bucket import bucket_findings
from dynabeam.pipelines.doctor.checks.budget import budget_findings
from dynabeam.pipelines.doctor.checks.encryption import bucket_encryption
from dynabeam.pipelines.doctor.checks.examination import Examination
from dynabeam.pipelines.doctor.checks.finding import Finding, failure, of_error
from dynabeam.pipelines.doctor.checks.identity import identity_findings
from dynabeam.pipelines.doctor.checks.keys import bucket_key_findings, table_key_findings
from dynabeam.pipelines.doctor.checks.permissions import permission_findings
from dynabeam.pipelines.doctor.checks.quick import staged_bytes
from dynabeam.pipelines.doctor.checks.runner import facts_of, runner_findings
from dynabeam.pipelines.doctor.checks.sinks import sink_findings
from dynabeam.pipelines.doctor.checks.state import state_findings
from dynabeam.pipelines.doctor.checks.tables import table_findings
from dynabeam.pipelines.options.arguments import parse_known
from dynabeam.pipelines.options.features import features_of
from dynabeam.pipelines.options.replicate import ReplicateOptions, check_located, parse_replicate
from dynabeam.pipelines.preflight import table_names
from dynabeam.pipelines.rounds.run import beam_options
from dynabeam.transforms.aws.permissions import permissions
from dynabeam.transforms.errors import AwsAccessError, DynabeamError
from dynabeam.transforms.printable import one_line, printable_lines
from dynabeam.transforms.state.state_directory import State, StateDirectory

__all__ = ["examine", "main"]

FORMAT = 1
_WIDTH = 100
_MARKS = {"ok": "ok", "warning": "WARNING", "failure": "FAILURE"}


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    parser = _parser()
    given, rest = parse_known(parser, arguments)
    options = parse_replicate(rest, complete=False, command=parser)
    found = []
    examined = examine(options, probe_writes=given.probe_writes)
    for each in itertools.chain(_of_no_sink(options), examined):
        found.append(each)
        if not given.json:
            _write(each, sys.stdout)
    counts = Counter(each.status for each in found)
    if given.json:
        document = {
            "format": FORMAT,
            "ok": not counts["failure"],
            "findings": [each.to_json() for each in found],
        }
        json.dump(document, sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        sys.stdout.write(
            f"\n{counts['ok']} ok, {counts['warning']} warnings, {counts['failure']} failures\n"
        )
    return 1 if counts["failure"] else 0


def examine(options: ReplicateOptions, *, probe_writes: bool = False) -> Iterator[Finding]:
    """Checks everything that the options name.

    Args:
        options: What is to be replicated.
        probe_writes: Whether small objects may be written to S3.

    Yields:
        Findings as they are made, which takes some seconds.
    """
    FileSystems.set_options(beam_options(options))
    yield from _of_options(options)
    if options.access is not None:
        examination = Examination(options, options.access, probe_writes=probe_writes)
        known = True
        for each in identity_findings(examination):
            known = known and each.status != "failure"
            yield each
        if known:
            yield from _of_aws(examination)
    yield from state_findings(options.state_dir, needed=staged_bytes(options))
    state = _readable_state(options.state_dir)
    yield from sink_findings(options.sinks, facts_of(options), state, options.drop_sinks)
    yield from runner_findings(options)


def _of_options(options: ReplicateOptions) -> Iterator[Finding]:
    try:
        check_located(options)
    except DynabeamError as error:
        yield of_error("options", "--s3_export_bucket", error, why="a snapshot is wanted")


def _of_no_sink(options: ReplicateOptions) -> Iterator[Finding]:
    if not options.sinks:
        yield failure(
            "sink",
            "--sink",
            "no sink is named",
            why="rows have nowhere to go",
            hint="Give e.g. --sink=duckdb:///mirror.duckdb",
        )


def _readable_state(path: str) -> State | None:
    """The state; None if it cannot be read, which is a finding of its own."""
    try:
        return StateDirectory(path).load()
    except (DynabeamError, BeamIOError):
        return None


def _of_aws(examination: Examination) -> Iterator[Finding]:
    options, names = examination.options, []
    try:
        names = table_names(options)
    except AwsAccessError:
        # The missing permission is found below, by its name.
        pass
    except DynabeamError as error:
        yield of_error("table", ", ".join(options.tables), error, why="there is nothing to read")
    features = features_of(options, [examination.arn(name) for name in names])
    yield from table_findings(
        examination,
        names,
        streams=features.streams,
        exports=features.request_exports,
        recovery=features.see_recovery,
    )
    described = [examination.described(name).value for name in names]
    keys = sorted({each.key_arn for each in described if each is not None and each.key_arn})
    yield from table_key_findings(examination.access, keys)
    bucket_key = ""
    if features.request_exports:
        yield from bucket_findings(examination)
        seen = bucket_encryption(examination)
        bucket_key = seen.key_arn
        if seen.finding is not None:
            yield seen.finding
        if bucket_key:
            yield from bucket_key_findings(examination.access, bucket_key)
    features = dataclasses.replace(features, table_keys=tuple(keys), bucket_key=bucket_key)
    yield from permission_findings(examination, permissions(features))
    if features.streams:
        yield from budget_findings(examination, names)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dynabeam doctor",
        description="Check whether a replication will work; change nothing.",
        epilog="Every other option is one of 'dynabeam replicate'.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--json", action="store_true", help="for machines")
    add(
        "--probe_writes",
        action="store_true",
        help="write a small object to each S3 folder that is written to, and delete it",
    )
    return parser


def _write(finding: Finding, stream: TextIO) -> None:
    mark = _MARKS[finding.status]
    lines = [one_line(f"{mark:<8} {finding.check:<9} {finding.subject}: {finding.text}")]
    if finding.status != "ok":
        lines += [
            textwrap.fill(
                f"{name}: {text}",
                _WIDTH,
                initial_indent=" " * 19,
                subsequent_indent=" " * 24,
                break_long_words=False,
                break_on_hyphens=False,
            )
            for name, text in (("why", finding.why), ("hint", finding.hint))
            if text
        ]
    stream.write(printable_lines("\n".join(lines)) + "\n")
    stream.flush()


if __name__ == "__main__":
    from dynabeam.pipelines.command_line import main as command_line

    sys.exit(command_line(["doctor", *sys.argv[1:]]))
