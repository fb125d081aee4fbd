# SPDX-License-Identifier: Apache-2.0
"""Several readers as one element of the stream's splittable DoFn.

Each turn of an element costs a runner the same, some five milliseconds on Flink: a timer, a bundle,
the restriction out of its state and back into it. A record waits for a turn, and with dozens of
readers in one process they did little else than take turns. So readers of many tables share a few
elements: as many as keep all workers busy, and no more.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import apache_beam as beam

from transforms.errors import ValueDecodeError
from transforms.stream.frontier import Frontier
from transforms.stream.source import StreamSource

__all__ = [
    "MOST_GROUPS",
    "FrontierGroup",
    "FrontierGroupCoder",
    "SourceGroup",
    "SourceGroupCoder",
    "grouped",
]

FORMAT = 1

MOST_GROUPS = 8
"""More than there are subtasks, so that they spread evenly over these."""


@dataclasses.dataclass(frozen=True)
class SourceGroup:
    """Readers that take their turns together, in this order."""

    sources: tuple[StreamSource, ...]


@dataclasses.dataclass(frozen=True)
class FrontierGroup:
    """The restriction of a group: where each of its readers stands, in the same order."""

    frontiers: tuple[Frontier, ...]

    @property
    def closed(self) -> bool:
        """True if no reader has anything left to do."""
        return all(each.closed for each in self.frontiers)


def grouped(sources: Sequence[StreamSource]) -> list[SourceGroup]:
    """Deals readers out to groups, those of one table to different ones.

    Args:
        sources: All readers, those of one table one behind the other.
    """
    # Who asks for more readers of a table wants them to work side by side.
    count = min(len(sources), max([MOST_GROUPS, *(each.readers for each in sources)]))
    return [SourceGroup(tuple(sources[at::count])) for at in range(count)]


class SourceGroupCoder(beam.coders.Coder):
    """Versioned, deterministic coder of groups: canonical JSON."""

    def encode(self, value: SourceGroup) -> bytes:
        """Encodes a group."""
        return _dump({"sources": [each.to_json() for each in value.sources]})

    def decode(self, encoded: bytes) -> SourceGroup:
        """Decodes a group.

        Raises:
            ValueDecodeError: If the bytes are of an unknown format.
        """
        document = _load(encoded, "group of stream sources")
        return SourceGroup(tuple(map(StreamSource.from_json, document["sources"])))

    def is_deterministic(self) -> bool:
        """Equal groups have equal bytes."""
        return True

    def to_type_hint(self) -> type[SourceGroup]:
        """The type that this coder carries."""
        return SourceGroup


class FrontierGroupCoder(beam.coders.Coder):
    """Versioned, deterministic coder of a group's restriction: canonical JSON."""

    def encode(self, value: FrontierGroup) -> bytes:
        """Encodes a restriction."""
        return _dump({"frontiers": [each.to_json() for each in value.frontiers]})

    def decode(self, encoded: bytes) -> FrontierGroup:
        """Decodes a restriction.

        Raises:
            ValueDecodeError: If the bytes are of an unknown format.
        """
        document = _load(encoded, "stream positions of a group")
        return FrontierGroup(tuple(map(Frontier.from_json, document["frontiers"])))

    def is_deterministic(self) -> bool:
        """Equal restrictions have equal bytes."""
        return True

    def to_type_hint(self) -> type[FrontierGroup]:
        """The type that this coder carries."""
        return FrontierGroup


beam.coders.registry.register_coder(SourceGroup, SourceGroupCoder)
beam.coders.registry.register_coder(FrontierGroup, FrontierGroupCoder)


def _dump(document: Mapping[str, Any]) -> bytes:
    return json.dumps(
        {"format": FORMAT, **document}, separators=(",", ":"), sort_keys=True
    ).encode()


def _load(encoded: bytes, what: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(encoded)
    if document.get("format") != FORMAT:
        raise ValueDecodeError(
            f"a {what} of an unknown format",
            where=what,
            expected=FORMAT,
            found=document.get("format"),
            mend="Use the version of Dynabeam that wrote it, or a newer one",
        )
    return document
