# SPDX-License-Identifier: Apache-2.0
"""The estimates of a stream: how often it is polled, how fast it can be read, and what ends first.

A stream keeps a record for 24 hours. A reader that falls behind by more loses changes, so the plan
compares how fast changes come with how fast they can be read.
"""

from __future__ import annotations

import math

from dynabeam.transforms.planning.estimates import Estimate
from dynabeam.transforms.planning.facts import RETENTION_SECONDS, Reading, TableFacts
from dynabeam.transforms.planning.throughput import Speeds

__all__ = ["reading_speed", "seconds_to_loss", "stream_estimates"]

_DAY = 86_400


def stream_estimates(table: TableFacts, reading: Reading, speeds: Speeds) -> list[Estimate]:
    """The estimates of one table's stream; none if it is not read."""
    if not reading.stream or not table.open_shards:
        return []
    return [
        Estimate(
            "open_shards",
            "open shards",
            table.open_shards,
            "count",
            "DescribeStream",
            {"readers": reading.readers},
            f"for {reading.readers} reader{'s' if reading.readers != 1 else ''}; the service "
            "allows two readers a shard",
        ),
        _polls(table, reading),
        _pages(table),
        _speed(table, reading, speeds),
        _catch_up(table, reading, speeds),
        _loss(table, reading, speeds),
    ]


def _polls(table: TableFacts, reading: Reading) -> Estimate:
    shards, pacing = table.open_shards, reading.pacing
    if not reading.continuous:
        rounds = _DAY / reading.every if reading.every else reading.runs_a_day
        return Estimate(
            "polls_a_day",
            "polls, at most",
            rounds * shards * pacing.tip_empties,
            "per day",
            "rounds * open_shards * tip_empties",
            {"rounds": rounds, "open_shards": shards, "tip_empties": pacing.tip_empties},
            "a round polls each shard until so many pages are empty",
        )
    paced = pacing.shared(reading.all_readers, reading.all_shards)
    active = shards if table.rate is None else table.rate.active_shards
    idle = shards - active
    return Estimate(
        "polls_a_day",
        "polls, at most",
        active * _DAY / paced.poll + idle * _DAY / paced.idle_poll,
        "per day",
        "active_shards * 86400 / poll + idle_shards * 86400 / idle_poll",
        {
            "active_shards": active,
            "idle_shards": idle,
            "poll": paced.poll,
            "idle_poll": paced.idle_poll,
        },
        "" if table.rate else "every shard counted as active: only a sample shows how many are",
    )


def _pages(table: TableFacts) -> Estimate:
    rate = None if table.rate is None else table.rate.changes
    return Estimate(
        "pages_a_day",
        "full pages",
        None if rate is None else rate * _DAY / table.changes_a_page,
        "per day",
        "changes * 86400 / changes_a_page",
        {"changes": rate, "changes_a_page": table.changes_a_page},
        "while catching up; near the tip the polls bring the changes",
    )


def reading_speed(table: TableFacts, reading: Reading, speeds: Speeds) -> float:
    """Changes a second that can be read and written while catching up."""
    at_once = min(max(1, table.open_shards), reading.pacing.threads * reading.readers)
    fetched = at_once / speeds.page_seconds * table.changes_a_page
    speed = min(fetched, speeds.stream_rows)
    if reading.continuous:
        return speed
    changes = _changes_a_round(table, reading)
    return changes / (changes / speed + speeds.round_seconds)


def _changes_a_round(table: TableFacts, reading: Reading) -> float:
    return max(1.0, reading.round_bytes / table.record_bytes)


def _speed(table: TableFacts, reading: Reading, speeds: Speeds) -> Estimate:
    rounds = not reading.continuous
    inputs: dict[str, float | int | str | None] = {
        "open_shards": table.open_shards,
        "threads": reading.pacing.threads,
        "readers": reading.readers,
        "page_seconds": speeds.page_seconds,
        "changes_a_page": table.changes_a_page,
        "rows_per_second": speeds.stream_rows,
    }
    formula = (
        "min(min(open_shards, threads * readers) / page_seconds * changes_a_page, rows_per_second)"
    )
    if rounds:
        a_round = _changes_a_round(table, reading)
        inputs |= {"changes_a_round": a_round, "round_seconds": speeds.round_seconds}
        formula = f"changes_a_round / (changes_a_round / {formula} + round_seconds)"
    return Estimate(
        "reading_speed",
        "changes it can read",
        reading_speed(table, reading, speeds),
        "per second",
        formula,
        inputs,
        f"limit: {speeds.limit}" if speeds.limit else "",
    )


def _backlog(table: TableFacts, reading: Reading) -> float | None:
    if table.rate is None:
        return None
    return table.rate.changes * table.stream_age if reading.from_horizon else 0.0


def _catch_up(table: TableFacts, reading: Reading, speeds: Speeds) -> Estimate:
    backlog, speed = _backlog(table, reading), reading_speed(table, reading, speeds)
    rate = None if table.rate is None else table.rate.changes
    seconds = None
    if backlog is not None and rate is not None and speed > rate:
        seconds = backlog / (speed - rate)
    return Estimate(
        "catch_up_seconds",
        "time to catch up",
        seconds,
        "seconds",
        "backlog / (reading_speed - changes)",
        {"backlog": backlog, "reading_speed": speed, "changes": rate},
        _why_not(rate, speed),
        instead="not known" if rate is None else "NEVER",
    )


def _why_not(rate: float | None, speed: float) -> str:
    if rate is None:
        return "give --sample=5m to have the stream's rate measured"
    return "" if speed > rate else "never: changes come faster than they can be read"


def seconds_to_loss(table: TableFacts, reading: Reading, speeds: Speeds) -> float | None:
    """After how long the oldest unread change is 24 hours old; None if that never happens.

    A reader that is slower than the changes come falls behind by `1 - speed / changes` seconds each
    second. Begun at the oldest record of a stream that is as old as that, it loses at once.
    """
    if table.rate is None or not table.rate.changes:
        return None
    busiest = table.rate.changes * table.rate.busiest_share
    one_shard = table.changes_a_page / speeds.page_seconds
    share = min(
        reading_speed(table, reading, speeds) / table.rate.changes,
        # A shard is read page after page, however many threads there are.
        one_shard / busiest if busiest else math.inf,
    )
    if share > 1:
        return None
    behind = table.stream_age if reading.from_horizon else 0.0
    left = max(0.0, RETENTION_SECONDS - behind)
    return left / (1 - share) if share < 1 else (math.inf if left else 0.0)


def _loss(table: TableFacts, reading: Reading, speeds: Speeds) -> Estimate:
    seconds = seconds_to_loss(table, reading, speeds)
    rate = table.rate
    never = rate is not None and (seconds is None or math.isinf(seconds))
    return Estimate(
        "seconds_to_loss",
        "24 hours end first after",
        None if seconds is None or math.isinf(seconds) else seconds,
        "seconds",
        "(retention - age_at_start) / (1 - min(reading_speed / changes, page_speed / "
        "busiest_shard))",
        {
            "retention": RETENTION_SECONDS,
            "age_at_start": table.stream_age if reading.from_horizon else 0.0,
            "reading_speed": reading_speed(table, reading, speeds),
            "changes": None if rate is None else rate.changes,
            "page_speed": table.changes_a_page / speeds.page_seconds,
            "busiest_shard": None if rate is None else rate.changes * rate.busiest_share,
        },
        "the reading is faster than the changes: nothing is lost" if never else "",
        instead="never" if never else "not known",
    )
