# SPDX-License-Identifier: Apache-2.0
"""The manifest of an export: read, verified, and turned into a list of data files.

`manifest-summary.json` says what the export is, `manifest-files.json` (JSON lines) which objects it
consists of. The data folder is never listed: all incremental exports of a prefix share one.
Versions are `2020-06-30` (full) and `2023-08-01` (incremental), each seen in real exports.

Keys inside manifests start at the root of the bucket that AWS wrote to. An export that was copied
elsewhere is found relative to its manifest's folder instead.

Promise: what comes out of `load_manifest` was checked against the `manifest-*.md5` objects where
they exist, against the summary's sum of items, and against the request.
"""

from __future__ import annotations

import base64
import codecs
import collections
import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any, Literal

from dynabeam.transforms.errors import ExportError, ExportIntegrityError, ValueDecodeError
from dynabeam.transforms.export.data_paths import DataFolder
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.runtime.stored_format import damage_told, typed_fields
from dynabeam.transforms.storage import filesystem

__all__ = ["REPACKED", "DataFile", "ExportManifest", "Verify", "load_manifest"]

Verify = Literal["strict", "warn"]
ExportType = Literal["FULL_EXPORT", "INCREMENTAL_EXPORT"]

_TYPES: dict[str, ExportType] = {
    "2020-06-30": "FULL_EXPORT",
    "2023-08-01": "INCREMENTAL_EXPORT",
}
_FORMATS = ("DYNAMODB_JSON", "ION")
_TABLE_ARN = re.compile(r"arn:[^:/\s]+:dynamodb:[^:/\s]*:[^:/\s]*:table/[A-Za-z0-9_.-]{1,255}")
_MOST_ITEMS = (1 << 63) - 1
_SHOWN = 100
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)

REPACKED = (
    "Copy it again from where AWS wrote it. If it was changed on purpose (redacted or packed "
    "again), read it with --verify=warn"
)
"""What to do about a checksum or count that does not agree."""


@dataclasses.dataclass(frozen=True)
class DataFile:
    """One data file of an export.

    Attributes:
        path: Where it lies now.
        item_count: Lines that it must have.
        md5: Base64 of the MD5 of the compressed object.
    """

    path: str
    item_count: int
    md5: str

    def to_json(self) -> list[Any]:
        """The file as a JSON-able list."""
        return [self.path, self.item_count, self.md5]

    @classmethod
    def from_json(cls, value: Any) -> DataFile:
        """Reads what `to_json` wrote."""
        path, item_count, md5 = value
        fields = {"path": path, "item_count": item_count, "md5": md5}
        return typed_fields(cls, fields)


@dataclasses.dataclass(frozen=True)
class ExportManifest:
    """An export, verified as far as its manifests go.

    Attributes:
        location: Path of the `manifest-summary.json`.
        export_arn: The export.
        table_arn: The table.
        table_id: The table's UUID.
        export_type: `FULL_EXPORT` or `INCREMENTAL_EXPORT`.
        export_format: `DYNAMODB_JSON` or `ION`.
        view: `NEW_AND_OLD_IMAGES` or `NEW_IMAGE` of an incremental export, else empty.
        from_us: Start of the window of an incremental export (inclusive), else 0.
        export_time_us: The moment that a full export shows, or the end of an incremental export's
            window (exclusive). Microseconds since 1970.
        item_count: Lines of all files, as the summary says.
        files: The data files, in the manifest's order.
        warnings: What did not agree, if that was allowed.
    """

    location: str
    export_arn: str
    table_arn: str
    table_id: str
    export_type: ExportType
    export_format: str
    view: str
    from_us: int
    export_time_us: int
    item_count: int
    files: tuple[DataFile, ...]
    warnings: tuple[str, ...] = ()

    @property
    def table_name(self) -> str:
        """The table's name, from its ARN."""
        return self.table_arn.rpartition("/")[2]

    def to_json(self) -> dict[str, Any]:
        """The manifest as a JSON-able dict."""
        document: dict[str, Any] = {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self)
        }
        document["files"] = [each.to_json() for each in self.files]
        document["warnings"] = list(self.warnings)
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> ExportManifest:
        """Reads what `to_json` wrote.

        Raises:
            ValueDecodeError: It is damaged, or a newer version wrote it.
        """
        with damage_told("a kept manifest", where="manifest", error=ValueDecodeError):
            files = tuple(DataFile.from_json(each) for each in document["files"])
            return typed_fields(cls, document, files=files)

    def check_table(self, table: Table) -> None:
        """Checks that this is an export of the table: by ARN, or by name if it has no ARN.

        Raises:
            ExportError: It is another table's.
        """
        expected, found = table.name, self.table_name
        if table.arn:
            expected, found = table.arn, self.table_arn
        if expected != found:
            raise ExportError(
                "the export is of another table",
                where=self.location,
                expected=expected,
                found=found,
                hint="Give the export of this table, or name the table that the export is of",
            )

    def check_type(self, expected: ExportType) -> None:
        """Checks that the export is full or incremental, as asked.

        Raises:
            ExportError: It is not.
        """
        if self.export_type != expected:
            raise ExportError(
                "the export is of another type than required",
                where=self.location,
                expected=expected,
                found=self.export_type,
                hint=(
                    "A mirror starts from a full export; incremental exports come after it"
                    if expected == "FULL_EXPORT"
                    else "Give an export of type INCREMENTAL_EXPORT"
                ),
            )


def load_manifest(summary_path: str, *, verify: Verify = "strict") -> ExportManifest:
    """Reads and verifies both manifests.

    Args:
        summary_path: Path of a `manifest-summary.json`.
        verify: What a checksum or count that does not agree is: an error, or a warning that the
            manifest carries on.

    Returns:
        The manifest with the files' present paths.

    Raises:
        ExportIntegrityError: A manifest is missing, unreadable, of an unknown version, or does not
            agree with its checksum or count.
        ExportError: The summary says that the export is filtered.
    """
    checks = _Checks(verify)
    summary = _read_summary(summary_path, checks)
    export_type = _type_of(summary, summary_path)
    export_format = _text(summary, "outputFormat", summary_path)
    if export_format not in _FORMATS:
        raise ExportIntegrityError(
            "the export has an unknown format",
            where=summary_path,
            expected=_FORMATS,
            found=export_format,
        )
    incremental = export_type == "INCREMENTAL_EXPORT"
    files = _read_files(summary_path, summary, checks)
    item_count = _count(summary, "itemCount", summary_path)
    total = sum(each.item_count for each in files)
    checks.agree(
        "the items of all data files do not add up to the summary's",
        summary_path,
        item_count,
        total,
    )
    from_us = _time(summary, "exportFromTime", summary_path) if incremental else 0
    time_name = "exportToTime" if incremental else "exportTime"
    export_time_us = _time(summary, time_name, summary_path)
    if from_us >= export_time_us:
        raise _unreadable(summary_path, "exportFromTime must be before exportToTime")
    return ExportManifest(
        location=summary_path,
        export_arn=_text(summary, "exportArn", summary_path),
        table_arn=_table_arn(summary, summary_path),
        table_id=_optional_text(summary, "tableId", summary_path),
        export_type=export_type,
        export_format=export_format,
        view=_optional_text(summary, "outputView", summary_path),
        from_us=from_us,
        export_time_us=export_time_us,
        item_count=item_count,
        files=files,
        warnings=tuple(checks.warnings),
    )


class _Checks:
    """Compares values: a difference is an error, or a warning where that was allowed."""

    def __init__(self, verify: Verify) -> None:
        self._verify = verify
        self.warnings: list[str] = []

    def agree(self, what: str, where: str, expected: Any, found: Any) -> None:
        if expected == found:
            return
        error = ExportIntegrityError(
            what, where=where, expected=expected, found=found, hint=REPACKED
        )
        if self._verify == "strict":
            raise error
        self.warnings.append(str(error))


def _read_summary(path: str, checks: _Checks) -> dict[str, Any]:
    return _object(_read_checked(path, checks), path)


def _object(text: bytes, where: str) -> dict[str, Any]:
    """Parses one JSON object; whatever else the text is, the error names the place."""
    try:
        found = json.loads(text, object_pairs_hook=_each_once, parse_constant=_no_number)
    except (ValueError, RecursionError) as problem:
        raise _unreadable(where, problem) from problem
    if not isinstance(found, dict):
        raise _unreadable(where, f"a JSON object was expected, not {type(found).__name__}")
    return found


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a member is there twice")
    return found


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


def _type_of(summary: Mapping[str, Any], path: str) -> ExportType:
    version = summary.get("version")
    if not isinstance(version, str) or version not in _TYPES:
        raise ExportIntegrityError(
            "the manifest is of an unknown version",
            where=path,
            expected=sorted(_TYPES),
            found=version,
            hint="Check that the file is an export's summary; if AWS has a new version, upgrade",
        )
    if summary.get("filterSpecification"):
        raise ExportError(
            "the export has a filter: it is only a part of the table",
            where=path,
            found=summary["filterSpecification"],
            hint="Export the table without a filter",
        )
    export_type = _TYPES[version]
    told = summary.get("exportType") or export_type
    if told != export_type:
        raise ExportIntegrityError(
            f"version {version} of the manifest does not go with its export type",
            where=path,
            expected=export_type,
            found=told,
        )
    return export_type


def _read_files(
    summary_path: str, summary: Mapping[str, Any], checks: _Checks
) -> tuple[DataFile, ...]:
    files_key = _text(summary, "manifestFilesS3Key", summary_path)
    folder = DataFolder.of(summary_path, files_key)
    files_path = folder.sibling(files_key)
    lines = _read_checked(files_path, checks).removeprefix(codecs.BOM_UTF8).split(b"\n")
    entries = [
        _entry(line, f"{files_path}:{number}")
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    keys = [key for key, _, _ in entries]
    if len(set(keys)) != len(keys):
        twice, _ = collections.Counter(keys).most_common(1)[0]
        raise ExportIntegrityError("a data file is listed twice", where=files_path, found=twice)
    path_of = folder.data_paths(keys)
    return tuple(DataFile(path_of[key], count, md5) for key, count, md5 in entries)


def _entry(line: bytes, where: str) -> tuple[str, int, str]:
    entry = _object(line, where)
    return (
        _text(entry, "dataFileS3Key", where),
        _count(entry, "itemCount", where),
        _text(entry, "md5Checksum", where),
    )


def _read_checked(path: str, checks: _Checks) -> bytes:
    """Reads a manifest and compares it with its `.md5` object, if there is one."""
    content = filesystem.read_bytes(path, ExportIntegrityError)
    checksum_path = path.removesuffix(".json") + ".md5"
    if filesystem.exists(checksum_path):
        expected = (
            filesystem.read_bytes(checksum_path, ExportIntegrityError)
            .strip()
            .decode("latin-1")[:64]
        )
        digest = hashlib.md5(content, usedforsecurity=False).digest()
        found = base64.b64encode(digest).decode("ascii")
        checks.agree("the manifest's MD5 is not that of its .md5 file", path, expected, found)
    return content


def _text(document: Mapping[str, Any], name: str, where: str) -> str:
    value = document.get(name)
    if not isinstance(value, str) or not value:
        raise _unreadable(where, f"{name} must be text, found {_short(value)}")
    if not value.isprintable():
        # Neither AWS's names nor its times have such: control characters, halves of surrogates.
        raise _unreadable(where, f"{name} has characters that it cannot have: {_short(value)}")
    return value


def _optional_text(document: Mapping[str, Any], name: str, where: str) -> str:
    return _text(document, name, where) if document.get(name) not in (None, "") else ""


def _table_arn(document: Mapping[str, Any], where: str) -> str:
    arn = _text(document, "tableArn", where)
    if not _TABLE_ARN.fullmatch(arn) or arn.rpartition("/")[2] in (".", ".."):
        raise _unreadable(where, f"tableArn must be the ARN of a table, found {_short(arn)}")
    return arn


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _count(document: Mapping[str, Any], name: str, where: str) -> int:
    value = document.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MOST_ITEMS:
        raise _unreadable(where, f"{name} must be a count, found {_short(value)}")
    return value


def _time(document: Mapping[str, Any], name: str, where: str) -> int:
    text = _text(document, name, where)
    try:
        # Python 3.10 does not read the Z of ISO 8601.
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
        found = (moment - _EPOCH) // timedelta(microseconds=1)
    except (ValueError, TypeError, OverflowError) as problem:
        raise _unreadable(where, f"{name} must be a time in UTC, found {_short(text)}") from problem
    if found <= 0:
        raise _unreadable(where, f"{name} must be a time after 1970, found {_short(text)}")
    return found


def _unreadable(where: str, problem: object) -> ExportIntegrityError:
    return ExportIntegrityError(
        f"the manifest cannot be read: {problem}",
        where=where,
        hint="Check that the file is whole: copy it again from where AWS wrote it",
    )
