# SPDX-License-Identifier: Apache-2.0
"""Makes sure that each table has its export, and plans the pieces of it to read.

Two forms of one step. Catch-up polls once: an export that is not complete is reported, and the next
round polls again; the output is bounded. Waiting is a splittable DoFn that polls every ten seconds
and gives its worker back between two polls; the output is unbounded, and its watermark is held at
the request's timestamp until the slices are out.

A poll may be repeated at any time: the same token gives the same export. Tracker and contract are
those of `transforms.runtime.poll_tracker`.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.utils.timestamp import Duration

from dynabeam.transforms.export.acquire import Acquisition, ExportFailedError, ExportPoll, acquire
from dynabeam.transforms.export.elements import FileSlice, SnapshotRequest
from dynabeam.transforms.export.fetch import compressed_size
from dynabeam.transforms.export.slices import DEFAULT_RATIO, compression_ratio, plan_round
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.runtime.clock import WallClock, now_us
from dynabeam.transforms.runtime.poll_tracker import (
    ManualWatermark,
    PollFn,
    PollState,
    PollStateCoder,
    advance,
    is_due,
)

__all__ = [
    "EnsureExport",
    "Ensured",
    "WaitState",
    "WaitStateCoder",
    "export_report",
    "failed_poll",
    "retry_seconds",
]

_LOGGER = logging.getLogger(__name__)

_FIRST_RETRY_SECONDS = 60
_LAST_RETRY_SECONDS = 3600

SLICES = "slices"
REPORTS = "reports"
POLL_SECONDS = 10

_ESTIMATOR = beam.DoFn.WatermarkEstimatorParam(ManualWatermark())


class Ensured(NamedTuple):
    """What `EnsureExport` gives.

    Attributes:
        slices: `PCollection[FileSlice]`: the pieces to read now.
        reports: `PCollection[Report]` of kind `export`, one per poll: `generation`, `status`
            (`waiting_for_stream`, `IN_PROGRESS`, `FAILED`, `COMPLETED`), `export_arn`,
            `item_count`, `billed_bytes`, `started_us`, `export_time_us`, `files`, `warnings`,
            `from_us` (start of the window, 0 for a full export); 0 where not known. If exports
            have failed that were requested for it: `attempt`, how many.
            `manifest` holds the `ExportManifest` as JSON in the poll that read it, else None.
    """

    slices: Any
    reports: Any


def failed_poll(problem: ExportFailedError) -> ExportPoll:
    """The result of a poll that found a failed export, for the next attempt."""
    return ExportPoll("FAILED", problem.arn, warnings=(str(problem),))


def retry_seconds(failed_before: int) -> int:
    """How long to wait after an export failed, before a new one is requested.

    Args:
        failed_before: How many failed before it.
    """
    return min(_LAST_RETRY_SECONDS, _FIRST_RETRY_SECONDS << min(failed_before, 10))


class EnsureExport(beam.PTransform):
    """Acquires exports: `PCollection[SnapshotRequest]` → `Ensured`.

    Args:
        how: Access to AWS and what exports to accept.
        wait: True to poll until the export is complete (needs a runner with splittable DoFns), and
            False to poll once.
        poll_seconds: Time between two polls while waiting.
        clock: Gives the time in microseconds since 1970; picklable.
    """

    def __init__(
        self,
        how: Acquisition,
        *,
        wait: bool,
        poll_seconds: int = POLL_SECONDS,
        clock: WallClock = now_us,
    ) -> None:
        super().__init__()
        self._how = how
        self._wait = wait
        self._poll_seconds = poll_seconds
        self._clock = clock

    def expand(self, requests: Any) -> Ensured:
        """Polls once, or until the export is complete."""
        fn: beam.DoFn = _PollOnceFn(self._how, self._clock)
        if self._wait:
            fn = _WaitForExportFn(self._how, self._clock, self._poll_seconds)
        out = requests | ("WaitForExport" if self._wait else "PollExport") >> beam.ParDo(
            fn
        ).with_output_types(FileSlice, reports=Report).with_outputs(REPORTS, main=SLICES)
        return Ensured(out[SLICES], out[REPORTS])


class _PollOnceFn(beam.DoFn):
    """Polls once per request."""

    def __init__(self, how: Acquisition, clock: WallClock) -> None:
        self._how = how
        self._clock = clock

    def process(self, element: SnapshotRequest) -> Iterator[Any]:
        poll = acquire(element, "", self._how, now_us=self._clock())
        yield from _outputs(element, poll)


@dataclasses.dataclass(frozen=True)
class WaitState(PollState):
    """The restriction: what is left to do for one request.

    Attributes:
        export_arn: The export that is waited for; empty if none is known yet.
        attempt: How many exports failed that were requested for it.
    """

    export_arn: str = ""
    attempt: int = 0


class WaitStateCoder(PollStateCoder):
    """Wait states, see `PollStateCoder`."""

    kind = WaitState
    where = "restriction of WaitForExport"

    def to_json(self, value: PollState) -> dict[str, Any]:
        """The document of a state; without a failed attempt as before these were counted."""
        document = super().to_json(value)
        if not document["attempt"]:
            del document["attempt"]
        return document


class _WaitForExportFn(PollFn[WaitState]):
    """Polls until the export is complete, deferring in between."""

    coder = WaitStateCoder()

    def __init__(self, how: Acquisition, clock: WallClock, poll_seconds: int) -> None:
        self._how = how
        self._clock = clock
        self._poll_seconds = poll_seconds

    @beam.DoFn.unbounded_per_element()
    def process(
        self,
        element: SnapshotRequest,
        timestamp: Any = beam.DoFn.TimestampParam,
        tracker: Any = beam.DoFn.RestrictionParam(),
        watermark_estimator: Any = _ESTIMATOR,
    ) -> Iterator[Any]:
        # Held here until the slices are out, so that no older row can come after the watermark.
        advance(watermark_estimator, timestamp.micros)
        state = tracker.current_restriction()
        now = self._clock()
        if not is_due(tracker, now, self._poll_seconds):
            return
        request = dataclasses.replace(element, attempt=element.attempt + state.attempt)
        wait_seconds = self._poll_seconds
        try:
            poll = acquire(request, state.export_arn, self._how, now_us=now)
        except ExportFailedError as problem:
            if not self._how.can_request(element):
                raise
            # The job goes on with its other tables, and asks again with pauses that grow: what the
            # cause is, only people can fix.
            wait_seconds = retry_seconds(state.attempt)
            _LOGGER.warning(
                "%s; a new export is requested in %d s",
                problem,
                wait_seconds,
                extra={"table": element.table.name},
            )
            poll = failed_poll(problem)
            request = dataclasses.replace(request, attempt=request.attempt + 1)
        claim = WaitState(
            # For an export of a table that is no more nobody need wait.
            done=poll.manifest is not None or poll.status == "table_ended",
            next_look_us=now + wait_seconds * 1_000_000,
            export_arn=poll.export_arn if poll.status != "FAILED" else "",
            attempt=request.attempt - element.attempt,
        )
        if not tracker.try_claim(claim):
            return
        yield from _outputs(request, poll)
        if not claim.done:
            tracker.defer_remainder(Duration(seconds=wait_seconds))


def _outputs(request: SnapshotRequest, poll: ExportPoll) -> Iterator[Any]:
    """The report of a poll, and the slices to read if the export is complete."""
    yield beam.pvalue.TaggedOutput(REPORTS, export_report(request, poll))
    if poll.manifest is None:
        return
    ratio = DEFAULT_RATIO
    if request.max_bytes:
        ratio = compression_ratio(
            poll.manifest, request.loaded, request.loaded_bytes, compressed_size
        )
    yield from plan_round(
        poll.manifest,
        request.table,
        generation=request.generation,
        buckets=request.buckets,
        loaded=request.loaded,
        size_of=compressed_size,
        max_bytes=request.max_bytes,
        ratio=ratio,
        key_range=request.key_range,
    )


def export_report(request: SnapshotRequest, poll: ExportPoll) -> Report:
    """The report of a poll; its fields are those that `Ensured` lists."""
    described, manifest = poll.description, poll.manifest
    attempt = {"attempt": request.attempt} if request.attempt else {}
    newly_read = manifest is not None and request.manifest is None
    return Report(
        "export",
        request.table.name,
        {
            "generation": request.generation,
            "status": poll.status,
            "export_arn": poll.export_arn,
            "item_count": manifest.item_count if manifest else _of(described, "item_count"),
            "billed_bytes": _of(described, "billed_bytes"),
            "started_us": _of(described, "started_us"),
            "export_time_us": (
                manifest.export_time_us if manifest else _of(described, "export_time_us")
            ),
            "files": len(manifest.files) if manifest else 0,
            "from_us": request.from_us,
            "warnings": [*poll.warnings, *(manifest.warnings if manifest else ())],
            "manifest": manifest.to_json() if manifest and newly_read else None,
            **attempt,
        },
    )


def _of(described: Any, name: str) -> int:
    return getattr(described, name) if described is not None else 0
