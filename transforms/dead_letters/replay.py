# SPDX-License-Identifier: Apache-2.0
"""`ReplayDeadLetters`: dead letters read again, as blocks.

A letter of the stream goes through the stream's parser, one of an export through the export's, a
row that a sink refused is taken as it is. Versions come from the letters, so the order rule and the
mirrors' guards see an old change as what it is: replayed late, it replaces nothing newer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import apache_beam as beam

from dynabeam.transforms.errors import DynabeamError, StreamError
from dynabeam.transforms.export.elements import FileSlice
from dynabeam.transforms.export.manifest import DataFile
from dynabeam.transforms.export.rows import rows_of_lines
from dynabeam.transforms.model.block import Block, BlockHeader, split_by_bucket
from dynabeam.transforms.model.dead_letter import DeadLetter
from dynabeam.transforms.model.row_payload import block_of_payload
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.runtime.clock import now_us
from dynabeam.transforms.stream.page_parser import PageParser

__all__ = ["LettersRead", "ReplayDeadLetters", "reparse"]

_BLOCKS, _DEAD = "blocks", "dead_letters"
_BUCKETS = 16


class LettersRead(NamedTuple):
    """What `ReplayDeadLetters` gives.

    Attributes:
        blocks: `PCollection[Block]` for all sinks.
        of_sinks: For each sink, the `PCollection[Block]` of rows that it alone had refused.
        dead_letters: `PCollection[DeadLetter]`: what still cannot be read.
    """

    blocks: Any
    of_sinks: Sequence[Any]
    dead_letters: Any


class ReplayDeadLetters(beam.PTransform):
    """Reads letters again: `PCollection[DeadLetter]` → `LettersRead`.

    Args:
        sinks: Places of the sinks (`Sink.place`); a row that a sink refused goes to that one only.
    """

    def __init__(self, sinks: Sequence[str]) -> None:
        super().__init__()
        self._sinks = tuple(sinks)

    def expand(self, letters: Any) -> LettersRead:
        """Reads them."""
        tags = [_tag(number) for number in range(len(self._sinks))]
        out = letters | "ReadAgain" >> beam.ParDo(_ReadAgainFn(self._sinks)).with_output_types(
            Block, **{_DEAD: DeadLetter}, **dict.fromkeys(tags, Block)
        ).with_outputs(_DEAD, *tags, main=_BLOCKS)
        return LettersRead(out[_BLOCKS], [out[each] for each in tags], out[_DEAD])


class _ReadAgainFn(beam.DoFn):
    def __init__(self, sinks: Sequence[str]) -> None:
        self._sinks = list(sinks)

    def process(self, element: DeadLetter) -> Iterator[Any]:
        """Reads one letter."""
        found = reparse(element)
        if isinstance(found, DeadLetter):
            yield beam.pvalue.TaggedOutput(_DEAD, found)
            return
        if element.stage != "sink":
            yield from found
            return
        tag = _tag(self._sinks.index(element.origin["sink"]))
        for block in found:
            yield beam.pvalue.TaggedOutput(tag, block)


def reparse(letter: DeadLetter) -> Sequence[Block] | DeadLetter:
    """Reads a letter as its source was read.

    Returns:
        Its rows, or the dead letter again, with its present error.
    """
    try:
        if letter.stage == "sink":
            return [block_of_payload(letter.raw)]
        reason, blocks = _of_stream(letter) if letter.stage == "stream" else _of_export(letter)
    except KeyError as error:
        return _still_dead(letter, f"the dead letter lacks {error}", "KeyError")
    except (DynabeamError, ValueError) as error:
        return _still_dead(letter, str(error), type(error).__name__)
    return blocks if blocks else _still_dead(letter, reason, letter.error)


def _still_dead(letter: DeadLetter, reason: str, error: str) -> DeadLetter:
    return dataclasses.replace(
        letter, reason=reason, error=error, severity="severe", last_us=now_us()
    )


def _of_stream(letter: DeadLetter) -> tuple[str, Sequence[Block]]:
    table, generation = _table_and_generation(letter)
    stream, shard = letter.origin["stream_arn"], letter.origin["shard_id"]
    parser = PageParser(table, generation, stream)
    try:
        page = parser.parse(b'{"Records":[' + letter.raw + b"]}", shard)
    except StreamError as error:
        return str(error), []
    header = BlockHeader(
        table, 0, _BUCKETS, generation, "stream", {"shard_id": shard, "stream_arn": stream}
    )
    reason = page.dead[0].reason if page.dead else ""
    return reason, list(split_by_bucket(header, page.rows))


def _of_export(letter: DeadLetter) -> tuple[str, Sequence[Block]]:
    table, generation = _table_and_generation(letter)
    arn, file = letter.origin["export_arn"], letter.origin["file"]
    part = FileSlice(
        table=table,
        generation=generation,
        buckets=_BUCKETS,
        export_arn=arn,
        export_time_us=letter.context["export_time_us"],
        file=DataFile(file, 1, ""),
        start_line=0,
        max_bytes=0,
        files=1,
        export_format=letter.context["export_format"],
        export_type=letter.context["export_type"],
        view=letter.context["view"],
    )
    rows, bad = rows_of_lines(letter.raw, part)
    header = BlockHeader(
        table, 0, _BUCKETS, generation, "export", {"export_arn": arn, "file": file}
    )
    return bad[0][2] if bad else "", list(split_by_bucket(header, rows))


def _table_and_generation(letter: DeadLetter) -> tuple[Table, int]:
    return Table.from_json(letter.context["table"]), letter.context["generation"]


def _tag(number: int) -> str:
    return f"sink{number}"
