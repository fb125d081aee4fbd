# SPDX-License-Identifier: Apache-2.0
"""Whether a page can be the next one of its shard, and what of it is new and credible."""

from __future__ import annotations

import dataclasses
import itertools

import pyarrow as pa
import pyarrow.compute as pc

from dynabeam.transforms.errors import StreamError
from dynabeam.transforms.model.block import event_times, newest_credible_us
from dynabeam.transforms.model.version import decode_version, encode_version
from dynabeam.transforms.stream.frontier import ShardPosition
from dynabeam.transforms.stream.page_parser import Page, leaps

__all__ = ["credible", "disorder", "without_repeats"]


def disorder(
    page: Page, position: ShardPosition, *, continued: bool, generation: int, stream_arn: str
) -> StreamError | None:
    """Why a page cannot be the shard's next: its numbers do not rise, or from too far below.

    A new iterator may begin before what was read, so that records come again. The iterator of a
    page goes on after that page, so that nothing comes again.

    Args:
        page: The page.
        position: The position of its request.
        continued: True if its iterator is that of the page before.
        generation: The table's generation.
        stream_arn: The stream, for the error.

    Returns:
        The error that the page is, or None.
    """
    where = f"shard {position.shard_id}, stream {stream_arn}"
    versions = page.rows.column("version").to_pylist()
    start = position.sequence if versions and position.sequence else ""
    if start:
        first = str(decode_version(versions[0])[1])
        if continued and versions[0] <= encode_version(generation, start):
            return _fall(where, start, first, "the page before ended with")
        if leaps(start, first):
            return _fall(where, start, first, "one that leaps away from it follows")
    for before, after in itertools.pairwise(versions):
        if after <= before:
            one, other = (str(decode_version(each)[1]) for each in (before, after))
            return _fall(where, one, other, "within a page")
    return None


def _fall(where: str, one: str, other: str, why: str) -> StreamError:
    return StreamError(
        f"the sequence numbers of a shard do not rise as they have to ({why}): "
        f"{one} is followed by {other}",
        where=where,
        hint="Run again; if it stays, something between here and the service changes answers",
    )


def credible(page: Page, latest_us: int) -> Page:
    """The page without a newest time after `latest_us`: no watermark may follow it."""
    if page.newest_event_us <= latest_us:
        return page
    newest_us = newest_credible_us(event_times(page.rows), latest_us)
    return dataclasses.replace(page, newest_event_us=newest_us)


def without_repeats(page: Page, position: ShardPosition, generation: int) -> Page:
    """The page without records that were claimed before; they come after a restart by time."""
    if not position.sequence or not page.rows.num_rows:
        return page
    claimed = encode_version(generation, position.sequence)
    versions = page.rows.column("version")
    # Python's own, because most pages have few rows: each call of Arrow's costs as much as
    # comparing a thousand, and lets go of the interpreter, which others then take.
    if min(versions.to_pylist()) > claimed:
        return page
    new = pc.greater(versions, pa.scalar(claimed, pa.binary()))
    last, last_row = (
        max(each, position.sequence, key=lambda digits: int(digits or 0))
        for each in (page.last_sequence, page.last_row_sequence)
    )
    rows = page.rows.filter(new)
    return dataclasses.replace(page, rows=rows, last_sequence=last, last_row_sequence=last_row)
