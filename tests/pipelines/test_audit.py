# SPDX-License-Identifier: Apache-2.0
"""`dynabeam audit` on every kind of mirror: honest, damaged in each way, behind, and ahead."""

import contextlib
import json
from datetime import datetime, timedelta, timezone
from decimal import Decimal

import apache_beam as beam
import duckdb
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dynabeam.pipelines.audit.options import parse_audit
from dynabeam.pipelines.audit.passes import TableInput, build_audit
from dynabeam.pipelines.command_line import main
from dynabeam.transforms.audit.mirror_reader import MirrorReader
from dynabeam.transforms.audit.mirror_schema import MirrorShape
from dynabeam.transforms.audit.verdict import CommonPoint
from dynabeam.transforms.export.elements import SnapshotRequest
from dynabeam.transforms.model.gap import GapPolicy
from dynabeam.transforms.model.version import encode_version
from dynabeam.transforms.sinks.row_layout import RowOptions
from dynabeam.transforms.stream.reader_spec import ReaderSpec
from dynabeam.transforms.values.column_types import ColumnTypes
from dynabeam.transforms.values.key_schema import KeyAttribute, KeySchema
from dynabeam.transforms.values.keys import encode_key
from tests.graphs import labels_of, pickled_places
from tests.pipelines.runs import ORDERS_ARN, TABLE_ID, ExportFolder
from tests.sinks.changes import table
from tests.sinks.targets import postgresql_uri

ITEMS = 1000
DIGITS = "12345678901234567890.123456789012345678"
CHANGED = ["o1", "o2", "o3", "o4", "o5"]
FOUND = {"missing": 1, "extra": 1, "stale": 1, "different": 2}
SNAPSHOT = encode_version(1).decode()
NOBODY = encode_key({"id": {"S": "nobody"}}, KeySchema(KeyAttribute("id", "S"))).hex()


def item(number, total=DIGITS):
    """Nested values and sets in two orders, a NULL in every other, a number of 38 digits."""
    tags, place = ["web", "gift"], {"zip": {"N": "1"}, "city": {"S": "Liège"}}
    odd = number % 2
    return {
        "id": {"S": f"o{number}"},
        "total": {"N": total},
        "note": {"NULL": True} if odd else {"S": f"note {number}"},
        "tags": {"SS": tags[:: -1 if odd else 1]},
        "place": {"M": dict(reversed(place.items())) if odd else place},
        "photo": {"B": "aGVsbG8="},
        **({"parts": {"L": [{"N": "1.50"}, {"S": ""}]}} if odd else {}),
    }


class Sql:
    """Damages a mirror that speaks SQL."""

    def __init__(self, connect, rows, key):
        self.connect, self.rows, self.key = connect, rows, key

    def execute(self, *statements):
        with contextlib.closing(self.connect()) as connection:
            for each in statements:
                connection.execute(each.format(rows=self.rows))

    def damage(self):
        self.execute(
            "DELETE FROM {rows} WHERE id = 'o100'",
            "CREATE TEMP TABLE one AS SELECT * FROM {rows} WHERE id = 'o200'",
            f"UPDATE one SET id = 'nobody', _key = {self.key}",
            "INSERT INTO {rows} SELECT * FROM one",
            "UPDATE {rows} SET total = 12345678901234567890.123456789012345679 WHERE id = 'o300'",
            "UPDATE {rows} SET note = '' WHERE id = 'o401'",
            f"UPDATE {{rows}} SET total = 0, _version = '{SNAPSHOT}' WHERE id = 'o1'",
        )


class Parquet:
    """Damages a changelog, file by file."""

    def __init__(self, folder):
        self.folder = folder

    def damage(self):
        for path in self.folder.rglob("*.parquet"):
            schema = pq.read_schema(path)
            rows = pq.read_table(path).to_pylist()
            kept = [each for row in rows for each in self.damaged(row)]
            pq.write_table(pa.Table.from_pylist(kept, schema=schema), path)

    def damaged(self, row):
        if row["id"] == "o100" or (row["id"] == "o1" and row["_version"] != SNAPSHOT):
            return []
        if row["id"] == "o200":
            texts = {name: row[name].replace("o200", "nobody") for name in ("_keys", "_new")}
            return [row, {**row, "id": "nobody", **texts}]
        if row["id"] == "o300":
            # Exact: there is no context that keeps 38 digits by default.
            row["total"] = Decimal(str(row["total"])[:-1] + "7")
        if row["id"] == "o401":
            row["note"] = ""
        return [row]


@pytest.fixture(params=["duckdb", "postgresql", "parquet"])
def mirror(request, tmp_path):
    """The URI of a mirror, and how to damage it."""
    if request.param == "duckdb":
        path = str(tmp_path / "mirror.duckdb")
        rows = '_dynabeam_rows."orders"'
        return f"duckdb:///{path}", Sql(lambda: duckdb.connect(path), rows, f"from_hex('{NOBODY}')")
    if request.param == "postgresql":
        uri = postgresql_uri("postgresql://SERVER", tmp_path)
        server, _, schema = uri.partition("?")
        rows = f'{schema.partition("schema=")[2]}."orders$rows"'
        key = f"'\\x{NOBODY}'::bytea"
        return uri, Sql(lambda: psycopg.connect(server, autocommit=True), rows, key)
    return f"file:///{tmp_path}/changes?format=parquet", Parquet(tmp_path / "changes")


class Deployment:
    """A table with an export and a stream, replicated to one mirror."""

    def __init__(self, world, tmp_path, uri):
        self.world, self.folder, self.uri = world, tmp_path, uri
        world.clock.advance(timedelta(minutes=3))
        self.export = ExportFolder(
            tmp_path / "bucket",
            [item(number) for number in range(ITEMS)],
            export_time=world.clock.now(),
            table_arn=ORDERS_ARN,
            table_id=TABLE_ID,
        )
        self.change(*CHANGED)
        world.sim.client("dynamodb").delete_item(TableName="orders", Key={"id": {"S": "o1"}})
        self.change("o1", total="7")
        world.age()

    def change(self, *ids, total="5.5"):
        client = self.world.sim.client("dynamodb")
        for each in ids:
            client.put_item(TableName="orders", Item=item(int(each[1:]), total))

    def options(self):
        return ["--tables=orders", self.export.option]

    def replicate(self):
        ended = self.world.run(*self.options(), sinks=[f"--sink={self.uri}"])
        assert ended.code == 0, ended.err

    def audit(self, *options):
        """Runs the command; exit code, counts of differences, the table's result."""
        path = self.folder / "audit.json"
        self.world.capsys.readouterr()
        code = main(
            [
                "audit",
                *self.world.options,
                *self.options(),
                f"--sink={self.uri}",
                f"--state_dir={self.world.state_dir}",
                f"--json={path}",
                "--buckets=64",
                *options,
            ]
        )
        ended = self.world.capsys.readouterr()
        if code == 2:
            return code, ended.err, None
        (found,) = json.loads(path.read_text())["tables"]
        counts = {kind: n for kind, n in found["counts"].items() if n and kind != "equal"}
        return code, counts, found


@pytest.fixture
def deployment(world, tmp_path, mirror):
    deployed = Deployment(world, tmp_path, mirror[0])
    deployed.replicate()
    return deployed


def test_every_kind_of_mirror(deployment, mirror, tmp_path):
    code, counts, found = deployment.audit()
    assert (code, counts) == (0, {})
    assert found["items"] == found["rows"] == ITEMS

    mirror[1].damage()
    page = tmp_path / "audit.html"
    code, counts, found = deployment.audit(f"--report={page}")
    assert (code, counts) == (1, FOUND)
    examples = {each["key"]: each for each in found["examples"]}
    assert {key: each["kind"] for key, each in examples.items()} == {
        "id=o100": "missing",
        "id=nobody": "extra",
        "id=o1": "stale",
        "id=o300": "different",
        "id=o401": "different",
    }
    assert all(name.startswith("total") for name in examples["id=o300"]["attributes"])
    assert all(name.startswith("note") for name in examples["id=o401"]["attributes"])
    text = page.read_text()
    assert "5 differences" in text
    assert "nobody" in text
    assert "<script" not in text

    # What the pipeline has not reached yet is no difference.
    deployment.change("o2", total="6")
    deployment.world.age()
    code, counts, _ = deployment.audit()
    assert (code, counts) == (1, {**FOUND, "pending": 1})


class TestOneMirror:
    """What does not depend on the kind of mirror, on DuckDB."""

    @pytest.fixture
    def mirror(self, tmp_path):
        path = str(tmp_path / "mirror.duckdb")
        return f"duckdb:///{path}", Sql(
            lambda: duckdb.connect(path), '_dynabeam_rows."orders"', f"from_hex('{NOBODY}')"
        )

    def test_ahead_twice_and_hidden(self, deployment, mirror, tmp_path):
        newer = encode_version(1, 10**39).decode()
        mirror[1].execute(
            f"UPDATE {{rows}} SET total = 9, _version = '{newer}', _event_time = now() "
            "WHERE id = 'o500'",
            f"UPDATE {{rows}} SET total = 9, _version = '{newer}', "
            "_event_time = now() - INTERVAL 1 DAY WHERE id = 'o501'",
            "INSERT INTO {rows} SELECT * FROM {rows} WHERE id = 'o600'",
        )
        page = tmp_path / "audit.html"
        code, counts, found = deployment.audit("--hide_values", f"--report={page}")
        assert (code, counts) == (1, {"newer": 1, "different": 1, "extra": 1})
        notes = {each["kind"]: each["note"] for each in found["examples"]}
        assert notes == {"different": "", "extra": "the key is there twice"}
        assert "o501" not in json.dumps(found)
        assert "o501" not in page.read_text()

    def test_without_the_stream(self, deployment):
        code, counts, _ = deployment.audit("--snapshot=only")
        # The changes came after the export: without the stream they cannot be judged.
        assert (code, counts) == (0, {"newer": len(CHANGED)})

    def test_without_positions_what_lags_is_stale(self, deployment, tmp_path):
        deployment.change("o2", total="6")
        deployment.world.age()
        code, counts, found = deployment.audit(f"--state_dir={tmp_path}/none")
        assert (code, counts) == (1, {"stale": 1})
        assert "none found" in found["how"]["stored positions"]
        assert not (tmp_path / "none").exists()

    def test_what_cannot_be_done(self, deployment, tmp_path):
        code, error, _ = deployment.audit(f"--sink=duckdb:///{tmp_path}/no.duckdb")
        assert code == 2
        assert "an audit compares one mirror" in error
        deployment.uri = f"duckdb:///{tmp_path}/no.duckdb"
        code, error, _ = deployment.audit()
        assert code == 2
        assert "the mirror does not exist" in error
        deployment.uri = f"file:///{tmp_path}/changes"
        code, error, _ = deployment.audit()
        assert code == 2
        assert "format=parquet" in error


LABELS = [
    "AuditTables",
    "AuditTables/BothSides",
    "AuditTables/ByBucket",
    "AuditTables/Compare",
    "AuditTables/DeadLetters",
    "AuditTables/DigestExport",
    "AuditTables/DigestStream",
    "AuditTables/EnsureExport",
    "AuditTables/EnsureExport/PollExport",
    "AuditTables/HashKeys",
    "AuditTables/HotKeys",
    "AuditTables/ReadExportFiles",
    "AuditTables/ReadExportFiles/ReadSlice",
    "AuditTables/ReadExportFiles/Spread",
    "AuditTables/ReadMirror",
    "AuditTables/ReadStream",
    "AuditTables/ReadStream/Read",
    "AuditTables/Reports",
    "AuditTables/SpreadParts",
    "AuditTables/SpreadReaders",
]


class _NoRows(MirrorReader):
    """A mirror without rows."""

    def describe(self, table):
        return None

    def parts(self, shape):
        return []

    def read(self, shape, part):
        return iter(())

    def lay_out(self, shape, keys, images):
        return shape.layout().rows(keys, images, grow=False)


def test_graph():
    options = parse_audit(
        ["--tables=orders", "--region=eu-west-1", "--export=x", "--sink=duckdb:///m"]
    )
    orders = table()
    shape = MirrorShape(orders, RowOptions(), ColumnTypes({"id": "S"}))
    source = ReaderSpec(
        *(orders, "arn", 0, 1, 1, 1, "trim_horizon", None),
        *(GapPolicy.FAIL, 0, 0, int(datetime.now(timezone.utc).timestamp() * 1e6)),
    )
    given = TableInput(shape, SnapshotRequest(orders, 1, 1), [source], CommonPoint(0))
    pipeline = beam.Pipeline(runner="FnApiRunner")
    build_audit(pipeline, [given], _NoRows(None), options, "/nowhere")
    found = labels_of(pipeline, "AuditTables")
    # The parts of a combination are Beam's own.
    own = [each for each in found if not each.startswith("AuditTables/HotKeys/")]
    assert sorted(own) == LABELS
    # What files are written by gives nothing, and that is pickled.
    assert [each for each in pickled_places(pipeline) if "AuditTables" in each] == []
