# SPDX-License-Identifier: Apache-2.0
"""The graph of `dynabeam retry`: dead letters read again, reconciled, into the sinks.

```
Letters ─► Replay ─┬─► Reconcile ─┬─► one Write per sink ◄── rows that this sink had refused
                   │              └─► WriteReports ◄── reports of the sinks
                   └─► WriteDeadLetters ◄── rows that sinks refused again
```
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import apache_beam as beam

from dynabeam.transforms.dead_letters.replay import ReplayDeadLetters
from dynabeam.transforms.model.block import Block
from dynabeam.transforms.model.dead_letter import DeadLetter
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.reconcile.reconcile import Reconcile
from dynabeam.transforms.sinks.base import Sink
from dynabeam.transforms.sinks.refused import SplitRefused
from dynabeam.transforms.sinks.share import SinkShare
from dynabeam.transforms.state.round_outputs import WriteDeadLetters, WriteReports

__all__ = ["build_retry"]


def build_retry(
    pipeline: beam.Pipeline,
    letters: Sequence[DeadLetter],
    sinks: Sequence[Sink],
    write: Callable[[Sink], beam.PTransform[Any, Any]],
    *,
    reports_path: str,
    dead_letters_path: str,
    shares: Mapping[str, SinkShare] | None = None,
) -> None:
    """Adds the graph to a pipeline.

    Args:
        pipeline: The pipeline.
        letters: What is replayed.
        sinks: Where to.
        write: How a sink is written: in a round, or as a continuous run does it.
        reports_path: File for the reports.
        dead_letters_path: File for what cannot be handled this time either.
        shares: Place of a sink → its part of the letters, where that is not all.
    """
    read = (
        pipeline
        | "ToReplay" >> beam.Create(list(letters), reshuffle=False).with_output_types(DeadLetter)
        | "ReplayDeadLetters" >> ReplayDeadLetters([each.place for each in sinks])
    )
    reconciled = read.blocks | "Reconcile" >> Reconcile()
    reports, dead = [reconciled.reports], [read.dead_letters]
    for number, (sink, own) in enumerate(zip(sinks, read.of_sinks, strict=True), 1):
        blocks = (reconciled.blocks, own) | f"Blocks{number}" >> beam.Flatten()
        blocks.element_type = Block
        share = (shares or {}).get(sink.place, SinkShare())
        blocks = share.apply(blocks, f"Share{number}")
        written = blocks | f"Write{number}_{sink.uri.scheme}" >> write(sink)
        said = written | f"Refused{number}" >> SplitRefused()
        reports.append(said.reports)
        dead.append(said.dead_letters)
    all_reports = reports | "Reports" >> beam.Flatten()
    all_reports.element_type = Report
    _ = all_reports | "WriteReports" >> WriteReports(reports_path)
    all_letters = dead | "DeadLetters" >> beam.Flatten()
    all_letters.element_type = DeadLetter
    _ = all_letters | "WriteDeadLetters" >> WriteDeadLetters(dead_letters_path)
