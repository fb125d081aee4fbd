# SPDX-License-Identifier: Apache-2.0
"""A plan as people read it: one aligned block a table, each number with how it came about."""

from __future__ import annotations

import itertools
import shutil
import textwrap
from collections.abc import Sequence
from typing import TextIO

from dynabeam.transforms.planning.estimates import Estimate, shown
from dynabeam.transforms.planning.plan import Plan

__all__ = ["write_plan"]

_NARROWEST, _USUAL, _WIDEST = 80, 100, 140


def write_plan(plan: Plan, stream: TextIO) -> None:
    """Writes the plan, warnings last: there they are seen."""
    width = max(_NARROWEST, min(_WIDEST, shutil.get_terminal_size((_USUAL, 0)).columns))
    for table in plan.tables:
        stream.write(f"{table.facts.name}: {table.facts.items:,} items\n")
        _write_estimates(table.estimates, width, stream)
        rate = table.facts.rate
        if rate is not None:
            stream.write(
                f"  sample: {rate.changes:,.1f} changes/s of {rate.record_bytes:,.0f} B in the "
                f"last {shown(rate.seconds, 'seconds')}; {rate.sampled_shards} of "
                f"{table.facts.open_shards} shards read in {rate.calls} calls\n"
            )
        stream.write("\n")
    stream.write("All tables\n")
    _write_estimates(plan.totals, width, stream)
    prices = plan.prices
    stream.write(
        f"\nPrices: {prices.region}, {prices.as_of}, USD without taxes; --price=NAME=NUMBER gives "
        "another.\nAll inputs of each number: --json\n"
    )
    for each in plan.warnings:
        stream.write("\n")
        stream.write(textwrap.fill(f"WARNING  {each}", width, subsequent_indent=" " * 9) + "\n")


def _write_estimates(estimates: Sequence[Estimate], width: int, stream: TextIO) -> None:
    names = max((len(each.title) for each in estimates), default=0)
    values = [each.text for each in estimates]
    wide = max(map(len, values), default=0)
    for estimate, value in zip(estimates, values, strict=True):
        lead = f"  {estimate.title:<{names}}  {value:>{wide}}  "
        stream.write(
            textwrap.fill(
                "; ".join(each for each in (_reckoned(estimate), estimate.note) if each),
                width,
                initial_indent=lead,
                subsequent_indent=" " * len(lead),
                break_long_words=False,
            ).rstrip()
            + "\n"
        )


def _reckoned(estimate: Estimate) -> str:
    """The formula with its inputs in place of their names."""
    text = estimate.formula
    for name in sorted(estimate.inputs, key=len, reverse=True):
        value = estimate.inputs[name]
        if isinstance(value, float | int):
            text = _replaced(text, name, f"{value:,.4g}" if value < 1000 else f"{value:,.0f}")
    return text


def _replaced(text: str, name: str, value: str) -> str:
    words = text.split(name)
    joined = words[0]
    for before, after in itertools.pairwise(words):
        whole = not (before[-1:].isalnum() or before[-1:] == "_") and not (
            after[:1].isalnum() or after[:1] == "_"
        )
        joined += (value if whole else name) + after
    return joined
