# SPDX-License-Identifier: Apache-2.0
"""How an item becomes the columns of a row: `layout=packed` or `layout=unpacked`.

Both begin with the key attributes as typed columns, made of the canonical key and so there for
deletes too. Then:

* packed: `item`, the item as DynamoDB JSON text;
* unpacked: one typed column per top-level attribute, and `_other`, a JSON object with every
  attribute that does not fit its column, exactly as DynamoDB JSON: another type than the column's,
  a number that its decimal type cannot hold, a NULL, a name that is taken or impossible, and what
  is beyond the bounds of `transforms.values.column_bounds`. `_other` is null if there is nothing
  to keep.

Names are compared without regard to case, as DuckDB, Spark and most readers do: of `Name` and
`name`, the one met first gets the column. A key attribute whose name is taken has no column; it is
in `_other`, or in `item`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from dynabeam.transforms.errors import ConfigurationError
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.sinks.files.change_lines import key_objects
from dynabeam.transforms.sinks.uri import SinkUri
from dynabeam.transforms.values.column_bounds import MAX_COLUMNS
from dynabeam.transforms.values.column_types import DEFAULT_NUMBERS, ColumnTypes, NumberType
from dynabeam.transforms.values.columns import NestedForm, UnpackedColumns, discover, unpack
from dynabeam.transforms.values.key_schema import KeySchema

__all__ = [
    "ITEM",
    "LAYOUT_OPTIONS",
    "OTHER",
    "VERSION_COLUMNS",
    "RowLayout",
    "RowOptions",
    "appended",
    "row_options",
    "version_columns",
    "with_keys",
]

LAYOUT_OPTIONS = ("layout", "numbers", "nested")
ITEM = "item"
OTHER = "_other"
VERSION_COLUMNS = ("_version", "_op", "_event_time", "_ttl", "_deleted")


@dataclasses.dataclass(frozen=True)
class RowOptions:
    """How rows are laid out.

    Attributes:
        layout: `packed` or `unpacked`.
        numbers: Type of numbers.
        nested: `dynamodb` (nested values as DynamoDB JSON, exact) or `plain` (as plain JSON, which
            knows no sets and no binary).
    """

    layout: Literal["packed", "unpacked"] = "unpacked"
    numbers: NumberType = dataclasses.field(default_factory=NumberType)
    nested: NestedForm = "dynamodb"

    def to_json(self) -> str:
        """The options as JSON, to be compared with those of an earlier run."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> RowOptions:
        """Reads what `to_json` wrote."""
        document: dict[str, Any] = json.loads(text)
        return cls(**{**document, "numbers": NumberType(**document["numbers"])})


def row_options(uri: SinkUri) -> RowOptions:
    """Reads `layout`, `numbers` and `nested` of a URI.

    Raises:
        ConfigurationError: If one has an unknown value.
    """
    try:
        numbers = NumberType.parse(uri.option("numbers", DEFAULT_NUMBERS))
    except ConfigurationError as error:
        raise ConfigurationError(
            error.what,
            where=f"--sink={uri.text}",
            found=uri.option("numbers", ""),
            hint=error.hint,
        ) from error
    layout = uri.choice("layout", "unpacked", ("packed", "unpacked"))
    nested = uri.choice("nested", "dynamodb", ("dynamodb", "plain"))
    return RowOptions(
        layout="packed" if layout == "packed" else "unpacked",
        numbers=numbers,
        nested="plain" if nested == "plain" else "dynamodb",
    )


class RowLayout:
    """The columns of one table's rows. They only ever grow.

    Args:
        table: The table.
        options: How its rows are laid out.
        reserved: Names that no attribute may have as its column.
        max_columns: Attributes that get a column of their own, the key's included.
    """

    def __init__(
        self,
        table: Table,
        options: RowOptions,
        reserved: Iterable[str],
        *,
        max_columns: int = MAX_COLUMNS,
    ) -> None:
        self._options = options
        self._max_columns = max_columns
        self._keys = table.keys
        own = ITEM if options.layout == "packed" else OTHER
        self._taken = {name.lower() for name in (*reserved, own)}
        self._types = ColumnTypes()
        self._unfit_numbers = 0
        self._add((each.name, each.type) for each in table.keys.attributes)

    @property
    def types(self) -> ColumnTypes:
        """All attributes known, those that were only ever NULL with that tag."""
        return self._types

    @property
    def unfit_numbers(self) -> int:
        """Numbers laid out so far that their decimal column could not hold; they are in `rest`."""
        return self._unfit_numbers

    @property
    def rest(self) -> str:
        """The name of the column that holds the item, or what has no column of its own."""
        return ITEM if self._options.layout == "packed" else OTHER

    def columns(self) -> Mapping[str, str]:
        """Names and tags of the attributes that have a column, the key's first."""
        return self._types.columns

    def beside_key(self) -> list[str]:
        """The columns that a deleted item has no value in, but for `rest`."""
        keys = {each.name for each in self._keys.attributes}
        return [name for name in self._types.columns if name not in keys]

    def restore(self, types: ColumnTypes) -> None:
        """Goes on with the columns of an earlier run."""
        self._taken.update(name.lower() for name in types.columns)
        self._types = types

    def add(self, types: ColumnTypes) -> None:
        """Gives attributes that are new their columns, as far as they can have one."""
        self._add(types.tags.items())

    def rows(self, keys: pa.Array, images: pa.Array, *, grow: bool = True) -> pa.Table:
        """Lays out items as rows; attributes that are new get their columns.

        Args:
            keys: Canonical keys, no nulls.
            images: The items as DynamoDB JSON, null for a deleted one.
            grow: Whether there may be new columns; otherwise what has none stays in `_other`.

        Returns:
            The columns of `columns()`, then the one of `rest`, rows in the given order.

        Raises:
            ValueDecodeError: If an image is not a JSON object or a key not of the key schema.
        """
        if self._options.layout == "packed":
            batch = self._unpack(key_objects(keys, self._keys)).batch
            return _table(batch, ITEM, images.cast(pa.string()))
        images = with_keys(keys, images, self._keys)
        unpacked = self._unpack_all(images) if grow else self._unpack(images)
        self._unfit_numbers += unpacked.unfit_numbers
        return _table(unpacked.batch, OTHER, unpacked.other)

    def _unpack_all(self, images: pa.Array) -> UnpackedColumns:
        if len(self._types.tags) == len(self._keys.attributes):
            # Nothing but the key is known: looking first is cheaper than unpacking in vain.
            self._add(discover(images, self._types, max_columns=self._max_columns).tags.items())
        while True:
            known = self._types
            unpacked = self._unpack(images)
            self._add(unpacked.unknown.tags.items())
            if self._types is known:
                return unpacked

    def _unpack(self, images: pa.Array) -> UnpackedColumns:
        options = self._options
        return unpack(images, self._types, numbers=options.numbers, nested=options.nested)

    def _add(self, attributes: Iterable[tuple[str, str]]) -> None:
        """Adds attributes that are new and can have a column."""
        for name, tag in attributes:
            if self._has_column(name) or self._is_blocked(name):
                continue
            self._types = self._types.with_attributes([(name, tag)], max_columns=self._max_columns)
            if self._has_column(name):
                self._taken.add(name.lower())

    def _has_column(self, name: str) -> bool:
        return self._types.tags.get(name, "NULL") != "NULL"

    def _is_blocked(self, name: str) -> bool:
        return not name or "\0" in name or name.lower() in self._taken


def version_columns(rows: pa.RecordBatch) -> dict[str, pa.Array]:
    """What every sink shows of a change beside its item; `rows` are those of a block."""
    version, op = rows.column("version").cast(pa.string()), rows.column("op")
    columns = (version, op, rows.column("event_time"), rows.column("ttl"), pc.equal(op, "d"))
    return dict(zip(VERSION_COLUMNS, columns, strict=True))


def appended(table: pa.Table, columns: Mapping[str, pa.Array]) -> pa.Table:
    """A table with more columns behind its own."""
    for name, column in columns.items():
        table = table.append_column(name, column)
    return table


def with_keys(keys: pa.Array, images: pa.Array, schema: KeySchema) -> pa.Array:
    """Puts the key alone where there is no image, so that a delete has its key columns."""
    if images.null_count == 0:
        return images
    missing = pc.is_null(images)
    return pc.replace_with_mask(
        images, missing, key_objects(keys.filter(missing), schema).cast(images.type)
    )


def _table(batch: pa.RecordBatch, name: str, rest: pa.Array) -> pa.Table:
    return pa.table([*batch.columns, rest], names=[*batch.schema.names, name])
