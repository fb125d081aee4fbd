# SPDX-License-Identifier: Apache-2.0
"""What a state directory remembers of each of its sinks, and what a changelog lacks.

A state directory has the same sinks in each of its runs, or says what became of the others. Without
that, a run that forgot a sink would leave a hole in it that nobody sees: the positions have moved
on, and no later run reads those changes again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, Literal, get_args

from dynabeam.transforms.errors import StateError
from dynabeam.transforms.runtime.stored_format import typed_fields

__all__ = ["KnownSink", "Lack", "SinkState", "time_text"]

SinkState = Literal["active", "loading", "dropped"]


@dataclasses.dataclass(frozen=True)
class Lack:
    """What a changelog does not hold: rounds that were run without it.

    Attributes:
        after_round: The last round before it that the changelog holds; 0 for none.
        through_round: The last round that it lacks. If it is not higher than `after_round`, a
            continuous run, which has no rounds, was run without it.
        from_us: When it ceased to be written, microseconds since 1970; 0 for since the beginning.
        to_us: When it was written again.
    """

    after_round: int
    through_round: int
    from_us: int
    to_us: int

    def to_json(self) -> dict[str, int]:
        """As a JSON-able dict."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Lack:
        """Reads what `to_json` wrote; fields that are unknown here do not matter."""
        return typed_fields(
            cls, {each.name: document[each.name] for each in dataclasses.fields(cls)}
        )

    def __str__(self) -> str:
        """For people."""
        begin = f"from {time_text(self.from_us)} " if self.from_us else ""
        first = self.after_round + 1
        if self.through_round < first:
            return f"what continuous runs read {begin}up to {time_text(self.to_us)}"
        rounds = (
            f"round {first}"
            if first == self.through_round
            else (f"rounds {first} to {self.through_round}")
        )
        return f"{rounds} ({begin}up to {time_text(self.to_us)})"


@dataclasses.dataclass(frozen=True)
class KnownSink:
    """A sink of a state directory.

    Attributes:
        place: Where its rows end up, in one spelling: what it is known by.
        uri: Its URI for people, as last given; secrets are references.
        kind: `mirror` or `changelog`.
        state: `active`: it has all that was read, but for what it `lacks`. `loading`: a mirror to
            which tables are still loaded. `dropped`: it is written no more.
        whole_from: From this round on a changelog has every change; of a mirror the round in which
            it was last loaded to its end. 1 if it was there from the beginning.
        whole_from_us: When that round began, microseconds since 1970; 0 for the beginning.
        applied: The last committed round that was written to it.
        wrote: The last round that brought it rows.
        changed_us: When `state` became what it is, microseconds since 1970; 0 for the beginning.
        lacks: What a changelog does not hold, oldest first.
        loading: Tables that are still to be loaded to a mirror, sorted.
        loaded: Table → the generation at which a mirror got it by a snapshot of its own. Rows of
            older generations that come late are not for this mirror.
        position: Which sink of a continuous run's graph it is, from 1; 0 for none.
    """

    place: str
    uri: str
    kind: Literal["mirror", "changelog"]
    state: SinkState = "active"
    whole_from: int = 1
    whole_from_us: int = 0
    applied: int = 0
    wrote: int = 0
    changed_us: int = 0
    lacks: tuple[Lack, ...] = ()
    loading: tuple[str, ...] = ()
    loaded: Mapping[str, int] = dataclasses.field(default_factory=dict)
    position: int = 0

    def to_json(self) -> dict[str, Any]:
        """As a JSON-able dict, without the place, which is its key."""
        document = {
            **dataclasses.asdict(self),
            "lacks": [each.to_json() for each in self.lacks],
            "loading": list(self.loading),
            "loaded": dict(self.loaded),
        }
        del document["place"]
        return document

    @classmethod
    def from_json(cls, place: str, document: Mapping[str, Any]) -> KnownSink:
        """Reads what `to_json` wrote. Fields that a later version adds have defaults here.

        Raises:
            StateError: A value is none that is known here.
        """
        state, kind = document["state"], document["kind"]
        if state not in get_args(SinkState) or kind not in ("mirror", "changelog"):
            raise StateError(
                "a sink of the state directory is in a state that is unknown here",
                where=f"sink {place}",
                expected=" | ".join(get_args(SinkState)),
                found=f"{kind}, {state}",
                hint="Use the version of Dynabeam that wrote it, or a newer one",
            )
        numbers = ("whole_from", "whole_from_us", "applied", "wrote", "changed_us", "position")
        return typed_fields(
            cls,
            {name: document[name] for name in ("uri", "loading", "loaded", *numbers)},
            place=place,
            kind=kind,
            state=state,
            lacks=tuple(Lack.from_json(each) for each in document["lacks"]),
        )

    def with_loaded(
        self, table: str, generation: int, number: int, at_us: int, *, alone: bool
    ) -> KnownSink:
        """The sink once a table is loaded to it.

        Args:
            table: The table.
            generation: The generation of its rows.
            number: The round that ended the loading.
            at_us: When that was, microseconds since 1970.
            alone: Other sinks did not get it.
        """
        loaded = {name: each for name, each in self.loaded.items() if name != table}
        if self.kind == "mirror" and alone:
            loaded[table] = generation
        known = dataclasses.replace(self, loaded=loaded)
        if known.state != "loading":
            return known
        left = tuple(each for each in self.loading if each != table)
        if left:
            return dataclasses.replace(known, loading=left)
        return dataclasses.replace(
            known,
            state="active",
            loading=(),
            whole_from=number,
            whole_from_us=at_us,
            changed_us=at_us,
        )

    @property
    def is_told(self) -> bool:
        """True if it is not simply whole."""
        return self.state != "active" or bool(self.lacks)

    def describe(self) -> str:
        """How it is, for people; what is not well comes with it."""
        if self.state == "dropped":
            when = f" ({time_text(self.changed_us)})" if self.changed_us else ""
            return f"dropped after round {self.applied}{when}"
        if self.state == "loading":
            return f"loading {', '.join(self.loading)}: not whole yet"
        if self.kind == "changelog" and self.whole_from > 1:
            return f"{self._whole()}; lacks {'; '.join(map(str, self.lacks))}"
        if self.lacks:
            return f"lacks {'; '.join(map(str, self.lacks))}"
        return "whole"

    def _whole(self) -> str:
        when = f" ({time_text(self.whole_from_us)})" if self.whole_from_us else ""
        return f"whole from round {self.whole_from}{when}"


def time_text(us: int) -> str:
    """A time (microseconds since 1970) for people: RFC 3339, UTC, whole seconds."""
    moment = datetime.fromtimestamp(us // 1_000_000, timezone.utc)
    return moment.isoformat().replace("+00:00", "Z")
