# SPDX-License-Identifier: Apache-2.0
"""Acquiring a table's export: one poll at a time, never a wait.

A poll finds the export that is to be reused, or requests one (which the service answers with the
same export when asked again), and says how far it has come. When to poll again is up to the caller.
A complete export comes with its manifest, checked against what DescribeExport says.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Mapping, Sequence
from typing import Literal

from botocore.exceptions import BotoCoreError, ClientError

from dynabeam.transforms.aws import dynamodb
from dynabeam.transforms.aws.session import AwsAccess
from dynabeam.transforms.errors import (
    ConfigurationError,
    DynabeamError,
    ExportError,
    ExportIntegrityError,
    TableError,
)
from dynabeam.transforms.export.elements import SnapshotRequest
from dynabeam.transforms.export.location import (
    find_summary,
    is_export_arn,
    newest_age_us,
    table_arn_of_export,
)
from dynabeam.transforms.export.manifest import ExportManifest, Verify, load_manifest

__all__ = [
    "Acquisition",
    "ExportFailedError",
    "ExportPoll",
    "acquire",
    "client_token",
    "given_exports",
    "open_export",
]

_LOGGER = logging.getLogger(__name__)

Status = Literal["waiting_for_stream", "table_ended", "IN_PROGRESS", "FAILED", "COMPLETED"]

_JUST_NOW_US = 60_000_000

_WRITING = (
    "Allow the identity that requests exports s3:PutObject, s3:PutObjectAcl and "
    "s3:AbortMultipartUpload on the bucket's objects"
)
_FAILURES: Mapping[str, str] = {
    "S3NoSuchBucket": "Create the bucket, or name another one with --s3_export_bucket",
    "S3AccessDenied": f"{_WRITING}; if the bucket is another account's, give its owner too",
    "AccessDenied": f"{_WRITING}, and the use of the KMS key if there is one",
}
_FAILURE_HINT = "The next run requests a new export, with the options that it is given"
_GIVEN_HINT = "Give another export, or --s3_export_bucket for a new one"


class ExportFailedError(ExportError):
    """An export that was requested has failed; a new one can be requested.

    Attributes:
        arn: The export.
        code: Why it failed, e.g. `S3NoSuchBucket`.
        message: The same as a sentence, as the service says it.
    """

    arn: str = ""
    code: str = ""
    message: str = ""

    @classmethod
    def of(cls, description: dynamodb.ExportDescription, hint: str) -> ExportFailedError:
        """The error for an export whose description says that it failed."""
        code, message = description.failure_code, description.failure_message
        said = ": ".join(each for each in (code, message) if each) or "DynamoDB does not say why"
        error = cls(
            f"the export failed: {said}",
            where=description.arn,
            hint=f"{_FAILURES.get(code, 'See the message')}. {hint}",
        )
        error.arn, error.code, error.message = description.arn, code, message
        return error


@dataclasses.dataclass(frozen=True)
class Acquisition:
    """How exports are acquired; picklable.

    Attributes:
        access: AWS, or None if it is not at hand: then only locations can be used.
        verify: What checksums and counts that do not agree are.
        allow_filtered: Accept an export that is only a part of its table.
        export_type: What the export has to be; one of a window is always incremental.
        sse_algorithm: Encryption of a new export's objects: `AES256`, `KMS` or empty.
        kms_key_id: Key for `KMS`.
        bucket: S3 bucket for new exports, with `prefix` and `bucket_owner`: in the place of what
            the requests say, which a savepoint may have kept from before it was fixed.
        prefix: Prefix inside it, or empty.
        bucket_owner: Its account, or empty.
    """

    access: AwsAccess | None = None
    verify: Verify = "strict"
    allow_filtered: bool = False
    export_type: Literal["FULL_EXPORT", "INCREMENTAL_EXPORT"] = "FULL_EXPORT"
    sse_algorithm: str = ""
    kms_key_id: str = ""
    bucket: str = ""
    prefix: str = ""
    bucket_owner: str = ""

    def can_request(self, request: SnapshotRequest) -> bool:
        """True if a new export can be requested: there is a bucket for it."""
        return bool(self.bucket or request.bucket)


@dataclasses.dataclass(frozen=True)
class ExportPoll:
    """What one poll found.

    Attributes:
        status: `waiting_for_stream` (nothing requested yet), `table_ended` (the table was deleted;
            an export under its name would be another table's), `IN_PROGRESS` or `COMPLETED`;
            `FAILED` of whoever goes on after an `ExportFailedError`.
        export_arn: The export; empty while nothing is requested.
        description: What DescribeExport says, if it was asked.
        manifest: The manifest, once the export is complete.
        warnings: What could not be checked.
    """

    status: Status
    export_arn: str = ""
    description: dynamodb.ExportDescription | None = None
    manifest: ExportManifest | None = None
    warnings: tuple[str, ...] = ()


def client_token(request: SnapshotRequest) -> str:
    """The token that makes repeated requests for one snapshot give one export.

    An attempt after one that failed has another token: for eight hours AWS answers a token with the
    export that it was used for, also with one that failed.
    """
    parts = [request.table.arn, str(request.generation), request.request_id]
    if request.from_us:
        parts += [str(request.from_us), str(request.to_us)]
    if request.attempt:
        parts.append(f"attempt {request.attempt}")
    return _token(parts)


def _token(parts: Sequence[str]) -> str:
    return "dynabeam-" + hashlib.sha256("\n".join(parts).encode()).hexdigest()[:40]


def acquire(
    request: SnapshotRequest, known_arn: str, how: Acquisition, *, now_us: int
) -> ExportPoll:
    """Polls once for the export of a table.

    Args:
        request: The table and where its export comes from.
        known_arn: The export that an earlier poll found or requested, or empty.
        how: Access and what to accept.
        now_us: The time, microseconds since 1970.

    Raises:
        TableError: There is no such table, or its point-in-time recovery is off.
        ExportFailedError: The export failed: `SnapshotRequest.attempt` has to go up.
        ExportError: The export is another table's, or is not as requested.
        ExportIntegrityError: Its manifest is not what it should be.
        ConfigurationError: There is neither an export to use nor a bucket for a new one.
        AwsAccessError: A permission is missing.
        CredentialsError: There are no usable credentials.
    """
    if request.manifest is not None:
        manifest = ExportManifest.from_json(request.manifest)
        return ExportPoll("COMPLETED", manifest.export_arn, None, manifest)
    if request.from_us:
        how = dataclasses.replace(how, export_type=request.export_type)
    reuse = request.reuse
    if request.attempt and is_export_arn(reuse):
        reuse = ""  # the one that failed
    arn = known_arn or (reuse if is_export_arn(reuse) else "")
    age_us = newest_age_us(reuse)
    if not arn and reuse and not age_us:
        return _poll_location(request, how)
    access = _access(how, request)
    if arn:
        return _judge(dynamodb.describe_export(access, arn), request, how)
    newest = _newest(access, request, how, now_us - age_us) if age_us else None
    if newest is not None:
        return _judge(newest, request, how)
    if not how.can_request(request):
        raise ConfigurationError(
            "there is no export to use, and no bucket for a new one",
            where=f"table {request.table.name}",
            hint="Give --s3_export_bucket, or --export with an export that exists",
        )
    return _poll_new(access, request, how, now_us)


def _poll_new(
    access: AwsAccess, request: SnapshotRequest, how: Acquisition, now_us: int
) -> ExportPoll:
    """Requests an export, or finds the one that an earlier poll requested."""
    if now_us < max(request.not_before_us, request.to_us):
        return ExportPoll("waiting_for_stream")
    if request.table_id and not _is_there(access, request):
        return ExportPoll("table_ended")
    description = _request(access, _order(request, how))
    if 0 < description.started_us < now_us - _JUST_NOW_US:
        # An earlier request's export: what it is now, not what it was when it was requested.
        description = dynamodb.describe_export(access, description.arn)
    return _judge(description, request, how)


def _is_there(access: AwsAccess, request: SnapshotRequest) -> bool:
    """False if the table was deleted, whether or not there is another one of its name."""
    try:
        found = dynamodb.describe_table(access, request.table.name)
    except TableError:
        return False
    return found.status != "DELETING" and found.table_id in ("", request.table_id)


def open_export(location: str, how: Acquisition) -> ExportManifest:
    """Opens a complete export by ARN or location, before there is any table or graph.

    Raises:
        ExportError: There is none, or it is not complete, or it is not as requested.
        ExportIntegrityError: Its manifest is not what it should be.
        ConfigurationError: An ARN is given, but AWS is not at hand.
    """
    if not is_export_arn(location):
        manifest = load_manifest(find_summary(location), verify=how.verify)
    else:
        if how.access is None:
            raise _no_aws(location)
        description = dynamodb.describe_export(how.access, location)
        if description.status == "FAILED":
            raise ExportFailedError.of(description, _GIVEN_HINT)
        _check_description(description, how)
        if description.status != "COMPLETED":
            raise ExportError(
                "the export is not complete yet",
                where=location,
                expected="COMPLETED",
                found=description.status,
                hint="Wait until it is, then run again",
            )
        manifest = _manifest_of(description, how)
    manifest.check_type(how.export_type)
    return manifest


def given_exports(
    locations: Sequence[str], how: Acquisition
) -> dict[str, tuple[str, ExportManifest]]:
    """Opens the exports that are given, by table: location and manifest.

    Args:
        locations: ARNs and locations; `newest:<seconds>` is passed over.
        how: How they are read.

    Raises:
        ConfigurationError: Two are of one table.
        ExportError: One cannot be read.
    """
    found: dict[str, tuple[str, ExportManifest]] = {}
    for location in locations:
        if newest_age_us(location):
            continue
        manifest = open_export(location, how)
        if manifest.table_name in found:
            raise ConfigurationError(
                "two exports of one table are given",
                where=f"--export={location}",
                found=found[manifest.table_name][0],
                hint="Give one export a table",
            )
        found[manifest.table_name] = (location, manifest)
    return found


def _poll_location(request: SnapshotRequest, how: Acquisition) -> ExportPoll:
    manifest = load_manifest(find_summary(request.reuse), verify=how.verify)
    manifest.check_table(request.table)
    manifest.check_type(how.export_type)
    warnings = _check_filter_of_location(manifest, request, how)
    return ExportPoll("COMPLETED", manifest.export_arn, None, manifest, warnings)


def _check_filter_of_location(
    manifest: ExportManifest, request: SnapshotRequest, how: Acquisition
) -> tuple[str, ...]:
    """Asks AWS whether an export is filtered, as manifests do not say; only with access to AWS.

    The service forgets exports after 90 days, and copies may come from accounts that are out of
    reach: then it stays unknown, which is a warning and stops nothing.
    """
    if how.access is None or not request.table.arn or how.allow_filtered:
        return ()
    try:
        _check_description(dynamodb.describe_export(how.access, manifest.export_arn), how)
    except (_FilteredError, ExportIntegrityError):
        raise
    except (DynabeamError, BotoCoreError, ClientError) as problem:
        warning = f"whether the export is filtered could not be found out: {problem}"
        _LOGGER.warning("%s: %s", manifest.location, warning)
        return (warning,)
    return ()


class _FilteredError(ExportError):
    """An export that is only a part of its table."""


def _judge(
    description: dynamodb.ExportDescription, request: SnapshotRequest, how: Acquisition
) -> ExportPoll:
    """Turns a description into the outcome of a poll; a failed or unfit export into an error."""
    if description.status == "FAILED":
        raise ExportFailedError.of(
            description, _FAILURE_HINT if how.can_request(request) else _GIVEN_HINT
        )
    _check_description(description, how)
    described = description.table_arn or table_arn_of_export(description.arn)
    if request.table.arn and described != request.table.arn:
        raise ExportError(
            "the export is of another table",
            where=description.arn,
            expected=request.table.arn,
            found=described,
            hint="Give an export of this table",
        )
    if request.table_id and description.table_id not in ("", request.table_id):
        raise ExportError(
            "the export is of another table, which was created under the same name",
            where=description.arn,
            expected=request.table_id,
            found=description.table_id,
            hint="Run again: the beginning of a run detects that the table was created again",
        )
    if description.status != "COMPLETED":
        return ExportPoll("IN_PROGRESS", description.arn, description)
    manifest = _manifest_of(description, how)
    manifest.check_table(request.table)
    manifest.check_type(how.export_type)
    return ExportPoll("COMPLETED", description.arn, description, manifest)


def _check_description(description: dynamodb.ExportDescription, how: Acquisition) -> None:
    if description.filtered and not how.allow_filtered:
        raise _FilteredError(
            "the export has a filter: it is only a part of the table, and a mirror of it would "
            "lack the rest",
            where=description.arn,
            hint="Export the table without a filter",
        )
    if description.export_type != how.export_type:
        raise ExportError(
            "the export is of another type than required",
            where=description.arn,
            expected=how.export_type,
            found=description.export_type,
            hint="A mirror starts from a full export; incremental exports come after it",
        )


def _manifest_of(description: dynamodb.ExportDescription, how: Acquisition) -> ExportManifest:
    location = f"s3://{description.bucket}/{description.manifest_key}"
    if not description.manifest_key:
        raise ExportError(
            "DescribeExport names no manifest though the export is complete",
            where=description.arn,
            hint="Give the location of its manifest-summary.json instead of the ARN",
        )
    manifest = load_manifest(location, verify=how.verify)
    if manifest.export_arn != description.arn:
        raise ExportIntegrityError(
            "the manifest is that of another export",
            where=location,
            expected=description.arn,
            found=manifest.export_arn,
            hint="Request a new export",
        )
    return manifest


def _newest(
    access: AwsAccess, request: SnapshotRequest, how: Acquisition, oldest_us: int
) -> dynamodb.ExportDescription | None:
    """The complete, whole export with the latest time; None if there is none that is young enough.

    The order of ListExports is not dependable, so all young ones are described. Their ids begin
    with the start in milliseconds, and an export shows no later moment than its start, so older
    ones need not be.
    """
    described = [
        dynamodb.describe_export(access, each.arn)
        for each in dynamodb.list_exports(access, request.table.arn)
        if each.status == "COMPLETED"
        and each.export_type == how.export_type
        and _may_be_younger(each.arn, oldest_us)
    ]
    young = [
        each
        for each in described
        if each.export_time_us >= oldest_us
        and (how.allow_filtered or not each.filtered)
        # A table that was deleted leaves exports under the ARN of the one made again.
        and (not request.table_id or each.table_id in ("", request.table_id))
    ]
    return max(young, key=lambda each: (each.export_time_us, each.arn), default=None)


def _may_be_younger(arn: str, oldest_us: int) -> bool:
    millis = arn.rpartition("/")[2].partition("-")[0]
    if not (millis.isascii() and millis.isdigit()):
        return True
    return (int(millis) + 1) * 1000 > oldest_us


def _request(access: AwsAccess, order: dynamodb.ExportOrder) -> dynamodb.ExportDescription:
    """Requests an export; with options that changed since the last request, another one."""
    try:
        return dynamodb.request_export(access, order)
    except dynamodb.TokenUsedError:
        # Not the first choice, so that what was requested before there were such tokens is found.
        options = [order.bucket, order.prefix, order.bucket_owner]
        options += [order.sse_algorithm, order.kms_key_id]
        token = _token([order.client_token, *options])
        return dynamodb.request_export(access, dataclasses.replace(order, client_token=token))


def _order(request: SnapshotRequest, how: Acquisition) -> dynamodb.ExportOrder:
    chosen: Acquisition | SnapshotRequest = how if how.bucket else request
    return dynamodb.ExportOrder(
        table_arn=request.table.arn,
        bucket=chosen.bucket,
        client_token=client_token(request),
        prefix=chosen.prefix,
        bucket_owner=chosen.bucket_owner,
        sse_algorithm=how.sse_algorithm,
        kms_key_id=how.kms_key_id,
        from_us=request.from_us,
        to_us=request.to_us,
    )


def _access(how: Acquisition, request: SnapshotRequest) -> AwsAccess:
    if how.access is None or not request.table.arn:
        raise _no_aws(f"table {request.table.name}")
    return how.access


def _no_aws(where: str) -> ConfigurationError:
    return ConfigurationError(
        "an export can be requested, or found by ARN, only with access to AWS",
        where=where,
        hint="Give --region and credentials, or --export with the location of an export's files",
    )
