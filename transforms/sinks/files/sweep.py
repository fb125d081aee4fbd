# SPDX-License-Identifier: Apache-2.0
"""Which keys of a table a changelog still shows, though a newer generation did not bring them.

A mirror finds the rows to sweep by itself. A changelog has to be asked by what it holds: of each
key the row with the highest version counts, and if that is no delete and of an older generation,
the key is swept. Nothing else is needed for it, so a changelog may be the only sink.

Only four columns are read, file by file, and go into a DuckDB file beside which DuckDB spills. So
memory is bounded, and disk grows by some 100 bytes per change. No Python runs per row, but for the
lines of a file that DuckDB does not take.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from dynabeam.transforms.errors import SinkError
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.sinks.base import Sweep
from dynabeam.transforms.storage import filesystem
from dynabeam.transforms.values.lines import keys_of_images

__all__ = ["CHANGE_FILES", "swept_keys"]

CHANGE_FILES = (".jsonl", ".jsonl.gz", ".parquet")
"""How the names of files with changes end."""

_BATCH_ROWS = 65_536
_MEMORY = "256MB"
# Behind the keys comes `old`; inside of them no quote is bare after two closing braces.
_BEHIND_KEYS = b'}},"old":'
_HEAD = pa.schema(
    [
        pa.field("keys", pa.binary()),
        pa.field("version", pa.string()),
        pa.field("op", pa.string()),
        pa.field("written", pa.timestamp("us", "UTC")),
    ]
)


def swept_keys(paths: Sequence[str], table: Table, sweep: Sweep) -> Iterator[pa.Array]:
    """The keys whose newest row is live and of an older generation, in their order.

    Args:
        paths: The files of the table: local, or in an object store.
        table: The table.
        sweep: Which rows.

    Returns:
        Canonical keys (`transforms.values.keys`), piece by piece.

    Raises:
        SinkError: A file cannot be read, or is none of a changelog of this table.
    """
    with tempfile.TemporaryDirectory(prefix="dynabeam-sweep-") as folder:
        settings = {"memory_limit": _MEMORY, "threads": "2", "temp_directory": folder}
        with duckdb.connect(os.path.join(folder, "heads.duckdb"), config=settings) as connection:
            connection.execute(
                "CREATE TABLE heads (key BLOB, version VARCHAR, op VARCHAR, written TIMESTAMPTZ)"
            )
            for path in paths:
                for heads in _heads(path, table, connection.cursor(), folder):
                    _add(connection, heads, table, path)
            found = connection.sql(
                "SELECT key FROM (SELECT key, max(version) AS newest, arg_max(op, version) AS op, "
                "arg_max(written, version) AS written FROM heads GROUP BY key) WHERE op <> 'd' "
                "AND newest < $version "
                "AND ($since = 0 OR (op <> 'r' AND epoch_us(written) >= $since)) ORDER BY key",
                params={"version": sweep.version, "since": sweep.changed_since_us},
            ).to_arrow_reader(_BATCH_ROWS)
            for batch in found:
                keys = sweep.inside(batch.column(0).cast(pa.binary()))
                if len(keys):
                    yield keys


def _add(
    connection: duckdb.DuckDBPyConnection, heads: pa.RecordBatch, table: Table, path: str
) -> None:
    keys, wrong = keys_of_images(heads.column("keys"), table.keys)
    if keys.null_count:
        row, reason = next(iter(wrong.items()), (0, "there is none"))
        raise SinkError(
            f"a row of the changelog has no key of the table: {reason}",
            where=path,
            found=heads.column("keys")[row].as_py(),
            hint=f"Move the file away if it is not one of table {table.name}",
        )
    piece = pa.table([keys, *heads.columns[1:]], names=["key", "version", "op", "written"])
    connection.register("piece", piece)
    try:
        connection.execute(
            "INSERT INTO heads SELECT key, max(version), arg_max(op, version), "
            "arg_max(written, version) FROM piece GROUP BY key"
        )
    finally:
        connection.unregister("piece")


def _heads(
    path: str, table: Table, connection: duckdb.DuckDBPyConnection, folder: str
) -> Iterator[pa.RecordBatch]:
    """Keys, versions, operations and times of a file's rows."""
    if path.endswith(".parquet"):
        yield from _parquet_heads(path)
        return
    with _on_disk(path, folder) as local:
        try:
            # As a whole: a file that DuckDB refuses half-way is read in the other way from its
            # beginning, and rows that are added twice change nothing.
            yield from _json_heads(local, table, connection)
        except duckdb.Error:
            yield from _json_heads_by_line(local, table)


def _parquet_heads(path: str) -> Iterator[pa.RecordBatch]:
    names = ["_keys", "_version", "_op", "_event_time"]
    try:
        with (
            filesystem.open_for_reading(path, SinkError) as file,
            pq.ParquetFile(file) as parquet,
        ):
            for batch in parquet.iter_batches(_BATCH_ROWS, columns=names):
                columns = [batch.column(name) for name in names]
                yield pa.record_batch(
                    [each.cast(field.type) for each, field in zip(columns, _HEAD, strict=True)],
                    schema=_HEAD,
                )
    except (KeyError, pa.ArrowInvalid) as problem:
        raise SinkError(
            f"the file is none of a changelog: {problem}",
            where=path,
            hint="Move it out of the changelog's folder",
        ) from problem


def _json_heads(
    path: str, table: Table, connection: duckdb.DuckDBPyConnection
) -> Iterator[pa.RecordBatch]:
    found = connection.sql(
        "SELECT encode(keys::VARCHAR) AS keys, version, op, event_time::TIMESTAMPTZ AS written "
        "FROM read_json($path, format='newline_delimited', hive_partitioning=false, columns="
        "{\"table\": 'VARCHAR', keys: 'JSON', version: 'VARCHAR', op: 'VARCHAR', "
        "event_time: 'VARCHAR'}) WHERE \"table\" = $table",
        params={"path": path, "table": table.name},
    ).to_arrow_reader(_BATCH_ROWS)
    for batch in found:
        columns = [each.cast(field.type) for each, field in zip(batch.columns, _HEAD, strict=True)]
        yield pa.record_batch(columns, schema=_HEAD)


def _json_heads_by_line(path: str, table: Table) -> Iterator[pa.RecordBatch]:
    """The same for lines whose images are none that a JSON parser takes: only the rest is read."""
    opened: Any = gzip.open(path, "rb") if path.endswith(".gz") else open(path, "rb")  # noqa: SIM115
    rows: list[dict[str, Any]] = []
    with opened as file:
        for line in file:
            head, behind, _ = line.partition(_BEHIND_KEYS)
            try:
                change = json.loads(head + b"}}}") if behind else json.loads(line)
                if change["table"] == table.name:
                    rows.append(
                        {
                            "keys": json.dumps(change["keys"]).encode(),
                            "version": change["version"],
                            "op": change["op"],
                            "at": change["event_time"],
                        }
                    )
            except (ValueError, KeyError, TypeError) as problem:
                raise SinkError(
                    f"a line of the changelog cannot be read: {problem!r}",
                    where=path,
                    found=line[:200],
                    hint="Move the file out of the changelog's folder, or hint the line",
                ) from problem
            if len(rows) == _BATCH_ROWS:
                yield _batch(rows)
                rows = []
    if rows:
        yield _batch(rows)


def _batch(rows: Sequence[dict[str, Any]]) -> pa.RecordBatch:
    times = pa.array([each["at"] for each in rows]).cast(pa.timestamp("us", "UTC"))
    texts = [pa.array([each[name] for each in rows]) for name in ("keys", "version", "op")]
    return pa.record_batch([*texts, times], schema=_HEAD)


@contextlib.contextmanager
def _on_disk(path: str, folder: str) -> Iterator[str]:
    """A file as one of this machine's disk; a copy, for as long as it is needed."""
    if filesystem.is_local(path):
        yield path
        return
    local = os.path.join(folder, "file.jsonl.gz" if path.endswith(".gz") else "file.jsonl")
    with filesystem.open_for_reading(path, SinkError) as source, open(local, "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
    try:
        yield local
    finally:
        os.unlink(local)
