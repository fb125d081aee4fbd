# SPDX-License-Identifier: Apache-2.0
"""One simulated export from its request to its end: what it says of itself and what it writes."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from dynabeam.transforms.testing.export_layout import ExportPlace, Put, WrittenExport
from dynabeam.transforms.testing.export_requests import ExportRequest, epoch_seconds
from dynabeam.transforms.testing.export_writer import write_full_export, write_incremental_export
from dynabeam.transforms.testing.net_changes import HistoricTable, fuzzy_items, net_changes

__all__ = ["ExportJob", "ExportShape"]


@dataclass(frozen=True)
class ExportShape:
    """How an export's files are cut, and how blurred its moment is.

    Args:
        data_files: Hash ranges of the table, each one data file.
        empty_files: Further data files, without an item.
        fuzz: How far off a full export's cut-off may be for each key, to both sides.
        ion_record_wrapper: See `write_incremental_export`.
        seed: Decides names, orders and the fuzzy edge.
    """

    data_files: int
    empty_files: int
    fuzz: timedelta
    ion_record_wrapper: bool
    seed: int


@dataclass
class ExportJob:
    """An export.

    Args:
        request: What was asked, with a window's end filled in.
        table: The table; it may be deleted meanwhile.
        place: Where the objects go.
        requested_at: The moment of the request, to the microsecond.
        start_time: The same as the service gives it.
        client_token: As sent, or the one that the service made up.
        failure: Code and message with which it will end, if it is to fail.
        held: Whether it is kept from completing.
        caller: The access key id with whose permissions it is written.
        outcome: What DescribeExport says only once it is finished.
    """

    request: ExportRequest
    table: HistoricTable
    place: ExportPlace
    requested_at: datetime
    start_time: datetime
    client_token: str
    failure: tuple[str, str] | None = None
    held: bool = False
    caller: str = ""
    outcome: dict[str, Any] = field(default_factory=dict)

    @property
    def arn(self) -> str:
        """The export's ARN."""
        return f"{self.table.arn}/export/{self.place.export_id}"

    @property
    def status(self) -> str:
        """``IN_PROGRESS``, ``COMPLETED`` or ``FAILED``."""
        return str(self.outcome.get("ExportStatus", "IN_PROGRESS"))

    def description(self) -> dict[str, Any]:
        """Answers DescribeExport: members that do not apply are absent."""
        request = self.request
        full = request.export_from is None
        members = {
            "ExportArn": self.arn,
            "ExportStatus": self.status,
            "StartTime": epoch_seconds(self.start_time),
            "TableArn": self.table.arn,
            "TableId": self.table.table_id,
            "ExportTime": epoch_seconds(request.export_time or self.start_time) if full else None,
            "ClientToken": self.client_token,
            "S3Bucket": request.bucket,
            "S3BucketOwner": request.bucket_owner,
            "S3Prefix": request.prefix,
            "S3SseAlgorithm": request.sse_algorithm,
            "S3SseKmsKeyId": request.kms_key_id,
            "ExportFormat": request.export_format,
            "ExportType": request.export_type,
            "IncrementalExportSpecification": self._window(),
            "FilterSpecification": request.filter_specification,
            # Not in older service models, but on the wire of every answer.
            "DestinationType": "S3",
            **self.outcome,
        }
        return {name: value for name, value in members.items() if value is not None}

    def summary(self) -> dict[str, Any]:
        """What ListExports says of it."""
        kind = "FULL_EXPORT" if self.request.export_from is None else "INCREMENTAL_EXPORT"
        return {"ExportArn": self.arn, "ExportStatus": self.status, "ExportType": kind}

    def fail(self, end: datetime, code: str, message: str) -> None:
        """Ends it without a file."""
        self.outcome = {
            "ExportStatus": "FAILED",
            "EndTime": epoch_seconds(end),
            "FailureCode": code,
            "FailureMessage": message,
        }

    def complete(self, put: Put, end: datetime, shape: ExportShape) -> None:
        """Reads the table's history, writes all files, and ends it."""
        written = self._write(put, end, shape)
        self.outcome = {
            "ExportStatus": "COMPLETED",
            "EndTime": epoch_seconds(end),
            "ExportManifest": written.manifest_summary_key,
            "ItemCount": written.item_count,
            "BilledSizeBytes": written.billed_size_bytes,
        }

    def _window(self) -> dict[str, Any] | None:
        if self.request.export_from is None or self.request.export_to is None:
            return None
        return {
            "ExportFromTime": epoch_seconds(self.request.export_from),
            "ExportToTime": epoch_seconds(self.request.export_to),
            "ExportViewType": self.request.view,
        }

    def _write(self, put: Put, end: datetime, shape: ExportShape) -> WrittenExport:
        request, table = self.request, self.table
        given: dict[str, Any] = {
            "table_arn": table.arn,
            "table_id": table.table_id,
            "bucket": request.bucket,
            "prefix": request.prefix,
            "hash_key": table.key_schema[0][0],
            "files": shape.data_files,
            "empty_files": shape.empty_files,
            "export_format": request.export_format,
            "seed": shape.seed,
            "start_time": self.start_time,
            "end_time": end,
            "export_id": self.place.export_id,
            "sse_algorithm": request.sse_algorithm,
            "kms_key_id": request.kms_key_id,
        }
        if request.export_from is not None and request.export_to is not None:
            return write_incremental_export(
                put,
                changes=net_changes(table.changes(request.export_from, request.export_to)),
                export_from=request.export_from,
                export_to=request.export_to,
                view=request.view,
                ion_record_wrapper=shape.ion_record_wrapper,
                **given,
            )
        # Not the millisecond that is shown: a write just before the request has to be in.
        moment = request.export_time or self.requested_at
        seed = f"{shape.seed}/{self.place.export_id}"
        items = fuzzy_items(table, moment, fuzz=shape.fuzz, until=end, seed=seed)
        shown = request.export_time or self.start_time
        return write_full_export(put, items=items, export_time=shown, **given)
