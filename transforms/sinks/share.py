# SPDX-License-Identifier: Apache-2.0
"""Which blocks are for a sink, where not all of them are.

A mirror that is brought up gets a snapshot of its own. Other sinks do not: a changelog would show
each row as one more change, and a mirror would apply what it has.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import apache_beam as beam

from dynabeam.transforms.model.block import Block

__all__ = ["SinkShare"]


@dataclasses.dataclass(frozen=True)
class SinkShare:
    """What a sink does not get.

    Attributes:
        withheld: Exports that are for others: table and generation.
        floors: Table → the generation at which this sink was loaded by itself. Changes of an older
            one that come late (dead letters that are put back) are older than what it was loaded
            with, but not in a version's order.
    """

    withheld: frozenset[tuple[str, int]] = frozenset()
    floors: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def is_all(self) -> bool:
        """True if the sink gets everything."""
        return not self.withheld and not self.floors

    def takes(self, block: Block) -> bool:
        """True if a block is for the sink."""
        header = block.header
        if header.generation < self.floors.get(header.table.name, 0):
            return False
        of_export = (header.table.name, header.generation)
        return header.source != "export" or of_export not in self.withheld

    def apply(self, blocks: beam.PCollection[Block], label: str) -> beam.PCollection[Block]:
        """The sink's part of a collection; the collection itself if that is all."""
        if self.is_all:
            return blocks
        return blocks | label >> beam.Filter(self.takes).with_output_types(Block)
