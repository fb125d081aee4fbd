# SPDX-License-Identifier: Apache-2.0
"""Several readers of one table, away for longer than the stream keeps: no change comes twice."""

import collections
import json
from datetime import timedelta

import pytest

from tests.pipelines.test_gaps import DAY, Kept


@pytest.fixture
def split(tmp_path, capsys, monkeypatch):
    """A table whose stream has several lineages, which roll over while time passes."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "simulated")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "simulated")
    world = Kept(tmp_path, capsys, monkeypatch)
    with world.sim:
        world.put(*(f"k{n}" for n in range(30)))
        world.time.let_pass(timedelta(days=34))
        world.sim.split("orders", 4)
        world.work(timedelta(hours=2))
        yield world


def work(world, span, steps=8):
    """Writes while a span passes; each lineage rolls over again and again."""
    for _ in range(steps):
        world.work(span / steps, steps=1)
        world.sim.roll("orders")


def versions(world):
    """How often the changelog has each change."""
    lines = [
        json.loads(line)
        for path in world.published()
        if path.suffix == ".jsonl"
        for line in path.read_text().splitlines()
    ]
    return collections.Counter(
        int(each["version"].rpartition(".")[2]) for each in lines if each["source"] == "stream"
    )


def numbers(world):
    """The sequence numbers that the stream still holds."""
    with world.sim.lock:
        world.sim.age()
        (stream,) = world.sim.all_streams()
        return {number for shard in stream.shards.values() for number in shard.numbers}


@pytest.mark.parametrize("policy", ["continue", "heal", "resnapshot"])
def test_readers_that_were_away_read_each_change_once(split, policy):
    def replicate(readers):
        ended = split.replicate(f"--readers={readers}", f"--gaps={policy}")
        assert ended.code == 0, ended.err
        return ended

    replicate(2)
    work(split, timedelta(minutes=30), steps=2)
    replicate(2)
    for readers, span in ((2, DAY + timedelta(hours=6)), (3, 2 * DAY), (2, DAY)):
        work(split, span)
        kept = numbers(split)
        replicate(readers)
        work(split, timedelta(minutes=40), steps=3)
        kept |= numbers(split)
        replicate(readers)
        found = versions(split)
        assert [each for each, times in found.items() if times > 1] == []
        assert kept <= found.keys()
        if policy != "continue":
            split.assert_equal()
