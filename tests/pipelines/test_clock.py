# SPDX-License-Identifier: Apache-2.0
"""A machine whose clock is not the service's: what is compared is compared by the service's."""

import time
from datetime import timedelta

import pytest

from tests.pipelines.test_gaps import DAY, HISTORY, Kept

OFF = [timedelta(minutes=-4), timedelta(minutes=4), timedelta(hours=-2), timedelta(hours=2)]


@pytest.fixture(params=OFF, ids=["4 min slow", "4 min fast", "2 h slow", "2 h fast"])
def wrong(request, tmp_path, capsys, monkeypatch):
    """A world on a machine whose clock is wrong by so much."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "simulated")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "simulated")
    world = Kept(tmp_path, capsys, monkeypatch)
    shifted = time.time_ns
    off_ns = request.param // timedelta(microseconds=1) * 1000
    monkeypatch.setattr(time, "time_ns", lambda: shifted() + off_ns)
    with world.sim:
        world.put(*(f"k{n}" for n in range(30)), "old", "older")
        world.time.let_pass(HISTORY)
        world.work(timedelta(hours=2))
        yield world


def test_a_heal_ends_equal_and_caught_up_means_all(wrong):
    ended = wrong.replicate()
    assert ended.code == 0, ended.err
    wrong.work(timedelta(minutes=30), steps=3)
    wrong.put("just before", "kept")
    ended = wrong.replicate()
    assert ended.code == 0, ended.err
    wrong.assert_equal()
    wrong.put("in the gap")
    wrong.delete("old", "just before")
    wrong.work(DAY + timedelta(minutes=20))
    wrong.delete("in the gap")
    wrong.put("at the end")
    ended = wrong.replicate("--gaps=heal")
    assert ended.code == 0, ended.err
    assert "healed with" in ended.err
    wrong.assert_equal()
    # What is written while the wrong clock says that it is long past, or yet to come.
    for number in range(3):
        wrong.put(*(f"n{number}-{each}" for each in range(40)), value=number)
        ended = wrong.replicate("--gaps=heal")
        assert ended.code == 0, ended.err
        assert "aught up" in ended.out + ended.err
        wrong.assert_equal()
