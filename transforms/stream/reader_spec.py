# SPDX-License-Identifier: Apache-2.0
"""What one reader of one stream has to know: the element of the stream's splittable DoFn.

The table's generation may go up while a continuous run reads. So its reader asks at the start of
each slice. Its generation never goes back: the highest one that it gave is part of its restriction,
and whenever it may have lost that (a new worker, a restart from a checkpoint) the table's is looked
up and not taken from a cache.
"""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple, Protocol

import apache_beam as beam

from dynabeam.transforms.errors import ConfigurationError
from dynabeam.transforms.model.gap import GapPolicy
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.runtime.json_coder import JsonCoder, element_format
from dynabeam.transforms.runtime.stored_format import Document, typed_fields
from dynabeam.transforms.stream.frontier import Counts, Frontier
from dynabeam.transforms.stream.lineage import Start

__all__ = [
    "LATEST",
    "TRIM_HORIZON",
    "Generations",
    "LatestGeneration",
    "ReaderSpec",
    "ReaderSpecCoder",
    "parse_start",
    "with_latest_generation",
]

_DOCUMENT = element_format("a stream source", "stream source")
TRIM_HORIZON = "trim_horizon"
LATEST = "latest"
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
# A time that the service takes for the future is an error there, and clocks differ a little.
_LATEST_SLACK_US = 2_000_000


@dataclasses.dataclass(frozen=True)
class ReaderSpec:
    """Reader number `reader` of `readers` readers of one table's stream.

    Attributes:
        table: The table with its key schema.
        stream_arn: Its stream.
        reader: Number of this reader, from 0.
        readers: Number of readers; together they read every shard exactly once.
        generation: The generation that the changes get.
        buckets: Hash buckets of the table.
        start: `trim_horizon`, `latest` or an RFC 3339 time; used only without positions.
        frontier: Stored positions of this reader, None to begin at `start`.
        gap_policy: What a gap does.
        snapshot_until_us: For the headers of blocks: see `transforms.model.block.BlockHeader`.
        max_bytes: Bytes of pages after which a catch-up run stops, 0 for no bound.
        started_us: When the run began, microseconds since 1970: a record of this time or later
            proves that a shard is read up to the tip.
    """

    table: Table
    stream_arn: str
    reader: int
    readers: int
    generation: int
    buckets: int
    start: str
    frontier: Frontier | None
    gap_policy: GapPolicy
    snapshot_until_us: int
    max_bytes: int
    started_us: int

    def starting_point(self) -> Start:
        """Where the roots of the first listing are read from.

        Raises:
            ConfigurationError: If `start` is none of the three.
        """
        return parse_start(self.start, self.started_us)

    def first_restriction(self) -> Frontier:
        """Where this run begins: the stored positions, with fresh counts."""
        frontier = self.frontier or Frontier()
        return dataclasses.replace(frontier, closed=False, counts=Counts())

    def to_json(self) -> dict[str, Any]:
        """The spec as a JSON-able dict."""
        return {
            "format": _DOCUMENT.number,
            "table": self.table.to_json(),
            "stream_arn": self.stream_arn,
            "reader": self.reader,
            "readers": self.readers,
            "generation": self.generation,
            "buckets": self.buckets,
            "start": self.start,
            "frontier": None if self.frontier is None else self.frontier.to_json(),
            "gap_policy": self.gap_policy.value,
            "snapshot_until_us": self.snapshot_until_us,
            "max_bytes": self.max_bytes,
            "started_us": self.started_us,
        }

    @classmethod
    def from_json(cls, document: Document) -> ReaderSpec:
        """Reads what `to_json` wrote.

        Raises:
            ValueDecodeError: If it is damaged, or the format number is unknown.
        """
        with _DOCUMENT.load(document) as fields:
            frontier = fields["frontier"]
            return typed_fields(
                cls,
                fields,
                table=Table.from_json(fields["table"]),
                frontier=None if frontier is None else Frontier.from_json(frontier),
                gap_policy=GapPolicy(fields["gap_policy"]),
            )


class ReaderSpecCoder(JsonCoder[ReaderSpec]):
    """Versioned, deterministic coder of readers' specs: canonical JSON."""

    kind = ReaderSpec


beam.coders.registry.register_coder(ReaderSpec, ReaderSpecCoder)


def parse_start(start: str, started_us: int) -> Start:
    """Where the roots of the first listing are read from.

    Args:
        start: `trim_horizon`, `latest` or an RFC 3339 time.
        started_us: When the run began, microseconds since 1970.

    Raises:
        ConfigurationError: If `start` is none of the three.
    """
    if start == TRIM_HORIZON:
        return Start()
    if start == LATEST:
        return Start("at_timestamp", started_us - _LATEST_SLACK_US, open_only=True)
    return Start("at_timestamp", _timestamp_us(start))


class LatestGeneration(NamedTuple):
    """What is known of a table's generation.

    Attributes:
        generation: Its generation; 0 if nothing but the reader's own is known.
        snapshot_until_us: For the headers of blocks: see `transforms.model.block.BlockHeader`.
    """

    generation: int
    snapshot_until_us: int


class Generations(Protocol):
    """Where readers learn that a generation went up; picklable."""

    def lookup(self, table: str, *, fresh: bool) -> LatestGeneration:
        """The generation of a table.

        Args:
            table: Its name.
            fresh: Not from a cache.
        """


def with_latest_generation(
    spec: ReaderSpec, frontier: Frontier, latest: LatestGeneration
) -> ReaderSpec:
    """The spec with the highest generation that is known, and what goes with it."""
    generation = max(spec.generation, frontier.generation, latest.generation)
    until_us = spec.snapshot_until_us
    if latest.generation == generation:
        until_us = max(until_us, latest.snapshot_until_us)
    return dataclasses.replace(spec, generation=generation, snapshot_until_us=until_us)


def _timestamp_us(text: str) -> int:
    hint = f"Give {TRIM_HORIZON}, {LATEST} or a time like 2026-01-31T12:00:00Z"
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00").replace("z", "+00:00"))
    except ValueError as error:
        raise ConfigurationError(
            "not a place where a stream can be begun", where="start", found=text, hint=hint
        ) from error
    if moment.tzinfo is None:
        raise ConfigurationError(
            "the time at which to begin has no time zone", where="start", found=text, hint=hint
        )
    return (moment - _EPOCH) // timedelta(microseconds=1)
