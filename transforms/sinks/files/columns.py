# SPDX-License-Identifier: Apache-2.0
"""The columns of one table of a Parquet changelog: one list that only grows, for all its writers.

`<table>/_schema.json` says which attributes have columns, in their order, and which types these
have. Whoever meets an attribute that is not in it adds it by compare-and-swap before he writes a
file with its column; who comes too late takes what the other has added. So a column has one type in
all files of the table, whoever wrote them and when, and of any two files one has all columns of the
other. What does not fit the type of its column stands in `_other`.

The list may run ahead of the files: of a round that failed its columns stay, and the round that is
run again finds them. It is not part of the commit, because no file depends on what is behind it in
the list. Readers of Parquet pass over the file: its name begins with `_`.

A changelog that an earlier release began has no list. Its columns are then those of its newest
file, and the tags of those that hold text are looked for in that file's images.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from dynabeam.transforms.errors import SinkError
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.runtime.stored_format import DocumentFormat
from dynabeam.transforms.sinks.row_layout import OTHER, RowLayout, RowOptions
from dynabeam.transforms.storage import filesystem
from dynabeam.transforms.storage.conditional_writes import (
    Tagged,
    put_if_absent,
    put_if_match,
    read_with_tag,
)
from dynabeam.transforms.values.column_types import ColumnTypes, NumberType
from dynabeam.transforms.values.columns import discover

__all__ = ["SCHEMA_FILE", "ChangelogColumns"]

SCHEMA_FILE = "_schema.json"

_LIST = DocumentFormat(
    "the list of columns",
    error=SinkError,
    hint="Restore it from a copy, or remove it: the newest file's columns count then",
    upgrade="Upgrade Dynabeam",
)
_LOOK_ROWS = 20_480
_DAY_OR_ROUND = re.compile(r"=([0-9]+|continuous-[0-9-]+)/[^/]*$")


class ChangelogColumns:
    """The list of one table, as one writer sees it.

    Args:
        folder: The table's folder.
        table: The table.
        options: How rows are laid out; `numbers` for a changelog that has none yet.
        numbers_asked: The user asked for these numbers.
        reserved: Names that no attribute's column may have.

    Raises:
        SinkError: If the list cannot be read, or the changelog holds numbers in another type than
            was asked for.
    """

    def __init__(
        self,
        folder: str,
        table: Table,
        options: RowOptions,
        *,
        numbers_asked: bool,
        reserved: Sequence[str],
    ) -> None:
        self._folder = folder
        self._path = filesystem.join(folder, SCHEMA_FILE)
        self._table = table
        self._reserved = reserved
        self._options = options
        self._types: ColumnTypes | None = None
        types, numbers = self._stored(read_with_tag(self._path, SinkError))
        is_new = types is None
        if is_new:
            types, numbers = self._of_files()
        if numbers is not None and numbers != options.numbers:
            if numbers_asked:
                raise SinkError(
                    "the changelog holds numbers in another type than requested",
                    where=self._path,
                    expected=_spelled(options.numbers),
                    found=_spelled(numbers),
                    hint=f"Say numbers={_spelled(numbers)}, or start with a new folder",
                )
            self._options = RowOptions(options.layout, numbers, options.nested)
        self._types = types
        if is_new:
            self.agree(self.layout().types)

    def layout(self) -> RowLayout:
        """A layout with the columns that there are; it may find more, see `agree`."""
        layout = RowLayout(self._table, self._options, self._reserved)
        if self._types is not None:
            layout.restore(self._types)
        return layout

    def agree(self, wanted: ColumnTypes) -> RowLayout:
        """Adds columns to the list, as far as nobody has added others of their names.

        Args:
            wanted: The columns of `layout`, and more.

        Returns:
            The layout that there is now.

        Raises:
            SinkError: If the list cannot be written.
        """
        while True:
            tagged = read_with_tag(self._path, SinkError)
            stored, _ = self._stored(tagged)
            self._types = stored if stored is not None else self._types
            layout = self.layout()
            layout.add(wanted)
            if stored is not None and layout.types.tags == stored.tags:
                return layout
            content = self._document(layout.types)
            written = (
                put_if_absent(self._path, content, SinkError)
                if tagged is None
                else put_if_match(self._path, content, tagged.tag, SinkError)
            )
            if written is not None:
                self._types = layout.types
                return layout

    def _document(self, types: ColumnTypes) -> bytes:
        fields = {
            "table": self._table.name,
            "numbers": _spelled(self._options.numbers),
            "columns": types.to_json(),
            # No two writers write the same bytes: a lost answer is found out by reading.
            "writer": uuid.uuid4().hex,
        }
        content = _LIST.dump(fields)
        return json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()

    def _stored(self, tagged: Tagged | None) -> tuple[ColumnTypes | None, NumberType | None]:
        if tagged is None:
            return None, None
        with _LIST.load(tagged.content, where=self._path) as fields:
            numbers = NumberType.parse(fields["numbers"])
            return ColumnTypes.from_json(fields["columns"]), numbers

    def _of_files(self) -> tuple[ColumnTypes | None, NumberType | None]:
        """What the newest file of a changelog says that has no list; None if there is no file."""
        found = [each for each in filesystem.list_files(self._folder) if each.endswith(".parquet")]
        if not found:
            return None, None
        newest = max(found, key=_order)
        with filesystem.open_for_reading(newest, SinkError) as content:
            try:
                with pq.ParquetFile(content) as file:
                    schema = file.schema_arrow
                    rows = next(file.iter_batches(_LOOK_ROWS, use_threads=False), None)
            except (pa.ArrowInvalid, OSError) as error:
                raise SinkError(
                    f"the file cannot be read as Parquet: {error}",
                    where=newest,
                    hint="Restore it from a copy",
                ) from error
        tags = dict(RowLayout(self._table, self._options, self._reserved).types.tags)
        if OTHER in schema.names:
            seen = ColumnTypes()
            if rows is not None:
                seen = discover(rows.column("_new").cast(pa.binary()))
            own = schema.names.index(OTHER)
            for field in list(schema)[:own]:
                if field.name not in tags:
                    tags[field.name] = _tag(field.type, seen.tags.get(field.name, ""))
        decimals = [each.type for each in schema if pa.types.is_decimal(each.type)]
        numbers = NumberType(decimals[0].precision, decimals[0].scale) if decimals else None
        return ColumnTypes(tags), numbers


def _order(path: str) -> tuple[bool, str, str]:
    """Continuous files are of a day, rounds of a number: the later name is the later file's."""
    found = _DAY_OR_ROUND.search(path.replace("\\", "/"))
    name = found[1] if found else ""
    return not name.isdecimal(), name, path


def _tag(kind: pa.DataType, seen: str) -> str:
    """The type tag of a column; one of text may be of several."""
    if pa.types.is_list(kind):
        return f"{_tag(kind.value_type, seen[:1] if seen in ('SS', 'NS') else '')}S"
    if pa.types.is_decimal(kind):
        return "N"
    if pa.types.is_boolean(kind):
        return "BOOL"
    if pa.types.is_binary(kind):
        return "B"
    return seen if seen in ("S", "N", "L", "M") else "S"


def _spelled(numbers: NumberType) -> str:
    return "text" if numbers.is_text else f"decimal({numbers.precision},{numbers.scale})"
