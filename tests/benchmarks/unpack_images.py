# SPDX-License-Identifier: Apache-2.0
"""How fast images become columns: `python -m tests.benchmarks.unpack_images [--items N]`.

One thread, one process, all candidates over the same items in the same run; each line is the best
of several rounds, as items a second and as a multiple of boto3's TypeDeserializer (which includes
the parse of the JSON text). The candidates that are not ours say where they are not exact.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import boto3.dynamodb.types
import msgspec
import pyarrow as pa
import pyarrow.json

from dynabeam.transforms.values import columns
from dynabeam.transforms.values.columns import ColumnTypes, NumberType, discover, unpack
from dynabeam.transforms.values.json_sql import query, quoted_text
from dynabeam.transforms.values.python_values import decode_item
from dynabeam.transforms.values.row_decoder import SMALL_BATCH_ROWS, unpack_few
from tests.benchmarks.items import best_seconds, images_of, report

RIVAL = "boto3 TypeDeserializer"


def boto3_loop(images: list[bytes]) -> Callable[[], Any]:
    """The rival: what a hand-written consumer does."""
    deserialise = boto3.dynamodb.types.TypeDeserializer().deserialize

    def with_bytes(value: dict[str, Any]) -> dict[str, Any]:
        if "B" in value:
            return {"B": base64.b64decode(value["B"])}
        return value

    def run() -> Any:
        return [
            {name: deserialise(with_bytes(value)) for name, value in json.loads(image).items()}
            for image in images
        ]

    return run


def duckdb_transform(images: pa.Array, types: ColumnTypes) -> Callable[[], Any]:
    """DuckDB's json_transform: rounds decimals, drops what does not fit, no names like a/A."""
    leaf = {"N": "DECIMAL(38,9)", "BOOL": "BOOLEAN", "L": "JSON", "M": "JSON"}
    structure = {
        name: {tag: ["VARCHAR"] if tag in ("SS", "NS", "BS") else leaf.get(tag, "VARCHAR")}
        for name, tag in types.columns.items()
    }
    sql = f"SELECT json_transform(image, {quoted_text(json.dumps(structure))}) FROM input"
    table = pa.table({"image": images.view(pa.string())})
    return lambda: query(sql, table)


def pyarrow_json(images: list[bytes], types: ColumnTypes) -> Callable[[], Any]:
    """pyarrow.json with an explicit schema: fails on a conflict, nested values not as text."""
    leaf = {"BOOL": pa.bool_(), "NULL": pa.bool_()}
    fields = [
        pa.field(name, pa.struct([(tag, leaf.get(tag, pa.string()))]))
        for name, tag in types.tags.items()
        if tag not in ("L", "M", "SS", "NS", "BS")
    ]
    data = b"\n".join(images)
    options = pa.json.ParseOptions(pa.schema(fields), unexpected_field_behavior="ignore")
    return lambda: pa.json.read_json(
        io.BytesIO(data), pa.json.ReadOptions(use_threads=False), options
    )


def candidates(texts: list[bytes]) -> dict[str, Callable[[], Any]]:
    """All ways to decode the images, by name."""
    images = pa.array(texts, pa.binary())
    types = discover(images)
    raw = msgspec.json.Decoder(dict[str, msgspec.Raw])
    return {
        RIVAL: boto3_loop(texts),
        "python_values.decode_item": lambda: [decode_item(text) for text in texts],
        "columns.unpack": lambda: unpack(images, types),
        "columns.unpack, numbers as text": lambda: unpack(images, types, numbers="text"),
        "columns.unpack, nested plain": lambda: unpack(images, types, nested="plain"),
        "columns.discover": lambda: discover(images),
        "DuckDB json_transform (not exact)": duckdb_transform(images, types),
        "pyarrow.json (scalars only)": pyarrow_json(texts, types),
        "msgspec dict of Raw (cut only)": lambda: [raw.decode(text) for text in texts],
    }


def few_images(texts: list[bytes]) -> None:
    """Print what few images cost, item by item and by the vectorised way; shows the break-even."""
    types = discover(pa.array(texts, pa.binary()))
    for count in (1, 10, 30, 100, SMALL_BATCH_ROWS, 500, 1000):
        images = pa.array(texts[:count], pa.binary())
        ways = [
            partial(way, images, types, NumberType(), "dynamodb")
            for way in (unpack_few, columns._unpack_many)
        ]
        few, many = (1000 * best_seconds(way, rounds=20) for way in ways)
        print(
            f"{count:6} images: {few:6.2f} ms, vectorised {many:6.2f} ms, {many / few:5.1f} times"
        )


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=30_000)
    items = parser.parse_args().items
    for size in (300, 650):
        runs = candidates(images_of(items, size))
        rates = {name: items / best_seconds(run) for name, run in runs.items()}
        report(f"{size} bytes an item", rates, RIVAL)
        few_images(images_of(1000, size))


if __name__ == "__main__":
    main()
