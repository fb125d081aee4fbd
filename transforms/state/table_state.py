# SPDX-License-Identifier: Apache-2.0
"""What the position document says of one table, typed, and how it is written as JSON.

All parts are frozen: who changes a state makes another one (`dataclasses.replace`). So the state
that a round begins with is still there if the round fails.

**As JSON**, a field without a default is always written, one with a default only if it says
something else. What documents of earlier versions lack has its value in `_FORMER`, and nowhere
else. A field that is unknown here was written by a newer version, and is refused.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeAlias, TypeVar

from dynabeam.transforms.errors import DynabeamError
from dynabeam.transforms.export.elements import DONE
from dynabeam.transforms.export.manifest import ExportManifest
from dynabeam.transforms.model.gap import Gap, GapPolicy
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.runtime.stored_format import NewerFieldsError, typed_fields
from dynabeam.transforms.state.gap_events import Repaired
from dynabeam.transforms.state.repair_plan import Repair
from dynabeam.transforms.stream.frontier import Frontier

__all__ = [
    "NO_TOTALS",
    "UNSEEN",
    "LoadState",
    "LoadStatus",
    "RepairState",
    "SeenState",
    "StreamState",
    "TableState",
    "Totals",
    "Unrepaired",
    "field_of",
]

LoadStatus: TypeAlias = Literal["none", "pending", "loading", "done"]

P = TypeVar("P", bound="_Part")


@contextlib.contextmanager
def field_of(name: object) -> Iterator[None]:
    """Puts the name of a field before what is wrong with its value.

    Raises:
        ValueError: The value is damaged.
        NewerFieldsError: A newer version wrote it.
    """
    try:
        yield
    except NewerFieldsError:
        raise
    except DynabeamError as problem:
        if isinstance(problem.__cause__, NewerFieldsError):
            raise problem.__cause__ from problem
        raise ValueError(f"{name}: {problem.what}") from problem
    except (ValueError, TypeError, AttributeError, RecursionError) as problem:
        raise ValueError(f"{name}: {problem}") from problem
    except KeyError as problem:
        raise ValueError(f"{name}: {problem} is missing") from problem


class _Part:
    """A part of a table's state: a dataclass that is written as a JSON object."""

    _FORMER: ClassVar[Mapping[str, Any]] = {}
    """Fields that documents of earlier versions may lack → what that means."""
    _READ: ClassVar[Mapping[str, Callable[[Any], Any]]] = {}
    """Fields that are no plain JSON → how they are read."""

    def to_json(self) -> dict[str, Any]:
        """The part as a JSON-able dict."""
        fields: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(self)  # type: ignore[arg-type]
        values = ((each, getattr(self, each.name)) for each in fields)
        return {each.name: _plain(value) for each, value in values if not _is_default(each, value)}

    @classmethod
    def from_json(cls: type[P], document: Mapping[str, Any]) -> P:
        """Reads what `to_json` wrote, now or in an earlier version.

        Raises:
            ValueError: A field is missing or damaged; the text names it.
            NewerFieldsError: A newer version has added a field.
        """
        given = {**cls._FORMER, **document}
        made = {}
        for name, read in cls._READ.items():
            if given.get(name) is not None:
                with field_of(name):
                    made[name] = read(given[name])
        return typed_fields(cls, given, **made)


def _is_default(field: dataclasses.Field[Any], value: Any) -> bool:
    if field.default_factory is not dataclasses.MISSING:
        return bool(value == field.default_factory())
    return field.default is not dataclasses.MISSING and bool(value == field.default)


def _plain(value: Any) -> Any:
    if hasattr(value, "to_json"):
        return value.to_json()
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    return value


def _each(read: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, ...]]:
    def read_all(values: Any) -> tuple[Any, ...]:
        found = []
        for number, each in enumerate(_list(values)):
            with field_of(number):
                found.append(read(each))
        return tuple(found)

    return read_all


def _list(values: Any) -> list[Any]:
    if not isinstance(values, list):
        raise ValueError(f"a list was expected, not {type(values).__name__}")  # noqa: TRY004
    return values


@dataclasses.dataclass(frozen=True)
class SeenState(_Part):
    """What a reader saw when it polled last.

    Attributes:
        at_us: When that was, microseconds since 1970; 0 if it is not known to have polled.
        caught_up: It had read all.
        behind: How many of its shards had changes waiting.
        behind_shards: The ids of the first of them.
        newest_event_us: Time of the newest change that it read in its last round; 0 for none.
        over: The stream was switched off, and it has read it to its end.
    """

    at_us: int
    caught_up: bool
    behind: int
    behind_shards: tuple[str, ...]
    newest_event_us: int
    over: bool

    _FORMER: ClassVar[Mapping[str, Any]] = {
        "at_us": 0,
        "caught_up": False,
        "behind": 0,
        "behind_shards": [],
        "newest_event_us": 0,
        "over": False,
    }


UNSEEN = SeenState.from_json({})


def _seen(document: Mapping[str, Any]) -> dict[int, SeenState]:
    found = {}
    for reader, each in document.items():
        with field_of(reader):
            found[int(reader)] = SeenState.from_json(each)
    return found


@dataclasses.dataclass(frozen=True)
class StreamState(_Part):
    """How far a stream is read.

    Attributes:
        arn: Its ARN.
        since_us: Its changes are read from then on, microseconds since 1970.
        frontiers: One per reader; None for one that has not begun.
        start: Where it is begun, of one that came after another one; empty for where the options
            say.
        seen: Reader → what it saw when it polled last.
        read_us: Up to when it was read, microseconds since 1970; 0 if that is not known.
    """

    arn: str
    since_us: int
    frontiers: tuple[Frontier | None, ...]
    start: str = ""
    seen: Mapping[int, SeenState] = dataclasses.field(default_factory=dict)
    read_us: int = 0

    _READ: ClassVar[Mapping[str, Callable[[Any], Any]]] = {
        "frontiers": _each(lambda each: None if each is None else Frontier.from_json(each)),
        "seen": _seen,
    }

    @property
    def is_over(self) -> bool:
        """True if it was switched off, and all readers have read it to its end."""
        return all(self.seen_by(reader).over for reader in range(len(self.frontiers)))

    def seen_by(self, reader: int) -> SeenState:
        """What a reader saw when it polled last."""
        return self.seen.get(reader, UNSEEN)


@dataclasses.dataclass(frozen=True)
class LoadState(_Part):
    """An export that is to be loaded, and how far it is: a full one, or one of a window.

    Attributes:
        status: `none` (there is nothing to load), `pending`, `loading` or `done`.
        generation: The generation of its rows.
        reuse: An export's ARN or location, or `newest:<seconds>`; empty to request one.
        manifest: Its manifest, once it is complete.
        files: Path of a data file → its lines loaded so far, or `done`.
        bytes: Bytes loaded, uncompressed.
        rows: Rows loaded.
        not_before_us: It is not requested earlier, microseconds since 1970; None for when the
            stream covers it.
        from_us: Start of the window of an incremental export, microseconds since 1970 (inclusive);
            0 for a full export.
        to_us: End of that window (exclusive).
        key_range: The range of keys that is loaded; empty for all.
        attempt: How many exports that were requested for it have failed.
        failed: What the last failed one said.
    """

    status: LoadStatus
    generation: int
    reuse: str
    manifest: ExportManifest | None
    files: Mapping[str, int | Literal["done"]]
    bytes: int
    rows: int
    not_before_us: int | None = None
    from_us: int = 0
    to_us: int = 0
    key_range: str = ""
    attempt: int = 0
    failed: tuple[str, ...] = ()

    # Before there were repairs, all rows were of the first generation.
    _FORMER: ClassVar[Mapping[str, Any]] = {"generation": 1}
    _READ: ClassVar[Mapping[str, Callable[[Any], Any]]] = {
        "manifest": lambda each: (
            each if isinstance(each, ExportManifest) else ExportManifest.from_json(each)
        )
    }

    @classmethod
    def new(cls, status: LoadStatus, *, generation: int = 1, **more: Any) -> LoadState:
        """One of which nothing is loaded."""
        empty: dict[str, Any] = {"reuse": "", "manifest": None, "files": {}, "bytes": 0, "rows": 0}
        return cls(status, generation, **{**empty, **more})

    @property
    def is_open(self) -> bool:
        """True if it is not loaded to its end."""
        return self.status in ("pending", "loading")

    @property
    def is_loaded(self) -> bool:
        """True if every file that has rows is loaded to its end."""
        if self.manifest is None:
            return False
        with_rows = (each.path for each in self.manifest.files if each.item_count)
        return all(self.files.get(path) == DONE for path in with_rows)


@dataclasses.dataclass(frozen=True)
class RepairState(_Part):
    """A repair that goes on.

    Attributes:
        plan: Its plan.
        since_us: No lost change is older, microseconds since 1970; 0 if that is not known.
        loaded: Its exports are loaded: what it sweeps is to be swept.
        sinks: Places of the sinks that it is for; None for all.
    """

    plan: Repair
    since_us: int
    loaded: bool
    sinks: tuple[str, ...] | None = None

    _READ: ClassVar[Mapping[str, Callable[[Any], Any]]] = {"plan": Repair.from_json}

    def is_for(self, place: str) -> bool:
        """True if its rows and its sweep are for the sink at a place."""
        return self.sinks is None or place in self.sinks


@dataclasses.dataclass(frozen=True)
class Unrepaired(_Part):
    """What a continuous run has left that is not repaired.

    Attributes:
        policy: What was begun there, `heal` or `resnapshot`; empty for what the policy says.
        since_us: No lost change is older, microseconds since 1970; 0 if that is not known.
    """

    policy: str
    since_us: int

    _READ: ClassVar[Mapping[str, Callable[[Any], Any]]] = {
        "policy": lambda each: each and GapPolicy(each).value
    }


@dataclasses.dataclass(frozen=True)
class Totals(_Part):
    """Counts since a table was begun.

    Attributes:
        changes: Changes read from streams.
        snapshot_rows: Rows of full exports.
        stale: Snapshot rows that a change had superseded.
        dead_letters: Records that could not be handled.
        gaps: Gaps that shards met; earlier versions counted some that they did not keep.
        healed_rows: Rows of incremental exports.
        swept: Rows that repairs removed.
        newest_us: Time of the newest change, microseconds since 1970; 0 for none.
        repeats: Records that were read before, and dropped.
    """

    changes: int
    snapshot_rows: int
    stale: int
    dead_letters: int
    gaps: int
    healed_rows: int
    swept: int
    newest_us: int
    repeats: int = 0

    # Before there were repairs, nothing was healed or swept.
    _FORMER: ClassVar[Mapping[str, Any]] = {"healed_rows": 0, "swept": 0}

    def plus(self, **counts: int) -> Totals:
        """The totals with some counts added."""
        added = {name: getattr(self, name) + count for name, count in counts.items()}
        return dataclasses.replace(self, **added)


NO_TOTALS = Totals(*[0] * 8)


@dataclasses.dataclass(frozen=True)
class TableState(_Part):
    """What the position document says of one table.

    Attributes:
        table: Its name and key.
        table_id: Its UUID, which another table of its name does not have; empty if not known.
        generation: Its generation: repairs make it one higher.
        stream: How far its stream is read; None if it is not read.
        snapshot: Its full export.
        totals: Counts.
        heal: While it is healed: the windows.
        repair: The repair that goes on.
        repaired: The repairs that have ended.
        unrepaired: What a continuous run has left that is to be repaired.
        gaps: The gaps that were met, in their order.
        end: `deleted`, or `recreated` if there is another table of its name; empty while it exists.
        asked: The id of the last order of a snapshot that was carried out.
        whole_generation: While some sinks alone are loaded: the generation that all have; 0 for
            `generation`.
        coverage_checked: It is known whether the stream covers the snapshot.
        keys_given: The key is what people said, and has to be checked.
        unfit_numbers: Sink → how many numbers did not fit its decimal columns.
    """

    table: Table
    table_id: str
    generation: int
    stream: StreamState | None
    snapshot: LoadState
    totals: Totals
    heal: tuple[LoadState, ...] = ()
    repair: RepairState | None = None
    repaired: tuple[Repaired, ...] = ()
    unrepaired: Unrepaired | None = None
    gaps: tuple[Gap, ...] = ()
    end: Literal["", "deleted", "recreated"] = ""
    asked: str = ""
    whole_generation: int = 0
    coverage_checked: bool = False
    keys_given: bool = False
    unfit_numbers: Mapping[str, int] = dataclasses.field(default_factory=dict)

    _READ: ClassVar[Mapping[str, Callable[[Any], Any]]] = {
        "table": Table.from_json,
        "stream": StreamState.from_json,
        "snapshot": LoadState.from_json,
        "totals": Totals.from_json,
        "heal": _each(LoadState.from_json),
        "repair": RepairState.from_json,
        "repaired": _each(Repaired.from_json),
        "unrepaired": Unrepaired.from_json,
    }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> TableState:
        """Reads what `to_json` wrote, now or in an earlier version.

        Raises:
            ValueError: A field is missing or damaged; the text names it.
            NewerFieldsError: A newer version has added a field.
        """
        rest = dict(document)
        gaps = rest.pop("gaps", [])
        found = super().from_json(rest)
        with field_of("gaps"):
            read = _each(functools.partial(Gap.from_json, found.name))
            return dataclasses.replace(found, gaps=read(gaps))

    @property
    def name(self) -> str:
        """The table's name."""
        return self.table.name

    @property
    def loads(self) -> tuple[LoadState, ...]:
        """Its exports: the snapshot, and the windows of a heal."""
        return (self.snapshot, *self.heal)

    @property
    def repair_generation(self) -> int:
        """The generation of what its repair loads.

        The table's own is higher if its stream was switched off and on since the repair began:
        what the other stream brings wins over the repair, and is not swept by it.
        """
        return max(each.generation for each in self.heal or (self.snapshot,))

    @property
    def open_loads(self) -> list[LoadState]:
        """Its exports that are not loaded to their end."""
        return [each for each in self.loads if each.is_open]

    @property
    def readable_loads(self) -> list[LoadState]:
        """The open loads that can still be read: of a table that ended, those that are complete.

        An export that would be requested now would be of another table of the same name.
        """
        return [each for each in self.open_loads if not self.end or each.manifest is not None]

    @property
    def frontiers(self) -> tuple[Frontier | None, ...]:
        """The positions of its readers; none if its stream is not read."""
        return () if self.stream is None else self.stream.frontiers

    @property
    def is_over(self) -> bool:
        """True if its stream was switched off and is read to its end by all of its readers."""
        return self.stream is not None and self.stream.is_over

    def with_loads(self, loads: Sequence[LoadState]) -> TableState:
        """The state with other exports in the place of `loads`."""
        return dataclasses.replace(self, snapshot=loads[0], heal=tuple(loads[1:]))

    def map_loads(self, change: Callable[[LoadState], LoadState]) -> TableState:
        """The state with each of its exports changed."""
        return self.with_loads([change(each) for each in self.loads])
