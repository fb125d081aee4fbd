# SPDX-License-Identifier: Apache-2.0
"""How many shards there are, and whether the readers can poll them often enough."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dynabeam.pipelines.doctor.checks.examination import Examination
from dynabeam.pipelines.doctor.checks.finding import Finding, ok, warning
from dynabeam.transforms.stream.pacing import Pacing

__all__ = ["budget_findings", "budget_of"]

_SLOW_POLL = 2.0
_LISTING_SHARDS = 100
_LISTINGS_A_SECOND = 10
"""DescribeStream calls a second that an account has, all its readers together."""


def budget_findings(examination: Examination, names: Sequence[str]) -> Iterator[Finding]:
    """One finding for the shards of all tables together, as far as they may be listed."""
    counts = {}
    for name in names:
        arn = examination.stream_arn(name)
        shards = examination.open_shards(arn).value if arn else None
        if shards is not None:
            counts[name] = len(shards)
    if counts:
        yield budget_of(counts, continuous=examination.options.mode == "continuous")


def budget_of(counts: dict[str, int], *, continuous: bool, pacing: Pacing | None = None) -> Finding:
    """Whether so many open shards per table can be read in time.

    Args:
        counts: Open shards by table.
        continuous: One job that never ends; else rounds, which take as long as they take.
        pacing: How often streams are polled.
    """
    paced = pacing or Pacing()
    total = sum(counts.values())
    subject = f"{len(counts)} streams"
    poll = max(paced.poll, total / paced.requests)
    text = f"{total:,} open shards"
    if continuous:
        text += f", each polled every {poll:.2g} s by one worker process"
    listings = sum(-(-each // _LISTING_SHARDS) for each in counts.values()) / paced.sweep
    if listings > _LISTINGS_A_SECOND / 2:
        return warning(
            "budget",
            subject,
            f"{text}, {listings:.1f} listings a second",
            why=f"the account has {_LISTINGS_A_SECOND} DescribeStream calls a second, for all "
            "that read its streams",
            hint="Spread the tables over several accounts, or start them one after the other",
        )
    if continuous and poll > _SLOW_POLL:
        return warning(
            "budget",
            subject,
            text,
            why="a change waits so long before it is read",
            hint="Give more workers (--parallelism) and more --readers",
        )
    return ok("budget", subject, text)
