# SPDX-License-Identifier: Apache-2.0
"""The end of a repair: what its exports did not bring goes, in every sink."""

from __future__ import annotations

from collections.abc import Sequence

from dynabeam.transforms.model.table import Table
from dynabeam.transforms.sinks.base import Round, Sink
from dynabeam.transforms.state.repair_plan import Repair

__all__ = ["sweep_sinks"]


def sweep_sinks(
    sinks: Sequence[Sink],
    table: Table,
    generation: int,
    plan: Repair,
    committed: Round | None = None,
) -> int:
    """Removes rows of older generations from mirrors, and appends their deletes to changelogs.

    To be called once every row of the plan's exports is in the sinks. Repeating it changes nothing.

    Args:
        sinks: The sinks.
        table: The table.
        generation: The generation of the repair.
        plan: The repair.
        committed: The committed and published round; None in a run that never ends.

    Returns:
        How many rows the mirrors lost; of changelogs alone, how many deletes they were given.

    Raises:
        SinkError: A sink cannot be swept.
    """
    keys = plan.swept_keys(table.keys)
    since_us = plan.swept_since_us
    removed = [sink.remove_older_generations(table, generation, since_us, keys) for sink in sinks]
    appended = [
        sink.append_swept(table, generation, since_us, keys, committed=committed) for sink in sinks
    ]
    mirrors = any(sink.capabilities.kind == "mirror" for sink in sinks)
    return sum(removed) if mirrors else max(appended, default=0)
