# SPDX-License-Identifier: Apache-2.0
"""The plan of a replication: the estimates of each table, their sums, and what to be warned of."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from dynabeam.transforms.planning.estimates import Estimate, shown
from dynabeam.transforms.planning.facts import Reading, TableFacts
from dynabeam.transforms.planning.prices import Prices
from dynabeam.transforms.planning.snapshot import snapshot_estimates
from dynabeam.transforms.planning.stream import reading_speed, seconds_to_loss, stream_estimates
from dynabeam.transforms.planning.throughput import Speeds

__all__ = ["Plan", "TablePlan", "make_plan"]

FORMAT = 1
_DAY = 86_400.0
_DAYS = 30
_MOST_SHARDS = 1000


@dataclasses.dataclass(frozen=True)
class TablePlan:
    """The estimates of one table."""

    facts: TableFacts
    estimates: Sequence[Estimate]

    def value(self, name: str) -> float:
        """The value of an estimate; 0 if there is none or it is not known."""
        return next((each.value or 0.0 for each in self.estimates if each.name == name), 0.0)


@dataclasses.dataclass(frozen=True)
class Plan:
    """The whole plan.

    Attributes:
        tables: One part per table.
        totals: Estimates of all tables together.
        warnings: What goes wrong if nothing is changed, for people.
        prices: The prices that were used.
    """

    tables: Sequence[TablePlan]
    totals: Sequence[Estimate]
    warnings: Sequence[str]
    prices: Prices

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; the shape is kept within a release line."""
        return {
            "format": FORMAT,
            "tables": {
                each.facts.name: {estimate.name: estimate.to_json() for estimate in each.estimates}
                for each in self.tables
            },
            "totals": {each.name: each.to_json() for each in self.totals},
            "warnings": list(self.warnings),
            "prices": dataclasses.asdict(self.prices),
        }


def make_plan(
    tables: Sequence[TableFacts],
    readings: Mapping[str, Reading],
    prices: Prices,
    speeds: Speeds,
) -> Plan:
    """Reckons the plan.

    Args:
        tables: What is known of each table.
        readings: How each is read, by name.
        prices: AWS's prices.
        speeds: How fast this machine works.
    """
    plans, warnings = [], []
    for table in tables:
        reading = readings[table.name]
        estimates = [
            *snapshot_estimates(table, reading, prices, speeds),
            *stream_estimates(table, reading, speeds),
        ]
        plans.append(TablePlan(table, estimates))
        warnings += _warnings(table, reading, speeds)
    warnings += _shared_pace([each for each in tables if readings[each.name].stream], speeds)
    return Plan(plans, _totals(plans, prices), warnings, prices)


def _totals(plans: Sequence[TablePlan], prices: Prices) -> list[Estimate]:
    once = sum(each.value("export_price") + each.value("export_requests_price") for each in plans)
    kept = sum(each.value("export_storage_price") for each in plans)
    calls = sum(each.value("polls_a_day") for each in plans)
    paid = max(0.0, calls * _DAYS - prices.stream_free)
    return [
        Estimate(
            "once",
            "once",
            once,
            "USD",
            "sum of export_price + export_requests_price",
            {"tables": len(plans)},
        ),
        Estimate(
            "storage",
            "export in S3, at most",
            kept,
            "USD per month",
            "sum of export_storage_price",
            {"tables": len(plans)},
        ),
        Estimate(
            "stream_calls_a_day",
            "GetRecords calls, at most",
            calls,
            "per day",
            "sum of polls_a_day",
            {"tables": len(plans)},
        ),
        Estimate(
            "stream_price",
            "GetRecords, at most",
            paid / 100_000 * prices.stream_requests,
            "USD per month",
            "max(0, stream_calls_a_day * 30 - stream_free) / 100000 * stream_requests",
            {
                "stream_calls_a_day": calls,
                "stream_free": prices.stream_free,
                "stream_requests": prices.stream_requests,
            },
            "the free calls are those of the whole account and region",
        ),
    ]


def _warnings(table: TableFacts, reading: Reading, speeds: Speeds) -> list[str]:
    found = []
    if reading.stream and not table.open_shards:
        found.append(
            f"{table.name}: has no stream that is on, so its changes cannot be captured. Turn it "
            "on with 'dynabeam setup --apply', or give --snapshot=only"
        )
        return found
    loss = seconds_to_loss(table, reading, speeds) if reading.stream else None
    if loss is not None and not math.isinf(loss) and table.rate is not None:
        when = f"after {shown(loss, 'seconds')}" if loss else "from the start"
        speed = reading_speed(table, reading, speeds)
        found.append(
            f"{table.name}: THE 24 HOURS END FIRST: {table.rate.changes:,.0f} changes/s come, the "
            f"busiest of {table.open_shards} shards has {table.rate.busiest_share:.0%} of them, "
            f"and {speed:,.0f}/s can be read. Changes are lost {when}. Give it more readers "
            "(--readers), a faster sink, larger rounds (--round_bytes) or --mode=continuous on a "
            "cluster"
        )
    slow = reading.every or (_DAY / reading.runs_a_day if not reading.continuous else 0.0)
    if reading.stream and slow > _DAY / 2:
        found.append(
            f"{table.name}: rounds are {shown(slow, 'seconds')} apart, and the stream keeps 24 "
            "hours: one that fails or is late loses changes. Run it every few hours at least "
            "(--every, or --runs_a_day of your schedule)"
        )
    if reading.readers and table.open_shards > _MOST_SHARDS * reading.readers:
        found.append(
            f"{table.name}: {table.open_shards:,} open shards for {reading.readers} readers: lag "
            f"grows with more than {_MOST_SHARDS:,} a reader. Give more --readers"
        )
    return found


def _shared_pace(tables: Sequence[TableFacts], speeds: Speeds) -> list[str]:
    changes = sum(each.rate.changes for each in tables if each.rate is not None)
    if len(tables) < 2 or changes < speeds.stream_rows:
        return []
    return [
        (
            f"all tables: THE 24 HOURS END FIRST: together {changes:,.0f} changes/s come, and "
            f"{speeds.stream_rows:,.0f}/s can be read (limit: {speeds.limit}). Spread the tables "
            "over several runs, or use a faster sink"
        )
    ]
