# SPDX-License-Identifier: Apache-2.0
"""Writes the files of a DynamoDB export exactly as the service lays them out.

For tests that need an export without AWS: `write_full_export` and `write_incremental_export` store
``_started``, data files, manifests and checksums through any ``put(key, body)``; `folder_put` puts
below a local folder. Everything but the times passed in depends on `seed` alone.

Promises: numbers and strings arrive as given, digit for digit; a data file holds items of one hash
range of the partition key only (given `hash_key`); the summary is written last. Items are kept in
memory; ready-made `lines` are streamed, one compressed data file in memory at a time.

As a command it writes a large synthetic export to a folder::

    python -m transforms.testing.export_writer --items 3000000 --out DIR
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from itertools import chain, islice
from pathlib import Path
from typing import Any

from dynabeam.transforms.errors import ConfigurationError
from dynabeam.transforms.testing.export_layout import (
    DataFile,
    ExportFormat,
    ExportPlace,
    GzipMember,
    ManifestFacts,
    Put,
    View,
    WrittenExport,
    data_file_name,
    iso_millis,
    new_export_id,
    seeded,
    write_manifests,
)
from dynabeam.transforms.testing.export_lines import (
    HASH_SPACE,
    Item,
    NetChange,
    change_line,
    full_line,
    hash_position,
)

__all__ = [
    "Item",
    "NetChange",
    "WrittenExport",
    "folder_put",
    "write_full_export",
    "write_incremental_export",
]

ROWS_PER_FILE = 250_000
_LINES_PER_PIECE = 4096
_TYPICAL_DURATION = timedelta(seconds=305)
_INCREMENTAL_BILLING_FLOOR = 10_000_000


def folder_put(folder: str | Path) -> Put:
    """Returns a `put` that stores objects as files below a folder that stands for the bucket."""
    root = Path(folder)

    def put(key: str, body: bytes) -> None:
        path = root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)

    return put


def write_full_export(
    put: Put,
    *,
    table_arn: str,
    table_id: str,
    export_time: datetime,
    bucket: str,
    items: Iterable[Item] | None = None,
    lines: Iterable[bytes] | None = None,
    prefix: str | None = None,
    hash_key: str | None = None,
    files: int = 4,
    empty_files: int = 1,
    rows_per_file: int = ROWS_PER_FILE,
    export_format: ExportFormat = "DYNAMODB_JSON",
    seed: int = 0,
    start_time: datetime | None = None,
    end_time: datetime | None = None,
    export_id: str | None = None,
    billed_size_bytes: int | None = None,
    sse_algorithm: str | None = "AES256",
    kms_key_id: str | None = None,
) -> WrittenExport:
    """Writes a full export.

    Args:
        put: Stores one object of the bucket.
        table_arn: ARN of the table.
        table_id: UUID of the table.
        export_time: The moment that the export shows; the summary gives milliseconds of it.
        bucket: Name of the bucket, for the summary.
        items: The items, in any order. Exactly one of `items` and `lines` is needed.
        lines: Instead, ready-made data lines of `export_format`, streamed in the given order and
            cut into files every `rows_per_file`; a missing final newline is added.
        prefix: The request's S3 prefix.
        hash_key: Name of the partition key, by which items are put into files. Without it, whole
            items are hashed, and items of one partition key may lie in several files.
        files: Number of hash ranges, each one file (some may turn out empty). Not for `lines`.
        empty_files: Further files without an item.
        rows_per_file: See `lines`.
        export_format: ``DYNAMODB_JSON`` or ``ION``.
        seed: Decides ids, names, order of files, attributes and set members.
        start_time: When the export began; default `export_time`, as when no time is requested.
        end_time: When it ended; default some five minutes later.
        export_id: Overrides the seeded id.
        billed_size_bytes: Default: size of the data lines.
        sse_algorithm: For the summary.
        kms_key_id: For the summary.

    Raises:
        ConfigurationError: Both or none of `items` and `lines`, or a time without a zone.
        ValueDecodeError: ``ION`` was asked and a value is not DynamoDB JSON.
    """
    if (items is None) == (lines is None):
        raise ConfigurationError("Pass either items or lines", where="write_full_export")
    began = start_time or export_time
    place = _place(bucket, prefix, export_id, began, seeded(seed, table_arn, "full"))
    rng = seeded(seed, place.export_id)
    writer = _FileWriter(put, place, export_format, rng, incremental=False)
    put(place.started_key, b"")
    if lines is not None:
        writer.write_in_order(lines, rows_per_file)
    elif items is not None:
        rows = ((hash_position(item, hash_key), item) for item in items)
        writer.write_by_hash(rows, lambda item: full_line(item, export_format, rng), files)
    writer.write_empty(empty_files)
    facts = ManifestFacts(
        table_arn=table_arn,
        table_id=table_id,
        start_time=began,
        end_time=end_time or began + _TYPICAL_DURATION,
        window={"exportTime": iso_millis(export_time)},
        export_format=export_format,
        view=None,
        billed_size_bytes=writer.size if billed_size_bytes is None else billed_size_bytes,
        sse_algorithm=sse_algorithm,
        kms_key_id=kms_key_id,
    )
    return write_manifests(put, place, facts, writer.files_in_seeded_order())


def write_incremental_export(
    put: Put,
    *,
    table_arn: str,
    table_id: str,
    changes: Iterable[NetChange],
    export_from: datetime,
    export_to: datetime,
    bucket: str,
    view: View = "NEW_AND_OLD_IMAGES",
    prefix: str | None = None,
    hash_key: str | None = None,
    files: int = 2,
    empty_files: int = 1,
    export_format: ExportFormat = "DYNAMODB_JSON",
    ion_record_wrapper: bool = False,
    seed: int = 0,
    start_time: datetime | None = None,
    end_time: datetime | None = None,
    export_id: str | None = None,
    billed_size_bytes: int | None = None,
    sse_algorithm: str | None = "AES256",
    kms_key_id: str | None = None,
) -> WrittenExport:
    """Writes an incremental export: one net change per key, data files in the shared folder.

    Arguments that `write_full_export` has too mean the same.

    Args:
        put: Stores one object of the bucket.
        table_arn: ARN of the table.
        table_id: UUID of the table.
        changes: One per key that differs between the window's ends, in any order.
        export_from: Start of the window, inclusive.
        export_to: End of the window, exclusive.
        bucket: Name of the bucket.
        view: With ``NEW_IMAGE`` old images are left out, and a delete has its keys only.
        prefix: The request's S3 prefix.
        hash_key: Name of the partition key; without it, the whole key decides the file.
        files: Number of hash ranges.
        empty_files: Further files without a line.
        export_format: ``DYNAMODB_JSON`` or ``ION``.
        ion_record_wrapper: Put the fields of an ION line into ``Record:{...}``. Which of the two
            the service writes could not be confirmed, so readers should accept both.
        seed: As in `write_full_export`.
        start_time: Default one minute after the window's end, in whole seconds.
        end_time: Default some five minutes later.
        export_id: Overrides the seeded id.
        billed_size_bytes: Default: size of the data lines, at least 10,000,000.
        sse_algorithm: For the summary.
        kms_key_id: For the summary.
    """
    # Real incremental exports start on whole seconds; seen in their ids and summaries.
    began = (start_time or export_to + timedelta(minutes=1)).replace(microsecond=0)
    place = _place(bucket, prefix, export_id, began, seeded(seed, table_arn, "incremental"))
    rng = seeded(seed, place.export_id)
    writer = _FileWriter(put, place, export_format, rng, incremental=True)
    put(place.started_key, b"")

    def render(change: NetChange) -> bytes:
        return change_line(change, view, export_format, rng, ion_record_wrapper=ion_record_wrapper)

    rows = ((hash_position(change.keys, hash_key), change) for change in changes)
    writer.write_by_hash(rows, render, files)
    writer.write_empty(empty_files)
    billed = max(_INCREMENTAL_BILLING_FLOOR, writer.size)
    facts = ManifestFacts(
        table_arn=table_arn,
        table_id=table_id,
        start_time=began,
        end_time=end_time or began + _TYPICAL_DURATION,
        window={"exportFromTime": iso_millis(export_from), "exportToTime": iso_millis(export_to)},
        export_format=export_format,
        view=view,
        billed_size_bytes=billed if billed_size_bytes is None else billed_size_bytes,
        sse_algorithm=sse_algorithm,
        kms_key_id=kms_key_id,
    )
    return write_manifests(put, place, facts, writer.files_in_seeded_order())


def _place(
    bucket: str, prefix: str | None, export_id: str | None, began: datetime, rng: random.Random
) -> ExportPlace:
    return ExportPlace(bucket, prefix, export_id or new_export_id(began, rng))


class _FileWriter:
    """Writes the data files of one export and remembers them for the manifest."""

    def __init__(
        self,
        put: Put,
        place: ExportPlace,
        export_format: ExportFormat,
        rng: random.Random,
        *,
        incremental: bool,
    ) -> None:
        self._put = put
        self._place = place
        self._format = export_format
        self._rng = rng
        self._incremental = incremental
        self._files: list[DataFile] = []
        self.size = 0

    def write_by_hash(
        self, rows: Iterable[tuple[int, Any]], render: Callable[[Any], bytes], files: int
    ) -> None:
        """Writes `files` files, each with the rows of one hash range, in the order of the hash."""
        if files < 1:
            raise ConfigurationError("An export has at least one file", where="files", found=files)
        ranges: list[list[tuple[int, Any]]] = [[] for _ in range(files)]
        for row in rows:
            ranges[row[0] * files // HASH_SPACE].append(row)
        for members in ranges:
            members.sort(key=lambda row: row[0])
            self._write_file(render(content) for _, content in members)

    def write_in_order(self, lines: Iterable[bytes], rows_per_file: int) -> None:
        """Streams ready-made lines into files of `rows_per_file` rows."""
        remaining = (line if line.endswith(b"\n") else line + b"\n" for line in lines)
        while first := next(remaining, None):
            self._write_file(chain((first,), islice(remaining, rows_per_file - 1)))

    def write_empty(self, count: int) -> None:
        """Writes the files of partitions without items."""
        for _ in range(count):
            self._write_file(())

    def files_in_seeded_order(self) -> list[DataFile]:
        """Returns all files, empty ones somewhere among the others."""
        return self._rng.sample(self._files, len(self._files))

    def _write_file(self, lines: Iterable[bytes]) -> None:
        member = GzipMember()
        remaining = iter(lines)
        while piece := list(islice(remaining, _LINES_PER_PIECE)):
            member.write(b"".join(piece), len(piece))
        body = member.finish()
        name = data_file_name(self._rng, self._format)
        key = self._place.data_key(name, incremental=self._incremental)
        self._put(key, body)
        digest = hashlib.md5(body, usedforsecurity=False).digest()
        self._files.append(DataFile(key, member.item_count, digest))
        self.size += member.size


if __name__ == "__main__":
    from dynabeam.transforms.testing.synthetic_export import main

    main()
