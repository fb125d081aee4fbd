# SPDX-License-Identifier: Apache-2.0
"""A few rows as the one JSON document that a merge takes, laid out by Python alone.

Near the tip of a stream a bundle brings two or three rows of each of many tables. Arrow and its
functions cost two milliseconds a table before they have seen the first of them; this way costs a
quarter of that, and the document is the same. What is out of the ordinary (a new attribute, an odd
image, a key that PostgreSQL cannot hold) is left to the general way, with all rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from dynabeam.transforms.errors import ValueDecodeError
from dynabeam.transforms.model.order import newest_places
from dynabeam.transforms.sinks.files.change_lines import key_object
from dynabeam.transforms.sinks.postgresql.merge import are_few
from dynabeam.transforms.sinks.postgresql.values import (
    hex_cells,
    hex_set_cells,
    index_key,
    json_document,
)
from dynabeam.transforms.sinks.postgresql.values import set_one_aside as _split
from dynabeam.transforms.sinks.row_layout import RowLayout, RowOptions
from dynabeam.transforms.values.key_schema import KeySchema
from dynabeam.transforms.values.row_decoder import RowDecoder

__all__ = ["SmallBatchLayout"]


class SmallBatchLayout:
    """Lays out a few rows of one table for `MergeStatements.few`.

    Attributes:
        unfit_numbers: Of the last document, see `Merged`.

    Args:
        keys: The table's primary key.
        layout: The table's columns; they do not grow meanwhile.
        options: How its rows are laid out.
    """

    def __init__(self, keys: KeySchema, layout: RowLayout, options: RowOptions) -> None:
        self._keys = keys
        self._packed = options.layout == "packed"
        self._decoder = RowDecoder(layout.types, options.numbers, options.nested)
        self.unfit_numbers = 0
        columns = layout.columns().items()
        self._binaries = [name for name, tag in columns if tag == "B"]
        self._sets_of_binaries = [name for name, tag in columns if tag == "BS"]
        self._texts_of_key = [each.name for each in keys.attributes if each.type == "S"]

    def document(self, rows: pa.RecordBatch) -> str | None:
        """The newest row of each key, in order of key.

        Args:
            rows: Changes with the columns `key`, `version`, `op`, `event_time`, `new` and `ttl`.

        Returns:
            What `json_rows` makes of them when they are laid out the general way; None if that is
            to be taken.
        """
        if not are_few(rows):
            return None
        given = {name: rows.column(name).to_pylist() for name in rows.schema.names}
        newest = newest_places(given["key"], given["version"])
        columns = {name: [cells[at] for at in newest] for name, cells in given.items()}
        ops = columns["op"]
        if any(image is None and op != "d" for image, op in zip(columns["new"], ops, strict=True)):
            return None
        try:
            attributes = self._attributes(columns["key"], columns["new"])
        except (ValueDecodeError, UnicodeError, RecursionError):
            return None
        if attributes is None:
            return None
        cells = [
            hex_cells(list(map(index_key, columns["key"]))),
            *attributes,
            [version.decode() for version in columns["version"]],
            ops,
            columns["event_time"],
            columns["ttl"],
            [op == "d" for op in ops],
        ]
        return json_document(cells)

    def _attributes(
        self, keys: Sequence[bytes], images: Sequence[bytes | None]
    ) -> list[list[Any]] | None:
        """The cells of the attributes, of the rest and of what is set aside; None if one is odd."""
        if self._packed:
            split = [(None, None) if each is None else _split(each, whole=True) for each in images]
            found = self._decoder.cells([self._key_alone(key) for key in keys])
        else:
            whole = zip(keys, images, strict=True)
            split = [_split(image or self._key_alone(key), whole=False) for key, image in whole]
            found = self._decoder.cells([kept for kept, _ in split])
        if found is None or found.unknown.tags:
            return None
        # Of a packed item only the key was laid out; the item has it all.
        self.unfit_numbers = 0 if self._packed else found.unfit_numbers
        cells = found.columns
        for name in self._binaries:
            cells[name] = hex_cells(cells[name])
        for name in self._sets_of_binaries:
            cells[name] = hex_set_cells(cells[name])
        for name in self._texts_of_key:
            if any(each is not None and "\0" in each for each in cells.get(name, ())):
                return None
        rest = [kept and kept.decode() for kept, _ in split] if self._packed else found.other
        return [*cells.values(), rest, hex_cells([aside for _, aside in split])]

    def _key_alone(self, key: bytes) -> bytes:
        return key_object(key, self._keys).encode()
