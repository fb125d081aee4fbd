# SPDX-License-Identifier: Apache-2.0
"""An idle table that nobody read for a day: a gap only where something may have been lost."""

from datetime import timedelta

import pytest

from dynabeam.transforms.errors import GapError
from dynabeam.transforms.model.gap import GapPolicy
from dynabeam.transforms.stream.frontier import Frontier
from tests.stream.test_simulator import World

AWAY = timedelta(hours=25)


@pytest.fixture
def idle():
    """A table without a record, read once."""
    world = World()
    with world.sim:
        world.first = world.read()
        assert world.first.reports()[0]["caught_up"]
        yield world
    assert not world.sim.defects


@pytest.mark.parametrize("away", [AWAY, timedelta(days=3), timedelta(days=30)])
def test_where_nothing_was_written_nothing_is_lost(idle, away):
    idle.clock.advance(away)
    result = idle.read(idle.first)
    assert result.reports("gap") == []
    assert result.reports()[0]["caught_up"]
    # It goes on as if it had been there all the time.
    idle.put(3)
    assert idle.read(result).sequences == idle.numbers()


@pytest.mark.parametrize("before", [timedelta(minutes=1), timedelta(hours=23)])
def test_what_the_stream_still_has_is_read_and_nothing_is_lost(idle, before):
    idle.clock.advance(AWAY - before)
    idle.put(3)
    idle.clock.advance(before)
    result = idle.read(idle.first)
    assert result.sequences == idle.numbers()
    assert result.reports("gap") == []


@pytest.mark.parametrize("later", [0, 2])
def test_what_was_written_and_is_gone_is_a_gap(idle, later):
    idle.put(3)
    idle.clock.advance(AWAY)
    idle.put(later)
    with pytest.raises(GapError, match="may have lost"):
        idle.read(idle.first)
    result = idle.read(idle.first, gap_policy=GapPolicy.CONTINUE)
    (gap,) = result.reports("gap")
    assert gap["kind"] == "trimmed"
    assert gap["from_us"] <= gap["to_us"]
    assert result.sequences == idle.numbers()[3:]


def test_a_written_and_an_idle_shard_are_told_apart():
    world = World()
    with world.sim:
        world.sim.split("orders", 2)
        first = world.read()
        frontier = Frontier.from_json(first.reports()[0]["frontier"])
        assert len(frontier.live) == 2
        world.put(1)
        world.clock.advance(AWAY)
        result = world.read(first, gap_policy=GapPolicy.CONTINUE)
        (written,) = {each["ShardId"] for each in world.sim.records("orders")}
        assert [each["shard_id"] for each in result.reports("gap")] == [written]
