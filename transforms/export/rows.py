# SPDX-License-Identifier: Apache-2.0
"""Lines of an export as rows of a block: vectorised for DynamoDB JSON, line by line for Ion.

Rows of a full export are snapshot rows (`r`) dated with the export's time, with sequence number 0.
Rows of an incremental export are net changes (`c`, `u`, `d`) dated with the last write, whose time
in microseconds is their sequence number too: so the windows of a heal may be loaded in any order.
"""

from __future__ import annotations

import pyarrow as pa

from dynabeam.transforms.errors import ExportError
from dynabeam.transforms.export.elements import FileSlice
from dynabeam.transforms.model.block import SCHEMA
from dynabeam.transforms.model.version import constant_versions, encode_versions
from dynabeam.transforms.values.ion_text import ion_lines_to_json
from dynabeam.transforms.values.lines import (
    BadLine,
    ExportView,
    FullLines,
    IncrementalLines,
    parse_full_lines,
    parse_incremental_lines,
)

__all__ = ["rows_of_lines"]

_TIME = SCHEMA.field("event_time").type


def rows_of_lines(data: bytes, part: FileSlice) -> tuple[pa.RecordBatch, list[BadLine]]:
    """Parses whole lines of a data file.

    Args:
        data: Whole lines.
        part: The slice that they belong to.

    Returns:
        Rows with the columns of `SCHEMA`, and the lines that are none, numbered within the data.
    """
    if part.export_format == "ION":
        return _rows_of_ion(data, part)
    return _rows_of_json(data, part)


def _rows_of_json(data: bytes, part: FileSlice) -> tuple[pa.RecordBatch, list[BadLine]]:
    if part.export_type == "FULL_EXPORT":
        full = parse_full_lines(data, part.table.keys)
        return _full_rows(full, part), full.bad
    changes = parse_incremental_lines(data, part.table.keys, view=_view(part))
    return _changed_rows(changes, part), changes.bad


def _rows_of_ion(data: bytes, part: FileSlice) -> tuple[pa.RecordBatch, list[BadLine]]:
    rewritten, bad_ion = ion_lines_to_json(data)
    rows, bad = _rows_of_json(rewritten, part)
    if bad:
        # Shown as they were read, not as they were rewritten.
        lines = data.split(b"\n")
        bad = [(number, lines[number - 1], reason) for number, _, reason in bad]
    return rows, sorted(bad + bad_ion)


def _full_rows(parsed: FullLines, part: FileSlice) -> pa.RecordBatch:
    rows = len(parsed.keys)
    time = pa.scalar(part.export_time_us, _TIME)
    return pa.RecordBatch.from_arrays(
        [
            parsed.keys,
            constant_versions(part.generation, rows),
            pa.repeat("r", rows),
            pa.repeat(time, rows),
            pa.nulls(rows, pa.binary()),
            parsed.images,
            pa.repeat(False, rows),
            pa.nulls(rows, pa.binary()),
        ],
        schema=SCHEMA,
    )


def _changed_rows(parsed: IncrementalLines, part: FileSlice) -> pa.RecordBatch:
    rows = len(parsed.keys)
    return pa.RecordBatch.from_arrays(
        [
            parsed.keys,
            encode_versions(part.generation, parsed.write_micros.cast(pa.string())),
            parsed.ops,
            parsed.write_micros.cast(_TIME),
            parsed.old,
            parsed.new,
            pa.repeat(False, rows),
            pa.nulls(rows, pa.binary()),
        ],
        schema=SCHEMA,
    )


def _view(part: FileSlice) -> ExportView:
    if part.view == "NEW_IMAGE":
        return "NEW_IMAGE"
    if part.view == "NEW_AND_OLD_IMAGES":
        return "NEW_AND_OLD_IMAGES"
    raise ExportError(
        "the incremental export has an unknown view",
        where=part.export_arn,
        expected=("NEW_AND_OLD_IMAGES", "NEW_IMAGE"),
        found=part.view,
    )
