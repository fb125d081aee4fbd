# SPDX-License-Identifier: Apache-2.0
"""What happens to a replication, drawn by a seed: its runs and their ends, sinks, streams, clocks.

The same seed gives the same scenario in every profile. What takes long is left to seeds that only
the deep profile has.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping
from typing import Literal

__all__ = ["CI_SEEDS", "TO_THE_END", "Event", "Leg", "Scenario"]

CI_SEEDS = 25
"""Seeds that are tried in every run of the tests; together they draw every dimension."""

TO_THE_END = "caught up"
_MOST_MINUTES_WRONG = 4
"""AWS answers requests whose clock is not more than five minutes off."""
_SHORT_LEASE, _REAL_LEASE = 6.0, 30.0
_POLICIES = ("continue", "heal", "heal", "resnapshot")

End = Literal["KILL", "TERM", "TERM twice", "STOP", "caught up"]


@dataclasses.dataclass(frozen=True)
class Event:
    """Something that happens to a table's stream.

    Attributes:
        table: The table.
        what: `switched`: its stream is switched off and on; `made again`: it is deleted and made
            again.
        policy: The table's `--gaps`.
        leg: During which run.
        at: After which part of it; 0 for before it, with nobody reading.
        minutes_before: So much time passes at once before it, if `at` is not 0 once the table's
            snapshot is loaded. A heal is exact if the snapshot is older than what is lost.
        writes: So many small things happen to the tables before it is there again.
    """

    table: str
    what: Literal["switched", "made again"]
    policy: str
    leg: int
    at: float
    minutes_before: int
    writes: int


@dataclasses.dataclass(frozen=True)
class Leg:
    """One run.

    Attributes:
        seconds: How long it goes on, from when it begins or has `committed`.
        end: The signal that ends it; `STOP`: it is stopped until the next one has taken over.
        readers: `--readers`.
        sinks: Names of the sinks that it is given.
        dropped: Names of those that it drops.
        committed: It goes on at least until it has committed a round.
        minutes_before: So much time passes at once before it.
        minutes_wrong: How far its clock is ahead of the service's.
    """

    seconds: float
    end: End
    readers: int
    sinks: tuple[str, ...]
    dropped: tuple[str, ...]
    committed: bool
    minutes_before: int
    minutes_wrong: int


@dataclasses.dataclass(frozen=True)
class Scenario:
    """All of it.

    Attributes:
        seed: What it was drawn by.
        shards: Of each new stream.
        verified: `--verify_chain`.
        state: Where the state directory is.
        lease_seconds: How long its lease holds, if it is in S3.
        away: The sink that is left out for a run, and given again; or empty.
        second: From which run on there is a second mirror; 0 for never.
        events: What happens to streams.
        legs: The runs; the last one goes on until it has caught up.
    """

    seed: int
    shards: int
    verified: bool
    state: Literal["local", "s3"]
    lease_seconds: float
    away: str
    second: int
    events: tuple[Event, ...]
    legs: tuple[Leg, ...]

    @classmethod
    def draw(cls, seed: int) -> Scenario:
        """The scenario of a seed."""
        rng = random.Random(f"scenario {seed}")
        deep = seed >= CI_SEEDS
        state = rng.choice(["local", "local", "s3"])
        away = rng.choice(["", "", "", "mirror", "changelog"])
        events = rng.choices([0, 1, 2], weights=[5, 4, 1])[0]
        runs = max(rng.choice([1, 1, 2]), 2 if away else 1) + (deep and rng.random() < 0.2)
        second = rng.choice([0, 0, 0, rng.randint(1, runs)])
        tables = rng.sample(["people", "orders"], events)
        drawn = tuple(_event(rng, table, runs) for table in tables)
        wrong = [0, rng.randint(-_MOST_MINUTES_WRONG, _MOST_MINUTES_WRONG)]
        without = rng.randint(1, runs - 1) if away else 0
        needs = bool(away or second or drawn)
        legs = []
        for number in range(runs + 1):
            end = rng.choice(["KILL", "KILL", "TERM", "TERM twice"])
            # The next one must outlast the one that is stopped, which would take its turn else.
            if state == "s3" and number < runs - 1 and rng.random() < 0.4:
                end = "STOP"
            sinks = {"mirror", "changelog"}
            # Says in which round a change was, and so whether it may be lacking elsewhere.
            sinks |= {"witness"} if away == "changelog" else set()
            sinks |= {"second"} if 0 < second <= number else set()
            dropped = {away} if away and number == without else set()
            leg = Leg(
                seconds=round(rng.uniform(0.1, 2), 2),
                end=TO_THE_END if number == runs else end,
                readers=rng.choice([1, 1, 2, 3, 4]),
                sinks=tuple(sorted(sinks - dropped)),
                dropped=tuple(sorted(dropped)),
                committed=needs and (number == 0 or bool(dropped)),
                minutes_before=rng.choice([0, 0, 1, 20, 45]) if number else 0,
                minutes_wrong=rng.choice(wrong),
            )
            legs.append(leg)
        real_lease = deep and state == "s3" and rng.random() < 0.1
        return cls(
            seed=seed,
            shards=rng.randint(1, 3),
            verified=bool(seed % 2),
            state=state,
            lease_seconds=_REAL_LEASE if real_lease else _SHORT_LEASE,
            away=away,
            second=second,
            events=drawn,
            legs=tuple(legs),
        )

    @property
    def policies(self) -> Mapping[str, str]:
        """Table → its `--gaps`, of those to which something happens."""
        return {each.table: each.policy for each in self.events}

    @property
    def repairs(self) -> bool:
        """Exports of a repair are awaited, which are requested a minute after it began."""
        return bool(self.away == "mirror" or self.second or self.events)

    def dimensions(self) -> set[str]:
        """What of all that may be drawn it has."""
        legs = self.legs
        found = {f"state {self.state}"} | {f"end {each.end}" for each in legs}
        found |= {f"{self.state}, end {each.end}" for each in legs}
        found |= {f"readers {each.readers}" for each in legs}
        found |= {f"{self.away} left out and given again"} if self.away else set()
        found |= {"second mirror"} if self.second else set()
        found |= {f"{each.what} under {each.policy}" for each in self.events}
        found |= {
            "a heal can be exact" for x in self.events if x.policy == "heal" and x.minutes_before
        }
        found |= {"event while nobody reads" for each in self.events if not each.at}
        found |= {"event while it runs" for each in self.events if each.at}
        found |= {"another number of readers"} if len({x.readers for x in legs}) > 1 else set()
        found |= {"clock wrong" for each in legs if each.minutes_wrong}
        found |= {"chain verified"} if self.verified else set()
        return found

    def __str__(self) -> str:
        """For people, a line for each part."""
        chain = "verified" if self.verified else "not verified"
        lines = [
            f"seed {self.seed}: {self.shards} shards, chain {chain}",
            f"  state {self.state}, lease of {self.lease_seconds:g} s",
            f"  away: {self.away or 'none'}; second mirror from run {self.second or 'never'}",
        ]
        lines += [f"  {each}" for each in self.events]
        lines += [f"  run {number}: {each}" for number, each in enumerate(self.legs)]
        return "\n".join(lines)


def _event(rng: random.Random, table: str, runs: int) -> Event:
    what = rng.choice(["switched", "switched", "switched", "made again"])
    leg = rng.randrange(runs)
    # Before the first run there is nothing to be switched behind.
    at = 0 if leg and rng.random() < 0.4 else round(rng.uniform(0.05, 0.95), 2)
    return Event(
        table=table,
        what=what,
        policy=rng.choice(_POLICIES) if what == "switched" else "resnapshot",
        leg=leg,
        at=at,
        minutes_before=rng.choice([0, 40]),
        writes=rng.choice([0, 3, 20]),
    )
