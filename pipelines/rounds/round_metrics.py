# SPDX-License-Identifier: Apache-2.0
"""Metrics of a run in rounds: what its committed rounds did, kept by the driver."""

from __future__ import annotations

from collections.abc import Sequence

from dynabeam.pipelines.rounds.run import RoundOutcome
from dynabeam.transforms.export.elements import DONE
from dynabeam.transforms.runtime.clock import now_us
from dynabeam.transforms.state.state_directory import State
from dynabeam.transforms.state.table_state import LoadState
from dynabeam.transforms.telemetry.process_metrics import ProcessMetrics

__all__ = ["RoundMetrics"]


class RoundMetrics:
    """Adds each committed round to the metrics of this process.

    Args:
        names: The tables.
        state: The state at the start: a snapshot that was begun before goes on from there.
        metrics: The metrics of this process.
    """

    def __init__(self, names: Sequence[str], state: State, metrics: ProcessMetrics) -> None:
        self._metrics = metrics
        for name in names:
            self._begin(name, state.tables[name].snapshot)

    def on_round(self, outcome: RoundOutcome) -> None:
        """Adds one round."""
        for report in outcome.reports:
            self._metrics.take(report)
        for (table, stage), count in outcome.letters.items():
            self._metrics.add("dead_letters", count, table, stage)
        self._metrics.add("rounds", 1)
        for name in outcome.names:
            self._metrics.put("stored_seconds", now_us() / 1e6, name)
            self._metrics.put("generation", outcome.state.tables[name].generation, name)

    def _begin(self, name: str, snapshot: LoadState) -> None:
        metrics = self._metrics
        if snapshot.manifest is None:
            return
        files = [each for each in snapshot.manifest.files if each.item_count]
        metrics.put("snapshot_expected_rows", sum(each.item_count for each in files), name)
        metrics.put("snapshot_expected_files", len(files), name)
        done = sum(snapshot.files.get(each.path) == DONE for each in files)
        for what, count in (("rows", snapshot.rows), ("bytes", snapshot.bytes)):
            metrics.add(f"snapshot_{what}", count, name)
        metrics.add("snapshot_files", done, name)
