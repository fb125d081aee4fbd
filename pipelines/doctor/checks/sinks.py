# SPDX-License-Identifier: Apache-2.0
"""Each sink: the checks that a run makes before it reads, without making or binding anything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dynabeam.pipelines.doctor.checks.finding import Finding, of_error, ok, warning
from dynabeam.transforms.errors import DynabeamError
from dynabeam.transforms.sinks.base import Sink
from dynabeam.transforms.sinks.registry import RunnerFacts, check_capabilities, open_sink
from dynabeam.transforms.state.sink_membership import check_members, plan_members
from dynabeam.transforms.state.state_directory import State
from dynabeam.transforms.storage import filesystem

__all__ = ["sink_findings"]

_WHY = "rows have nowhere to go"
_MISSING = "what a run reads without it, it lacks for ever"


def sink_findings(
    uris: Sequence[str],
    facts: RunnerFacts,
    state: State | None = None,
    drop: Sequence[str] = (),
) -> Iterator[Finding]:
    """Findings of the sinks: one by one, together, and beside what the state directory knows.

    Args:
        uris: As they were given; that there is none is for the caller to say.
        facts: The run that they have to fit.
        state: What the state directory says; None for a new one.
        drop: Values of `--drop_sink`.
    """
    state = state or State("", 0, "", {})
    sinks: list[Sink] = []
    for uri in uris:
        try:
            sink = open_sink(uri).without_waiting()
        except DynabeamError as error:
            yield of_error("sink", uri, error, why=_WHY)
            continue
        sinks.append(sink)
        yield from _of_sink(state, sink)
    try:
        if len(sinks) == len(uris):
            if sinks:
                check_capabilities(sinks, facts)
            check_members(state, sinks, drop)
    except DynabeamError as error:
        yield of_error("sink", ", ".join(uris) or "--sink", error, why=_MISSING)
    dropped = [each for each in (state.sinks or {}).values() if each.state == "dropped"]
    given = {sink.place for sink in sinks}
    for each in dropped:
        if each.place not in given:
            yield warning("sink", each.uri, each.describe(), hint="Give it again to bring it up")


def _of_sink(state: State, sink: Sink) -> Iterator[Finding]:
    """What a run would say of one sink; the others are as the state directory knows them."""
    tables = [each.table for each in state.tables.values()]
    alone = State(
        state.state_id, state.number, state.attempt, state.tables, state.deployment, state.sinks
    )
    if state.sinks is not None:
        alone.sinks = {place: each for place, each in state.sinks.items() if place == sink.place}
    try:
        found = plan_members(alone, [sink])
        joins = sink.place in found.joins
        seen = sink.examine(tables, state.committed, joins=joins)
        if filesystem.is_local(sink.place) and sink.place not in sink.name:
            seen += f": {sink.resolved}"
    except DynabeamError as error:
        yield of_error("sink", sink.name, error, why=_WHY)
        return
    if joins:
        hint = "Give --s3_export_bucket: a mirror is loaded from an export"
        yield warning(
            "sink",
            sink.name,
            "; ".join(each.removeprefix(f"{sink.name}: ") for each in found.notes),
            why="the run that it is given to brings it up",
            hint=hint if found.sinks[sink.place].kind == "mirror" else "",
        )
        return
    known = found.sinks[sink.place]
    if known.is_told:
        yield warning("sink", sink.name, f"{seen}; {known.describe()}")
    else:
        yield ok("sink", sink.name, seen)
