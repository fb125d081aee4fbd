# SPDX-License-Identifier: Apache-2.0
"""Every sink with every option, as the behaviour suite needs it: made, driven and read back."""

import base64
import dataclasses
import datetime
import decimal
import gzip
import hashlib
import json
import pathlib
from urllib.parse import unquote

import apache_beam as beam
import psycopg.rows
import psycopg.types.string
import pyarrow.parquet as pq
from apache_beam.options.pipeline_options import PipelineOptions

from dynabeam.transforms.model.block import Block
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.sinks.duckdb.mirror import DuckDBMirror
from dynabeam.transforms.sinks.postgresql.mirror import PostgreSQLMirror
from dynabeam.transforms.sinks.postgresql.names import ColumnNames
from dynabeam.transforms.sinks.registry import open_sink
from dynabeam.transforms.values.json_sql import quoted_name
from dynabeam.transforms.values.keys import encode_key
from dynabeam.transforms.values.numbers import normalise_number
from tests.sinks.postgres_server import server_for_tests


@dataclasses.dataclass(frozen=True)
class Target:
    """A sink URI with `FOLDER` or, for a database, `SERVER` in it.

    `many`: as if every bundle had many rows, see the fixture `no_rows_are_few`.
    """

    uri: str
    many: bool = False

    @property
    def id(self):
        short = self.uri.replace(":///FOLDER/", "-").replace("://SERVER", "")
        short += "-many" if self.many else ""
        return short.replace("?", "-").replace("&", "-")

    @property
    def is_mirror(self):
        return self.uri.startswith("duckdb") or self.is_postgresql

    @property
    def is_postgresql(self):
        return self.uri.startswith("postgres")

    @property
    def is_packed(self):
        return "layout=packed" in self.uri

    @property
    def nested_is_plain(self):
        return "nested=plain" in self.uri

    def open(self, folder):
        if self.is_postgresql:
            return open_sink(postgresql_uri(self.uri, folder))
        return open_sink(self.uri.replace("FOLDER", str(folder)))


MIRRORS = [
    Target("duckdb:///FOLDER/m.duckdb"),
    Target("duckdb:///FOLDER/m.duckdb?layout=packed"),
    Target("duckdb:///FOLDER/m.duckdb?numbers=text&memory_limit=256MB&threads=1"),
    Target("duckdb:///FOLDER/m.duckdb?numbers=decimal(10,2)&nested=plain"),
]
POSTGRESQL = [
    Target("postgresql://SERVER"),
    Target("postgresql://SERVER?layout=packed"),
    Target("postgres://SERVER?numbers=decimal(10,2)&nested=plain"),
    Target("postgresql://SERVER?numbers=text"),
]
CHANGELOGS = [
    Target("file:///FOLDER/out"),
    Target("file:///FOLDER/out?compression=gzip"),
    Target("file:///FOLDER/out?format=parquet"),
    Target("file:///FOLDER/out?format=parquet&layout=packed&compression=snappy"),
    Target("file:///FOLDER/out?format=parquet&numbers=text&nested=plain&compression=none"),
]
AS_MANY = [
    Target("duckdb:///FOLDER/m.duckdb", many=True),
    Target("postgresql://SERVER", many=True),
    Target("postgresql://SERVER?numbers=decimal(10,2)&nested=plain", many=True),
    Target("file:///FOLDER/out?format=parquet", many=True),
]
TARGETS = MIRRORS + POSTGRESQL + CHANGELOGS + AS_MANY


def postgresql_uri(text, folder):
    """The URI with the tests' server in it and a schema of this folder's own."""
    schema = "t" + hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    scheme, _, options = text.partition("://SERVER")
    uri = server_for_tests().uri().replace("postgresql", scheme)
    return f"{uri}{options or '?'}&schema={schema}"


def deliver(sink, blocks, current):
    """One round's rows without a graph; nothing is published yet."""
    if isinstance(sink, (DuckDBMirror, PostgreSQLMirror)):
        return sink.apply(blocks, current)
    return sink.stage(blocks, current)


def deliver_what_fits(sink, blocks, current):
    """As `deliver`, where rows may be refused."""
    if isinstance(sink, DuckDBMirror):
        return sink.apply_what_fits(lambda: iter(blocks), current)
    return deliver(sink, blocks, current)


def run_round(sink, tables, blocks, current, committed):
    """A whole round as the driver runs it, without a graph."""
    sink.check(tables, committed)
    sink.recover(committed)
    reports = deliver(sink, blocks, current)
    sink.publish(current)
    return reports


def run_pipeline(sink, tables, blocks, current, committed, *options):
    """A whole round as the driver runs it, through Beam."""
    sink.check(tables, committed)
    sink.recover(committed)
    with beam.Pipeline(runner="FnApiRunner", options=PipelineOptions(list(options))) as pipeline:
        source = pipeline | beam.Create(blocks, reshuffle=False).with_output_types(Block)
        reports = source | "Sink" >> sink.write(current)
        assert reports.element_type is Report
    sink.publish(current)


def read_back(target, sink, tables):
    """What the sink says the tables hold: `{table name: {key: item}}`."""
    if target.is_postgresql:
        return {table.name: dict(postgresql_rows(target, sink, table)) for table in tables}
    if target.is_mirror:
        return {table.name: dict(_mirror_rows(target, sink, table)) for table in tables}
    held = {table.name: {} for table in tables}
    schemas = {table.name: table.keys for table in tables}
    for change in sorted(read_changes(target, sink), key=lambda each: each["version"]):
        key = encode_key(change["keys"], schemas[change["table"]])
        if change["op"] == "d":
            held[change["table"]].pop(key, None)
        else:
            held[change["table"]][key] = change["new"]
    return held


def _mirror_rows(target, sink, table):
    with sink.connect() as connection:
        rows = connection.sql(f"SELECT * FROM {quoted_name(table.name)}").to_arrow_table()
        ((attributes,),) = connection.execute(
            "SELECT attributes FROM _dynabeam.tables WHERE name = ?", [table.name]
        ).fetchall()
    tags = dict(json.loads(attributes))
    for row in rows.to_pylist():
        assert row["_deleted"] is False
        item = json.loads(row["item"]) if target.is_packed else item_of(row, tags, target)
        yield encode_key(item, table.keys), item


def postgresql_rows(target, sink, table, server=None):
    """The live items, by key; every JSON text is read as text, `_raw` is part of the item."""
    schema = quoted_name(schema_of(sink))
    with (server or server_for_tests()).connect() as connection:
        for name in ("json", "jsonb"):
            connection.adapters.register_loader(name, psycopg.types.string.TextLoader)
        ((attributes, columns, view),) = connection.execute(
            f'SELECT attributes, columns, relation FROM {schema}."$tables" WHERE name = %s',
            [table.name],
        ).fetchall()
        cursor = connection.cursor(row_factory=psycopg.rows.dict_row)
        rows = cursor.execute(f"SELECT * FROM {schema}.{quoted_name(view)}").fetchall()
    names = ColumnNames.from_json(columns)
    tags = dict(json.loads(attributes))
    for row in rows:
        assert row["_deleted"] is False
        raw = json.loads(row["_raw"] or b"{}")
        if target.is_packed:
            assert not raw or row["item"] is None
            item = raw or json.loads(row["item"])
        else:
            named = {name: row[names.of(name)] for name, tag in tags.items() if tag != "NULL"}
            named["_other"] = row["_other"]
            item = item_of(named, tags, target)
            assert not item.keys() & raw.keys()
            item |= raw
        yield encode_key(item, table.keys), item


def schema_of(sink):
    return dict(sink.uri.options).get("schema", "dynabeam")


def item_of(row, tags, target):
    """The item of an unpacked row: its columns and what has none, as DynamoDB JSON."""
    other = json.loads(row["_other"] or "{}")
    columns = {
        name: {tag: payload(row[name], tag, nested_is_plain=target.nested_is_plain)}
        for name, tag in tags.items()
        if tag != "NULL" and row.get(name) is not None
    }
    assert not columns.keys() & other.keys()
    return columns | other


def payload(value, tag, *, nested_is_plain=False):
    if tag in ("SS", "NS", "BS"):
        return [payload(each, tag[0]) for each in value]
    if tag in ("L", "M"):
        document = json.loads(value, parse_float=decimal.Decimal, parse_int=decimal.Decimal)
        return {"plain": document} if nested_is_plain else document
    if tag == "N":
        return normalise_number(value if isinstance(value, str) else format(value, "f"))
    if tag == "B":
        return base64.b64encode(value).decode()
    assert isinstance(value, bool if tag == "BOOL" else str)
    return value


def published(target, sink):
    """All files that a reader of a changelog sees, by path below the root.

    Beside the marker lies what a run that was killed had begun to write of it.
    """
    root = pathlib.Path(sink.place)
    found = [each for each in root.rglob("*") if each.is_file()]
    names = {each.relative_to(root).as_posix(): each for each in found}
    return {
        name: each
        for name, each in names.items()
        if not name.startswith(("_staging/", "_dynabeam.json")) and not is_schema(name)
    }


def is_schema(name):
    """Whether a file is the list of a table's columns, or the guard of it."""
    return name.rpartition("/")[2] in ("_schema.json", "._schema.json.guard")


def read_changes(target, sink):
    """All published changes, as dicts in the form of JSON lines."""
    read = _parquet_changes if "parquet" in target.uri else _line_changes
    files = published(target, sink)
    return [change for name in sorted(files) for change in read(target, files[name])]


def _line_changes(target, path):
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    assert content.endswith(b"\n")
    for line in content.removesuffix(b"\n").split(b"\n"):
        change = json.loads(line)
        text = change["event_time"].replace("Z", "+00:00")
        assert text != change["event_time"]
        change["event_time"] = datetime.datetime.fromisoformat(text)
        yield change


def _parquet_changes(target, path):
    rows = pq.read_table(path, partitioning=None).to_pylist()
    for row in rows:
        new = row["item" if target.is_packed else "_new"]
        yield {
            "table": unquote(path.parent.parent.name),
            "keys": json.loads(row["_keys"]),
            "op": row["_op"],
            "version": row["_version"],
            "event_time": row["_event_time"],
            "old": json.loads(row["_old"] or "null"),
            "new": json.loads(new or "null"),
            "ttl": row["_ttl"],
            "source": row["_source"],
            "origin": json.loads(row["_origin"]),
            "envelope": json.loads(row["_envelope"] or "null"),
            "row": row,
        }
        assert row["_deleted"] == (row["_op"] == "d")
