# SPDX-License-Identifier: Apache-2.0
"""Changes as typed Parquet: one row per change.

Columns, in this order: the key attributes; with `layout=unpacked` one column per top-level
attribute of the new image, and `_other` (see `transforms.sinks.row_layout`), with `layout=packed`
`item`; then

| column | type | meaning |
|---|---|---|
| `_keys` | string | the primary key as DynamoDB JSON, exact also where a column cannot be |
| `_version`, `_op` | string | `transforms.model.version`; `r` `c` `u` `d` |
| `_event_time` | timestamp(us, UTC) | time of the write |
| `_ttl`, `_deleted` | bool | deleted by time to live; the change is a delete |
| `_source`, `_origin` | string | `export` or `stream`; its shard or file and more, as JSON |
| `_old`, `_new` | string | the images as the service sent them (`_new` only if unpacked) |
| `_envelope` | string | what else the record says, as JSON |

A column has one type in all files of a table, and columns are only ever added, in files that come
later (`transforms.sinks.files.columns`); a new attribute begins a new file. What does not fit
its column stands in `_other`, and `_new` is the exact word. Read several files by name
(`union_by_name` in DuckDB): an earlier file lacks the columns that came later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from dynabeam.transforms.errors import ValueDecodeError
from dynabeam.transforms.model.block import Block
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.runtime.stored_format import canonical
from dynabeam.transforms.sinks.files.change_lines import key_objects
from dynabeam.transforms.sinks.files.change_writer import (
    MAX_OPEN_FILES,
    ChangeWriter,
    StagedOutput,
    write_failed,
)
from dynabeam.transforms.sinks.files.columns import ChangelogColumns
from dynabeam.transforms.sinks.files.staging import StagedFile
from dynabeam.transforms.sinks.row_layout import (
    VERSION_COLUMNS,
    RowOptions,
    appended,
    version_columns,
)
from dynabeam.transforms.sinks.unfit_images import fitting, split_undecodable

__all__ = ["METADATA", "PIECE_BYTES", "ParquetWriter"]

PIECE_BYTES = 32 << 20
"""Rows are decoded and written, as one row group, once this many bytes have gathered."""

METADATA = ("_keys", *VERSION_COLUMNS, "_source", "_origin", "_old", "_new", "_envelope")
"""The columns that no attribute can have."""


class ParquetWriter(ChangeWriter):
    """Stages Parquet files.

    Args:
        folder: Staging folder of the attempt.
        max_file_bytes: A file of at least this size is closed.
        options: How rows are laid out.
        compression: `zstd`, `snappy` or `none`.
        piece_bytes: Rows are written once so many bytes have gathered, default `PIECE_BYTES`.
        place: The sink's place, which dead letters name.
        columns_of: Gives the agreed columns of a table.
    """

    def __init__(
        self,
        folder: str,
        max_file_bytes: int,
        options: RowOptions,
        compression: str,
        *,
        piece_bytes: int | None = None,
        place: str = "",
        columns_of: Callable[[Table], ChangelogColumns],
    ) -> None:
        super().__init__(folder, max_file_bytes, place)
        self._piece_bytes = PIECE_BYTES if piece_bytes is None else piece_bytes
        self._options = options
        self._columns_of = columns_of
        self._compression = compression
        self._tables: dict[str, _TableFiles] = {}
        self._closed: list[StagedFile] = []

    def add_fit(self, block: Block) -> None:
        """Takes one block; writes the largest gathered piece if enough is gathered."""
        table = block.header.table
        if table.name not in self._tables:
            self._tables[table.name] = _TableFiles(table, self._options, self._columns_of(table))
        self._tables[table.name].gather(block)
        while sum(each.waiting_bytes for each in self._tables.values()) >= self._piece_bytes:
            self._write(max(self._tables.values(), key=lambda each: each.waiting_bytes))

    def finish(self) -> list[StagedFile]:
        """Writes what is left, closes every file and lists all that were written."""
        for name, each in self._tables.items():
            self._write(each)
            self._close(each)
            if each.unfit_numbers:
                self.unfit_numbers[name] = each.unfit_numbers
        return self._closed

    def _write(self, files: _TableFiles) -> None:
        if not files.waiting_bytes:
            return
        rows = self._rows_that_fit(files)
        if rows is None:
            return
        if files.file is not None and files.file.schema != rows.schema:
            self._close(files)
        if files.file is None:
            self._close_some()
            files.file = _ParquetFile(
                # Of one commit the files with fewer columns come first: readers that take the first
                # file's columns for the table's find them in all others.
                StagedOutput(
                    self.folder, files.table.name, "parquet", prefix=f"{len(rows.schema):05d}-"
                ),
                rows.schema,
                self._compression,
            )
        files.file.write(rows)
        if files.file.output.size >= self.max_file_bytes:
            self._close(files)

    def _rows_that_fit(self, files: _TableFiles) -> pa.Table | None:
        """All that waits, as columns, but for the rows that cannot be laid out."""
        waiting = files.take()
        try:
            return files.rows(waiting)
        except (ValueDecodeError, pa.ArrowInvalid):
            refused: list[Report] = []
            fit = list(fitting(waiting, split_undecodable, self.place, refused))
            if not refused:
                raise
        self.refused += refused
        return files.rows(fit) if fit else None

    def _close_some(self) -> None:
        is_open = [each for each in self._tables.values() if each.file is not None]
        if len(is_open) >= MAX_OPEN_FILES:
            self._close(is_open[0])

    def _close(self, files: _TableFiles) -> None:
        if files.file is not None:
            self._closed.append(files.file.close())
            files.file = None


class _TableFiles:
    """What one table has waiting, and its open file."""

    def __init__(self, table: Table, options: RowOptions, columns: ChangelogColumns) -> None:
        self.table = table
        self.file: _ParquetFile | None = None
        self.waiting_bytes = 0
        self.unfit_numbers = 0
        self._columns = columns
        self._layout = columns.layout()
        self._packed = options.layout == "packed"
        self._waiting: list[Block] = []

    def gather(self, block: Block) -> None:
        self._waiting.append(block)
        self.waiting_bytes += block.rows.nbytes

    def take(self) -> list[Block]:
        """All that waits; nothing waits any more."""
        taken, self._waiting, self.waiting_bytes = self._waiting, [], 0
        return taken

    def rows(self, blocks: Sequence[Block]) -> pa.Table:
        """Blocks as columns.

        Raises:
            ValueDecodeError: If an image cannot be laid out.
        """
        rows = pa.concat_batches([block.rows for block in blocks])
        metadata = {
            "_keys": key_objects(rows.column("key"), self.table.keys),
            **version_columns(rows),
            "_source": _constants(blocks, lambda block: block.header.source),
            "_origin": _constants(blocks, _origin),
            "_old": rows.column("old").cast(pa.string()),
            "_new": rows.column("new").cast(pa.string()),
            "_envelope": rows.column("envelope").cast(pa.string()),
        }
        if self._packed:
            del metadata["_new"]  # it is `item`
        return appended(self._lay_out(rows.column("key"), rows.column("new")), metadata)

    def _lay_out(self, keys: pa.Array, images: pa.Array) -> pa.Table:
        while True:
            known, before = self._layout.types, self._layout.unfit_numbers
            table = self._layout.rows(keys, images)
            found, unfit = self._layout.types, self._layout.unfit_numbers - before
            if found is known:
                self.unfit_numbers += unfit
                return table
            # No file has a column before all writers of the table have agreed on it.
            self._layout = self._columns.agree(found)
            if self._layout.types.tags == found.tags and list(self._layout.types.tags) == list(
                found.tags
            ):
                self.unfit_numbers += unfit
                return table


def _constants(blocks: Sequence[Block], of: Callable[[Block], str]) -> pa.Array:
    return pa.concat_arrays(
        [pa.repeat(pa.scalar(of(each), pa.string()), each.rows.num_rows) for each in blocks]
    )


def _origin(block: Block) -> str:
    return canonical(dict(block.header.origin)).decode()


class _ParquetFile:
    def __init__(self, output: StagedOutput, schema: pa.Schema, compression: str) -> None:
        self.output = output
        self.schema = schema
        self._writer = pq.ParquetWriter(output.file, schema, compression=compression)

    def write(self, rows: pa.Table) -> None:
        """Writes one row group."""
        try:
            self._writer.write_table(rows, row_group_size=max(1, rows.num_rows))
        except OSError as error:
            raise write_failed(self.output.path, error) from error
        self.output.rows += rows.num_rows

    def close(self) -> StagedFile:
        """Writes the footer and closes the file."""
        try:
            self._writer.close()
        except OSError as error:
            raise write_failed(self.output.path, error) from error
        return self.output.close()
