# SPDX-License-Identifier: Apache-2.0
"""The options of `dynabeam audit`: those of `replicate`, and its own."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence

from dynabeam.pipelines.options.arguments import is_given, parse_known
from dynabeam.pipelines.options.replicate import ReplicateOptions, parse_replicate
from dynabeam.transforms.errors import ConfigurationError

__all__ = ["AuditOptions", "parse_audit"]

DEFAULT_BUCKETS = 256
_MOST_BUCKETS = 4096
_MOST_EXAMPLES = 10_000


@dataclasses.dataclass(frozen=True)
class AuditOptions:
    """The options of `dynabeam audit`.

    Attributes:
        source: The tables, the export and the sink, as for `replicate`.
        report: Path of the HTML report; empty for none.
        json: Path of the result as JSON; empty for none.
        examples: Differences of each kind to show per table, at most.
        buckets: Buckets per table.
        hide_values: Show digests of values instead of values.
        work_dir: Folder for the results that passes leave for their driver; empty for a temporary
            one.
    """

    source: ReplicateOptions
    report: str
    json: str
    examples: int
    buckets: int
    hide_values: bool
    work_dir: str


def parse_audit(arguments: Sequence[str]) -> AuditOptions:
    """Parses and checks the command line of `audit`.

    Raises:
        ConfigurationError: An option has a value that cannot work, or options contradict.
    """
    parser = _parser()
    given, rest = parse_known(parser, arguments)
    for each in ("--mode", "--every", "--until", "--take_over", "--detach"):
        if is_given(rest, each):
            raise ConfigurationError(
                "an audit is one bounded run that writes nothing to the mirror",
                where=each,
                hint="Leave it out",
            )
    # Blocks need not be cut: their rows are put into the audit's own buckets.
    source = parse_replicate([*rest, "--buckets=1"], command=parser)
    if len(source.sinks) != 1:
        raise ConfigurationError(
            "an audit compares one mirror",
            where="--sink",
            found=list(source.sinks),
            hint="Audit them one after the other",
        )
    if source.snapshot == "never":
        raise ConfigurationError(
            "an audit compares with an export",
            where="--snapshot=never",
            hint="Leave it out, or give --snapshot=only for an audit without the stream",
        )
    return AuditOptions(
        source=source,
        report=given.report,
        json=given.json,
        examples=_whole("--examples", given.examples, 0, _MOST_EXAMPLES),
        buckets=_whole("--buckets", given.buckets, 1, _MOST_BUCKETS),
        hide_values=given.hide_values,
        work_dir=given.work_dir,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dynabeam audit",
        description="Prove that a mirror equals its tables. Exit code: 0 equal, 1 differences, "
        "2 could not be done.",
        epilog="Takes the options of 'dynabeam replicate' too: --tables, --region, --export, "
        "--s3_export_bucket, --keys, --sink (the mirror to audit), --state_dir, --snapshot=only "
        "(without the stream), and every option of Beam.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--report", default="", help="HTML page to write, e.g. audit.html")
    add("--json", default="", help="file for the result as JSON")
    add("--examples", default="20", help="differences of each kind to show per table")
    add("--buckets", default=str(DEFAULT_BUCKETS), help="buckets per table")
    add("--hide_values", action="store_true", help="show digests of values, not values")
    add("--work_dir", default="", help="folder that all workers see, for another runner")
    return parser


def _whole(option: str, text: str, lowest: int, highest: int) -> int:
    if not text.isascii() or not text.isdigit() or not lowest <= int(text) <= highest:
        raise ConfigurationError(
            "not a number in its range", where=option, expected=f"{lowest} … {highest}", found=text
        )
    return int(text)
