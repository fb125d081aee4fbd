# SPDX-License-Identifier: Apache-2.0
"""New tables while a run goes on: between rounds, and what a continuous deployment is told.

Between rounds the driver looks by itself. A continuous run looks inside its graph
(`transforms.continuous.discover_tables`), so that it does not depend on the command that launched
it.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Sequence

from dynabeam.pipelines.options.replicate import ReplicateOptions
from dynabeam.transforms.continuous.discovery import Discovery, read_findings, write_findings
from dynabeam.transforms.continuous.discovery_plan import DiscoveryPlan
from dynabeam.transforms.export.location import newest_age_us
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.sinks.base import Sink
from dynabeam.transforms.state.state_directory import State, StateDirectory
from dynabeam.transforms.state.table_reading import ReadingOptions
from dynabeam.transforms.storage import filesystem

__all__ = ["RoundDiscovery", "discovery_plan"]


def discovery_plan(options: ReplicateOptions, state: State) -> DiscoveryPlan:
    """What is to be done about new tables."""
    reading = {
        each.name: getattr(options, each.name) for each in dataclasses.fields(ReadingOptions)
    }
    newest = [each for each in options.exports if newest_age_us(each)]
    return DiscoveryPlan(
        selection=options.selection,
        options=ReadingOptions(**reading),
        reuse=newest[0] if newest else "",
        committed=state.committed,
        every_seconds=max(1, math.ceil(options.discover_every)),
    )


class RoundDiscovery:
    """Looks for new tables between rounds, not more often than asked for.

    What keeps a table from being read is said once per reason, and stands in `findings.json` of the
    state directory for as long as it holds.

    Args:
        options: What was asked for.
        directory: The locked state directory.
        sinks: A table that one of them cannot hold is not begun.
        say: Shows lines to a person.
        clock: Gives seconds that never go back.
    """

    def __init__(
        self,
        options: ReplicateOptions,
        directory: StateDirectory,
        sinks: Sequence[Sink],
        say: Callable[[Iterable[str]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._options = options
        self._findings = filesystem.join(directory.path, "findings.json")
        self._sinks = sinks
        self._say = say
        self._clock = clock
        self._next_look = -math.inf

    def look(self, state: State) -> list[str]:
        """Brings new tables that are ready into the state, and returns their names.

        Between looks, and if nothing is new, that is none.
        """
        now = self._clock()
        if now < self._next_look:
            return []
        options = self._options
        assert options.access is not None
        plan = discovery_plan(options, state)

        def check(table: Table) -> None:
            for sink in self._sinks:
                sink.check([table], state.committed)

        discovery = Discovery(options.access, plan.selection, plan.needs, check)
        before = read_findings(self._findings)
        found = discovery.poll(state.tables, before)
        for each in found.ready:
            state.tables[each.table.name] = plan.first_state(each)
        if found.findings != before:
            write_findings(self._findings, found.findings)
        names = [each.table.name for each in found.ready]
        self._say([*(f"{name}: new, read from now on" for name in names), *map(str, found.news)])
        self._next_look = now if found.unfinished else now + options.discover_every
        return names
