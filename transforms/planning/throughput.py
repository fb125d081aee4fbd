# SPDX-License-Identifier: Apache-2.0
"""How fast this machine works, as far as a plan has to guess.

Measured on two slow cores, the lower end of what the benchmarks in the README show; a real machine
is rather faster. What is only assumed says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

__all__ = ["Speeds", "speeds_for"]

_READ_EXPORT = 404_000
_PARSE_STREAM = 86_000
_SINKS = {"duckdb": 116_000, "postgresql": 45_000, "postgres": 45_000}


@dataclasses.dataclass(frozen=True)
class Speeds:
    """Rows and pages.

    Attributes:
        snapshot_rows: Rows of an export that reach every sink in a second.
        stream_rows: Changes that reach every sink in a second.
        limit: What sets the pace of both.
        page_seconds: From asking for a page of a shard to having it; assumed.
        round_seconds: What a round costs besides the work; assumed.
    """

    snapshot_rows: float
    stream_rows: float
    limit: str
    page_seconds: float = 0.05
    round_seconds: float = 1.0


def speeds_for(schemes: Iterable[str], given: float = 0.0) -> Speeds:
    """The speeds with these sinks; the slowest sink sets the pace.

    Args:
        schemes: Schemes of the sinks' URIs.
        given: Rows a second that the user measured; 0 for none.
    """
    if given:
        return Speeds(given, given, "--rows_per_second")
    slowest = min(
        ((_SINKS[each], each) for each in schemes if each in _SINKS), default=(_READ_EXPORT, "")
    )
    rows, sink = slowest
    return Speeds(
        snapshot_rows=min(rows, _READ_EXPORT),
        stream_rows=min(rows, _PARSE_STREAM),
        limit=f"merging into {sink}" if sink else "reading",
    )
