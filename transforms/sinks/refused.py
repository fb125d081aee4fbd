# SPDX-License-Identifier: Apache-2.0
"""Rows that a sink refuses for what is in them: dead letters of stage `sink`.

A sink says so by a report of kind `refused`, whose only field `letter` is the dead letter's line;
`SplitRefused` takes them out of the reports. A row counts as handled then: the rest of its bundle
is written, and the run goes on.
"""

from __future__ import annotations

import base64
import json
from typing import Any, NamedTuple

import apache_beam as beam

from dynabeam.transforms.model.block import Block
from dynabeam.transforms.model.dead_letter import DeadLetter, Severity
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.model.row_payload import row_payload
from dynabeam.transforms.runtime.clock import now_us

__all__ = ["SinkOutput", "SplitRefused", "refused_row"]

_KIND = "refused"
_LETTERS = "dead_letters"


class SinkOutput(NamedTuple):
    """What `SplitRefused` gives.

    Attributes:
        reports: `PCollection[Report]` of kind `sink`.
        dead_letters: `PCollection[DeadLetter]` of stage `sink`.
    """

    reports: beam.PCollection[Report]
    dead_letters: beam.PCollection[DeadLetter]


class SplitRefused(beam.PTransform):
    """What a sink reports, with the rows that it refused as dead letters."""

    def expand(self, reports: Any) -> SinkOutput:
        """Splits `PCollection[Report]`."""
        out = reports | "Split" >> beam.ParDo(_SplitFn()).with_output_types(
            Report, dead_letters=DeadLetter
        ).with_outputs(_LETTERS, main="reports")
        return SinkOutput(out["reports"], out[_LETTERS])


class _SplitFn(beam.DoFn):
    def process(self, element: Report) -> Any:
        """Tags letters."""
        if element.kind == _KIND:
            letter = DeadLetter.from_line(element.fields["letter"].encode())
            yield beam.pvalue.TaggedOutput(_LETTERS, letter)
        else:
            yield element


def refused_row(
    block: Block, at: int, *, sink: str, reason: str, error: str, severity: Severity
) -> Report:
    """A row that a sink refused, as a report.

    Args:
        block: The block that it is in.
        at: Its number there.
        sink: The sink's place (`Sink.place`), which is the same however its URI is written.
        reason: What is wrong with it.
        error: Class of the error.
        severity: Whether it may succeed later as it is.
    """
    key = base64.b64encode(block.rows.column("key")[at].as_py()).decode("ascii")
    version = block.rows.column("version")[at].as_py().decode("ascii")
    met_us = now_us()
    letter = DeadLetter(
        table=block.header.table.name,
        stage="sink",
        place=f"{sink}, key {key} (base64), version {version}{_source(block, at)}",
        reason=reason,
        raw=row_payload(block, at),
        error=error,
        severity=severity,
        origin={"sink": sink, "key": key, "version": version},
        context={"table": block.header.table.to_json(), "generation": block.header.generation},
        first_us=met_us,
        last_us=met_us,
    )
    return Report(_KIND, letter.table, {"letter": letter.to_line().decode("ascii")})


def _shard(envelope: bytes | None) -> Any:
    if envelope is None:
        return None
    try:
        return json.loads(envelope).get("shardId")
    except (ValueError, AttributeError, RecursionError):
        return None  # the envelope itself may be what is refused


def _source(block: Block, at: int) -> str:
    parts = dict(block.header.origin)
    shard = _shard(block.rows.column("envelope")[at].as_py())
    if shard:
        parts["shard_id"] = str(shard)
    return "".join(f", {name} {value}" for name, value in sorted(parts.items()))
