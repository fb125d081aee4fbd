# SPDX-License-Identifier: Apache-2.0
"""The metrics: their names, kinds, units and meanings, in one table.

A metric has one name everywhere. Prometheus sees it as `dynabeam_<name>`, counters with the
suffix `_total`, and the labels that are listed here. Beam knows no labels: in the namespace
`dynabeam` there is `<name>` over all tables and, for the first `BEAM_TABLES` tables that a worker
sees, `<name>.<table>`. Metrics per shard would be names without end, so only Prometheus and the
status have them, for the `SHARDS_PER_TABLE` shards with the highest lag.

All are of one process: Prometheus adds up or takes the worst over all workers.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

__all__ = ["BEAM_TABLES", "METRICS", "NAMESPACE", "SHARDS_PER_TABLE", "Metric", "metric"]

NAMESPACE = "dynabeam"
"""Of Beam's metrics, and the prefix of Prometheus's."""

BEAM_TABLES = 100
"""How many tables have Beam metrics of their own in one worker."""

SHARDS_PER_TABLE = 10
"""How many shards of a table have metrics of their own: those with the highest lag."""

Kind = Literal["counter", "gauge"]


@dataclasses.dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: Its name, without prefix and suffix.
        kind: `counter` (only grows, from 0 with each process) or `gauge`.
        unit: What a 1 of it is.
        meaning: What it says, in words.
        labels: Prometheus's labels.
        beam: How Beam has it: as a `counter`, a `gauge` per table beside a `distribution` over all,
            a `distribution` alone, or not at all.
    """

    name: str
    kind: Kind
    unit: str
    meaning: str
    labels: tuple[str, ...] = ("table",)
    beam: Literal["counter", "gauge", "distribution", ""] = ""

    @property
    def prometheus_name(self) -> str:
        """The name that a query uses."""
        return f"{NAMESPACE}_{self.name}{'_total' if self.kind == 'counter' else ''}"


_SINK = ("table", "sink")


def _counter(name: str, unit: str, meaning: str, labels: tuple[str, ...] = ("table",)) -> Metric:
    return Metric(name, "counter", unit, meaning, labels, beam="counter")


METRICS: tuple[Metric, ...] = (
    # Lag.
    Metric(
        "lag_seconds",
        "gauge",
        "seconds",
        "while changes wait: the age of the newest one read; else the time since the last poll",
        beam="gauge",
    ),
    Metric(
        "unread_age_seconds",
        "gauge",
        "seconds",
        "how old the oldest unread change may be; some 30 on an idle table",
        beam="gauge",
    ),
    Metric(
        "time_to_loss_seconds",
        "gauge",
        "seconds",
        "what is left of the stream's 24 hours before unread changes are gone",
    ),
    Metric(
        "shard_unread_age_seconds",
        "gauge",
        "seconds",
        f"`unread_age_seconds` of a table's {SHARDS_PER_TABLE} shards with the highest",
        ("table", "shard"),
    ),
    Metric("newest_event_seconds", "gauge", "Unix time", "time of the newest change that was read"),
    Metric(
        "caught_up", "gauge", "0 or 1", "whether every reader had reached the tip at its last poll"
    ),
    Metric("shards", "gauge", "shards", "shards that are being read"),
    Metric("shards_behind", "gauge", "shards", "those of them that have changes waiting"),
    Metric("generation", "gauge", "number", "goes up when a table is healed or snapshotted again"),
    Metric(
        "stored_seconds",
        "gauge",
        "Unix time",
        "when positions were last stored in the state directory",
    ),
    # The stream.
    _counter("changes", "records", "stream records that became changes"),
    _counter("stream_bytes", "bytes", "pages of the stream that held records"),
    _counter("stream_pages", "pages", "such pages"),
    _counter("empty_polls", "requests", "polls of a shard that brought nothing"),
    _counter("throttles", "requests", "requests of readers that the service refused as too many"),
    _counter("repeats", "changes", "changes that the stream gave again and that were dropped"),
    _counter("children_found", "shards", "shards that took the place of a parent"),
    _counter(
        "gaps", "gaps", "losses of the stream after which reading continued", ("table", "kind")
    ),
    # The snapshot.
    _counter("snapshot_rows", "rows", "rows loaded from exports"),
    _counter("snapshot_bytes", "bytes", "export data loaded, uncompressed"),
    _counter(
        "snapshot_files",
        "files",
        "files of exports, empty ones left out, that were loaded to their end",
    ),
    Metric("snapshot_expected_rows", "gauge", "rows", "rows of the table's export"),
    Metric(
        "snapshot_expected_files",
        "gauge",
        "files",
        "files of the table's export, empty ones left out",
    ),
    Metric(
        "snapshot_expected_bytes", "gauge", "bytes", "size that AWS bills for it; 0 if not known"
    ),
    _counter("stale_dropped", "rows", "snapshot rows that a change had already superseded"),
    Metric(
        "remembered_keys",
        "gauge",
        "keys",
        "keys that reconciling remembers while a snapshot is pending",
        beam="distribution",
    ),
    Metric("remembered_bytes", "gauge", "bytes", "Beam state that they take, compressed"),
    # Results.
    _counter("dead_letters", "records", "records that could not be handled", ("table", "stage")),
    _counter("sink_rows", "rows", "rows that arrived at a sink", _SINK),
    _counter("sink_written", "rows", "rows that changed it", _SINK),
    _counter("sink_stale", "rows", "rows that lost there against a newer version", _SINK),
    _counter(
        "sink_unfit_numbers",
        "values",
        "numbers in `_other` because their column's decimal type is too narrow",
        _SINK,
    ),
    Metric(
        "write_lag_seconds",
        "gauge",
        "seconds",
        "age of the newest change of the last write, once it was in the sink",
        _SINK,
        beam="gauge",
    ),
    _counter("changelog_files", "files", "files of changes that a continuous run wrote", ()),
    Metric("rounds", "counter", "rounds", "committed rounds", ()),
)
"""Every metric; nothing else is counted anywhere."""

_BY_NAME = {each.name: each for each in METRICS}


def metric(name: str) -> Metric:
    """The metric of a name.

    Raises:
        KeyError: There is none.
    """
    return _BY_NAME[name]
