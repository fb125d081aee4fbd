# SPDX-License-Identifier: Apache-2.0
"""The object layout of a DynamoDB export: names, gzip framing, checksums and manifests.

Knows nothing about items; `export_writer` fills data files with lines and hands them here. Shapes
and field order follow real exports: version ``2020-06-30`` for full ones, ``2023-08-01`` for
incremental ones, ``manifest-*.md5`` with 24 base64 bytes and no newline, data keys that start at
the bucket's root, and one data folder shared by all incremental exports of a prefix.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, Literal

from isal import isal_zlib

from dynabeam.transforms.errors import ConfigurationError

__all__ = [
    "EMPTY_GZIP",
    "DataFile",
    "ExportFormat",
    "ExportPlace",
    "GzipMember",
    "ManifestFacts",
    "Put",
    "View",
    "WrittenExport",
    "data_file_name",
    "iso_millis",
    "new_export_id",
    "seeded",
    "write_manifests",
]

Put = Callable[[str, bytes], None]
ExportFormat = Literal["DYNAMODB_JSON", "ION"]
View = Literal["NEW_AND_OLD_IMAGES", "NEW_IMAGE"]

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_SUFFIX: dict[str, str] = {"DYNAMODB_JSON": ".json.gz", "ION": ".ion.gz"}

# Header of the newer real files: no name, no time, no flags, unknown operating system (0xff).
_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
_QUICK_LEVEL = 1

EMPTY_GZIP = _GZIP_HEADER + b"\x03\x00" + bytes(8)
"""What the service writes for a partition without items: 20 bytes, no content."""


def seeded(*parts: object) -> random.Random:
    """Returns a generator that depends on the parts' text alone, on every machine."""
    return random.Random("/".join(map(str, parts)))  # noqa: S311 - reproducible, not secret


def iso_millis(moment: datetime) -> str:
    """Writes a moment as manifests do, such as ``2023-11-14T22:13:20.123Z``.

    Raises:
        ConfigurationError: The datetime has no time zone.
    """
    if moment.tzinfo is None:
        raise ConfigurationError(
            "A time without a time zone is ambiguous", found=moment, hint="Pass an aware datetime"
        )
    in_utc = moment.astimezone(timezone.utc)
    return f"{in_utc:%Y-%m-%dT%H:%M:%S}.{in_utc.microsecond // 1000:03d}Z"


def new_export_id(start_time: datetime, rng: random.Random) -> str:
    """Names an export: its start in ms, 14 digits, and 8 random hex digits."""
    millis = (start_time - _EPOCH) // timedelta(milliseconds=1)
    return f"{millis:014d}-{rng.getrandbits(32):08x}"


def data_file_name(rng: random.Random, export_format: ExportFormat) -> str:
    """Names a data file: 128 random bits as 26 characters of ``a-z2-7``."""
    name = base64.b32encode(rng.randbytes(16)).decode("ascii").rstrip("=").lower()
    return name + _SUFFIX[export_format]


@dataclass(frozen=True)
class ExportPlace:
    """Where an export's objects lie in its bucket.

    Args:
        bucket: The bucket's name; it appears in the summary only.
        prefix: The prefix of the request, verbatim, or None.
        export_id: The export's own id, the last part of its ARN.
    """

    bucket: str
    prefix: str | None
    export_id: str

    @property
    def _root(self) -> str:
        if not self.prefix:
            return "AWSDynamoDB/"
        # Real exports join with one slash, whether or not the prefix ends with one.
        return f"{self.prefix.removesuffix('/')}/AWSDynamoDB/"

    @property
    def folder(self) -> str:
        """The export's own folder, with its final slash."""
        return f"{self._root}{self.export_id}/"

    @property
    def started_key(self) -> str:
        """The empty object that shows that the bucket can be written."""
        return f"{self.folder}_started"

    def data_key(self, name: str, *, incremental: bool) -> str:
        """The key of a data file: own folder if full, shared folder if incremental."""
        return f"{self._root if incremental else self.folder}data/{name}"


@dataclass(frozen=True)
class DataFile:
    """One written data file, as the manifest describes it."""

    key: str
    item_count: int
    md5: bytes

    def manifest_line(self) -> bytes:
        """The file's line of ``manifest-files.json``, with its newline."""
        line = {
            "itemCount": self.item_count,
            "md5Checksum": base64.b64encode(self.md5).decode("ascii"),
            # An upload in one part: MD5 of the part's MD5, and the number of parts.
            "etag": f"{hashlib.md5(self.md5, usedforsecurity=False).hexdigest()}-1",
            "dataFileS3Key": self.key,
        }
        return _compact_json(line) + b"\n"


class GzipMember:
    """Compresses one data file piece by piece, at a quick level.

    Holds the compressed bytes only. The frame is written here, so that the header is the service's
    and the result depends on nothing but the content and the deflate library.
    """

    def __init__(self) -> None:
        self._deflate = isal_zlib.compressobj(_QUICK_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
        self._pieces = [_GZIP_HEADER]
        self._crc = 0
        self.size = 0
        self.item_count = 0

    def write(self, lines: bytes, count: int) -> None:
        """Adds `count` whole lines."""
        self._pieces.append(self._deflate.compress(lines))
        self._crc = isal_zlib.crc32(lines, self._crc)
        self.size += len(lines)
        self.item_count += count

    def finish(self) -> bytes:
        """Returns the whole compressed file."""
        if not self.item_count:
            return EMPTY_GZIP
        trailer = self._crc.to_bytes(4, "little") + (self.size & 0xFFFFFFFF).to_bytes(4, "little")
        return b"".join((*self._pieces, self._deflate.flush(), trailer))


@dataclass(frozen=True)
class WrittenExport:
    """What was written, for a test or a simulated DescribeExport.

    Args:
        export_id: Start in ms and 8 hex digits.
        export_arn: The table's ARN, ``/export/`` and the id.
        bucket: The bucket of the summary.
        started_key: Key of ``_started``.
        manifest_summary_key: Key of ``manifest-summary.json``.
        manifest_files_key: Key of ``manifest-files.json``.
        data_keys: Keys of all data files in the manifest's order, empty ones included.
        item_count: Lines in all data files.
        billed_size_bytes: As in the summary.
        start_time: When the export began, UTC.
        end_time: When it ended, UTC.
    """

    export_id: str
    export_arn: str
    bucket: str
    started_key: str
    manifest_summary_key: str
    manifest_files_key: str
    data_keys: tuple[str, ...]
    item_count: int
    billed_size_bytes: int
    start_time: datetime
    end_time: datetime


@dataclass(frozen=True)
class ManifestFacts:
    """Everything a summary says beyond names and counts.

    Args:
        table_arn: ARN of the exported table.
        table_id: The table's UUID.
        start_time: When the export began.
        end_time: When it ended.
        window: ``exportTime``, or ``exportFromTime`` and ``exportToTime``, as written.
        export_format: Format of the data files.
        view: The images of an incremental export; None says that the export is full.
        billed_size_bytes: Bytes to pay for.
        sse_algorithm: ``AES256``, ``KMS`` or None.
        kms_key_id: Key of the bucket's encryption, or None.
    """

    table_arn: str
    table_id: str
    start_time: datetime
    end_time: datetime
    window: dict[str, str]
    export_format: ExportFormat
    view: View | None
    billed_size_bytes: int
    sse_algorithm: str | None
    kms_key_id: str | None


def write_manifests(
    put: Put, place: ExportPlace, facts: ManifestFacts, files: Iterable[DataFile]
) -> WrittenExport:
    """Writes both manifests and their checksums; the summary last, as the mark of completion."""
    listed = tuple(files)
    item_count = sum(file.item_count for file in listed)
    files_key = f"{place.folder}manifest-files.json"
    summary_key = f"{place.folder}manifest-summary.json"
    export_arn = f"{facts.table_arn}/export/{place.export_id}"
    summary: dict[str, Any] = {
        "version": "2020-06-30" if facts.view is None else "2023-08-01",
        "exportArn": export_arn,
        "startTime": iso_millis(facts.start_time),
        "endTime": iso_millis(facts.end_time),
        "tableArn": facts.table_arn,
        "tableId": facts.table_id,
        **facts.window,
        "s3Bucket": place.bucket,
        "s3Prefix": place.prefix or None,
        "s3SseAlgorithm": facts.sse_algorithm,
        "s3SseKmsKeyId": facts.kms_key_id,
        "manifestFilesS3Key": files_key,
        "billedSizeBytes": facts.billed_size_bytes,
        "itemCount": item_count,
        "outputFormat": facts.export_format,
    }
    if facts.view is not None:
        summary |= {"outputView": facts.view, "exportType": "INCREMENTAL_EXPORT"}
    _put_with_checksum(put, files_key, b"".join(file.manifest_line() for file in listed))
    _put_with_checksum(put, summary_key, _compact_json(summary))
    return WrittenExport(
        export_id=place.export_id,
        export_arn=export_arn,
        bucket=place.bucket,
        started_key=place.started_key,
        manifest_summary_key=summary_key,
        manifest_files_key=files_key,
        data_keys=tuple(file.key for file in listed),
        item_count=item_count,
        billed_size_bytes=facts.billed_size_bytes,
        start_time=facts.start_time,
        end_time=facts.end_time,
    )


def _put_with_checksum(put: Put, key: str, body: bytes) -> None:
    digest = hashlib.md5(body, usedforsecurity=False).digest()
    put(f"{key.removesuffix('.json')}.md5", base64.b64encode(digest))
    put(key, body)


def _compact_json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
