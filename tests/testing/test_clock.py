# SPDX-License-Identifier: Apache-2.0
"""The simulated clock: never backwards, and exactly as told."""

from datetime import datetime, timedelta, timezone

import pytest

from dynabeam.transforms.testing.clock import SimClock, datetime_of, micros_of

START = datetime(2026, 1, 1, tzinfo=timezone.utc)


def test_manual_clock_moves_only_by_hand():
    clock = SimClock.manual(START)
    assert clock.now() == clock.now() == START
    assert clock.advance(timedelta(hours=25)) == START + timedelta(hours=25)
    assert clock.set(START + timedelta(days=2)) == START + timedelta(days=2)


def test_scaled_clock_runs_fast():
    clock = SimClock(START, scale=1e9)
    first = clock.now()
    assert first < clock.now()
    assert clock.now() > START + timedelta(seconds=10)


def test_a_change_of_scale_does_not_jump():
    clock = SimClock.manual(START)
    clock.scale = 1.0
    assert START <= clock.now() < START + timedelta(minutes=5)
    clock.scale = 0.0
    assert clock.now() == clock.now()
    assert clock.scale == 0.0


def test_offset():
    assert SimClock(START, scale=0, offset=timedelta(days=1)).now() == START + timedelta(days=1)


def test_real_clock_is_near_now():
    assert abs(SimClock().now() - datetime.now(timezone.utc)) < timedelta(minutes=1)


def test_refusals():
    clock = SimClock.manual(START)
    with pytest.raises(ValueError, match="backwards"):
        clock.advance(-timedelta(microseconds=1))
    with pytest.raises(ValueError, match="backwards"):
        clock.set(START - timedelta(seconds=1))
    with pytest.raises(ValueError, match="zone"):
        SimClock(datetime(2026, 1, 1))  # noqa: DTZ001 - the refused kind
    with pytest.raises(ValueError, match="scale"):
        SimClock(scale=-1)
    with pytest.raises(ValueError, match="scale"):
        clock.scale = -1


def test_micros_are_exact():
    moment = START + timedelta(microseconds=123456)
    assert datetime_of(micros_of(moment)) == moment
    with pytest.raises(ValueError, match="zone"):
        micros_of(datetime(2026, 1, 1))  # noqa: DTZ001 - the refused kind
