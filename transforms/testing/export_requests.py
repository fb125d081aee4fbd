# SPDX-License-Identifier: Apache-2.0
"""Reads and checks what a client asks of the export API, with the service's own words.

Checks that need no table are made here; codes and texts are those that AWS was seen to answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, cast

from dynabeam.transforms.testing.api_error import ApiError
from dynabeam.transforms.testing.export_layout import ExportFormat, View

__all__ = [
    "ExportRequest",
    "epoch_seconds",
    "parse_export_arn",
    "parse_export_request",
    "parse_table_arn",
    "violation",
]

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_BUCKET = re.compile(r"[a-z0-9A-Z]+[.\-\w]*[a-z0-9A-Z]+\Z")
_OWNER = re.compile(r"[0-9]{12}\Z")
_TOKEN = re.compile(r"[^$]+\Z")
_TABLE_ARN = re.compile(r"arn:aws[a-z-]*:dynamodb:([a-z0-9-]+):([0-9]{12}):table/([\w.-]{1,255})\Z")
_EXPORT_ARN = re.compile(
    r"arn:aws[a-z-]*:dynamodb:([a-z0-9-]+):([0-9]{12}):table/[\w.-]{1,255}/export/.+\Z"
)
_ENUMS = {
    "ExportFormat": ("ION", "DYNAMODB_JSON"),
    "ExportType": ("INCREMENTAL_EXPORT", "FULL_EXPORT"),
    "S3SseAlgorithm": ("KMS", "AES256"),
    "ExportViewType": ("NEW_IMAGE", "NEW_AND_OLD_IMAGES"),
}
_PATTERNS = {"S3Bucket": _BUCKET, "S3BucketOwner": _OWNER, "ClientToken": _TOKEN}
_LENGTHS = {
    "TableArn": (1, 1024),
    "S3Bucket": (0, 255),
    "S3Prefix": (0, 1024),
    "S3SseKmsKeyId": (1, 2048),
}


@dataclass(frozen=True)
class ExportRequest:
    """A request of ExportTableToPointInTime that is well formed.

    Args:
        table_arn: As sent.
        bucket: Target bucket; whether it exists is found out later.
        bucket_owner: Account id, or None.
        prefix: As sent, or None.
        sse_algorithm: ``AES256`` or ``KMS``.
        kms_key_id: Key for ``KMS``, or None.
        export_format: ``DYNAMODB_JSON`` or ``ION``.
        export_type: As sent; None if not passed, which the service distinguishes from
            ``FULL_EXPORT``.
        export_time: Requested moment of a full export, whole seconds, or None.
        export_from: Start of an incremental export's window; None says that the export is full.
        export_to: End of the window; None for the latest time.
        view: Images of an incremental export.
        filter_specification: As sent, or None.
        client_token: As sent, or None.
        arguments: All else that was sent, in one spelling, to compare requests with one token.
    """

    table_arn: str
    bucket: str
    bucket_owner: str | None
    prefix: str | None
    sse_algorithm: str
    kms_key_id: str | None
    export_format: ExportFormat
    export_type: str | None
    export_time: datetime | None
    export_from: datetime | None
    export_to: datetime | None
    view: View
    filter_specification: Mapping[str, Any] | None
    client_token: str | None
    arguments: str


def parse_export_request(body: Mapping[str, Any]) -> ExportRequest:
    """Reads a request's body.

    Raises:
        ApiError: ValidationException, in the cases in which the service answers so.
    """
    for name in ("TableArn", "S3Bucket"):
        if body.get(name) is None:
            raise violation(None, name, "Member must not be null")
    window = body.get("IncrementalExportSpecification")
    for holder, path in ((body, ""), (window or {}, "incrementalExportSpecification.")):
        _check_members(holder, path)
    _check_window_goes_with_type(body.get("ExportType"), window)
    if body.get("S3SseKmsKeyId") is not None and body.get("S3SseAlgorithm") != "KMS":
        raise _invalid("KMS Key Id is not supported for this encryption type")
    if body.get("FilterSpecification") == {}:
        raise _invalid("Invalid FilterSpecification: The specification can not be empty")
    arguments = {name: value for name, value in body.items() if name != "ClientToken"}
    spec: Mapping[str, Any] = window or {}
    return ExportRequest(
        table_arn=body["TableArn"],
        bucket=body["S3Bucket"],
        bucket_owner=body.get("S3BucketOwner"),
        prefix=body.get("S3Prefix"),
        sse_algorithm=body.get("S3SseAlgorithm") or "AES256",
        kms_key_id=body.get("S3SseKmsKeyId"),
        export_format=cast("ExportFormat", body.get("ExportFormat") or "DYNAMODB_JSON"),
        export_type=body.get("ExportType"),
        export_time=_moment(body.get("ExportTime")),
        export_from=_moment(spec.get("ExportFromTime")),
        export_to=_moment(spec.get("ExportToTime")),
        view=cast("View", spec.get("ExportViewType") or "NEW_AND_OLD_IMAGES"),
        filter_specification=body.get("FilterSpecification"),
        client_token=body.get("ClientToken"),
        arguments=json.dumps(arguments, sort_keys=True, default=str),
    )


def parse_table_arn(text: str, *, region: str, account_id: str) -> str:
    """Returns the name of the table that an ARN means, for a call in this Region and account.

    Raises:
        ApiError: The ARN is none, not a table's, of another account or of another Region.
    """
    if not text.startswith("arn:"):
        raise ApiError(
            "ValidationException",
            "One or more parameter values were invalid: tableArn is not a valid ARN",
        )
    match = _TABLE_ARN.match(text)
    if match is None:
        raise _invalid("Table ARN is invalid.")
    if match[2] != account_id:
        raise ApiError("AccessDeniedException", "Access is denied")
    if match[1] != region:
        raise ApiError("TableNotFoundException", f"Table not found: {text}")
    return match[3]


def parse_export_arn(text: Any, *, region: str, account_id: str) -> str:
    """Returns an export's ARN if such an export could exist in this Region and account.

    Raises:
        ApiError: The ARN is not an export's, or of another account or Region.
    """
    if text is None:
        raise violation(None, "ExportArn", "Member must not be null")
    match = _EXPORT_ARN.match(text) if isinstance(text, str) else None
    if match is None:
        raise ApiError("ValidationException", "Invalid Export ARN")
    if match[2] != account_id:
        raise ApiError("AccessDeniedException", "Access is denied")
    if match[1] != region:
        raise ApiError("ExportNotFoundException", "Export not found: Invalid export arn")
    return match[0]


def epoch_seconds(moment: datetime) -> float:
    """A time as the JSON protocol carries it: seconds since 1970 with milliseconds."""
    return ((moment - _EPOCH) // timedelta(milliseconds=1)) / 1000


def violation(value: Any, name: str, rule: str) -> ApiError:
    """Returns the service's complaint about a member, whose path is given in the API's spelling."""
    *path, last = name.split(".")
    member = ".".join((*path, last[0].lower() + last[1:]))
    shown = "null" if value is None else f"'{value}'"
    return ApiError(
        "ValidationException",
        f"1 validation error detected: Value {shown} at '{member}' failed to satisfy "
        f"constraint: {rule}",
    )


def _check_members(holder: Mapping[str, Any], path: str) -> None:
    for name, value in holder.items():
        if value is None:
            continue
        if name in _ENUMS and value not in _ENUMS[name]:
            choices = ", ".join(_ENUMS[name])
            raise violation(value, path + name, f"Member must satisfy enum value set: [{choices}]")
        shortest, longest = _LENGTHS.get(name, (0, None))
        if longest is not None and not shortest <= len(value) <= longest:
            bound = f"Member must have length between {shortest} and {longest}, inclusive"
            raise violation(value, path + name, bound)
        pattern = _PATTERNS.get(name)
        if pattern is not None and not pattern.match(value):
            rule = f"Member must satisfy regular expression pattern: {pattern.pattern[:-2]}"
            raise violation(value, path + name, rule)


def _check_window_goes_with_type(export_type: str | None, window: Any) -> None:
    if export_type == "INCREMENTAL_EXPORT":
        if window is None:
            raise _invalid(
                "Incremental Export Specification expected when export type is set as "
                "Incremental Export"
            )
        if window.get("ExportFromTime") is None:
            raise _invalid("ExportFromTime must be provided in IncrementalExportSpecification")
    elif window is not None and export_type is None:
        raise _invalid(
            "Export Type expected to be Incremental Export when incremental export "
            "specification is provided"
        )
    elif window is not None:
        raise _invalid(
            "When Export Type is Full Export , Incremental Export Specification should not "
            "be provided"
        )


def _moment(value: Any) -> datetime | None:
    """Reads a timestamp; the service keeps whole seconds of what is asked."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ApiError("SerializationException", f"Expected a number of seconds, found {value!r}")
    return _EPOCH + timedelta(seconds=int(value))


def _invalid(text: str) -> ApiError:
    return ApiError("ValidationException", f"Invalid Request: {text}")
