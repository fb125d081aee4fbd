# SPDX-License-Identifier: Apache-2.0
r"""Values on their way into PostgreSQL: what it cannot hold is set aside, the rest is text.

PostgreSQL's `text` and `jsonb` hold every Unicode text but U+0000 (and `jsonb` no half of a
surrogate pair). Such attributes are found in the images before anything is decoded, by their
escape, and are kept as the bytes that came: an object of DynamoDB JSON in a `bytea`.

Primary keys are indexed, and an index entry has at most 2,704 bytes, while a key of DynamoDB has up
to 3,072 and some more in its canonical form. So a long one is cut and gets its SHA-256 instead.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from dynabeam.transforms.values.byte_columns import binary_from, offsets_and_bytes

__all__ = [
    "KEY_BYTES",
    "copy_text",
    "hex_cells",
    "hex_set_cells",
    "index_key",
    "index_keys",
    "json_document",
    "json_rows",
    "set_aside",
    "set_one_aside",
    "without_nul",
]

KEY_BYTES = 2000
"""A canonical key up to this length is its own index key; of a longer one the first so many bytes
are kept, then 32 bytes of SHA-256, so that one never looks like the other."""

_SUSPECT = r"\\u0000|\\u[dD][89a-fA-F]"
_SUSPECT_BYTES = re.compile(_SUSPECT.encode())
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_RAW_ITEM = msgspec.json.Decoder(dict[str, msgspec.Raw])
_HEX = np.frombuffer("".join(f"{byte:02x}" for byte in range(256)).encode(), np.uint8)
_CSV = pyarrow.csv.WriteOptions(include_header=False, quoting_style="needed")


def index_keys(keys: pa.Array) -> pa.Array:
    """The keys as the index has them; the same order as the keys' for all but the cut ones."""
    long = pc.greater(pc.binary_length(keys), KEY_BYTES)
    if not pc.any(long).as_py():
        return keys
    cut = [index_key(key) for key in keys.filter(long).to_pylist()]
    return pc.replace_with_mask(keys, long, pa.array(cut, keys.type))


def index_key(key: bytes) -> bytes:
    """One key as the index has it."""
    return key if len(key) <= KEY_BYTES else key[:KEY_BYTES] + hashlib.sha256(key).digest()


def set_aside(images: pa.Array, *, whole: bool) -> tuple[pa.Array, pa.Array]:
    """Splits items into what `text` and `jsonb` can hold and what they cannot.

    Args:
        images: DynamoDB JSON of items, binary, nulls allowed.
        whole: Set aside the whole item, not only the attributes at fault.

    Returns:
        The images without what is set aside (null if that is the whole), and what is, as an object
        of DynamoDB JSON; null for nearly all rows. Both binary.
    """
    suspects = np.flatnonzero(
        pc.fill_null(pc.match_substring_regex(images, pattern=_SUSPECT), False).to_numpy(
            zero_copy_only=False
        )
    )
    kept: dict[int, bytes | None] = {}
    aside: dict[int, bytes | None] = {}
    for row in suspects.tolist():
        fits, does_not = set_one_aside(images[row].as_py(), whole=whole)
        if does_not is not None:
            kept[row], aside[row] = fits, does_not
    if not aside:
        return images, pa.nulls(len(images), pa.binary())
    rows = np.array(list(aside), np.int64)
    return (
        _with_rows(images, rows, pa.array(kept.values(), images.type)),
        _with_rows(pa.nulls(len(images), pa.binary()), rows, pa.array(aside.values(), pa.binary())),
    )


def set_one_aside(image: bytes, *, whole: bool) -> tuple[bytes | None, bytes | None]:
    """`set_aside` for one image that is not null: what is kept, and what is set aside."""
    if not _SUSPECT_BYTES.search(image) or _fits(image):
        return image, None
    return (None, image) if whole else _split(image)


def without_nul(texts: pa.Array) -> pa.Array:
    """A text column with null where there is a U+0000."""
    has_nul = pc.match_substring(texts, pattern="\0")
    return pc.if_else(has_nul, None, texts) if pc.any(has_nul).as_py() else texts


def copy_text(table: pa.Table) -> bytes:
    """The rows as text for `COPY ... (FORMAT csv)`: an absent value is null, a quoted one is not.

    Args:
        table: Columns of text, binary, numbers, booleans, times and lists of text, number or
            binary. Binary becomes PostgreSQL's hex form, a list its array form.
    """
    columns = [_cells(column.combine_chunks()) for column in table.columns]
    sink = pa.BufferOutputStream()
    named = pa.table(columns, names=[str(at) for at in range(len(columns))])
    pyarrow.csv.write_csv(named, sink, _CSV)
    return sink.getvalue().to_pybytes()


def json_rows(table: pa.Table) -> str:
    """The rows as a JSON array of objects whose members are named `c0`, `c1` ... by their place.

    Args:
        table: Columns as for `copy_text`. Binary becomes PostgreSQL's hex form; numbers are text.
    """
    return json_document([_plain_cells(column) for column in table.columns])


def json_document(columns: Sequence[Sequence[Any]]) -> str:
    """`json_rows` of columns that are cells as the JSON encoder takes them."""
    names = [f"c{at}" for at in range(len(columns))]
    rows = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    return msgspec.json.encode(rows).decode()


def _plain_cells(column: pa.ChunkedArray) -> list[Any]:
    """Cells as the JSON encoder takes them."""
    cells: list[Any] = column.to_pylist()
    if column.type == pa.binary():
        return hex_cells(cells)
    if column.type == pa.list_(pa.binary()):
        return hex_set_cells(cells)
    return cells


def hex_cells(cells: Sequence[bytes | None]) -> list[str | None]:
    """Binaries as PostgreSQL reads them."""
    return [None if each is None else f"\\x{each.hex()}" for each in cells]


def hex_set_cells(cells: Sequence[Sequence[bytes] | None]) -> list[list[str | None] | None]:
    """Sets of binaries as PostgreSQL reads them."""
    return [None if each is None else hex_cells(each) for each in cells]


def _cells(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else column.combine_chunks()
    if pa.types.is_list(column.type):
        return _array_texts(column)
    return _hex_texts(column) if column.type == pa.binary() else column


def _hex_texts(values: pa.Array) -> pa.Array:
    offsets, data = offsets_and_bytes(values)
    digits = _HEX.reshape(256, 2)[data].reshape(-1)
    valid = values.is_valid().to_numpy(zero_copy_only=False)
    hexed = binary_from(offsets * 2, digits, valid)
    return pc.binary_join_element_wise(b"\\x", hexed, b"").view(pa.string())


def _array_texts(lists: pa.Array) -> pa.Array:
    r"""Lists as `{"a","b"}`, with backslashes before backslashes and quotes."""
    members = lists.flatten()
    members = _hex_texts(members) if members.type == pa.binary() else members.cast(pa.string())
    if len(members):
        members = pc.replace_substring(members, pattern="\\", replacement="\\\\")
        members = pc.replace_substring(members, pattern='"', replacement='\\"')
        members = pc.binary_join_element_wise('"', members, '"', "")
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    offsets = np.zeros(len(lists) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    joined = pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets), members), ",")
    texts = pc.binary_join_element_wise("{", joined, "}", "")
    return pc.if_else(lists.is_valid(), texts, None)


def _fits(text: bytes) -> bool:
    # Without escaped backslashes what looks like an escape is one.
    plain = text.replace(b"\\\\", b"")
    if b"\\u0000" in plain:
        return False
    if not _SURROGATE.search(plain):
        return True
    try:
        json.dumps(json.loads(text), ensure_ascii=False).encode()
    except ValueError:
        return False
    return True


def _split(image: bytes) -> tuple[bytes, bytes]:
    kept: dict[str, msgspec.Raw] = {}
    aside: dict[str, msgspec.Raw] = {}
    for name, value in _RAW_ITEM.decode(image).items():
        fits = "\0" not in name and _fits(bytes(value))
        (kept if fits else aside)[name] = value
    return msgspec.json.encode(kept), msgspec.json.encode(aside)


def _with_rows(values: pa.Array, rows: npt.NDArray[np.int64], by: pa.Array) -> pa.Array:
    source = np.arange(len(values), dtype=np.int64)
    source[rows] = len(values) + np.arange(len(by), dtype=np.int64)
    return pa.concat_arrays([values, by]).take(pa.array(source))
