# SPDX-License-Identifier: Apache-2.0
"""Canonical cells: stored columns as text that is equal exactly if the values are, and its digests.

Both sides of an audit pass here, so that a spelling that carries no meaning is no difference:

| tag | cell |
|---|---|
| S | the text |
| N | the number as `transforms.values.numbers` spells it, all digits |
| B | hex digits |
| BOOL | `true`, `false` |
| SS, NS, BS | a JSON array of such cells, sorted |
| L, M, `_other`, `item` | JSON as `transforms.audit.json_values` spells it |

A null stays a null, so it differs from the empty text. A row's digest is the MD5 of its key and its
cells, each with its length in front. MD5 finds accidents, not forgers, and DuckDB computes it for
whole columns. Python runs per item only for cells of JSON, whose names and sets have no fixed order
(the service writes one item's in different orders in a stream and in an export).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dynabeam.transforms.audit.json_values import canonical_item, canonical_list, canonical_plain
from dynabeam.transforms.audit.mirror_schema import RAW, MirrorShape
from dynabeam.transforms.values.json_sql import query
from dynabeam.transforms.values.numbers import normalise_numbers

__all__ = ["Digests", "canonical_cells", "row_digests"]

Digests = npt.NDArray[np.uint64]

_LISTS = ("SS", "NS", "BS")


def canonical_cells(stored: pa.Table, shape: MirrorShape, *, are_text: bool) -> pa.Table:
    """The stored columns as canonical cells.

    Args:
        stored: The columns `MirrorShape.names`: typed as `RowLayout` makes them, or text: numbers,
            booleans and JSON as they are, binary as hex, a list as a JSON array of strings.
        shape: The table in the mirror.
        are_text: The columns are text.

    Returns:
        String columns of the same names, nulls kept.
    """
    tags = [*shape.tags.values(), "M", *(["M"] if shape.has_raw else [])]
    places = [f"c{at}" for at in range(len(tags))]
    # Casts of names cannot be trusted to SQL: an attribute may be called anything.
    columns = [
        column.cast(pa.string()) if name == RAW and column.type == pa.binary() else column
        for name, column in zip(shape.names, stored.columns, strict=True)
    ]
    spell = _of_text if are_text else _of_typed
    wanted = ", ".join(
        f"{spell(place, tag)} AS {place}" for place, tag in zip(places, tags, strict=True)
    )
    texts = query(f"SELECT {wanted} FROM input", pa.table(columns, names=places))  # noqa: S608
    plain = shape.options.nested == "plain"
    cells = []
    for place, (tag, name) in enumerate(zip(tags, shape.names, strict=True)):
        cell = texts.column(place).combine_chunks()
        if tag == "N":
            cell = _numbers(cell)
        elif tag in ("L", "M"):
            is_plain = plain and name in shape.tags
            cell = _mapped(cell, canonical_plain if is_plain else _FORMS[tag])
        cells.append(cell)
    return pa.table(cells, names=shape.names)


def row_digests(keys: pa.Array, cells: pa.Table) -> tuple[Digests, Digests]:
    """The digests of rows, as lower and upper halves.

    Args:
        keys: Binary.
        cells: Canonical cells.
    """
    places = [f"c{at}" for at in range(cells.num_columns)]
    parts = ", ".join(f"coalesce(strlen({each})::VARCHAR || ':' || {each}, '-')" for each in places)
    table = pa.table([keys, *cells.columns], names=["k", *places])
    found = query(
        "SELECT md5_number_lower(t) AS lower, md5_number_upper(t) AS upper "  # noqa: S608
        f"FROM (SELECT concat(hex(k), '|', {parts}) AS t FROM input)",
        table,
    )
    lower, upper = (
        found.column(at).combine_chunks().cast(pa.uint64()).to_numpy(zero_copy_only=False)
        for at in (0, 1)
    )
    return lower, upper


def _of_typed(place: str, tag: str) -> str:
    if tag == "SS":
        return f"to_json(list_sort({place}))::VARCHAR"
    if tag == "NS":
        number = _short("x::VARCHAR")
        return f"to_json(list_sort(list_transform({place}, lambda x: {number})))::VARCHAR"
    if tag == "BS":
        return f"to_json(list_sort(list_transform({place}, lambda x: lower(hex(x)))))::VARCHAR"
    if tag == "B":
        return f"lower(hex({place}))"
    return _short(f"{place}::VARCHAR") if tag == "N" else f"{place}::VARCHAR"


def _of_text(place: str, tag: str) -> str:
    if tag in _LISTS:
        members = f"from_json({place}, '[\"VARCHAR\"]')"
        if tag == "NS":
            members = f"list_transform({members}, lambda x: {_short('x')})"
        return f"to_json(list_sort({members}))::VARCHAR"
    return _short(place) if tag == "N" else place


def _short(number: str) -> str:
    """A plain decimal without the zeros that its column's scale gives it."""
    return (
        f"CASE WHEN contains({number}, '.') AND NOT contains(lower({number}), 'e') "
        f"THEN rtrim(rtrim({number}, '0'), '.') ELSE {number} END"
    )


def _numbers(texts: pa.Array) -> pa.Array:
    # What is no number stands for itself: a damaged cell must not look like an empty one.
    return pc.coalesce(normalise_numbers(texts, invalid="null"), texts)


def _mapped(texts: pa.Array, change: Callable[[str], str]) -> pa.Array:
    if texts.null_count == len(texts):
        return texts.cast(pa.string())
    changed = [None if text is None else change(text) for text in texts.to_pylist()]
    return pa.array(changed, pa.string())


_FORMS: dict[str, Callable[[str], str]] = {"M": canonical_item, "L": canonical_list}
