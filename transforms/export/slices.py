# SPDX-License-Identifier: Apache-2.0
"""Which pieces of an export to read in one round, counted in uncompressed bytes.

A round on the in-process runner keeps in memory what passes a shuffle, so a round is given a budget
and everything planned fits into it: each slice has a cap, and the caps add up to no more than the
budget. Files are read whole: one that does not fit into what is left waits for the next round, and
only one that no round could hold is cut. Data files are taken in the manifest's order, and tables
one after the other (`plan_loads`), so that rounds follow each other without gaps and few files are
open. Only the sizes of planned files are requested, so a round costs few requests however many
files there are.

Pure but for the sizes that are handed in.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Literal

from dynabeam.transforms.export.elements import DONE, FileSlice
from dynabeam.transforms.export.inflate import HIGHEST_RATIO
from dynabeam.transforms.export.manifest import DataFile, ExportManifest
from dynabeam.transforms.model.table import Table

__all__ = [
    "DEFAULT_RATIO",
    "FileSize",
    "compression_ratio",
    "foresee",
    "is_loaded",
    "plan_round",
]

DEFAULT_RATIO = Fraction(8)
"""Uncompressed over compressed bytes, as long as nothing is known: a cautious guess for JSON."""

SMALLEST_PIECE = 1 << 20
"""A file is not cut into smaller pieces than this, unless the whole budget is smaller."""

_SAMPLED = 4
_MARGIN = Fraction(3, 2)
"""A file is planned whole if 1.5 times its foreseen size fits: an estimate is only that."""

_TRAILER_WRAPS = 1 << 32

Loaded = Mapping[str, "int | Literal['done']"]


@dataclasses.dataclass(frozen=True)
class FileSize:
    """How large a data file is.

    Attributes:
        compressed: Bytes of the file.
        trailer: The uncompressed length in gzip's trailer, modulo 4 GiB; None if the file
            is too short to have one.
    """

    compressed: int
    trailer: int | None = None


def foresee(size: FileSize) -> int:
    """Uncompressed bytes of a data file, as its gzip trailer gives them.

    The trailer is exact for one gzip member of less than 4 GiB, which is what AWS writes. Of larger
    files it gives the last 32 bits: the nearest to the usual ratio is taken. What cannot be (JSON
    does not grow by packing) is a file of several members, and is guessed from the usual ratio.

    Args:
        size: What is known of the file.
    """
    usual = int(size.compressed * DEFAULT_RATIO)
    if size.trailer is None:
        return usual
    wraps = max(0, (usual - size.trailer + _TRAILER_WRAPS // 2) // _TRAILER_WRAPS)
    told = size.trailer + wraps * _TRAILER_WRAPS
    possible = size.compressed // 2 <= told <= size.compressed * HIGHEST_RATIO
    return told if possible else int(usual * _MARGIN)


def is_loaded(file: DataFile, loaded: Loaded) -> bool:
    """True if nothing of the file is left to read."""
    return loaded.get(file.path) == DONE


def compression_ratio(
    manifest: ExportManifest, loaded: Loaded, loaded_bytes: int, size_of: Callable[[str], int]
) -> Fraction:
    """Uncompressed over compressed bytes of what is loaded so far; the default if that is nothing.

    Args:
        manifest: The export.
        loaded: Lines loaded per path, or `DONE`.
        loaded_bytes: Uncompressed bytes of those lines.
        size_of: Compressed size of the file at a path, in bytes. At most a few files are asked.
    """
    known = [each for each in manifest.files if each.item_count and loaded.get(each.path)]
    total_lines = sum(_lines_loaded(each, loaded) for each in known)
    sample = known[-_SAMPLED:]
    sampled_lines = sum(each.item_count for each in sample)
    compressed = sum(size_of(each.path) for each in sample)
    if not (loaded_bytes and total_lines and compressed):
        return DEFAULT_RATIO
    line_bytes = Fraction(loaded_bytes, total_lines)
    ratio = line_bytes * sampled_lines / compressed
    return min(max(ratio, Fraction(1)), Fraction(HIGHEST_RATIO))


def plan_round(
    manifest: ExportManifest,
    table: Table,
    *,
    generation: int,
    buckets: int,
    loaded: Loaded,
    size_of: Callable[[str], int] | None = None,
    max_bytes: int = 0,
    ratio: Fraction = DEFAULT_RATIO,
    key_range: str = "",
    inflated_of: Callable[[str], int] | None = None,
    round_bytes: int = 0,
    digests: str = "",
) -> list[FileSlice]:
    """Plans the pieces of one export to read now.

    Args:
        manifest: The export.
        table: The table, for the slices.
        generation: The generation of the rows.
        buckets: Number of hash buckets.
        loaded: Lines loaded per path, or `DONE`; a path that is not in it was not begun.
        size_of: Compressed size of the file at a path, in bytes; not used with `inflated_of`.
        max_bytes: The budget in uncompressed bytes; 0 for all that is left, in whole files.
        ratio: Uncompressed over compressed bytes, as foreseen; not used with `inflated_of`.
        key_range: The range of keys whose rows are wanted; empty for all.
        inflated_of: Uncompressed size of the file at a path, in bytes, if it can be known.
        round_bytes: The budget of the whole round, if others have had a part of it: only a file
            that is larger is cut, and nothing has to be planned. 0 if the budget is `max_bytes`:
            then there is at least one slice, unless all is loaded.
        digests: Folder for digests of keys; empty for none.

    Returns:
        Slices whose `max_bytes` add up to at most the budget. A slice reads at least one line, so
        a round that has slices makes progress.
    """
    new_slice = functools.partial(
        FileSlice,
        table=table,
        generation=generation,
        buckets=buckets,
        export_arn=manifest.export_arn,
        export_time_us=manifest.export_time_us,
        files=len(manifest.files),
        export_format=manifest.export_format,
        export_type=manifest.export_type,
        view=manifest.view,
        key_range=key_range,
        digests=digests,
    )
    slices: list[FileSlice] = []
    left = max_bytes
    # Whoever comes first in a round gets what there is, however little.
    is_first = left >= round_bytes
    for file in manifest.files:
        if is_loaded(file, loaded):
            continue
        cap, start_line = 0, _lines_loaded(file, loaded)
        if max_bytes:
            rest = _rest(file, start_line, size_of, ratio, inflated_of)
            if rest > (round_bytes or max_bytes) and (is_first or left >= SMALLEST_PIECE):
                cap = left
            elif rest > left and not is_first:
                break
            else:
                cap = rest
            cap = max(1, min(cap, left))
            left -= cap
        slices.append(new_slice(file=file, start_line=start_line, max_bytes=cap))
        is_first = is_first and file.item_count == 0
        if max_bytes and left <= 0:
            break
    return slices


def _rest(
    file: DataFile,
    lines: int,
    size_of: Callable[[str], int] | None,
    ratio: Fraction,
    inflated_of: Callable[[str], int] | None,
) -> int:
    """Bytes to set aside for what is left of a file."""
    if file.item_count == 0:
        return 1
    if inflated_of is not None:
        whole = max(1, inflated_of(file.path))
        if not lines:
            return whole
        share = Fraction(max(file.item_count - lines, 1), file.item_count)
        # Its first part was as large as a round: what the file is said to hold may be too little.
        return max(SMALLEST_PIECE, int(whole * share * _MARGIN) + 1)
    assert size_of is not None
    compressed = size_of(file.path)
    share = Fraction(max(file.item_count - lines, 1), file.item_count)
    foreseen = int(compressed * ratio * share * _MARGIN) + 1
    return max(1, min(compressed * HIGHEST_RATIO, max(foreseen, SMALLEST_PIECE)))


def _lines_loaded(file: DataFile, loaded: Loaded) -> int:
    lines = loaded.get(file.path, 0)
    return file.item_count if lines == DONE else int(lines)
