# SPDX-License-Identifier: Apache-2.0
r"""Attribute values cut out of a column of images as JSON text, and the payloads out of those.

The first step of every vectorised decode: `extract_values` has DuckDB parse each image once and
return the text of the asked-for attributes' values, such as `{"S":"x"}`, compact and minimally
escaped. From there on it is work on short, regular texts, for Arrow and numpy.

A payload function returns null where the text is not *exactly* a value of its tag (another tag, two
tags, another JSON type inside), so a caller that has both columns knows what did not fit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dynabeam.transforms.values.byte_columns import offsets_and_bytes, trimmed
from dynabeam.transforms.values.column_bounds import MAX_DEPTH
from dynabeam.transforms.values.json_sql import query, quoted_text
from dynabeam.transforms.values.nesting import deeper_than

__all__ = [
    "compacted",
    "extract_values",
    "json_pointer",
    "json_strings",
    "list_payload",
    "nested_payload",
    "object_names",
    "text_payload",
]

_QUOTE, _BACKSLASH = ord('"'), ord("\\")


def extract_values(images: pa.Array, names: Sequence[str]) -> list[pa.Array]:
    """Return one column per attribute: the JSON text of its value in each image.

    Args:
        images: DynamoDB JSON of items, binary or string, nulls allowed.
        names: Attribute names, any text.

    Returns:
        String arrays of the images' length; null where the image is null, is no JSON in UTF-8, or
        lacks the attribute. Where a name occurs twice in an image, the first counts.
    """
    if not names:
        return []
    pointers = ", ".join(quoted_text(json_pointer(name)) for name in names)
    columns = ", ".join(f"found[{at + 1}]::VARCHAR AS c{at}" for at in range(len(names)))
    table = query(
        f"SELECT {columns} FROM"  # noqa: S608  (names are quoted; the connection holds no data)
        f" (SELECT try(json_extract(image, [{pointers}])) AS found FROM input)",
        pa.table({"image": _as_string(images)}),
    )
    return [column.combine_chunks() for column in table.columns]


def compacted(images: pa.Array) -> pa.Array:
    """Rewrite JSON texts without white space and with the fewest escapes; null if no JSON."""
    table = query(
        "SELECT try(json(image))::VARCHAR AS image FROM input",
        pa.table({"image": _as_string(images)}),
    )
    return table.column("image").combine_chunks()


def object_names(images: pa.Array) -> pa.Array:
    """Return the names in each image, in order; null where it is no JSON object in UTF-8.

    However deep an image nests: DuckDB's parser does not recurse.
    """
    table = query(
        "SELECT CASE WHEN json_type(valid) = 'OBJECT' THEN json_keys(valid) END AS names "
        "FROM (SELECT try(json(image)) AS valid FROM input)",
        pa.table({"image": _as_string(images)}),
    )
    return table.column("names").combine_chunks()


def json_pointer(name: str) -> str:
    """Return the JSON pointer (RFC 6901) of a top-level name."""
    return "/" + name.replace("~", "~0").replace("/", "~1")


def text_payload(values: pa.Array, tag: str) -> pa.Array:
    """Return the text inside values like `{"S":"text"}`, unescaped.

    Args:
        values: Value texts as `extract_values` returns them.
        tag: `S`, `N` or `B`. The text of `N` and `B` is not checked further.

    Returns:
        A string array of the same length; null where the value is not of that form.
    """
    front, back = f'{{"{tag}":"', '"}'
    return _unescaped(trimmed(_only(values, front, back), len(front), len(back)))


def json_strings(texts: pa.Array) -> pa.Array:
    r"""Return what JSON texts of strings, such as `"a\n"`, mean; null for other JSON texts."""
    return _unescaped(trimmed(_only(texts, '"', '"'), 1, 1))


def list_payload(values: pa.Array, tag: str) -> pa.Array:
    """Return the members of values like `{"SS":["a","b"]}` as JSON texts.

    Returns:
        A list<string> array of the same length; null where the value is not of that form.
    """
    front = f'{{"{tag}":'
    arrays = trimmed(_only(values, front + "[", "]}"), len(front), 1).view(pa.string())
    table = query(
        "SELECT try(json_extract(text, '$[*]'))::VARCHAR[] AS members FROM input",
        pa.table({"text": arrays}),
    )
    return table.column("members").combine_chunks().cast(pa.list_(pa.string()))


def nested_payload(values: pa.Array, tag: str) -> pa.Array:
    """Return the payload of values like `{"M":{...}}` or `{"L":[...]}` as JSON text.

    Returns:
        A string array of the same length; null where the value is not of that form, or nests deeper
        than a column holds.
    """
    front = f'{{"{tag}":'
    opening, closing = ("[", "]}") if tag == "L" else ("{", "}}")
    payloads = trimmed(_only(values, front + opening, closing), len(front), 1).view(pa.string())
    deep = deeper_than(values, MAX_DEPTH)
    if deep.any():
        payloads = pc.if_else(pa.array(deep), None, payloads)
    # What is left of a value with two tags is no JSON.
    table = query(
        "SELECT CASE WHEN json_valid(text) THEN text END AS text FROM input",
        pa.table({"text": payloads}),
    )
    return table.column("text").combine_chunks()


def _only(values: pa.Array, front: str, back: str) -> pa.Array:
    """Put null where a text does not begin and end as asked, with room for both."""
    fits = pc.and_(
        pc.and_(pc.starts_with(values, pattern=front), pc.ends_with(values, pattern=back)),
        pc.greater_equal(pc.binary_length(values), len(front) + len(back)),
    )
    if pc.all(fits, skip_nulls=True).as_py():
        return values
    return pc.if_else(fits, values, None)


def _unescaped(texts: pa.Array) -> pa.Array:
    """Undo JSON escapes in the few rows that have any; null where a quote is not escaped."""
    strings = texts.view(pa.string())
    data = offsets_and_bytes(strings)[1]
    if not ((data == _QUOTE) | (data == _BACKSLASH)).any():
        return strings
    special = pc.or_(
        pc.match_substring(strings, pattern='"'), pc.match_substring(strings, pattern="\\")
    )
    special = pc.fill_null(special, False)
    table = query(
        """SELECT try(json_extract_string('"' || text || '"', '$')) AS text FROM input""",
        pa.table({"text": strings.filter(special)}),
    )
    return _replaced(strings, special, table.column("text").combine_chunks())


def _replaced(texts: pa.Array, where: pa.Array, by: pa.Array) -> pa.Array:
    mask = where.to_numpy(zero_copy_only=False)
    source = np.arange(len(texts), dtype=np.int64)
    source[mask] = len(texts) + np.arange(len(by), dtype=np.int64)
    return pa.concat_arrays([texts, by.cast(texts.type)]).take(pa.array(source))


def _as_string(images: pa.Array | pa.ChunkedArray) -> pa.Array:
    """View bytes as text without a check: the JSON parser checks UTF-8 row by row."""
    if isinstance(images, pa.ChunkedArray):
        images = images.combine_chunks()
    if images.type in (pa.binary(), pa.string()):
        return images.view(pa.string())
    return images.cast(pa.binary()).view(pa.string())
