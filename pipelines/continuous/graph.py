# SPDX-License-Identifier: Apache-2.0
"""The graph of a continuous run.

```
Deployment ─► WatchAssignments ─┬─► ReadTables ─► one Write per sink
           │                    └──►    ├─► StorePositions, MeterReports ◄── reports of the sinks
           └─► DiscoverTables           └─► KeepDeadLetters, MeterDeadLetters ◄── rows that sinks
                                                                                  refused
```

Its labels are what savepoints are found by: they change with a release line only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import apache_beam as beam

from dynabeam.transforms.aws.session import AwsAccess
from dynabeam.transforms.continuous.discover_tables import DiscoverTables
from dynabeam.transforms.continuous.gap_handler import FolderGapHandler
from dynabeam.transforms.continuous.generations import FolderGenerations
from dynabeam.transforms.continuous.keep_dead_letters import KeepDeadLetters
from dynabeam.transforms.continuous.repairs import RepairSettings
from dynabeam.transforms.continuous.store_positions import StorePositions
from dynabeam.transforms.continuous.watch_assignments import WatchAssignments
from dynabeam.transforms.export.manifest import Verify
from dynabeam.transforms.model.dead_letter import DeadLetter
from dynabeam.transforms.model.gap import GapPolicy
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.read_tables import ReadTables
from dynabeam.transforms.sinks.base import Sink
from dynabeam.transforms.sinks.refused import SplitRefused
from dynabeam.transforms.telemetry.beam_metrics import MeterDeadLetters, MeterReports
from dynabeam.transforms.telemetry.worker import Telemetry

__all__ = ["build_continuous"]


def build_continuous(
    pipeline: beam.Pipeline,
    *,
    folder: str,
    state_id: str,
    sinks: Sequence[Sink],
    access: AwsAccess,
    verify: Verify,
    telemetry: Telemetry,
    max_dead_letters: int | None = None,
    chain_policy: Callable[[str], GapPolicy] | None = None,
    repairs: RepairSettings | None = None,
) -> None:
    """Adds the graph to a pipeline.

    Args:
        pipeline: The pipeline.
        folder: The deployment's folder.
        state_id: Identity of the state directory.
        sinks: Where the changes go; their order is part of the labels.
        access: Where and as whom AWS is called.
        verify: What checksums that do not agree are.
        max_dead_letters: The job fails once more dead letters are open; None for no limit.
        telemetry: Metrics endpoint and log of the worker processes.
        chain_policy: With which policies to look for lost changes; None not to look.
        repairs: What lost changes do, whatever the assignments say, and what repairs of them need;
            None to repair nothing and do what the assignments say.
    """
    deployment = pipeline | "Deployment" >> beam.Create([folder], reshuffle=False)
    assigned = deployment | "WatchAssignments" >> WatchAssignments()
    gap_handler = None if repairs is None else FolderGapHandler(folder, repairs.policies)
    elements = {"requests": assigned.requests, "sources": assigned.sources}
    read = elements | "ReadTables" >> ReadTables(
        access,
        until="forever",
        verify=verify,
        chain_policy=chain_policy,
        generations=FolderGenerations(folder),
        gap_handler=gap_handler,
        export_to=(
            ("", "", "")
            if repairs is None
            else (repairs.bucket, repairs.prefix, repairs.bucket_owner)
        ),
    )
    found = deployment | "DiscoverTables" >> DiscoverTables(access, sinks, gap_handler=gap_handler)
    reports, letters = [read.reports, found], [read.dead_letters]
    for number, sink in enumerate(sinks, 1):
        label = f"Write{number}_{sink.uri.scheme}"
        written = read.blocks | label >> sink.write_continuously(state_id)
        said = written | f"Refused{number}" >> SplitRefused()
        reports.append(said.reports)
        letters.append(said.dead_letters)
    all_reports = reports | "Reports" >> beam.Flatten(pipeline=pipeline)
    all_reports.element_type = Report
    _ = all_reports | "MeterReports" >> MeterReports(telemetry)
    _ = all_reports | "StorePositions" >> StorePositions(folder, repairs=repairs)
    all_letters = letters | "DeadLetters" >> beam.Flatten(pipeline=pipeline)
    all_letters.element_type = DeadLetter
    _ = all_letters | "MeterDeadLetters" >> MeterDeadLetters(telemetry)
    _ = all_letters | "KeepDeadLetters" >> KeepDeadLetters(folder, max_dead_letters)
