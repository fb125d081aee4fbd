# SPDX-License-Identifier: Apache-2.0
"""Which generation a reader gives its changes, while the table's may go up under it.

A reader of a continuous run asks at the start of each slice. Its generation never goes back: the
highest one that it gave is part of its restriction, and whenever it may have lost that (a new
worker, a restart from a checkpoint) the answer is asked for anew and not taken from a cache.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple, Protocol

from dynabeam.transforms.stream.frontier import Frontier
from dynabeam.transforms.stream.reader_spec import StreamSource

__all__ = ["Generations", "Known", "raised"]


class Known(NamedTuple):
    """What is known of a table.

    Attributes:
        generation: Its generation; 0 if nothing but what the reader was told is known.
        snapshot_until_us: For the headers of blocks: see `transforms.model.block.BlockHeader`.
    """

    generation: int
    snapshot_until_us: int


class Generations(Protocol):
    """Where readers learn that a generation went up; picklable."""

    def known(self, table: str, *, fresh: bool) -> Known:
        """The generation of a table.

        Args:
            table: Its name.
            fresh: Not from a cache.
        """


def raised(source: StreamSource, frontier: Frontier, known: Known) -> StreamSource:
    """The source with the highest generation that is known, and what goes with it."""
    generation = max(source.generation, frontier.generation, known.generation)
    until_us = source.snapshot_until_us
    if known.generation == generation:
        until_us = max(until_us, known.snapshot_until_us)
    return dataclasses.replace(source, generation=generation, snapshot_until_us=until_us)
