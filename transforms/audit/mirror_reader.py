# SPDX-License-Identifier: Apache-2.0
"""What an audit asks of a mirror: a reader per kind of sink.

A reader describes a table as it stands in the mirror, cuts it into parts, reads a part in batches
of bounded size, and lays items out as its sink stores them. A new kind is one file and one line in
`READERS`; its module is imported when a URI names its scheme.

A part's rows are read once. Two parts never hold the same key, whatever is written meanwhile, and
each row is one that the mirror held at some moment after the reading began.
"""

from __future__ import annotations

import abc
import dataclasses
import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import pyarrow as pa

from dynabeam.transforms.audit.mirror_schema import MirrorShape
from dynabeam.transforms.errors import ConfigurationError, SinkError
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.sinks.base import Sink
from dynabeam.transforms.sinks.registry import open_sink

__all__ = ["BATCH_ROWS", "READERS", "MirrorReader", "StoredRows", "check_keys", "open_reader"]

BATCH_ROWS = 20_480
"""Rows of a batch at most: bounds memory."""

READERS: Mapping[str, tuple[str, str]] = {
    "duckdb": ("dynabeam.transforms.audit.duckdb_reader", "DuckDBReader"),
    "file": ("dynabeam.transforms.audit.parquet_reader", "ParquetReader"),
    "s3": ("dynabeam.transforms.audit.parquet_reader", "ParquetReader"),
    "gs": ("dynabeam.transforms.audit.parquet_reader", "ParquetReader"),
    "postgres": ("dynabeam.transforms.audit.postgresql_reader", "PostgreSQLReader"),
    "postgresql": ("dynabeam.transforms.audit.postgresql_reader", "PostgreSQLReader"),
}
"""Scheme → module and class."""


@dataclasses.dataclass(frozen=True)
class StoredRows:
    """Rows as the mirror holds them, tombstones included.

    Attributes:
        keys: The keys by which the mirror knows them, binary.
        versions: Encoded versions, binary.
        event_us: Times of the writes, microseconds since 1970.
        deleted: Whether a row is a tombstone.
        stored: The columns `MirrorShape.names`.
    """

    keys: pa.Array
    versions: pa.Array
    event_us: pa.Array
    deleted: pa.Array
    stored: pa.Table

    def filter(self, mask: pa.Array) -> StoredRows:
        """Some of the rows."""
        columns = (self.keys, self.versions, self.event_us, self.deleted, self.stored)
        return StoredRows(*(each.filter(mask) for each in columns))


class MirrorReader(abc.ABC):
    """Reads one mirror. Instances are small, picklable and hold no secret.

    Args:
        sink: The mirror's sink.
    """

    cells_are_text: ClassVar[bool] = False
    """Its stored columns are text already, see `canonical_cells`; otherwise typed."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink

    @abc.abstractmethod
    def describe(self, table: Table) -> MirrorShape | None:
        """How the mirror keeps a table; None if it does not know it.

        Raises:
            SinkError: The mirror cannot be read, or holds the table in another way than the URI
                says.
        """

    @abc.abstractmethod
    def parts(self, shape: MirrorShape) -> Sequence[str]:
        """The parts of a table, each to be read by itself; empty if there are no rows."""

    @abc.abstractmethod
    def read(self, shape: MirrorShape, part: str) -> Iterator[StoredRows]:
        """Reads a part, in batches.

        Raises:
            SinkError: The mirror cannot be read.
        """

    @abc.abstractmethod
    def lay_out(self, shape: MirrorShape, keys: pa.Array, images: pa.Array) -> pa.Table:
        """Items as the sink would store them: typed columns `MirrorShape.names`.

        Args:
            shape: The table in the mirror.
            keys: Canonical keys.
            images: DynamoDB JSON; null where an item is deleted.
        """

    def stored_keys(self, keys: pa.Array) -> pa.Array:
        """Canonical keys as the mirror spells them."""
        return keys


def open_reader(uri: str) -> MirrorReader:
    """Makes the reader of the mirror that a sink's URI names; nothing is connected yet.

    Raises:
        ConfigurationError: The URI is wrong, or no reader knows its kind.
        SinkError: The packages that the sink needs are not installed.
    """
    sink = open_sink(uri)
    entry = READERS.get(sink.uri.scheme)
    if entry is None:
        raise ConfigurationError(
            "this kind of sink cannot be audited",
            where=f"--sink={sink.name}",
            expected=" | ".join(sorted(READERS)),
            found=sink.uri.scheme,
        )
    reader = getattr(importlib.import_module(entry[0]), entry[1])(sink)
    assert isinstance(reader, MirrorReader)
    return reader


def check_keys(table: Table, stored: str, where: str) -> None:
    """Checks that a mirror holds a table with the key that it has.

    Raises:
        SinkError: It has another one.
    """
    keys = json.dumps(table.keys.to_json())
    if keys != stored:
        raise SinkError(
            "the mirror holds this table with another key",
            where=f"{where}, table {table.name}",
            expected=keys,
            found=stored,
            hint="Give --keys as it was replicated, or audit the mirror of this table",
        )
