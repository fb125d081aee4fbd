# SPDX-License-Identifier: Apache-2.0
"""Reads a Parquet changelog as a mirror: of each key, the row with the highest version.

A key's rows are in any of the files, so a part is not a piece of the files but a share of the keys:
each part goes through the key columns of all files to find the rows that count, then reads the
contents of those. Up to `PART_ROWS` changes make one part, so an ordinary folder is gone through
twice; memory is some 100 bytes per change of a part.

The files are listed once, so all parts see the same. What is compared is the image as the service
sent it (`_new`, or `item`) and the key's columns. The typed columns of a row have to agree with its
own image: where they do not, what they hold instead stands in the cell `_raw`, which no honest row
has, so the row differs.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dynabeam.transforms.audit.canonical_cells import canonical_cells
from dynabeam.transforms.audit.mirror_reader import BATCH_ROWS, MirrorReader, StoredRows
from dynabeam.transforms.audit.mirror_schema import RAW, MirrorShape
from dynabeam.transforms.audit.row_digests import key_hashes
from dynabeam.transforms.errors import ConfigurationError, SinkError
from dynabeam.transforms.model.order import newest_per_key
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.sinks.base import Sink
from dynabeam.transforms.sinks.files.change_parquet import METADATA
from dynabeam.transforms.sinks.files.changelog import FileChangelog
from dynabeam.transforms.sinks.files.staging import table_folder
from dynabeam.transforms.sinks.row_layout import ITEM, OTHER, RowLayout, RowOptions, row_options
from dynabeam.transforms.storage import filesystem
from dynabeam.transforms.values.column_types import ColumnTypes, NumberType
from dynabeam.transforms.values.lines import keys_of_images

__all__ = ["PART_ROWS", "ParquetReader"]

PART_ROWS = 2_000_000

_SUFFIX = ".parquet"


class ParquetReader(MirrorReader):
    """The newest rows of a Parquet changelog.

    Raises:
        ConfigurationError: The changelog is one of JSON lines.
    """

    def __init__(self, sink: Sink) -> None:
        super().__init__(sink)
        assert isinstance(sink, FileChangelog)
        if sink.uri.option("format", "jsonl") != "parquet":
            raise ConfigurationError(
                "a changelog of JSON lines cannot be audited",
                where=f"--sink={sink.name}",
                expected="?format=parquet",
                found=f"?format={sink.uri.option('format', 'jsonl')}",
            )
        self._options = row_options(sink.uri)
        self._root = sink.files().root

    def describe(self, table: Table) -> MirrorShape | None:
        """The files of a table."""
        folder = filesystem.join(self._root, table_folder(table.name))
        files = [each for each in filesystem.list_files(folder) if each.endswith(_SUFFIX)]
        if not files:
            return None
        rows = sum(self._row_count(each) for each in files)
        options = RowOptions("packed", self._options.numbers, self._options.nested)
        types = RowLayout(table, options, METADATA).types
        return MirrorShape(
            table, options, types, has_raw=True, details={"files": files, "rows": rows}
        )

    def parts(self, shape: MirrorShape) -> Sequence[str]:
        """Shares of the keys."""
        parts = -(-shape.details["rows"] // PART_ROWS)
        return [f"{part}-{parts}" for part in range(parts)]

    def read(self, shape: MirrorShape, part: str) -> Iterator[StoredRows]:
        """Reads the newest rows of a share of the keys."""
        number, _, parts = part.partition("-")
        places = self._newest(shape, int(number), int(parts))
        first = 0
        for path in shape.details["files"]:
            for batch in self._batches(path, None):
                low, high = np.searchsorted(places, [first, first + batch.num_rows])
                if high > low:
                    rows = batch.take(pa.array(places[low:high] - first))
                    yield _stored_rows(rows, shape, self._options)
                first += batch.num_rows

    def lay_out(self, shape: MirrorShape, keys: pa.Array, images: pa.Array) -> pa.Table:
        """Items as `item` and the key's columns; nothing contradicts an image."""
        rows = shape.layout().rows(keys, images, grow=False)
        return rows.append_column(RAW, pa.nulls(len(keys), pa.string()))

    def _newest(self, shape: MirrorShape, part: int, parts: int) -> Any:
        """The places of the rows that count, counted through all files."""
        found, first = [], 0
        for path in shape.details["files"]:
            for batch in self._batches(path, ["_keys", "_version"]):
                keys = _keys(batch, shape.table)
                mine = key_hashes(keys) % parts == part
                places = pa.array(np.arange(first, first + batch.num_rows, dtype=np.int64))
                version = batch.column("_version").cast(pa.binary())
                rows = pa.record_batch(
                    [keys, version, places], names=["key", "version", "place"]
                ).filter(pa.array(mine))
                found.append(newest_per_key(rows))
                first += batch.num_rows
        if not found:
            return np.zeros(0, np.int64)
        newest = newest_per_key(pa.concat_batches(found))
        return np.sort(newest.column("place").to_numpy())

    def _row_count(self, path: str) -> int:
        with self._opened(path) as file:
            count: int = file.metadata.num_rows
        return count

    def _batches(self, path: str, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
        with self._opened(path) as file:
            yield from file.iter_batches(BATCH_ROWS, columns=columns, use_threads=False)

    @contextlib.contextmanager
    def _opened(self, path: str) -> Iterator[pq.ParquetFile]:
        with filesystem.open_for_reading(path, SinkError) as content:
            try:
                with pq.ParquetFile(content) as file:
                    yield file
            except (pa.ArrowInvalid, OSError) as error:
                raise self._damaged(path, error) from error

    def _damaged(self, path: str, error: Exception) -> SinkError:
        return SinkError(
            f"the file cannot be read as Parquet: {error}",
            where=path,
            hint="Restore it from a copy, or write the changelog again with a new state directory",
        )


def _keys(batch: pa.RecordBatch, table: Table) -> pa.Array:
    keys, bad = keys_of_images(batch.column("_keys").cast(pa.binary()), table.keys)
    if bad:
        raise SinkError(
            "a row of the changelog has no key of the table",
            where=f"table {table.name}",
            found=next(iter(bad.values())),
            hint="Give --keys as it was replicated",
        )
    return keys


def _stored_rows(rows: pa.RecordBatch, shape: MirrorShape, options: RowOptions) -> StoredRows:
    names = rows.schema.names
    packed = "_new" not in names
    image = rows.column(ITEM if packed else "_new")
    keys = _keys(rows, shape.table)
    nothing = pa.nulls(rows.num_rows, pa.string())
    columns = [rows.column(name) if name in names else nothing for name in shape.tags]
    aside = nothing if packed else _TypedColumns(rows, keys, shape.table, options).contradictions()
    return StoredRows(
        keys,
        rows.column("_version").cast(pa.binary()),
        rows.column("_event_time").cast(pa.int64()),
        rows.column("_deleted"),
        pa.table([*columns, image, aside], names=shape.names),
    )


class _TypedColumns:
    """The typed columns of rows, against the rows' own images."""

    def __init__(
        self, rows: pa.RecordBatch, keys: pa.Array, table: Table, options: RowOptions
    ) -> None:
        self._rows = rows
        self._keys = keys
        self._images = rows.column("_new").cast(pa.binary())
        self._table = table
        self._options = RowOptions("unpacked", _numbers_of(rows.schema, options), options.nested)

    def contradictions(self) -> pa.Array:
        """Per row, as JSON, what its columns hold against its image; null if nothing."""
        rows = self._rows
        of_key = {each.name: each.type for each in self._table.keys.attributes}
        tags: dict[str, str] = {}
        for name in rows.schema.names:
            if name not in METADATA and name != OTHER:
                tags[name] = of_key.get(name) or self._tag(name)
        shape = MirrorShape(self._table, self._options, ColumnTypes(tags))
        stored = pa.table([rows.column(name) for name in shape.names], names=shape.names)
        found = canonical_cells(stored, shape, are_text=False)
        expected = canonical_cells(self._laid_out(shape), shape, are_text=False)
        live = pc.invert(rows.column("_deleted"))
        aside: dict[int, dict[str, Any]] = {}
        for name in shape.names:
            for row in _unlike(found.column(name), expected.column(name), live):
                cell = found.column(name)[row].as_py()
                value = {"NULL": True} if cell is None else {"S": cell}
                aside.setdefault(row, {})[f"{name} (column)"] = value
        texts = [json.dumps(aside[row]) if row in aside else None for row in range(rows.num_rows)]
        return pa.array(texts, pa.string())

    def _tag(self, name: str) -> str:
        """The type tag that a column was made with: the one that explains most of its cells.

        The file does not say it, and text may be any of several.
        """
        column = self._rows.column(name)
        candidates = _candidates(column.type)
        if len(candidates) == 1:
            return candidates[0]
        everywhere = pa.repeat(True, len(column))

        def misfits(tag: str) -> int:
            shape = MirrorShape(self._table, self._options, ColumnTypes({name: tag}))
            made = self._laid_out(shape)
            if made.column(0).type != column.type:
                return len(column)
            stored = pa.table([column, pa.nulls(len(column), pa.string())], names=shape.names)
            one, other = (canonical_cells(each, shape, are_text=False) for each in (stored, made))
            return len(_unlike(one.column(0), other.column(0), everywhere))

        return min(candidates, key=misfits)

    def _laid_out(self, shape: MirrorShape) -> pa.Table:
        return shape.layout().rows(self._keys, self._images, grow=False)


def _numbers_of(schema: pa.Schema, options: RowOptions) -> NumberType:
    """The type of numbers in a file, which may be older than the sink's options."""
    for field in schema:
        kind = field.type.value_type if pa.types.is_list(field.type) else field.type
        if pa.types.is_decimal(kind):
            return NumberType(kind.precision, kind.scale)
    return options.numbers


def _unlike(one: pa.ChunkedArray, other: pa.ChunkedArray, live: pa.Array) -> list[int]:
    same = pc.fill_null(pc.equal(one, other), False)
    both_null = pc.and_(pc.is_null(one), pc.is_null(other))
    unlike = pc.and_(pc.invert(pc.or_(same, both_null)), live)
    rows: list[int] = np.flatnonzero(unlike.to_numpy()).tolist()
    return rows


def _candidates(kind: pa.DataType) -> Sequence[str]:
    for matches, tags in _TAGS.items():
        if matches(kind):
            return tags
    if pa.types.is_list(kind):
        return [f"{tag}S" for tag in _candidates(kind.value_type) if tag in "SNB"]
    return ["S", "N", "M", "L"]


_TAGS: Mapping[Any, Sequence[str]] = {
    pa.types.is_decimal: ["N"],
    pa.types.is_binary: ["B"],
    pa.types.is_boolean: ["BOOL"],
}
