# SPDX-License-Identifier: Apache-2.0
"""Exports and slices for the tests of this package."""

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pyarrow as pa

from dynabeam.transforms.export.location import find_summary
from dynabeam.transforms.export.manifest import load_manifest
from dynabeam.transforms.export.read_files import read_slice
from dynabeam.transforms.export.slices import plan_round
from dynabeam.transforms.model.block import Block
from dynabeam.transforms.model.dead_letter import DeadLetter
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.testing.export_writer import (
    NetChange,
    folder_put,
    write_full_export,
    write_incremental_export,
)
from dynabeam.transforms.values.key_schema import KeyAttribute, KeySchema

ARN = "arn:aws:dynamodb:eu-west-1:111122223333:table/orders"
TABLE_ID = "00000000-1111-2222-3333-444444444444"
TABLE = Table("orders", KeySchema(KeyAttribute("id", "S")), ARN)
TIME = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=timezone.utc)
TIME_US = 1_767_323_045_678_000
BUCKET = "exports"
SAMPLE = Path(__file__).parents[1] / "data" / "exports" / "scylla-migrator-full-all-types"
SAMPLE_TABLE = Table("S3ExportTest", KeySchema(KeyAttribute("id", "S")))


def items(count):
    return [{"id": {"S": f"k{n}"}, "n": {"N": str(n)}, "b": {"B": "aGk="}} for n in range(count)]


def write_full(folder, count=10, **options):
    """A full export of `orders` below `folder`, which stands for the bucket."""
    if "lines" not in options:
        options.setdefault("items", items(count))
    return write_full_export(
        folder_put(folder),
        table_arn=options.pop("table_arn", ARN),
        table_id=TABLE_ID,
        export_time=options.pop("export_time", TIME),
        bucket=BUCKET,
        **options,
    )


CHANGES = [
    NetChange({"id": {"S": "new"}}, 1_767_323_100_000_001, None, {"id": {"S": "new"}}),
    NetChange(
        {"id": {"S": "k1"}},
        1_767_323_100_000_002,
        {"id": {"S": "k1"}, "n": {"N": "1"}},
        {"id": {"S": "k1"}, "n": {"N": "100"}},
    ),
    NetChange({"id": {"S": "k2"}}, 1_767_323_100_000_003, {"id": {"S": "k2"}}, None),
]


def write_incremental(folder, changes=CHANGES, minutes=(0, 20), **options):
    """An incremental export of `orders`; `minutes` from `TIME` bound its window."""
    start = TIME.replace(microsecond=0)
    return write_incremental_export(
        folder_put(folder),
        table_arn=ARN,
        table_id=TABLE_ID,
        changes=changes,
        export_from=start + timedelta(minutes=minutes[0]),
        export_to=start + timedelta(minutes=minutes[1]),
        bucket=BUCKET,
        **options,
    )


def manifest_of(folder, verify="strict"):
    return load_manifest(find_summary(str(folder)), verify=verify)


def slices_of(folder, *, table=TABLE, buckets=4, verify="strict", **options):
    manifest = manifest_of(folder, verify)
    size_of = options.pop("size_of", lambda path: Path(path).stat().st_size)
    options = {"generation": 1, "loaded": {}, "size_of": size_of, **options}
    return plan_round(manifest, table, buckets=buckets, **options)


def read(slices, verify="strict"):
    """All blocks, reports and dead letters of slices."""
    blocks, reports, dead = [], [], []
    for part in slices:
        for each in read_slice(part, verify=verify):
            kind = dead if isinstance(each, DeadLetter) else reports
            (blocks if isinstance(each, Block) else kind).append(each)
    return blocks, reports, dead


def rows_of(blocks):
    """The rows of blocks as dicts, in the order of their keys."""
    if not blocks:
        return []
    rows = pa.Table.from_batches([block.rows for block in blocks]).to_pylist()
    return sorted(rows, key=lambda row: row["key"])


def images_of(blocks):
    """New images as parsed JSON, by key."""
    return {row["key"]: json.loads(row["new"]) for row in rows_of(blocks)}


def edit_json(path, **changes):
    """Changes a manifest and leaves its `.md5` out, as a redacted copy would."""
    path = Path(path)
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | changes))
    Path(str(path).removesuffix(".json") + ".md5").unlink(missing_ok=True)


def edit_lines(path, edit):
    """Applies `edit` to each line's object of `manifest-files.json`; None drops the line."""
    path = Path(path)
    lines = [edit(json.loads(line)) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines if line is not None))
    Path(str(path).removesuffix(".json") + ".md5").unlink(missing_ok=True)
