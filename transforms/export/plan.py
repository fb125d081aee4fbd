# SPDX-License-Identifier: Apache-2.0
"""Which pieces of an export to read in one round, counted in uncompressed bytes.

A round on the in-process runner keeps in memory what passes a shuffle, so a round is given a budget
and everything planned fits into it: each slice has a cap, and the caps add up to no more than the
budget. Data files are taken in the manifest's order, so that rounds follow each other without gaps.
Only planned files are asked for their size, so a round costs few requests however many files there
are.

Pure but for the `size_of` that is handed in.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Literal

from transforms.export.elements import DONE, FileSlice
from transforms.export.inflate import HIGHEST_RATIO
from transforms.export.manifest import DataFile, ExportManifest
from transforms.tables import Table

__all__ = ["DEFAULT_RATIO", "compression_ratio", "is_loaded", "plan_round"]

DEFAULT_RATIO = Fraction(8)
"""Uncompressed over compressed bytes, as long as nothing is known: a cautious guess for JSON."""

SMALLEST_PIECE = 1 << 20
"""A file is not cut into smaller pieces than this, unless the whole budget is smaller."""

_SAMPLED = 4
_MARGIN = Fraction(3, 2)
"""A file is planned whole if 1.5 times its foreseen size fits: an estimate is only that."""

Loaded = Mapping[str, "int | Literal['done']"]


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
    size_of: Callable[[str], int],
    max_bytes: int = 0,
    ratio: Fraction = DEFAULT_RATIO,
    key_range: str = "",
) -> list[FileSlice]:
    """Plans the pieces to read now.

    Args:
        manifest: The export.
        table: The table, for the slices.
        generation: The generation of the rows.
        buckets: Number of hash buckets.
        loaded: Lines loaded per path, or `DONE`; a path that is not in it was not begun.
        size_of: Compressed size of the file at a path, in bytes.
        max_bytes: The budget in uncompressed bytes; 0 for all that is left, in whole files.
        ratio: Uncompressed over compressed bytes, as foreseen.
        key_range: The range of keys whose rows are wanted; empty for all.

    Returns:
        Slices whose `max_bytes` add up to at most the budget. At least one, unless all is loaded;
        a slice reads at least one line, so every round makes progress.
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
    )
    slices: list[FileSlice] = []
    left = max_bytes
    for file in manifest.files:
        if is_loaded(file, loaded):
            continue
        cap = 0
        if max_bytes:
            cap = _cap(file, _lines_loaded(file, loaded), size_of(file.path), ratio, left)
            if slices and cap > left:
                break
            # The first slice gets what there is, however little.
            cap = max(1, min(cap, left))
            left -= cap
        start_line = _lines_loaded(file, loaded)
        slices.append(new_slice(file=file, start_line=start_line, max_bytes=cap))
        if max_bytes and left <= 0:
            break
    return slices


def _cap(file: DataFile, lines: int, compressed: int, ratio: Fraction, left: int) -> int:
    """Bytes to set aside for what is left of a file: all of it, or a piece of what is `left`."""
    if file.item_count == 0:
        return 1
    rest = Fraction(max(file.item_count - lines, 1), file.item_count)
    foreseen = int(compressed * ratio * rest * _MARGIN) + 1
    whole = min(compressed * HIGHEST_RATIO, max(foreseen, SMALLEST_PIECE))
    if whole <= left or left < SMALLEST_PIECE:
        return max(whole, 1)
    return left


def _lines_loaded(file: DataFile, loaded: Loaded) -> int:
    lines = loaded.get(file.path, 0)
    return file.item_count if lines == DONE else int(lines)
