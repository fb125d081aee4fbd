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
from typing import Any, ClassVar

import apache_beam as beam

from dynabeam.transforms.errors import ValueDecodeError
from dynabeam.transforms.runtime.json_coder import dump_element, load_element
from dynabeam.transforms.runtime.stored_format import damage_told
from dynabeam.transforms.stream.frontier import Frontier
from dynabeam.transforms.stream.source import StreamSource

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


class _GroupCoder(beam.coders.Coder):
    """Versioned, deterministic coder of what a group has one of per reader: canonical JSON."""

    kind: ClassVar[type[SourceGroup] | type[FrontierGroup]]
    part: ClassVar[Any]
    field: ClassVar[str]
    what: ClassVar[str]

    def encode(self, value: Any) -> bytes:
        """Encodes a group."""
        return dump_element({self.field: [each.to_json() for each in getattr(value, self.field)]})

    def decode(self, encoded: bytes) -> Any:
        """Decodes a group.

        Raises:
            ValueDecodeError: If the bytes are of an unknown format.
        """
        document = load_element(encoded, self.what)
        with damage_told(f"a {self.what}", where=self.what, error=ValueDecodeError):
            return self.kind(tuple(map(self.part.from_json, document[self.field])))

    def is_deterministic(self) -> bool:
        """Equal groups have equal bytes."""
        return True

    def to_type_hint(self) -> type[SourceGroup] | type[FrontierGroup]:
        """The type that this coder carries."""
        return self.kind


class SourceGroupCoder(_GroupCoder):
    """Groups of readers, see `_GroupCoder`."""

    kind, part, field, what = SourceGroup, StreamSource, "sources", "group of stream sources"


class FrontierGroupCoder(_GroupCoder):
    """Restrictions of groups, see `_GroupCoder`.

    A runner gives back at the next turn what it was given at the end of the last one, so what was
    encoded here last is remembered.
    """

    kind, part, field = FrontierGroup, Frontier, "frontiers"
    what = "group of stream positions"

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
        if known is not None:
            return known
        decoded: FrontierGroup = super().decode(encoded)
        return decoded


_REMEMBERED = 4 * MOST_GROUPS
_lock = threading.Lock()
_encoded: collections.OrderedDict[bytes, FrontierGroup] = collections.OrderedDict()


beam.coders.registry.register_coder(SourceGroup, SourceGroupCoder)
beam.coders.registry.register_coder(FrontierGroup, FrontierGroupCoder)
