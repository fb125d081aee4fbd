# SPDX-License-Identifier: Apache-2.0
"""That an export holds each key once: exact over all files and rounds, in bounded memory.

An export has one line per item, so two lines of one key mean that the attributes which were named
as its key are not, or that the export is damaged: the rows of a mirror would replace one another
without a word. Where people named the key, readers compare the keys of each piece of a file, and
leave digests of all keys, 16 bytes each, which are merged by ranges when the export is loaded. So a
repeated key is always found. Two keys with one digest (127 bits: a fixed hash of
`transforms.values.buckets`, and DuckDB's) would be taken for one, which by chance happens with a
probability of n² / 2**128: 10**-20 for a billion keys.

Memory: 16 MB a million keys of one round while it is sorted, and some 64 MB for the merge of any
number of keys. Disk: 16 MB a million keys, until the export is loaded. Cost: 0.2 s a million keys.
"""

from __future__ import annotations

import itertools
import json
import os
import shlex
import tempfile
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dynabeam.transforms.errors import ExportIntegrityError, StateError, ValueDecodeError
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.storage import filesystem
from dynabeam.transforms.values.json_sql import query
from dynabeam.transforms.values.keys import bucket_numbers, decode_key
from dynabeam.transforms.values.python_values import parse_json

__all__ = [
    "KeyDigests",
    "check_piece",
    "count_repeated",
    "keys_option",
    "read_digests",
    "repeated_error",
    "repeated_in",
    "unique_names",
    "write_digests",
]

KeyDigests = npt.NDArray[np.uint64]
"""Rows of two numbers, sorted by the first."""

_MERGED_AT_ONCE = 4_000_000
_LOOKED_AT = 1000
_SHOWN = 6


def check_piece(keys: pa.Array, images: pa.Array, table: Table, where: str) -> KeyDigests:
    """Checks that no two rows of a piece have one key, and returns their digests.

    Args:
        keys: Keys of a full export's rows.
        images: Their items, to say which attributes would be unique.
        table: The table.
        where: The file.

    Raises:
        ExportIntegrityError: Two have.
    """
    digests = digests_of(keys)
    if not repeated_in(digests):
        return digests
    counts = pc.value_counts(keys)
    if len(counts) == len(keys):
        return digests
    most = int(pc.index(counts.field("counts"), pc.max(counts.field("counts"))).as_py())
    raise repeated_error(
        table,
        where,
        len(keys),
        len(counts),
        example=counts.field("values")[most].as_py(),
        items=images.slice(0, _LOOKED_AT).to_pylist(),
    )


def digests_of(keys: pa.Array) -> KeyDigests:
    """The sorted digests of keys."""
    digests = np.empty((len(keys), 2), np.uint64)
    digests[:, 0] = bucket_numbers(keys, 1 << 63).astype(np.uint64)
    found = query("SELECT hash(k) AS h FROM input", pa.table([keys], names=["k"])).column("h")
    digests[:, 1] = found.combine_chunks().cast(pa.uint64()).to_numpy(zero_copy_only=False)
    return _sorted(digests)


def write_digests(folder: str, digests: Sequence[KeyDigests], name: str = "") -> str:
    """Writes digests into a file of a folder; returns its path."""
    path = filesystem.join(folder, name or f"{uuid.uuid4().hex}.keys")
    content = _sorted(np.concatenate([np.zeros((0, 2), np.uint64), *digests]))
    filesystem.write_atomic(path, content.astype("<u8").tobytes(), StateError)
    return path


def read_digests(path: str) -> KeyDigests:
    """Reads what `write_digests` wrote."""
    content = filesystem.read_bytes(path, StateError)
    return np.frombuffer(content, "<u8").reshape(-1, 2).astype(np.uint64)


def repeated_in(digests: KeyDigests) -> int:
    """How many of sorted digests are there again."""
    alike = np.flatnonzero(digests[1:, 0] == digests[:-1, 0])
    if not len(alike):
        return 0
    # Few rows, unless a key is there again and again: these are compared whole.
    few = digests[np.union1d(alike, alike + 1)]
    return len(few) - len(np.unique(few, axis=0))


def count_repeated(paths: Sequence[str]) -> tuple[int, int]:
    """Merges files of digests.

    Returns:
        How many digests there are, and how many of them are there again.
    """
    with tempfile.TemporaryDirectory(prefix="dynabeam-keys-") as folder:
        files = [_mapped(path, folder) for path in paths]
        total = sum(map(len, files))
        ranges = max(1, -(-total // _MERGED_AT_ONCE))
        repeated = 0
        bounds = [(k << 63) // ranges for k in range(ranges)]
        starts = [
            [int(np.searchsorted(each[:, 0], np.uint64(bound))) for bound in bounds] + [len(each)]
            for each in files
        ]
        for k in range(ranges):
            parts = [
                np.asarray(each[at[k] : at[k + 1]]) for each, at in zip(files, starts, strict=True)
            ]
            repeated += repeated_in(_sorted(np.concatenate([np.zeros((0, 2), np.uint64), *parts])))
        del files
    return total, repeated


def repeated_error(
    table: Table,
    where: str,
    lines: int,
    keys: int,
    *,
    example: bytes = b"",
    items: Sequence[bytes] = (),
    begun: bool = True,
) -> ExportIntegrityError:
    """The error for an export that holds a key more than once.

    Args:
        table: The table, with the keys that are none.
        where: The file or export.
        lines: How many lines were compared.
        keys: How many keys these have.
        example: A key that is there again, if one is known.
        items: Some items as DynamoDB JSON, to say which attributes would be unique.
        begun: Sinks may have tables with such keys.
    """
    names = [each.name for each in table.keys.attributes]
    found = f"{lines:,} lines and {keys:,} keys"
    if example:
        found += f"; one that is there again: {_shown(example, table)}"
    unique = unique_names(items)
    better = ""
    if unique:
        options = ", ".join(_option(table, each) for each in unique[:_SHOWN])
        better = f" Unique among {len(items)} items would be: {options}."
    if begun:
        better += " Start with a new --state_dir and new sinks then: theirs have these keys."
    return ExportIntegrityError(
        f"the export holds a key more than once, with {' and '.join(map(repr, names))} as its key",
        where=f"table {table.name}, {where}",
        expected="each key once",
        found=found,
        hint=f"If they were given with --keys, they are not the table's key.{better} If they are "
        "those of the table itself, the export is damaged, or two were joined: copy it again",
    )


def keys_option(names: Iterable[str]) -> str:
    """Names of key attributes as `--keys` takes them, quoted where it needs that."""
    return ",".join(map(_quoted, names))


def unique_names(items: Sequence[bytes]) -> list[tuple[str, ...]]:
    """The attributes, or else the pairs of them, that distinguish all of some items."""
    parsed = [each for each in map(_parsed, items) if each is not None]
    if not parsed:
        return []
    kinds = ("S", "N", "B")
    names = [
        name
        for name in parsed[0]
        if all(len(each.get(name, ())) == 1 and next(iter(each[name])) in kinds for each in parsed)
    ]
    if len(parsed) < 2:
        return []
    values = {name: [repr(each[name]) for each in parsed] for name in names}
    single: list[tuple[str, ...]] = [
        (name,) for name in names if len(set(values[name])) == len(parsed)
    ]
    if single:
        return single
    names.sort(key=lambda name: -len(set(values[name])))
    return [
        pair
        for pair in itertools.combinations(names[:12], 2)
        if len(set(zip(*(values[name] for name in pair), strict=True))) == len(parsed)
    ]


def _option(table: Table, names: Sequence[str]) -> str:
    """`--keys` as a shell takes it."""
    return f"--keys={shlex.quote(f'{table.name}:{keys_option(names)}')}"


def _quoted(name: str) -> str:
    plain = name == name.strip() and not any(char in name for char in ',"')
    if plain and name:
        return name
    return json.dumps(name, ensure_ascii=False)


def _parsed(item: bytes | None) -> Mapping[str, Any] | None:
    try:
        parsed = parse_json(item or b"")
    except ValueDecodeError:
        return None
    fits = isinstance(parsed, dict) and all(isinstance(each, dict) for each in parsed.values())
    return parsed if fits else None


def _shown(key: bytes, table: Table) -> str:
    attributes = decode_key(key, table.keys)
    return ", ".join(f"{name}={next(iter(each.values()))}" for name, each in attributes.items())


def _sorted(digests: KeyDigests) -> KeyDigests:
    return digests[np.argsort(digests[:, 0])]


def _mapped(path: str, folder: str) -> Any:
    """A file of digests as an array that lies on the disk."""
    if not filesystem.is_local(path):
        local = os.path.join(folder, uuid.uuid4().hex)
        with open(local, "wb") as file:
            file.write(filesystem.read_bytes(path, StateError))
        path = local
    if not os.path.getsize(path):
        return np.zeros((0, 2), np.uint64)
    return np.memmap(path, "<u8", "r").reshape(-1, 2)
