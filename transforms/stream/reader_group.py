# SPDX-License-Identifier: Apache-2.0
"""Several readers as one element of the stream's splittable DoFn.

Each turn of an element costs a runner the same, some five milliseconds on Flink: a timer, a bundle,
the restriction out of its state and back into it. A record waits for a turn, and with dozens of
readers in one process they did little else than take turns. So readers of many tables share a few
elements: as many as keep all workers busy, and no more.
"""

from __future__ import annotations

import collections
import dataclasses
import threading
from collections.abc import Sequence
from typing import Any

import apache_beam as beam

from dynabeam.transforms.runtime.json_coder import JsonCoder, element_format
from dynabeam.transforms.runtime.stored_format import Document, typed_fields
from dynabeam.transforms.stream.frontier import Frontier
from dynabeam.transforms.stream.reader_spec import StreamSource

__all__ = [
    "MOST_GROUPS",
    "FrontierGroup",
    "FrontierGroupCoder",
    "SourceGroup",
    "SourceGroupCoder",
    "grouped",
]

MOST_GROUPS = 8
"""More than there are subtasks, so that they spread evenly over these."""


@dataclasses.dataclass(frozen=True)
class SourceGroup:
    """Readers that take their turns together, in this order."""

    sources: tuple[StreamSource, ...]

    def to_json(self) -> dict[str, Any]:
        """The group as a JSON-able dict."""
        return _SOURCES.dump({"sources": [each.to_json() for each in self.sources]})

    @classmethod
    def from_json(cls, document: Document) -> SourceGroup:
        """Reads what `to_json` wrote.

        Raises:
            ValueDecodeError: If it is damaged, or the format number is unknown.
        """
        with _SOURCES.load(document) as fields:
            sources = tuple(map(StreamSource.from_json, fields["sources"]))
            return typed_fields(cls, fields, sources=sources)


@dataclasses.dataclass(frozen=True)
class FrontierGroup:
    """The restriction of a group: where each of its readers stands, in the same order."""

    frontiers: tuple[Frontier, ...]

    @property
    def closed(self) -> bool:
        """True if no reader has anything left to do."""
        return all(each.closed for each in self.frontiers)

    def to_json(self) -> dict[str, Any]:
        """The frontiers as a JSON-able dict."""
        return _FRONTIERS.dump({"frontiers": [each.to_json() for each in self.frontiers]})

    @classmethod
    def from_json(cls, document: Document) -> FrontierGroup:
        """Reads what `to_json` wrote.

        Raises:
            ValueDecodeError: If it is damaged, or the format number is unknown.
        """
        with _FRONTIERS.load(document) as fields:
            frontiers = tuple(map(Frontier.from_json, fields["frontiers"]))
            return typed_fields(cls, fields, frontiers=frontiers)


_SOURCES = element_format("a group of stream sources", "group of stream sources")
_FRONTIERS = element_format("a group of stream positions", "group of stream positions")


def grouped(sources: Sequence[StreamSource]) -> list[SourceGroup]:
    """Deals readers out to groups, those of one table to different ones.

    Args:
        sources: All readers, those of one table one behind the other.
    """
    # Who asks for more readers of a table wants them to work side by side.
    count = min(len(sources), max([MOST_GROUPS, *(each.readers for each in sources)]))
    return [SourceGroup(tuple(sources[at::count])) for at in range(count)]


class SourceGroupCoder(JsonCoder[SourceGroup]):
    """Versioned, deterministic coder of groups of readers: canonical JSON."""

    kind = SourceGroup


class FrontierGroupCoder(JsonCoder[FrontierGroup]):
    """Versioned, deterministic coder of the restrictions of groups: canonical JSON.

    A runner gives back at the next turn what it was given at the end of the last one, so what was
    encoded here last is remembered.
    """

    kind = FrontierGroup

    def encode(self, value: FrontierGroup) -> bytes:
        """Encodes a group."""
        encoded = super().encode(value)
        with _lock:
            _encoded[encoded] = value
            while len(_encoded) > _REMEMBERED:
                _encoded.popitem(last=False)
        return encoded

    def decode(self, encoded: bytes) -> FrontierGroup:
        """Decodes a group.

        Raises:
            ValueDecodeError: If the bytes are of an unknown format.
        """
        with _lock:
            known = _encoded.get(encoded)
        return super().decode(encoded) if known is None else known


_REMEMBERED = 4 * MOST_GROUPS
_lock = threading.Lock()
_encoded: collections.OrderedDict[bytes, FrontierGroup] = collections.OrderedDict()


beam.coders.registry.register_coder(SourceGroup, SourceGroupCoder)
beam.coders.registry.register_coder(FrontierGroup, FrontierGroupCoder)
