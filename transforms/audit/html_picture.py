# SPDX-License-Identifier: Apache-2.0
"""The picture of one audited table: its buckets as cells, its counts as a bar. Inline SVG."""

from __future__ import annotations

import html
import math

from dynabeam.transforms.audit.result import BucketResult, TableResult
from dynabeam.transforms.audit.verdict import KINDS

__all__ = ["COLOURS", "WORDS", "bucket_grid", "counts_bar"]

COLOURS = {
    "equal": "#2f9e6e",
    "newer": "#7aa7d9",
    "pending": "#b9c4d0",
    "missing": "#d64545",
    "extra": "#8e5bd0",
    "stale": "#e08a1e",
    "different": "#c2257a",
}
"""One per kind; also distinguished by the words beside them."""

WORDS = {
    "equal": "equal",
    "newer": "newer than what was read",
    "pending": "not yet replicated",
    "missing": "missing in the mirror",
    "extra": "not in the table",
    "stale": "an older version",
    "different": "other than the item",
}

_WORST_FIRST = ("missing", "extra", "different", "stale", "pending", "newer")
_EMPTY = "var(--cell)"
_CELL, _GAP = 17, 3
_WIDTH = 960
_LEAST_WIDTH = 6.0


def bucket_grid(table: TableResult) -> str:
    """One cell per hash bucket: green if all its keys are equal, else the colour of the worst.

    An equal cell is the darker the more rows it holds; a cell with several kinds of differences is
    split between them.
    """
    columns = max(1, math.ceil(math.sqrt(len(table.buckets) * 4)))
    rows = math.ceil(len(table.buckets) / columns)
    step = _CELL + _GAP
    most = max((each.items for each in table.buckets), default=0)
    cells = [
        _cell(number, bucket, (number % columns) * step, (number // columns) * step, most)
        for number, bucket in enumerate(table.buckets)
    ]
    width, height = columns * step - _GAP, rows * step - _GAP
    label = f"{len(table.buckets)} buckets of {table.table}, {table.differences} differences"
    return (
        f'<svg class="grid" viewBox="-2 -2 {width + 4} {height + 4}" role="img" '
        f'aria-label="{html.escape(label, quote=True)}">{"".join(cells)}</svg>'
    )


def counts_bar(table: TableResult) -> str:
    """All keys as one bar; what is not equal gets at least a sliver that can be seen."""
    counts = {kind: count for kind, count in table.counts.items() if count}
    total = sum(counts.values())
    if not total:
        return ""
    widths = {
        kind: max(_LEAST_WIDTH, _WIDTH * count / total)
        for kind, count in counts.items()
        if kind != "equal"
    }
    if "equal" in counts:
        widths["equal"] = max(_LEAST_WIDTH, _WIDTH - sum(widths.values()))
    scale = _WIDTH / sum(widths.values())
    parts, x = [], 0.0
    for kind in KINDS:
        if kind not in widths:
            continue
        width = widths[kind] * scale
        parts.append(
            f'<rect x="{x:.2f}" width="{max(width - 1.5, 1):.2f}" height="14" rx="2" '
            f'fill="{COLOURS[kind]}"><title>{counts[kind]:,} {WORDS[kind]}</title></rect>'
        )
        x += width
    return (
        f'<svg class="bar" viewBox="0 0 {_WIDTH} 14" preserveAspectRatio="none" role="img" '
        f'aria-label="keys by kind">{"".join(parts)}</svg>'
    )


def _cell(number: int, bucket: BucketResult, x: int, y: int, most: int) -> str:
    kinds = [kind for kind in _WORST_FIRST if bucket.counts[kind]]
    told = ", ".join(f"{bucket.counts[kind]:,} {WORDS[kind]}" for kind in [*kinds, "equal"])
    title = f"<title>bucket {number}: {told}</title>"
    if not kinds:
        if not bucket.items:
            return _square(x, y, _EMPTY, title)
        shade = 0.45 + 0.55 * bucket.items / most
        return _square(x, y, COLOURS["equal"], title, shade)
    height = _CELL / len(kinds)
    slices = "".join(
        f'<rect x="{x}" y="{y + at * height:.2f}" width="{_CELL}" height="{height:.2f}" '
        f'fill="{COLOURS[kind]}"/>'
        for at, kind in enumerate(kinds)
    )
    ring = (
        f'<rect x="{x - 1.5}" y="{y - 1.5}" width="{_CELL + 3}" height="{_CELL + 3}" rx="4" '
        f'fill="none" stroke="{COLOURS[kinds[0]]}" stroke-width="1.5"/>'
    )
    return f"<g>{slices}{ring}{title}</g>"


def _square(x: int, y: int, fill: str, title: str, opacity: float = 1.0) -> str:
    return (
        f'<rect x="{x}" y="{y}" width="{_CELL}" height="{_CELL}" rx="3" fill="{fill}" '
        f'opacity="{opacity:.2f}">{title}</rect>'
    )
