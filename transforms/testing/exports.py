# SPDX-License-Identifier: Apache-2.0
"""The simulated export API: exports of tables to S3, and the point-in-time recovery they need.

`Exports.handle` answers ExportTableToPointInTime, DescribeExport, ListExports,
DescribeContinuousBackups and UpdateContinuousBackups. Files are real: `_started` at once, all
others when the export completes, in the layout that `export_writer` writes. An export completes
when it is looked at (DescribeExport, ListExports or `advance`), its time has passed and it is not
held; its content is fixed then, so with `fuzz` it may hold writes made after the request. Without
`fuzz` it is the table at the export's time, writes of that very microsecond included.

Filters are recorded and described, as the service does; they are *not* applied to the items.
"""

from __future__ import annotations

import hashlib
import threading
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Protocol

from dynabeam.transforms.testing.api_error import ApiError
from dynabeam.transforms.testing.clock import SimClock
from dynabeam.transforms.testing.export_job import ExportJob, ExportShape
from dynabeam.transforms.testing.export_layout import ExportPlace, Put, new_export_id, seeded
from dynabeam.transforms.testing.export_requests import (
    ExportRequest,
    parse_export_arn,
    parse_export_request,
    parse_table_arn,
    violation,
)
from dynabeam.transforms.testing.export_times import checked_times
from dynabeam.transforms.testing.net_changes import HistoricTable
from dynabeam.transforms.testing.recovery import RecoveryWindows

__all__ = ["ExportService", "Exports"]

TOKEN_LIFE = timedelta(hours=8)
MAX_PAGE = 25
MAX_RUNNING = 300


class ExportService(Protocol):
    """What exports need from the simulator around them."""

    clock: SimClock
    region: str
    account_id: str

    def table(self, name: str, /) -> HistoricTable:
        """A table by name or ARN; `ApiError` if there is none."""

    def bucket_exists(self, bucket: str, /) -> bool:
        """Whether there is a bucket of this name."""

    def export_denial(self, caller: str, bucket: str, key: str, /) -> str:
        """The permission on an object that the caller lacks to have an export written; or empty."""

    def s3_put(self, bucket: str, key: str, body: bytes, /) -> None:
        """Stores an object."""


class Exports:
    """Exports and point-in-time recovery of one simulated account and Region.

    All attributes may be changed at any time; they hold for exports that complete afterwards.

    Args:
        service: Tables, S3, clock and names.
        seed: Decides ids, file names, orders and the fuzzy edge.
        export_seconds: How long an export takes by the clock; 0 completes it at the next poll.
        fuzz: How far off a full export's cut-off may be for each key, to both sides. The service
            promises no better than one minute; the default is exact.
        data_files: Hash ranges of the table, each one data file.
        empty_files: Further data files, without an item.
        ion_record_wrapper: See `write_incremental_export`.

    Attributes:
        unavailable_asks: The next so many UpdateContinuousBackups get
            ContinuousBackupsUnavailableException, as right after CreateTable.
    """

    def __init__(
        self,
        service: ExportService,
        *,
        seed: int = 0,
        export_seconds: float = 0.0,
        fuzz: timedelta = timedelta(),
        data_files: int = 3,
        empty_files: int = 1,
        ion_record_wrapper: bool = False,
    ) -> None:
        self.export_seconds = export_seconds
        self.fuzz = fuzz
        self.data_files = data_files
        self.empty_files = empty_files
        self.ion_record_wrapper = ion_record_wrapper
        self.unavailable_asks = 0
        self._service = service
        self._seed = seed
        self._recovery = RecoveryWindows()
        self._exports: dict[str, ExportJob] = {}
        self._holding = False
        self._caller = ""
        self._next_failure: tuple[str, str] | None = None
        self._lock = threading.RLock()
        self._actions: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
            "ExportTableToPointInTime": self._export_table,
            "DescribeExport": self._describe_export,
            "ListExports": self._list_exports,
            "DescribeContinuousBackups": self._describe_backups,
            "UpdateContinuousBackups": self._update_backups,
        }

    def handle(self, action: str, body: Mapping[str, Any], caller: str = "") -> dict[str, Any]:
        """Answers one call.

        Args:
            action: Name of the operation.
            body: The request's JSON object.
            caller: The access key id of the request.

        Raises:
            ApiError: As the service answers; UnknownOperationException for other actions.
        """
        answer = self._actions.get(action)
        if answer is None:
            raise ApiError("UnknownOperationException", f"Unknown operation: {action}")
        with self._lock:
            self._caller = caller
            return answer(body)

    def hold(self) -> None:
        """Keeps all running exports, and those requested from now on, from completing."""
        with self._lock:
            self._holding = True
            for export in self._running():
                export.held = True

    def release(self) -> None:
        """Ends `hold` and completes every export whose time has passed."""
        with self._lock:
            self._holding = False
            for export in self._running():
                export.held = False
            self.advance()

    def fail_next(self, code: str, message: str) -> None:
        """Makes the next requested export end as FAILED, as with ``S3AccessDenied``."""
        with self._lock:
            self._next_failure = (code, message)

    def advance(self) -> None:
        """Completes every export that is due, as any look at the exports does."""
        with self._lock:
            now = self._service.clock.now()
            for export in self._running():
                due = export.requested_at + timedelta(seconds=self.export_seconds)
                if not export.held and due <= now:
                    # A long wait before somebody looks does not make an export take longer.
                    self._end(export, due if self.export_seconds else now)

    def _running(self) -> list[ExportJob]:
        return [job for job in self._exports.values() if job.status == "IN_PROGRESS"]

    # The five actions.

    def _export_table(self, body: Mapping[str, Any]) -> dict[str, Any]:
        request = parse_export_request(body)
        name = parse_table_arn(
            request.table_arn, region=self._service.region, account_id=self._service.account_id
        )
        now = self._service.clock.now()
        repeated = self._with_same_token(request, now)
        if repeated is not None:
            return {"ExportDescription": repeated.description()}
        table = self._table(name, request.table_arn)
        request = checked_times(request, table, self._recovery.of(table.table_id), now)
        if len(self._running()) >= MAX_RUNNING:
            raise ApiError(
                "LimitExceededException", f"Only {MAX_RUNNING} exports may run at a time"
            )
        export = self._begin(request, table, now)
        return {"ExportDescription": export.description()}

    def _describe_export(self, body: Mapping[str, Any]) -> dict[str, Any]:
        arn = parse_export_arn(
            body.get("ExportArn"), region=self._service.region, account_id=self._service.account_id
        )
        self.advance()
        export = self._exports.get(arn)
        if export is None:
            raise ApiError("ExportNotFoundException", f"Export not found: Export not found: {arn}")
        return {"ExportDescription": export.description()}

    def _list_exports(self, body: Mapping[str, Any]) -> dict[str, Any]:
        size = body.get("MaxResults", MAX_PAGE)
        if not 1 <= size <= MAX_PAGE:
            raise violation(size, "MaxResults", f"Member must be between 1 and {MAX_PAGE}")
        self.advance()
        newest_first = list(reversed(self._exports.values()))
        token = body.get("NextToken")
        if token is not None:
            tokens = [_page_token(export) for export in newest_first]
            if token not in tokens:
                raise ApiError(
                    "ValidationException",
                    f"Invalid Request: Provided nextToken is invalid: {token}",
                )
            newest_first = newest_first[tokens.index(token) + 1 :]
        if body.get("TableArn") is not None:
            newest_first = self._of_table(newest_first, body["TableArn"])
        page = newest_first[:size]
        answer: dict[str, Any] = {"ExportSummaries": [export.summary() for export in page]}
        if len(newest_first) > size:
            answer["NextToken"] = _page_token(page[-1])
        return answer

    def _describe_backups(self, body: Mapping[str, Any]) -> dict[str, Any]:
        table = self._table(body.get("TableName", ""), body.get("TableName"))
        return self._recovery.describe(table.table_id, self._service.clock.now())

    def _update_backups(self, body: Mapping[str, Any]) -> dict[str, Any]:
        table = self._table(body.get("TableName", ""), body.get("TableName"))
        if self.unavailable_asks:
            self.unavailable_asks -= 1
            raise ApiError(
                "ContinuousBackupsUnavailableException",
                f"Backups are being enabled for the table: {table.name}. Please retry later",
            )
        now = self._service.clock.now()
        self._recovery.update(table.table_id, body, now)
        return self._recovery.describe(table.table_id, now)

    # Their parts.

    def _table(self, name: str, shown: Any) -> HistoricTable:
        try:
            return self._service.table(name)
        except ApiError as error:
            raise ApiError("TableNotFoundException", f"Table not found: {shown}") from error

    def _of_table(self, exports: list[ExportJob], arn: str) -> list[ExportJob]:
        # The service lists nothing of a table that is gone, even if another has its name now.
        try:
            table_id = self._service.table(arn).table_id
        except ApiError:
            return []
        return [export for export in exports if export.table.table_id == table_id]

    def _with_same_token(self, request: ExportRequest, now: datetime) -> ExportJob | None:
        for export in reversed(self._exports.values()):
            if request.client_token is None or export.requested_at + TOKEN_LIFE <= now:
                return None
            if export.request.client_token == request.client_token:
                if export.request.arguments != request.arguments:
                    raise ApiError(
                        "ExportConflictException",
                        "Export conflict: Duplicate request detected with conflicting parameters",
                    )
                return export
        return None

    def _begin(self, request: ExportRequest, table: HistoricTable, now: datetime) -> ExportJob:
        rng = seeded(self._seed, "export", len(self._exports))
        # Seen on AWS: incremental exports begin on whole seconds, full ones on milliseconds.
        unit = 1000 if request.export_from is None else 1_000_000
        start = now.replace(microsecond=now.microsecond // unit * unit)
        export = ExportJob(
            request=request,
            table=table,
            place=ExportPlace(request.bucket, request.prefix, new_export_id(start, rng)),
            requested_at=now,
            start_time=start,
            client_token=request.client_token or str(uuid.UUID(int=rng.getrandbits(128))),
            failure=self._next_failure,
            held=self._holding,
            caller=self._caller,
        )
        self._next_failure = None
        self._exports[export.arn] = export
        if self._s3_failure(export) is None:
            self._put(request.bucket)(export.place.started_key, b"")
        return export

    def _end(self, export: ExportJob, end: datetime) -> None:
        failure = export.failure or self._s3_failure(export)
        if failure is not None:
            export.fail(end, *failure)
            return
        shape = ExportShape(
            data_files=self.data_files,
            empty_files=self.empty_files,
            fuzz=self.fuzz,
            ion_record_wrapper=self.ion_record_wrapper,
            seed=self._seed,
        )
        export.complete(self._put(export.request.bucket), end, shape)

    def _put(self, bucket: str) -> Put:
        return lambda key, body: self._service.s3_put(bucket, key, body)

    def _s3_failure(self, export: ExportJob) -> tuple[str, str] | None:
        request = export.request
        if not self._service.bucket_exists(request.bucket):
            text = "The specified bucket does not exist (Service: Amazon S3; Status Code: 404; "
            return "S3NoSuchBucket", text + "Error Code: NoSuchBucket)"
        refused = self._service.export_denial(
            export.caller, request.bucket, export.place.started_key
        )
        if refused or request.bucket_owner not in {None, self._service.account_id}:
            text = "Access Denied (Service: Amazon S3; Status Code: 403; Error Code: AccessDenied)"
            return "S3AccessDenied", text
        return None


def _page_token(last: ExportJob) -> str:
    """Opaque, and the same for a page's end however often it is asked."""
    return hashlib.sha256(last.arn.encode()).hexdigest()
