# SPDX-License-Identifier: Apache-2.0
"""What all mirrors are: one row per key, the one with the highest version, and who owns it.

A mirror remembers the state directory that it belongs to and the last round that was applied to it.
Here is what follows from that, once: when it is refused, when it is created, how far it is. A new
mirror brings a connection (`OpenMirror`), its SQL and its types; how its rows are gathered and laid
out is in `transforms.sinks.mirror_rows`.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import apache_beam as beam

from dynabeam.transforms.errors import SinkError
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.model.version import decode_version
from dynabeam.transforms.sinks.base import Round, Sink, SinkPosition

__all__ = ["AllAtOnce", "Held", "MirrorSink", "OpenMirror"]


@dataclasses.dataclass(frozen=True)
class Held:
    """What a mirror holds.

    Attributes:
        round: State directory and the last round that was applied; number 0 if none was.
        continuous: Whether a run without rounds has written since.
    """

    round: Round
    continuous: bool = False


class AllAtOnce(beam.PTransform):
    """Groups the `PCollection[tuple[str, bytes]]` of a round, whose keys are empty, into one group.

    `b""` is added to it, so that the step after it runs once per round even without changes.
    """

    def expand(self, elements: Any) -> Any:
        """Groups them."""
        mark = elements.pipeline | "Mark" >> beam.Create([("", b"")]).with_output_types(
            tuple[str, bytes]
        )
        return (elements, mark) | "WithMark" >> beam.Flatten() | "All" >> beam.GroupByKey()


class OpenMirror(abc.ABC):
    """An open connection to where a mirror is or will be. Methods raise the driver's errors."""

    @abc.abstractmethod
    def held(self) -> Held | None:
        """What the mirror holds; None if there is no mirror yet.

        Raises:
            SinkError: If another version of Dynabeam wrote it in a form unknown here.
        """

    @abc.abstractmethod
    def create(self, held: Held) -> None:
        """Creates the mirror without tables, unless another process is quicker."""

    @abc.abstractmethod
    def record(self, held: Held) -> None:
        """Records what the mirror holds."""

    def make_room(self) -> None:
        """Adds what a mirror of an earlier release lacks, before a table is opened."""
        return

    @abc.abstractmethod
    def open(self, table: Table) -> object:
        """Opens a table; creates it if it is new.

        Raises:
            SinkError: If it cannot be held, or is held in another form.
        """

    @abc.abstractmethod
    def newest_version(self, table: Table) -> str | None:
        """The highest version of a table's rows, deleted ones included; None if it has none."""

    @abc.abstractmethod
    def describe(self, held: Held | None) -> str:
        """What is there, for people."""


class MirrorSink(Sink):
    """One row per key, the latest version. The mirror itself records its owner and last round.

    Attributes:
        nothing_there: What is wrong if rounds are committed and there is no mirror.
        start_anew: What to do if the mirror is not at the state directory's round.
    """

    nothing_there: ClassVar[str]
    start_anew: ClassVar[str]

    @abc.abstractmethod
    def looking(self) -> contextlib.AbstractContextManager[OpenMirror | None]:
        """Connects to read; None if there is nothing to connect to."""

    @abc.abstractmethod
    def writing(
        self, *, creates: bool = False, keeps: bool = True
    ) -> contextlib.AbstractContextManager[OpenMirror]:
        """Connects to write.

        Args:
            creates: What a mirror is made in may be created.
            keeps: What is written stays; otherwise all is undone at the end, and nobody is waited
                for.
        """

    def not_there(self, committed: Round, *, joins: bool) -> str:
        """What there is to say of a place that can be written but is not made yet, else nothing.

        Raises:
            SinkError: If it cannot be written, or should be there.
        """
        del committed, joins
        return ""

    def position(self, committed: Round) -> SinkPosition | None:
        """The last round, as the mirror itself says; None if there is no mirror."""
        del committed
        with self.looking() as mirror:
            held = None if mirror is None else mirror.held()
        if held is None:
            return None
        return SinkPosition(held.round.state_id, held.round.number, held.continuous)

    def examine(self, tables: Sequence[Table], committed: Round, *, joins: bool = False) -> str:
        """Does what `check` does and undoes it; what is not made yet is left so."""
        said = self.not_there(committed, joins=joins)
        if not said:
            with self.writing(keeps=False) as mirror:
                said = mirror.describe(self._prepare(mirror, tables, committed, joins=joins))
        return said

    def check(self, tables: Sequence[Table], committed: Round, *, joins: bool = False) -> None:
        """Checks that the mirror can be written and fits the state directory; creates what is new.

        Raises:
            SinkError: If it cannot be reached or written, belongs to another state directory,
                cannot hold a table, or, unless it joins, lacks committed rounds or is more than one
                round ahead.
        """
        self.not_there(committed, joins=joins)
        with self.writing(creates=joins or committed.number == 0) as mirror:
            self._prepare(mirror, tables, committed, joins=joins)

    def newest_generation(self, table: Table) -> int:
        """The highest generation of the table's rows, deleted ones included."""
        newest = None
        with self.looking() as mirror:
            if mirror is not None and mirror.held() is not None:
                newest = mirror.newest_version(table)
        return decode_version(newest.encode())[0] if newest else 0

    def recover(self, committed: Round) -> None:
        """Nothing to do: what was interrupted was rolled back, or is applied and repeats safely."""

    def publish(self, current: Round) -> None:
        """Nothing to do: rows became visible when their transaction was committed."""

    def _prepare(
        self, mirror: OpenMirror, tables: Sequence[Table], committed: Round, *, joins: bool
    ) -> Held | None:
        """Compares the rounds, creates what is missing, opens the tables; what there was before."""
        held = mirror.held()
        self._check_fits(held, committed, joins=joins)
        if held is None:
            mirror.create(Held(committed))
            # Another state directory may have been quicker.
            self._check_fits(mirror.held(), committed, joins=joins)
        elif joins:
            mirror.record(Held(committed, held.continuous))
        mirror.make_room()
        for table in tables:
            mirror.open(table)
        return held

    def _check_fits(self, held: Held | None, committed: Round, *, joins: bool) -> None:
        if held is not None:
            self.refuse_other_owner(held.round.state_id, committed.state_id)
        # After a run without rounds they say nothing: rows came without them.
        if joins or (held is not None and held.continuous):
            return
        number = 0 if held is None else held.round.number
        wrong, expected = "", f"round {committed.number}"
        if number < committed.number:
            wrong = self.nothing_there if held is None else "the mirror is behind"
            expected += ", as the state directory says"
        elif number > committed.number + 1:
            wrong = "the mirror is ahead: the state directory was set back"
            expected += f" or {committed.number + 1}"
        if wrong:
            raise SinkError(
                wrong,
                where=f"--sink={self.name}",
                expected=expected,
                found=f"round {number}",
                hint=self.start_anew,
            )
