# SPDX-License-Identifier: Apache-2.0
"""A small pipeline that never ends: the stream of a table, record by record, into files."""

from __future__ import annotations

import collections
import os
import pathlib
import time
import uuid
from typing import Any

import apache_beam as beam

from dynabeam.transforms.aws.session import AwsAccess
from dynabeam.transforms.model.block import Block
from dynabeam.transforms.model.gap import GapPolicy
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.stream.read_stream import ReadStream
from dynabeam.transforms.stream.reader_spec import TRIM_HORIZON, ReaderSpec
from dynabeam.transforms.values.key_schema import KeyAttribute, KeySchema

__all__ = ["build", "versions"]

_HASH = KeySchema(KeyAttribute("id", "S"))


def build(
    pipeline: Any,
    *,
    endpoint_url: str,
    region: str,
    table: str,
    stream_arn: str,
    folder: str,
    readers: int = 2,
) -> None:
    """Reads the stream of a table with the key `id` (S) from its beginning, for ever.

    Args:
        pipeline: Gets the steps.
        endpoint_url: Of the simulator.
        region: Its Region.
        table: The table's name.
        stream_arn: Its stream.
        folder: Where the files go.
        readers: Elements of the splittable DoFn.
    """
    sources = [
        ReaderSpec(
            table=Table(table, _HASH),
            stream_arn=stream_arn,
            reader=reader,
            readers=readers,
            generation=1,
            buckets=4,
            start=TRIM_HORIZON,
            frontier=None,
            gap_policy=GapPolicy.FAIL,
            snapshot_until_us=0,
            max_bytes=0,
            started_us=time.time_ns() // 1000,
        )
        for reader in range(readers)
    ]
    read = (
        pipeline
        | "Sources" >> beam.Create(sources)
        | "SpreadReaders" >> beam.Reshuffle()
        | "ReadStream" >> ReadStream(AwsAccess(region, endpoint_url), "forever")
    )
    _ = (
        read["blocks"]
        | "SpreadBlocks" >> beam.Reshuffle()
        | "Append" >> beam.ParDo(_AppendVersions(folder))
    )


class _AppendVersions(beam.DoFn):
    """Appends one line a record: its version. Each instance has a file of its own."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._file: int | None = None

    def setup(self) -> None:
        pathlib.Path(self._folder).mkdir(parents=True, exist_ok=True)
        path = pathlib.Path(self._folder) / f"{uuid.uuid4()}.txt"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def process(self, block: Block) -> None:
        assert self._file is not None
        lines = [version.as_py() + b"\n" for version in block.rows["version"]]
        os.write(self._file, b"".join(lines))

    def teardown(self) -> None:
        if self._file is not None:
            os.close(self._file)


def versions(folder: pathlib.Path) -> collections.Counter[str]:
    """How often each record arrived, by its sequence number, as padded text."""
    found: collections.Counter[str] = collections.Counter()
    for path in folder.glob("*.txt"):
        text = path.read_text()
        # A killed worker may leave half a line.
        whole = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
        found.update(line.rstrip().partition(".")[2] for line in whole)
    return found
