# SPDX-License-Identifier: Apache-2.0
"""The graph of one catch-up round: snapshot branch and stream branch, reconciled, into the sinks.

```
FileSlices ───┬─► ReadTables ─► one Write per sink
StreamSources ┘           ├─► WriteReports ◄── reports of the sinks
                          └─► WriteDeadLetters ◄── rows that sinks refused
```

Reports and dead letters are also counted, as Beam metrics.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import apache_beam as beam

from dynabeam.transforms.aws.session import AwsAccess
from dynabeam.transforms.dead_letters.limit import DeadLetterLimit
from dynabeam.transforms.export.elements import FileSlice
from dynabeam.transforms.export.manifest import Verify
from dynabeam.transforms.model.block import Block
from dynabeam.transforms.model.dead_letter import DeadLetter
from dynabeam.transforms.model.gap import GapPolicy
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.read_tables import ReadTables
from dynabeam.transforms.sinks.base import Round, Sink
from dynabeam.transforms.sinks.refused import SplitRefused
from dynabeam.transforms.sinks.share import SinkShare
from dynabeam.transforms.state.round_outputs import WriteDeadLetters, WriteReports
from dynabeam.transforms.stream.reader_spec import ReaderSpec
from dynabeam.transforms.telemetry.beam_metrics import MeterDeadLetters, MeterReports

__all__ = ["RoundPlan", "build_round"]


@dataclasses.dataclass(frozen=True)
class RoundPlan:
    """What one round reads and writes.

    Attributes:
        current: The round.
        sources: Stream readers.
        slices: What to read of exports.
        sinks: Where the changes go.
        access: AWS, None if it is not used.
        verify: What checksums that do not agree are.
        chain_policy: With which policies to look for lost changes; None not to look.
        reports_path: File for the reports.
        dead_letters_path: File for the dead letters.
        letter_limit: How many dead letters the round may have; None for no limit.
        shares: Place of a sink → its part of the blocks, where that is not all.
    """

    current: Round
    sources: Sequence[ReaderSpec]
    slices: Sequence[FileSlice]
    sinks: Sequence[Sink]
    access: AwsAccess | None
    verify: Verify
    chain_policy: Callable[[str], GapPolicy] | None
    reports_path: str
    dead_letters_path: str
    letter_limit: DeadLetterLimit | None = None
    shares: Mapping[str, SinkShare] = dataclasses.field(default_factory=dict)


def build_round(pipeline: beam.Pipeline, plan: RoundPlan) -> None:
    """Adds the graph of a round to a pipeline."""
    elements = {}
    for name, label, found in (
        ("slices", "FileSlices", plan.slices),
        ("sources", "StreamSources", plan.sources),
    ):
        if found:
            elements[name] = pipeline | label >> beam.Create(list(found), reshuffle=False)
    reports: list[Any] = []
    letters: list[Any] = []
    if elements:
        read = elements | "ReadTables" >> ReadTables(
            plan.access, verify=plan.verify, chain_policy=plan.chain_policy
        )
        blocks = read.blocks
        reports.append(read.reports)
        letters.append(read.dead_letters)
    else:
        # Sinks record a round without changes too.
        blocks = pipeline | "NoBlocks" >> beam.Create([]).with_output_types(Block)
    for number, sink in enumerate(plan.sinks, 1):
        label = f"Write{number}_{sink.uri.scheme}"
        share = plan.shares.get(sink.place, SinkShare())
        mine = share.apply(blocks, f"Share{number}")
        said = mine | label >> sink.write(plan.current) | f"Refused{number}" >> SplitRefused()
        reports.append(said.reports)
        letters.append(said.dead_letters)
    all_letters = letters | "DeadLetters" >> beam.Flatten(pipeline=pipeline)
    all_letters.element_type = DeadLetter
    _ = all_letters | "MeterDeadLetters" >> MeterDeadLetters()
    _ = all_letters | "WriteDeadLetters" >> WriteDeadLetters(
        plan.dead_letters_path, plan.letter_limit
    )
    all_reports = reports | "Reports" >> beam.Flatten(pipeline=pipeline)
    all_reports.element_type = Report
    _ = all_reports | "MeterReports" >> MeterReports()
    _ = all_reports | "WriteReports" >> WriteReports(plan.reports_path)
