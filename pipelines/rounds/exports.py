# SPDX-License-Identifier: Apache-2.0
"""The exports of catch-up rounds: polled before each round, and read within its bytes.

They are polled here, before the graph, and not in it: only who sees all tables can read whole
files, table after table, so that each file is downloaded once whatever the number of tables. An
export that cannot be had stops no other: its table is set aside, the others go on, and a run that
ends says at its end what is missing. Where it was requested, the next attempt requests a new one.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from dynabeam.pipelines.options.replicate import ReplicateOptions
from dynabeam.transforms.errors import DynabeamError, ExportError, TableError
from dynabeam.transforms.export.acquire import Acquisition, ExportFailedError, acquire
from dynabeam.transforms.export.elements import FileSlice
from dynabeam.transforms.export.ensure_export import export_report, failed_poll, retry_seconds
from dynabeam.transforms.export.sizes import FileSizes
from dynabeam.transforms.export.slices import plan_round
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.runtime.clock import now_us
from dynabeam.transforms.state.table_reading import snapshot_request
from dynabeam.transforms.state.table_state import LoadState, TableState

__all__ = ["RoundExports"]

_Key: TypeAlias = "tuple[str, int, int]"
_NOT_TO_BE_HAD = (ExportError, TableError)


@dataclasses.dataclass
class _SetAside:
    """An export that cannot be had.

    Attributes:
        error: Why.
        times: How often in this run.
        until: When to try again, by `time.monotonic`.
    """

    error: DynabeamError
    times: int
    until: float


class RoundExports:
    """The exports of one run.

    Args:
        options: The options of the command.
        clock: Seconds that never go back.
    """

    def __init__(
        self, options: ReplicateOptions, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._options = options
        self._clock = clock
        self._aside: dict[_Key, _SetAside] = {}
        self._arns: dict[tuple[_Key, int], str] = {}
        self._sizes = FileSizes()

    def poll(self, tables: Sequence[TableState], state_id: str) -> list[Report]:
        """Polls each awaited export once.

        Args:
            tables: The states of the tables.
            state_id: Identity of the state directory.

        Returns:
            Reports of kind `export`.

        Raises:
            DynabeamError: Something that no table can go on with, such as a missing permission; or
                no table has an export that can be had, though none of them was requested here.
        """
        how = Acquisition(access=self._options.access, verify=self._options.verify)
        reports = []
        for state in tables:
            for load in state.readable_loads:
                if load.manifest is not None or self._is_aside(state, load):
                    continue
                request = snapshot_request(state, load, self._options, state_id)
                # An export that this run has requested is polled by its ARN: to the same request
                # AWS would answer with the state that it had then.
                known = (_key(state, load), request.attempt)
                try:
                    polled = acquire(request, self._arns.get(known, ""), how, now_us=now_us())
                except ExportFailedError as problem:
                    self._set_aside(state, load, problem)
                    if how.can_request(request):
                        again = dataclasses.replace(request, attempt=request.attempt + 1)
                        reports.append(export_report(again, failed_poll(problem)))
                except _NOT_TO_BE_HAD as problem:
                    self._set_aside(state, load, problem)
                else:
                    self._aside.pop(_key(state, load), None)
                    self._arns[known] = polled.export_arn
                    reports.append(export_report(request, polled))
        self._stop_if_all_are_aside(tables)
        return reports

    def plan(
        self, tables: Sequence[TableState], max_bytes: int, digests: str = ""
    ) -> list[FileSlice]:
        """Plans which files to read in one round: whole ones, table after table.

        Args:
            tables: The states of the tables.
            max_bytes: Uncompressed bytes that the round may read of exports.
            digests: Folder for digests of keys, of tables whose key people have named.

        Raises:
            DynabeamError: As `poll`.
        """
        slices: list[FileSlice] = []
        left = max_bytes
        for state, load in self._ready(tables):
            if left <= 0:
                break
            manifest, loaded = load.manifest, load.files
            assert manifest is not None
            waiting = (f.path for f in manifest.files if f.item_count and f.path not in loaded)
            try:
                found = plan_round(
                    manifest,
                    state.table,
                    generation=load.generation,
                    buckets=self._options.buckets,
                    loaded=loaded,
                    max_bytes=left,
                    key_range=load.key_range,
                    inflated_of=self._sizes.of(waiting),
                    round_bytes=max_bytes,
                    digests=digests if state.keys_given else "",
                )
            except _NOT_TO_BE_HAD as problem:
                self._set_aside(state, load, problem)
                continue
            slices += found
            left -= sum(each.max_bytes for each in found)
        self._stop_if_all_are_aside(tables)
        return slices

    def is_ready(self, tables: Sequence[TableState]) -> bool:
        """True if there is an export of which something can be read."""
        return next(self._ready(tables), None) is not None

    def errors_of(self, tables: Sequence[TableState]) -> dict[str, DynabeamError]:
        """Why the exports of some tables cannot be had, by table."""
        return {
            state.name: self._aside[_key(state, load)].error
            for state in tables
            for load in state.readable_loads
            if _key(state, load) in self._aside
        }

    def _ready(self, tables: Sequence[TableState]) -> Iterator[tuple[TableState, LoadState]]:
        for state in tables:
            for load in state.readable_loads:
                if load.manifest is not None and not self._is_aside(state, load):
                    yield state, load

    def _is_aside(self, state: TableState, load: LoadState) -> bool:
        aside = self._aside.get(_key(state, load))
        if aside is None:
            return False
        # A run that ends reports what is missing after all else is done, and does not retry.
        return self._options.until == "caught_up" or self._clock() < aside.until

    def _stop_if_all_are_aside(self, tables: Sequence[TableState]) -> None:
        """Raises the first error if no table has the export that it was to start from."""
        errors = self.errors_of(tables)
        if self._options.until == "forever" or len(errors) < len(tables):
            return
        for error in errors.values():
            # A failed export has to be stored first, or the next run would wait for it again.
            if not isinstance(error, ExportFailedError):
                raise error

    def _set_aside(self, state: TableState, load: LoadState, problem: DynabeamError) -> None:
        before = self._aside.get(_key(state, load))
        times = before.times if before else 0
        until = self._clock() + retry_seconds(times)
        self._aside[_key(state, load)] = _SetAside(problem, times + 1, until)


def _key(state: TableState, load: LoadState) -> _Key:
    return state.name, load.generation, load.from_us
