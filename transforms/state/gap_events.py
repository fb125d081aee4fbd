# SPDX-License-Identifier: Apache-2.0
"""What became of the losses of a table: one event for all shards that lost changes together.

A gap is met per shard, because each shard has a position of its own. To people it is one event if
it has one cause: of one kind and stream, met in one generation, with windows that meet. An event is
`repaired` once a repair of a later generation has ended that loaded all that was written since it
began, `repairing` while such a repair goes on, `acknowledged` if somebody has said so, else `lost`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from dynabeam.transforms.model.gap import Gap
from dynabeam.transforms.runtime.stored_format import typed_fields

__all__ = ["EventState", "GapEvent", "Repaired", "gap_events"]

EventState = Literal["lost", "repairing", "repaired", "acknowledged"]


@dataclasses.dataclass(frozen=True)
class Repaired:
    """A repair, ended or not.

    Attributes:
        generation: The generation that it brought.
        since_us: It loads all that was written since then, microseconds since 1970; 0 for all.
    """

    generation: int
    since_us: int

    def covers(self, gap: Gap) -> bool:
        """Whether it loads what a gap has lost."""
        return gap.generation < self.generation and gap.from_us >= self.since_us

    def to_json(self) -> list[int]:
        """The repair as a JSON-able list."""
        return [self.generation, self.since_us]

    @classmethod
    def from_json(cls, document: Any) -> Repaired:
        """Reads what `to_json` wrote.

        Raises:
            ValueError: It is damaged.
        """
        generation, since_us = document
        return typed_fields(cls, {"generation": generation, "since_us": since_us})


@dataclasses.dataclass(frozen=True)
class GapEvent:
    """A loss.

    Attributes:
        state: What became of it.
        kind: Why changes are missing.
        detail: What the service answered for the first shard.
        from_us: Earliest time of a lost change, microseconds since 1970; 0 if unknown.
        to_us: Latest time of one.
        shards: How many shards met it.
    """

    state: EventState
    kind: str
    detail: str
    from_us: int
    to_us: int
    shards: int


def gap_events(
    gaps: Sequence[Gap],
    repaired: Iterable[Repaired] = (),
    repairing: Repaired | None = None,
    acknowledged: int = 0,
) -> list[GapEvent]:
    """The events behind the gaps of a table, oldest first.

    Args:
        gaps: The table's gaps, in the order in which they were met.
        repaired: The repairs that have ended.
        repairing: The one that goes on; None for none.
        acknowledged: How many gaps somebody has acknowledged; the first ones.
    """
    ended = list(repaired)
    events: list[GapEvent] = []
    causes: list[tuple[Any, ...]] = []
    for place, gap in enumerate(gaps):
        state: EventState = "lost"
        if any(each.covers(gap) for each in ended):
            state = "repaired"
        elif repairing is not None and repairing.covers(gap):
            state = "repairing"
        elif place < acknowledged:
            state = "acknowledged"
        cause = (state, gap.kind, gap.stream_arn, gap.generation)
        last = events[-1] if events else None
        if last is not None and cause == causes[-1] and _meet(last, gap):
            events[-1] = dataclasses.replace(
                last,
                from_us=min(last.from_us, gap.from_us),
                to_us=max(last.to_us, gap.to_us),
                shards=last.shards + 1,
            )
            continue
        events.append(GapEvent(state, gap.kind.value, gap.detail, gap.from_us, gap.to_us, 1))
        causes.append(cause)
    return events


def _meet(event: GapEvent, gap: Gap) -> bool:
    return gap.from_us <= event.to_us and gap.to_us >= event.from_us
