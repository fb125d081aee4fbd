# SPDX-License-Identifier: Apache-2.0
"""What every sink is: the contract that the graph, the driver and the behaviour suite rely on.

Life of a sink in catch-up mode, in this order:

1. `position`: what does the sink itself say, how far is it? The driver compares that with what the
   state directory remembers, and decides whether the sink goes on, or joins: it is new, or lacks
   rounds (`transforms.state.sink_membership`).
   `check`: before anything is read. Can it be reached and written, does it fit the state directory?
   `examine` is the same look and changes nothing.
2. `recover`: what an interrupted run left is put right. Staged output of the committed round is
   published, staged output of any other attempt is removed.
3. `write`: the part of the graph. Nothing becomes visible in a changelog here: a mirror applies
   rows under its version guard (repeating them changes nothing), a changelog stages them.
4. `publish`: after the position document names the round's attempt as committed. Staged output
   becomes visible. Repeating it changes nothing.

So a round is visible in a changelog exactly once, whenever the process dies.

A continuous run has no rounds: after `check` and `recover`, `write_continuously` takes the place of
`write` and `publish`. What a bundle was given is durable in the sink when the bundle ends, or kept
in Beam state under an event-time timer no later than `HELD_SECONDS` behind the timestamp of the
block. So once the watermark behind a sink has passed a moment by more than that, all that was read
before that moment is in the sink, and the positions of that moment may be stored elsewhere.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import apache_beam as beam
import pyarrow as pa

from dynabeam.transforms.errors import SinkError
from dynabeam.transforms.model.key_range import KeyRange
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.model.version import encode_version
from dynabeam.transforms.sinks.membership import Lack
from dynabeam.transforms.sinks.uri import SinkUri

__all__ = ["HELD_SECONDS", "Capabilities", "Round", "Sink", "SinkPosition", "Sweep"]

HELD_SECONDS = 30
"""How long, in event time, a sink of a continuous run may keep blocks in state."""


@dataclasses.dataclass(frozen=True)
class Capabilities:
    """What a sink can do; the start-up check compares it with what was asked.

    Attributes:
        kind: `mirror` (one row per key; it checks `version > stored version` itself, so replays,
            several writers and late rows change nothing) or `changelog` (every change is appended).
        continuous: Can be written by a run that never ends, so without rounds.
    """

    kind: Literal["mirror", "changelog"]
    continuous: bool = False


@dataclasses.dataclass(frozen=True)
class Round:
    """One catch-up run of a state directory.

    Attributes:
        state_id: Identity of the state directory, made once.
        number: Rounds count from 1; 0 stands for "none yet".
        attempt: Unique for each try of a round, safe in file names.
    """

    state_id: str
    number: int
    attempt: str


@dataclasses.dataclass(frozen=True)
class SinkPosition:
    """How far a sink is, as it says itself.

    Attributes:
        state_id: Identity of the state directory that it belongs to.
        round: The last round that it knows of. A changelog knows of rounds that brought it rows.
        continuous: A run without rounds has written since, so the round says nothing.
    """

    state_id: str
    round: int
    continuous: bool = False


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Which live rows of a table become tombstones, see `Sink.remove_older_generations`.

    Attributes:
        generation: Those of an older generation than this one, whose exports are applied in full.
        changed_since_us: 0 for all; else only rows of changes that were written then or later
            (microseconds since 1970), and no snapshot rows.
        key_range: Only rows of these keys; None for all.
    """

    generation: int
    changed_since_us: int = 0
    key_range: KeyRange | None = None

    @property
    def version(self) -> str:
        """The version that swept rows get; theirs are lower."""
        return encode_version(self.generation).decode("ascii")

    def inside(self, keys: pa.Array) -> pa.Array:
        """Those of some canonical keys that are in the range."""
        return keys if self.key_range is None else keys.filter(self.key_range.holds(keys))


class Sink(abc.ABC):
    """A place that changes are written to. Instances are small, picklable and hold no secret."""

    capabilities: ClassVar[Capabilities]
    elsewhere: ClassVar[str]
    """Another place of the same kind, for hints: `another folder`."""

    def __init__(self, uri: SinkUri) -> None:
        self.uri = uri

    @abc.abstractmethod
    def position(self, committed: Round) -> SinkPosition | None:
        """How far the sink is; None if it is not there, or was never written.

        Changes nothing, so it may be called at any time, also beside a run.

        Args:
            committed: The last committed round of the state directory. What is staged of it counts:
                `recover` publishes it.

        Raises:
            DynabeamError: If the sink cannot be looked into.
        """

    @abc.abstractmethod
    def examine(self, tables: Sequence[Table], committed: Round, *, joins: bool = False) -> str:
        """Looks at everything that `check` refuses, and changes nothing.

        It neither creates what is missing nor binds the sink to a state directory, so it may be
        called at any time, also beside a run.

        Args:
            tables: The tables that will be written.
            committed: The last committed round of the state directory (`number` 0: none yet).
            joins: The state directory knows that the sink is new, behind or ahead.

        Returns:
            What was seen, for people.

        Raises:
            DynabeamError: What `check` would raise.
        """

    @abc.abstractmethod
    def check(self, tables: Sequence[Table], committed: Round, *, joins: bool = False) -> None:
        """Checks that the sink can be written and belongs to the state directory.

        Creates what is missing (folder, database, meta table) when `committed.number` is 0, or the
        sink joins.

        Args:
            tables: The tables that will be written. A table may be new since the last round.
            committed: The last committed round of the state directory (`number` 0: none yet).
            joins: The state directory knows that the sink is new, behind or ahead: whatever rounds
                the sink says it holds, it says `committed` from now on.

        Raises:
            SinkError: If the sink cannot be written, if it holds the rows of another state
                directory, or if it does not join and rounds are committed that it has never seen.
        """

    def refuse_other_owner(self, owner: str, state_id: str) -> None:
        """Refuses a sink that holds the rows of another state directory.

        Args:
            owner: The state directory that the sink says it belongs to.
            state_id: The one that is to be written.

        Raises:
            SinkError: If they differ.
        """
        if owner != state_id:
            raise SinkError(
                f"the {self.capabilities.kind} belongs to state directory {owner}",
                where=f"--sink={self.name}",
                expected=state_id,
                found=owner,
                hint=f"Use the state directory that belongs to it, or {self.elsewhere}",
            )

    def set_back(self, committed: Round) -> str:
        """Puts out of sight what was written in rounds after `committed`, which will run again.

        The state directory was restored from an older copy. A mirror keeps its rows: they are what
        the table was later, and its version guard sees to the rest.

        Returns:
            Where it is now, for people; empty if nothing was moved.

        Raises:
            SinkError: If it cannot be moved.
        """
        del committed
        return ""

    def refuse_old_meaning(self, committed: Round) -> None:
        """Refuses a place whose URI an earlier version took to be another one, if it wrote there.

        Raises:
            SinkError: If the sink of this state directory is at the other place.
        """
        del committed

    def newest_generation(self, table: Table) -> int:
        """The highest generation of a table's rows in a mirror; 0 if it has none.

        Raises:
            SinkError: If the sink cannot be read.
        """
        del table
        return 0

    def tell_lacks(self, lacks: Sequence[Lack], whole_from: int, whole_from_us: int) -> None:
        """Writes what a changelog does not hold where its readers see it; a mirror lacks nothing.

        Args:
            lacks: What it does not hold, oldest first.
            whole_from: From this round on it has every change.
            whole_from_us: When that round began, microseconds since 1970.

        Raises:
            SinkError: If it cannot be written.
        """
        del lacks, whole_from, whole_from_us

    def without_waiting(self) -> Sink:
        """The same sink for who only looks: what others hold is an error at once."""
        return self

    @property
    def resolved(self) -> str:
        """The place for people, absolute, without secrets."""
        return self.place

    @abc.abstractmethod
    def recover(self, committed: Round) -> None:
        """Publishes staged output of `committed`, removes staged output of all other attempts."""

    @abc.abstractmethod
    def write(self, current: Round) -> beam.PTransform[Any, Any]:
        """The transform from `PCollection[Block]` to `PCollection[Report]` of kind `sink`.

        Report fields: `sink` (display name), `rows` (rows of blocks that arrived), `written`
        (rows that changed the sink), `stale` (rows that the version guard dropped), and, from a
        sink of continuous runs that was given changes of a stream, `newest_event_us` (time of the
        newest of them, microseconds since 1970). Where numbers stand in `_other` because their
        column's decimal type is too narrow, also `unfit_numbers`, how many. A row that the sink
        refuses for what is in it is a report of kind `refused`: `transforms.sinks.refused`.
        """

    def write_continuously(self, state_id: str) -> beam.PTransform[Any, Any]:
        """The transform of a run that never ends: `PCollection[Block]` to `PCollection[Report]`.

        Blocks come at least once: after a failure or a restart from a checkpoint some come again.
        Labels and state are kept by savepoints: they do not change within a release line.

        Args:
            state_id: Identity of the state directory.

        Raises:
            SinkError: If the sink is written in rounds only.
        """
        raise SinkError(
            "this sink is written in rounds only",
            where=f"--sink={self.name}",
            hint="Use --mode=catch_up with --every, or another sink",
        )

    def check_staged(self, current: Round, reports: Sequence[Report]) -> None:
        """Looks whether what this sink says that it has written is there, before the commit.

        Args:
            current: The round; its graph has ended.
            reports: All reports of the round.

        Raises:
            SinkError: It is not, as when a worker wrote to a disk of its own.
        """
        del current, reports

    @abc.abstractmethod
    def publish(self, current: Round) -> None:
        """Makes the staged output of a committed round visible."""

    def remove_older_generations(
        self,
        table: Table,
        generation: int,
        changed_since_us: int = 0,
        key_range: KeyRange | None = None,
    ) -> int:
        """Removes the rows of a mirror whose version is of an older generation.

        To be called after a table was snapshotted again, or healed, once every row of the new
        exports is applied: what the new generation did not bring is not in the table any more. Rows
        that arrive later are still guarded. Repeating it changes nothing.

        Args:
            table: The table.
            generation: The generation whose exports are applied.
            changed_since_us: 0 for all rows; else only those that were written at this time or
                later (microseconds since 1970), and no snapshot rows, whose time is that of their
                export.
            key_range: Only rows of these keys; None for all.

        Returns:
            How many rows were removed; a changelog keeps its history and returns 0, see
            `append_swept`.

        Raises:
            SinkError: If the sink cannot be written.
        """
        return self.sweep(table, Sweep(generation, changed_since_us, key_range))

    def sweep(self, table: Table, sweep: Sweep) -> int:
        """`remove_older_generations` of a mirror: rows become tombstones of `Sweep.version`."""
        del table, sweep
        return 0

    def append_swept(
        self,
        table: Table,
        generation: int,
        changed_since_us: int = 0,
        key_range: KeyRange | None = None,
        *,
        committed: Round | None = None,
    ) -> int:
        """Appends a delete to a changelog for each key that `remove_older_generations` removes.

        So the newest row of each key remains what the table holds. The row is a `d` of the version
        `(generation, 0)`, which wins over all older generations and loses to every change of this
        one; its event time is that of the repair, its old image is not known.

        To be called when `remove_older_generations` is. Repeating it appends nothing.

        Args:
            table: The table.
            generation: The generation whose exports are applied.
            changed_since_us: As for `remove_older_generations`.
            key_range: As for `remove_older_generations`.
            committed: The committed and published round that the rows belong to; None in a run that
                never ends.

        Returns:
            How many rows were appended; a mirror returns 0.

        Raises:
            SinkError: If the sink cannot be read or written.
        """
        return self.append_deletes(table, Sweep(generation, changed_since_us, key_range), committed)

    def append_deletes(self, table: Table, sweep: Sweep, committed: Round | None) -> int:
        """`append_swept` of a changelog."""
        del table, sweep, committed
        return 0

    @property
    def tombstone_days(self) -> int:
        """For how many days a mirror remembers deletes; 0 for ever, or it is no mirror."""
        return 0

    @property
    def name(self) -> str:
        """The sink for people: its URI without secrets."""
        return str(self.uri)

    @property
    def place(self) -> str:
        """Where the rows end up, in one spelling: two sinks of one place would destroy each other.

        A path without `://` is one of this machine's disk.
        """
        return f"{self.uri.scheme}://{self.uri.authority}/{self.uri.path}"
