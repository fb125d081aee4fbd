# SPDX-License-Identifier: Apache-2.0
"""Which sinks a state directory has, and what becomes of one that is left out, new or behind.

A run has all sinks of its state directory, or names in `--drop_sink` those that it means to leave
out for good. What a sink has missed, it gets before it counts as whole:

* a changelog goes on from here; what it lacks is written down in the state directory and beside its
  files, because a change that was read cannot be read again;
* a mirror gets a snapshot of its own of every table, at the next generation, and what it still has
  of older generations is then removed: deletes that it missed are in no export.

Nothing is decided by what the run says alone: each sink says itself how far it is, so a mirror that
was restored from an older copy is behind, and one whose state directory was restored is ahead.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from dynabeam.transforms.errors import ConfigurationError, DynabeamError, SinkError
from dynabeam.transforms.export.acquire import Acquisition, given_exports
from dynabeam.transforms.export.location import newest_age_us
from dynabeam.transforms.export.manifest import ExportManifest
from dynabeam.transforms.model.gap import GapPolicy
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.runtime.clock import now_us
from dynabeam.transforms.sinks.base import Round, Sink, SinkPosition
from dynabeam.transforms.sinks.membership import KnownSink, Lack, time_text
from dynabeam.transforms.sinks.registry import open_sink
from dynabeam.transforms.sinks.share import SinkShare
from dynabeam.transforms.state.coverage import FUZZ_US
from dynabeam.transforms.state.state_directory import State
from dynabeam.transforms.state.table_readiness import describe_ready
from dynabeam.transforms.state.table_repair import begin_repair
from dynabeam.transforms.state.table_state import TableState

__all__ = [
    "LoadingMirrors",
    "Membership",
    "after_round",
    "begin_loads",
    "check_members",
    "check_same_graph",
    "check_sinks",
    "numbered",
    "plan_members",
    "refuse_joins",
    "share_of",
]


@dataclasses.dataclass
class Membership:
    """What a run finds of its sinks, before anything is changed.

    Attributes:
        sinks: All sinks of the state directory, by place, as they are from this run on.
        joins: Places of sinks that are new, behind or ahead.
        set_back: Places of sinks that hold rounds which the state directory does not know.
        notes: Lines for people, one for each sink that is not as it was.
    """

    sinks: dict[str, KnownSink]
    joins: set[str] = dataclasses.field(default_factory=set)
    set_back: set[str] = dataclasses.field(default_factory=set)
    notes: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class LoadingMirrors:
    """What mirrors that lack rounds can be loaded from.

    Attributes:
        how: How exports are read, with AWS.
        bucket: S3 bucket for new exports; empty for none.
        exports: Exports that may be used: locations, and `newest:<seconds>`.
    """

    how: Acquisition
    bucket: str
    exports: Sequence[str]


def check_members(state: State, sinks: Sequence[Sink], drop: Sequence[str]) -> set[str]:
    """Checks that a run has all sinks of its state directory; reads nothing.

    Args:
        state: The state.
        sinks: The sinks of the run.
        drop: Values of `--drop_sink`.

    Returns:
        The places of the sinks to be dropped.

    Raises:
        ConfigurationError: A sink is left out, or what is to be dropped is not there, or is given.
    """
    known = state.sinks or {}
    given = {each.place: each for each in sinks}
    dropped = {_place_of(each, known) for each in drop}
    for place in dropped & given.keys():
        raise ConfigurationError(
            "a sink is given and dropped",
            where=f"--drop_sink, --sink={given[place].name}",
            hint="Leave one of the two out",
        )
    for place, each in known.items():
        if each.state != "dropped" and place not in given and place not in dropped:
            new = [sink.name for other, sink in given.items() if other not in known]
            raise ConfigurationError(
                "a sink of the state directory is left out: it would lack what this run reads, "
                "for ever",
                where=f"--sink={each.uri}",
                expected=place,
                found=new or sorted(given),
                hint=(
                    f"Give --sink={each.uri} too, or --drop_sink={each.uri} to go on without it, "
                    "also if it was moved and is given at its new place"
                ),
            )
    return dropped


def plan_members(state: State, sinks: Sequence[Sink], drop: Sequence[str] = ()) -> Membership:
    """Asks each sink how far it is, and decides what becomes of it; changes nothing.

    Args:
        state: The state, with all tables that it has; not changed.
        sinks: The sinks of the run.
        drop: Values of `--drop_sink`.

    Returns:
        What follows.

    Raises:
        ConfigurationError: As `check_members`.
        DynabeamError: A sink cannot be looked into.
    """
    dropped = check_members(state, sinks, drop)
    found = Membership(dict(state.sinks or {}))
    for place in sorted(dropped):
        known = found.sinks[place]
        if known.state != "dropped":
            found.sinks[place] = dataclasses.replace(
                known, state="dropped", changed_us=now_us(), applied=state.number, loading=()
            )
            found.notes.append(f"{known.uri}: {found.sinks[place].describe()}")
    for sink in sinks:
        _plan_sink(found, state, sink)
    return found


def refuse_joins(found: Membership, command: str) -> None:
    """Refuses sinks that would have to be brought up by a command that cannot do it.

    Raises:
        SinkError: There is one.
    """
    for place in sorted(found.joins):
        raise SinkError(
            "the sink is new to the state directory, lacks rounds or is ahead, and this command "
            "brings nothing up",
            where=f"--sink={found.sinks[place].uri}",
            found=place,
            hint=f"Run dynabeam replicate with it first, then dynabeam {command}",
        )


def begin_loads(
    found: Membership,
    state: State,
    names: Sequence[str],
    loading: LoadingMirrors,
    sinks: Sequence[Sink],
    *,
    shared: bool = False,
) -> None:
    """Begins the snapshots that mirrors need for themselves, in the state; to be committed.

    Args:
        found: What follows for the sinks; its records go into the state.
        state: Changed in place.
        names: The tables of this run, checked.
        loading: What mirrors can be loaded from.
        sinks: The sinks of the run.
        shared: All sinks get the rows: a continuous run has one stream of blocks for all.

    Raises:
        ConfigurationError: There is nothing to load a mirror from.
        DynabeamError: A table cannot be exported, or a sink cannot be read.
    """
    state.sinks = found.sinks
    by_place = {each.place: each for each in sinks}
    _raise_generations(found, state, names, by_place)
    wanted: dict[str, list[str]] = {}
    for place, known in sorted(found.sinks.items()):
        for name in known.loading if known.state == "loading" else ():
            # What goes on does not bring again what a mirror that joins only now has lost of it.
            begun = place not in found.joins and _is_begun(state.tables.get(name), place)
            if name in names and not begun:
                wanted.setdefault(name, []).append(place)
    if not wanted:
        return
    given = given_exports(loading.exports, loading.how)
    for name, places in wanted.items():
        table = _begin_load(state, name, places, given.get(name), loading, shared=shared)
        state.tables[name] = table
        for place in places:
            uri = found.sinks[place].uri
            found.notes.append(f"{uri}: {name}: loading it; generation {table.generation}")


def check_sinks(
    sinks: Sequence[Sink], found: Membership, tables: Sequence[Table], committed: Round
) -> None:
    """Checks all sinks, creates what is new, sets aside what is ahead, tells what is lacking.

    The state that says which of them join has to be committed before: a sink that is bound to a
    state directory that does not know of it would count as one that was there from the beginning.

    Raises:
        SinkError: As `Sink.check`.
    """
    for sink in sinks:
        joins = sink.place in found.joins
        if sink.place in found.set_back:
            aside = sink.set_back(committed)
            if aside:
                found.notes.append(f"{sink.name}: what it had of later rounds is in {aside}")
        sink.check(tables, committed, joins=joins)
        known = found.sinks[sink.place]
        sink.tell_lacks(known.lacks, known.whole_from, known.whole_from_us)


def share_of(state: State, sink: Sink, *, late: bool = False) -> SinkShare:
    """What of a run's blocks is not for a sink.

    Args:
        state: The state.
        sink: The sink.
        late: The blocks are dead letters that are put back, not what the run reads.
    """
    withheld = frozenset(
        (name, table.repair_generation)
        for name, table in state.tables.items()
        if table.repair is not None and not table.repair.is_for(sink.place)
    )
    known = (state.sinks or {}).get(sink.place)
    return SinkShare(withheld, dict(known.loaded) if late and known is not None else {})


def check_same_graph(state: State, sinks: Sequence[Sink], drop: Sequence[str]) -> None:
    """Checks that a job that goes on from a savepoint has the sinks that it was started with.

    Raises:
        ConfigurationError: It has others, or in another order: state would go to a wrong one.
    """
    known = sorted(
        (each for each in (state.sinks or {}).values() if each.position),
        key=lambda each: each.position,
    )
    if drop or (known and [each.place for each in known] != [each.place for each in sinks]):
        raise ConfigurationError(
            "a savepoint is bound to the sinks of its job and to their order",
            where="--drop_sink" if drop else "--sink, --savepoint_path",
            expected=[each.uri for each in known],
            found=list(drop) or [each.name for each in sinks],
            hint="Give these sinks in this order; or begin without --savepoint_path, at the stored "
            "positions, where sinks may be dropped and added",
        )


def numbered(sinks: Mapping[str, KnownSink], given: Sequence[Sink]) -> dict[str, KnownSink]:
    """The sinks with their places in the graph of a continuous run."""
    at = {each.place: number for number, each in enumerate(given, 1)}
    return {
        place: dataclasses.replace(each, position=at.get(place, 0)) for place, each in sinks.items()
    }


def after_round(
    sinks: Mapping[str, KnownSink], given: Sequence[Sink], reports: Iterable[Report], number: int
) -> dict[str, KnownSink]:
    """The sinks once a round is committed.

    Args:
        sinks: As they were before it.
        given: The sinks that it wrote.
        reports: The round's reports.
        number: The round.
    """
    with_rows = {
        each.fields["sink"] for each in reports if each.kind == "sink" and each.fields["rows"]
    }
    changed = dict(sinks)
    for sink in given:
        known = changed.get(sink.place) or _new(sink)
        wrote = number if sink.name in with_rows else known.wrote
        changed[sink.place] = dataclasses.replace(known, applied=number, wrote=wrote)
    return changed


def _plan_sink(found: Membership, state: State, sink: Sink) -> None:
    place, number = sink.place, state.number
    known, held = found.sinks.get(place), sink.position(state.committed)
    if held is not None and held.state_id != state.state_id:
        # `check` says so, with what to do about it.
        found.sinks.setdefault(place, _new(sink))
        return
    if not number and not state.tables:
        # Nothing was read yet, so nobody can have missed anything.
        found.sinks[place] = _new(sink)
    elif known is None:
        _plan_unknown(found, state, sink, held)
    else:
        found.sinks[place] = dataclasses.replace(known, uri=sink.name)
        at = held.round if held is not None else 0
        missed = not _without_rounds(held) and _missed(known, held is not None, at, number)
        if known.state == "dropped":
            # Rounds without rows leave no trace in a changelog.
            kept = at if missed else known.applied
            _join(found, state, sink, kept if held is not None else 0, "given again")
        elif missed:
            _join(
                found, state, sink, at, "behind" if held is not None else "gone, and created again"
            )
    _plan_ahead(found, number, sink, held)


def _plan_unknown(found: Membership, state: State, sink: Sink, held: SinkPosition | None) -> None:
    """A sink that the state directory does not know: it was moved, or is new to it."""
    at = held.round if held is not None else 0
    if state.sinks is None:
        sink.refuse_old_meaning(state.committed)
        if held is not None:
            # The document is of a version that did not know its sinks; the sink knows whose it is.
            found.sinks[sink.place] = dataclasses.replace(_new(sink), applied=state.number)
            mirror = sink.capabilities.kind == "mirror"
            if mirror and at < state.number and not held.continuous:
                _join(found, state, sink, at, "behind")
            return
    elif held is not None and _take_moved(found, state, sink, at):
        return
    found.sinks[sink.place] = _new(sink)
    _join(found, state, sink, 0, "new")


def _plan_ahead(found: Membership, number: int, sink: Sink, held: SinkPosition | None) -> None:
    """A sink that holds rounds which the state directory does not know: it was set back."""
    if held is None or held.continuous:
        return
    # A mirror is written before a round is committed.
    if held.round > number + (1 if sink.capabilities.kind == "mirror" else 0):
        found.joins.add(sink.place)
        found.set_back.add(sink.place)
        found.notes.append(
            f"{sink.name}: ahead: it holds round {held.round}, and the state directory, which was "
            f"set back, round {number}"
        )


def _without_rounds(held: SinkPosition | None) -> bool:
    return held is not None and held.continuous


def _take_moved(found: Membership, state: State, sink: Sink, at: int) -> bool:
    """Takes a sink for one that is dropped in this run and lies elsewhere now.

    It says itself that it belongs to this state directory and is as far as that one was. Only one
    that was whole: a mirror that is being loaded says of its rounds what a whole one says.
    """
    kind = sink.capabilities.kind
    fitting = [
        each
        for place, each in (state.sinks or {}).items()
        if place in found.sinks
        and found.sinks[place].state == "dropped"
        and (each.state, each.kind) == ("active", kind)
        if at in ((state.number, state.number + 1) if kind == "mirror" else (each.wrote,))
    ]
    if len(fitting) != 1:
        return False
    old = fitting[0]
    del found.sinks[old.place]
    found.notes = [each for each in found.notes if not each.startswith(f"{old.uri}: dropped")]
    found.sinks[sink.place] = dataclasses.replace(old, place=sink.place, uri=sink.name)
    found.notes.append(f"{sink.name}: moved from {old.uri}: nothing is missing")
    return True


def _missed(known: KnownSink, there: bool, at: int, number: int) -> bool:
    """True if a sink says that it lacks rounds that the state directory gave it."""
    if not there:
        return True
    return at < (number if known.kind == "mirror" else known.wrote)


def _join(found: Membership, state: State, sink: Sink, at: int, why: str) -> None:
    """A sink that lacks what was read after round `at`."""
    place, number, now = sink.place, state.number, now_us()
    known = found.sinks[place]
    found.joins.add(place)
    if sink.capabilities.kind == "mirror":
        found.sinks[place] = dataclasses.replace(
            known,
            state="loading",
            loading=tuple(sorted(state.tables)),
            changed_us=now,
            applied=number,
        )
        found.notes.append(
            f"{sink.name}: {why}: it lacks what was read after round {at}; each table is loaded "
            "to it again"
        )
        return
    since = known.changed_us if why == "given again" and at else 0
    # One that was created again lacks all that was before, whatever it lacked before that.
    lacks = (*(known.lacks if at else ()), Lack(at, number, since, now))
    found.sinks[place] = dataclasses.replace(
        known,
        state="active",
        lacks=lacks,
        whole_from=number + 1,
        whole_from_us=now,
        changed_us=now,
        applied=number,
        wrote=number,
    )
    found.notes.append(
        f"{sink.name}: {why}: whole from round {number + 1} ({time_text(now)}) on; it lacks "
        f"{lacks[-1]}"
    )


def _new(sink: Sink) -> KnownSink:
    return KnownSink(sink.place, sink.name, sink.capabilities.kind)


def _place_of(text: str, known: Mapping[str, KnownSink]) -> str:
    """The place of a sink that is to be dropped; it may be one that cannot be opened any more."""
    by_name = {each.uri: place for place, each in known.items()} | {each: each for each in known}
    if text in by_name:
        return by_name[text]
    try:
        place = open_sink(text).place
    except DynabeamError:
        place = ""
    if place not in known:
        raise ConfigurationError(
            "the state directory has no such sink",
            where=f"--drop_sink={text}",
            expected=[each.uri for each in known.values() if each.state != "dropped"],
            found=place or text,
            hint="Write it as it was given to --sink",
        )
    return place


def _is_begun(table: TableState | None, place: str) -> bool:
    """True if a snapshot that this sink gets is under way."""
    repair = table.repair if table is not None else None
    return repair is not None and repair.plan.loads_all and repair.is_for(place)


def _raise_generations(
    found: Membership, state: State, names: Sequence[str], sinks: Mapping[str, Sink]
) -> None:
    """Goes above the generations of mirrors that are ahead: older rows would win otherwise."""
    for place in sorted(found.joins):
        sink = sinks[place]
        if sink.capabilities.kind != "mirror":
            continue
        for name in names:
            table = state.tables[name]
            newest = sink.newest_generation(table.table)
            if newest <= table.generation:
                continue
            # What begins the load makes it one higher.
            whole = table.whole_generation or table.generation
            state.tables[name] = dataclasses.replace(
                table, generation=newest, whole_generation=whole
            )
            known = found.sinks[place]
            found.sinks[place] = dataclasses.replace(
                known,
                state="loading",
                loading=tuple(sorted({*known.loading, name})),
                changed_us=now_us(),
            )


def _begin_load(
    state: State,
    name: str,
    places: Sequence[str],
    given: tuple[str, ExportManifest] | None,
    loading: LoadingMirrors,
    *,
    shared: bool,
) -> TableState:
    table, access = state.tables[name], loading.how.access
    reuse = _usable(table, given, loading.exports)
    if not reuse and (not loading.bucket or access is None):
        since = _newest_read_us(table)
        newer = f" of a time after {time_text(since)}" if since else ""
        raise ConfigurationError(
            f"the mirror is new or lacks rounds, and there is nothing to load table {name} from",
            where=f"--sink={(state.sinks or {})[places[0]].uri}",
            hint=(
                f"Give --s3_export_bucket, or an --export of the table{newer}; or leave the "
                "mirror out, or give it a state directory of its own"
            ),
        )
    if not reuse and access is not None:
        describe_ready(access, name, stream=table.stream is not None, export=True)
    sinks = None if shared else places
    table = begin_repair(table, [], GapPolicy.RESNAPSHOT, access, sinks=sinks)
    if not reuse:
        return table
    snapshot = dataclasses.replace(table.snapshot, reuse=reuse, not_before_us=0)
    return dataclasses.replace(table, snapshot=snapshot)


def _usable(
    table: TableState, given: tuple[str, ExportManifest] | None, exports: Sequence[str]
) -> str:
    """An export that was given and shows all that was read so far; empty if there is none."""
    if given is None:
        newest = [each for each in exports if newest_age_us(each)]
        return newest[0] if newest and table.stream is None else ""
    location, manifest = given
    manifest.check_table(table.table)
    return location if manifest.export_time_us - FUZZ_US >= _newest_read_us(table) else ""


def _newest_read_us(table: TableState) -> int:
    """No change that was read from the stream is newer, microseconds since 1970; 0 if none was."""
    if table.stream is None:
        return 0
    return max([table.totals.newest_us, *(each.at_us for each in table.stream.seen.values())])
