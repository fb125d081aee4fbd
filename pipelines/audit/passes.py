# SPDX-License-Identifier: Apache-2.0
"""The passes of an audit: all buckets by sums, then those that were not equal item by item.

The second pass reads both sides again, with a common point of its own; what it says of a bucket
replaces what the first one said. So a difference that settles in between is none. Buckets with many
rows take several such passes, so that the rows of one fit in memory.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam

from dynabeam.pipelines.audit.options import AuditOptions
from dynabeam.pipelines.rounds.run import beam_options
from dynabeam.transforms.audit.audit_tables import AuditPlan, AuditTables, TablePlan
from dynabeam.transforms.audit.mirror_reader import MirrorReader
from dynabeam.transforms.audit.mirror_schema import MirrorShape
from dynabeam.transforms.audit.result import BucketResult, TableResult
from dynabeam.transforms.audit.verdict import CommonPoint
from dynabeam.transforms.errors import StateError
from dynabeam.transforms.export.elements import SnapshotRequest
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.state.round_outputs import (
    WriteDeadLetters,
    WriteReports,
    read_dead_letters,
    read_reports,
)
from dynabeam.transforms.storage import filesystem
from dynabeam.transforms.stream.reader_spec import ReaderSpec

__all__ = ["PASS_ROWS", "AuditPasses", "TableInput", "build_audit", "in_passes"]

PASS_ROWS = 400_000
"""Rows of both sides that one item-by-item pass compares, as far as buckets allow."""


@dataclasses.dataclass(frozen=True)
class TableInput:
    """What one table is audited from.

    Attributes:
        shape: The table in the mirror.
        request: Its complete export.
        sources: Readers of its stream; empty for an audit without the stream.
        point: The common point.
        focus: Buckets to compare item by item; None for all, by sums.
    """

    shape: MirrorShape
    request: SnapshotRequest
    sources: Sequence[ReaderSpec]
    point: CommonPoint
    focus: frozenset[int] | None = None

    @property
    def table(self) -> str:
        """The table's name."""
        return self.shape.table.name


def build_audit(
    pipeline: beam.Pipeline,
    inputs: Sequence[TableInput],
    reader: MirrorReader,
    options: AuditOptions,
    folder: str,
) -> None:
    """Adds the graph of one pass to a pipeline; its results for the driver go into a folder."""
    source = options.source
    plans = {each.table: TablePlan(each.shape.to_json(), each.point, each.focus) for each in inputs}
    parts = [f"{each.table}/{part}" for each in inputs for part in reader.parts(each.shape)]
    sources = [reading for each in inputs for reading in each.sources]
    elements = {
        "requests": pipeline
        | "SnapshotRequests" >> beam.Create([each.request for each in inputs], reshuffle=False),
        "parts": pipeline
        | "MirrorParts" >> beam.Create(parts, reshuffle=False).with_output_types(str),
    }
    if sources:
        elements["sources"] = pipeline | "StreamSources" >> beam.Create(sources, reshuffle=False)
    plan = AuditPlan(source.sinks[0], options.buckets, max(1, options.examples), plans)
    audited = elements | "AuditTables" >> AuditTables(plan, source.access, verify=source.verify)
    _ = audited.reports | "WriteReports" >> WriteReports(_reports(folder))
    _ = audited.dead_letters | "WriteDeadLetters" >> WriteDeadLetters(_letters(folder))


class AuditPasses:
    """Runs the passes and puts their reports together.

    Args:
        options: The options of the command.
        reader: The mirror's.
    """

    def __init__(self, options: AuditOptions, reader: MirrorReader) -> None:
        self._options = options
        self._reader = reader
        self.count = 0
        self.unreadable: dict[str, int] = {}

    def first(self, inputs: Sequence[TableInput]) -> tuple[dict[str, TableResult], dict[str, Any]]:
        """Compares all buckets by sums.

        Returns:
            The results, and table → buckets that have to be looked at item by item.
        """
        results = {
            each.table: TableResult(
                each.table, [BucketResult() for _ in range(self._options.buckets)]
            )
            for each in inputs
        }
        open_buckets: dict[str, list[int]] = {each.table: [] for each in inputs}
        for report in self._run(inputs):
            _merge(results[report.table], report)
            if not report.fields["settled"]:
                open_buckets[report.table].append(report.fields["bucket"])
        return results, open_buckets

    def by_item(self, inputs: Sequence[TableInput], results: Mapping[str, TableResult]) -> None:
        """Compares the buckets in focus item by item and replaces their results."""
        met: dict[str, set[int]] = {each.table: set() for each in inputs}
        for report in self._run(inputs):
            _merge(results[report.table], report)
            met[report.table].add(report.fields["bucket"])
            self._keep_examples(results[report.table], report)
        for each in inputs:
            for bucket in (each.focus or frozenset()) - met[each.table]:
                # Its rows went away on both sides between the passes.
                results[each.table].buckets[bucket] = BucketResult()

    def _keep_examples(self, result: TableResult, report: Report) -> None:
        for example in report.fields["examples"]:
            alike = sum(each["kind"] == example["kind"] for each in result.examples)
            if alike < self._options.examples:
                result.examples.append({**example, "bucket": report.fields["bucket"]})

    def _run(self, inputs: Sequence[TableInput]) -> Iterator[Report]:
        self.count += 1
        with self._folder() as folder:
            pipeline = beam.Pipeline(options=beam_options(self._options.source))
            build_audit(pipeline, inputs, self._reader, self._options, folder)
            pipeline.run().wait_until_finish()
            self.unreadable = {each.table: 0 for each in inputs} | self.unreadable
            if self.count == 1:
                for letter in read_dead_letters(_letters(folder)):
                    self.unreadable[letter.table] = self.unreadable.get(letter.table, 0) + 1
            found = [each for each in read_reports(_reports(folder)) if each.kind == "audit"]
        yield from sorted(found, key=lambda each: (each.table, each.fields["bucket"]))

    def _folder(self) -> Any:
        if self._options.work_dir:
            return _Folder(
                filesystem.join(self._options.work_dir, f"audit-{uuid.uuid4().hex[:16]}")
            )
        return tempfile.TemporaryDirectory(prefix="dynabeam-audit-")


class _Folder:
    """A folder of the workers' that is emptied at the end."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> str:
        filesystem.make_folder(self._path)
        return self._path

    def __exit__(self, *_: object) -> None:
        filesystem.delete(filesystem.list_files(self._path), StateError)
        if filesystem.is_local(self._path):
            os.rmdir(self._path)


def _reports(folder: str) -> str:
    return filesystem.join(folder, "reports.jsonl")


def _letters(folder: str) -> str:
    return filesystem.join(folder, "dead_letters.jsonl")


def in_passes(
    inputs: Sequence[TableInput],
    open_buckets: Mapping[str, Sequence[int]],
    results: Mapping[str, TableResult],
) -> Iterator[list[TableInput]]:
    """Cuts the buckets to look at into passes of bounded size."""
    waiting: dict[str, list[int]] = {}
    rows = 0
    for each in inputs:
        for bucket in open_buckets[each.table]:
            found = results[each.table].buckets[bucket]
            size = found.items + found.rows
            if rows and rows + size > PASS_ROWS:
                yield _focused(inputs, waiting)
                waiting, rows = {}, 0
            waiting.setdefault(each.table, []).append(bucket)
            rows += size
    if waiting:
        yield _focused(inputs, waiting)


def _focused(
    inputs: Iterable[TableInput], buckets: Mapping[str, Sequence[int]]
) -> list[TableInput]:
    return [
        dataclasses.replace(each, focus=frozenset(buckets[each.table]))
        for each in inputs
        if each.table in buckets
    ]


def _merge(result: TableResult, report: Report) -> None:
    fields = report.fields
    result.buckets[fields["bucket"]] = BucketResult(
        fields["items"], fields["rows"], dict(fields["counts"]), fields["again"]
    )
