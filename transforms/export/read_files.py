# SPDX-License-Identifier: Apache-2.0
"""Reads pieces of an export's data files as blocks.

Stages, per slice: fetch and verify (`fetch`), inflate to whole lines (`inflate`), parse (`rows`),
cut by hash bucket. A file that takes several pieces stays open between them (`open_files`). No row
is emitted before the file's MD5 was compared with the manifest's; and if the file is read in
several pieces, before its lines were counted. Otherwise they are counted as they pass, and a wrong
count fails the bundle.

Delivery: each line of a slice once per successful attempt, without those whose key is outside the
slice's range if it has one; a slice that fails is read again from its start line. No Python runs
per item (of DynamoDB JSON, without a range of numbers), and memory does not grow with the file.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import apache_beam as beam

from dynabeam.transforms.errors import ExportIntegrityError, ValueDecodeError
from dynabeam.transforms.export.distinct import KeyDigests, check_piece, write_digests
from dynabeam.transforms.export.elements import FileSlice
from dynabeam.transforms.export.fetch import FetchedFile
from dynabeam.transforms.export.inflate import count_lines, may_be_longer_than
from dynabeam.transforms.export.manifest import REPACKED, Verify
from dynabeam.transforms.export.open_files import OpenFiles
from dynabeam.transforms.export.rows import rows_of_lines
from dynabeam.transforms.model.block import Block, BlockHeader, split_by_bucket
from dynabeam.transforms.model.dead_letter import DeadLetter
from dynabeam.transforms.model.key_range import KeyRange
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.runtime.clock import now_us

__all__ = ["ExportRows", "ReadExportFiles", "read_slice"]

BLOCKS = "blocks"
REPORTS = "reports"
DEAD_LETTERS = "dead_letters"

_open_files = OpenFiles()


class ExportRows(NamedTuple):
    """What `ReadExportFiles` gives.

    Attributes:
        blocks: `PCollection[Block]` of source `export`.
        reports: `PCollection[Report]` of kind `file`, one per slice: `export_arn`, `generation`,
            `file` (path), `lines` (loaded so far, from the file's start), `done`, `rows`, `bytes`
            (uncompressed) and `dead_letters` of this slice, `warnings`; and `digests`, the path
            of those of its keys, if they were requested.
        dead_letters: `PCollection[DeadLetter]` of stage `export`.
    """

    blocks: Any
    reports: Any
    dead_letters: Any


class ReadExportFiles(beam.PTransform):
    """Reads data files: `PCollection[FileSlice]` → `ExportRows`.

    The slices are spread over the workers first.

    Args:
        verify: What a checksum or count that does not agree is: an error (`strict`) or a warning in
            the file's report (`warn`). A file that is missing or no whole gzip is always an error.
    """

    def __init__(self, *, verify: Verify = "strict") -> None:
        super().__init__()
        self._verify = verify

    def expand(self, slices: Any) -> ExportRows:
        """Spreads the slices, then reads them."""
        out = (
            slices
            | "Spread" >> beam.Reshuffle()
            | "ReadSlice"
            >> beam.ParDo(_ReadSliceFn(self._verify))
            .with_output_types(Block, reports=Report, dead_letters=DeadLetter)
            .with_outputs(REPORTS, DEAD_LETTERS, main=BLOCKS)
        )
        return ExportRows(out[BLOCKS], out[REPORTS], out[DEAD_LETTERS])


class _ReadSliceFn(beam.DoFn):
    """Tags what `read_slice` gives."""

    def __init__(self, verify: Verify) -> None:
        self._verify = verify

    def process(self, element: FileSlice) -> Iterator[Any]:
        for each in read_slice(element, verify=self._verify):
            if isinstance(each, Block):
                yield each
            elif isinstance(each, DeadLetter):
                yield beam.pvalue.TaggedOutput(DEAD_LETTERS, each)
            else:
                yield beam.pvalue.TaggedOutput(REPORTS, each)


def read_slice(
    part: FileSlice, *, verify: Verify = "strict"
) -> Iterator[Block | DeadLetter | Report]:
    """Reads one slice: its blocks and dead letters, and last its report of kind `file`.

    Raises:
        ExportIntegrityError: The file is missing, damaged, or not what the manifest says; or it
            holds a key twice, if that is looked for.
    """
    header = BlockHeader(
        table=part.table,
        bucket=0,
        buckets=part.buckets,
        generation=part.generation,
        source="export",
        origin={"export_arn": part.export_arn, "file": part.file.path},
    )
    wanted = KeyRange.of(part.key_range, part.table.keys) if part.key_range else None
    file = _open_files.take(
        part.file,
        verify,
        start_line=part.start_line,
        max_bytes=part.max_bytes,
        check=functools.partial(_counted_before, part, verify=verify),
    )
    with contextlib.ExitStack() as stack:
        stack.callback(file.close)
        reader, warnings = file.reader, list(file.warnings)
        rows = dead_letters = 0
        digests: list[KeyDigests] = []
        line = part.start_line
        for piece in reader:
            batch, bad = rows_of_lines(piece, part)
            if part.digests:
                keys, images = batch.column("key"), batch.column("new")
                digests.append(check_piece(keys, images, part.table, part.file.path))
            if wanted is not None:
                batch = batch.filter(wanted.holds(batch.column("key")))
            yield from split_by_bucket(header, batch)
            for number, raw, reason in bad:
                yield _dead_letter(part, line + number, raw, reason)
            rows += batch.num_rows
            dead_letters += len(bad)
            line = reader.lines
            if line > part.file.item_count and verify == "strict":
                # At once: what holds more than it should may hold any amount.
                _check_count(part, line, verify, at_least=not reader.at_end)
        if reader.at_end:
            warnings += _check_count(part, reader.lines, verify)
        left = {"digests": write_digests(part.digests, digests)} if part.digests else {}
        # Only a piece that came to its end leaves a place to go on from.
        stack.pop_all()
        _open_files.keep(file)
    yield Report(
        "file",
        part.table.name,
        {
            "export_arn": part.export_arn,
            "generation": part.generation,
            "file": part.file.path,
            "lines": reader.lines,
            "done": reader.at_end,
            "rows": rows,
            "bytes": reader.bytes,
            "dead_letters": dead_letters,
            "warnings": sorted(set(warnings)),
            **left,
        },
    )


def _dead_letter(part: FileSlice, line: int, raw: bytes, reason: str) -> DeadLetter:
    met_us = now_us()
    return DeadLetter(
        table=part.table.name,
        stage="export",
        place=f"{part.file.path}:{line}",
        reason=reason,
        raw=raw,
        error=ValueDecodeError.__name__,
        origin={"export_arn": part.export_arn, "file": part.file.path, "line": str(line)},
        context={
            "table": part.table.to_json(),
            "generation": part.generation,
            "export_time_us": part.export_time_us,
            "export_format": part.export_format,
            "export_type": part.export_type,
            "view": part.view,
        },
        first_us=met_us,
        last_us=met_us,
    )


def _counted_before(part: FileSlice, file: FetchedFile, *, verify: Verify) -> list[str]:
    """Counts the lines ahead of the first piece of a file that needs several."""
    first_of_several = part.max_bytes and part.start_line == 0
    if not first_of_several or not may_be_longer_than(file.content, file.size, part.max_bytes):
        return []
    lines = count_lines(file.content, part.file.path)
    file.content.seek(0)
    return _check_count(part, lines, verify)


def _check_count(
    part: FileSlice, lines: int, verify: Verify, *, at_least: bool = False
) -> list[str]:
    if lines == part.file.item_count:
        return []
    error = ExportIntegrityError(
        "the file's number of lines is not the manifest's itemCount",
        where=part.file.path,
        expected=part.file.item_count,
        found=f"at least {lines}" if at_least else lines,
        hint=REPACKED,
    )
    if verify == "strict":
        raise error
    return [str(error)]
