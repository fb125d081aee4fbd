# SPDX-License-Identifier: Apache-2.0
"""The graph of one catch-up round: snapshot branch and stream branch, reconciled, into the sinks.

```
SnapshotRequests ─► EnsureExport ─► ReadExportFiles ─┐ blocks
                                                     ├─► Reconcile ─► one Write per sink
StreamSources ─► SpreadReaders ─► ReadStream ────────┘
        all reports ─► WriteReports          all dead letters ─► WriteDeadLetters
```
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import apache_beam as beam

from transforms.aws.session import AwsAccess
from transforms.block import Block
from transforms.dead_letters import DeadLetter
from transforms.export.acquire import Acquisition
from transforms.export.elements import SnapshotRequest
from transforms.export.manifest import Verify
from transforms.export.read import ReadExportFiles
from transforms.export.request import EnsureExport
from transforms.reconcile import Reconcile
from transforms.reports import Report
from transforms.round_files import WriteDeadLetters, WriteReports
from transforms.sinks.base import Round, Sink
from transforms.stream.read import ReadStream
from transforms.stream.source import StreamSource

__all__ = ["RoundPlan", "build_round"]


@dataclasses.dataclass(frozen=True)
class RoundPlan:
    """What one round reads and writes.

    Attributes:
        current: The round.
        sources: Stream readers.
        requests: Snapshot requests.
        sinks: Where the changes go.
        access: AWS, None if it is not used.
        verify: What checksums that do not agree are.
        reports_path: File for the reports.
        dead_letters_path: File for the dead letters.
    """

    current: Round
    sources: Sequence[StreamSource]
    requests: Sequence[SnapshotRequest]
    sinks: Sequence[Sink]
    access: AwsAccess | None
    verify: Verify
    reports_path: str
    dead_letters_path: str


def build_round(pipeline: beam.Pipeline, plan: RoundPlan) -> None:
    """Adds the graph of a round to a pipeline."""
    blocks: list[Any] = []
    reports: list[Any] = []
    letters: list[Any] = []
    if plan.requests:
        _add_snapshot(pipeline, plan, blocks, reports, letters)
    if plan.sources:
        _add_stream(pipeline, plan, blocks, reports, letters)
    merged = blocks | "Blocks" >> beam.Flatten(pipeline=pipeline)
    merged.element_type = Block
    reconciled = merged | "Reconcile" >> Reconcile()
    reports.append(reconciled.reports)
    for number, sink in enumerate(plan.sinks, 1):
        label = f"Write{number}_{sink.uri.scheme}"
        reports.append(reconciled.blocks | label >> sink.write(plan.current))
    all_reports = reports | "Reports" >> beam.Flatten(pipeline=pipeline)
    all_reports.element_type = Report
    all_letters = letters | "DeadLetters" >> beam.Flatten(pipeline=pipeline)
    all_letters.element_type = DeadLetter
    _ = all_reports | "WriteReports" >> WriteReports(plan.reports_path)
    _ = all_letters | "WriteDeadLetters" >> WriteDeadLetters(plan.dead_letters_path)


def _add_snapshot(
    pipeline: beam.Pipeline,
    plan: RoundPlan,
    blocks: list[Any],
    reports: list[Any],
    letters: list[Any],
) -> None:
    how = Acquisition(access=plan.access, verify=plan.verify)
    requests = pipeline | "SnapshotRequests" >> beam.Create(list(plan.requests), reshuffle=False)
    ensured = requests | "EnsureExport" >> EnsureExport(how, wait=False)
    rows = ensured.slices | "ReadExportFiles" >> ReadExportFiles(verify=plan.verify)
    blocks.append(rows.blocks)
    reports += [ensured.reports, rows.reports]
    letters.append(rows.dead_letters)


def _add_stream(
    pipeline: beam.Pipeline,
    plan: RoundPlan,
    blocks: list[Any],
    reports: list[Any],
    letters: list[Any],
) -> None:
    assert plan.access is not None
    sources = pipeline | "StreamSources" >> beam.Create(list(plan.sources), reshuffle=False)
    spread = sources | "SpreadReaders" >> beam.Reshuffle()
    read = spread | "ReadStream" >> ReadStream(plan.access, until="tip")
    blocks.append(read["blocks"])
    reports.append(read["reports"])
    letters.append(read["dead_letters"])
