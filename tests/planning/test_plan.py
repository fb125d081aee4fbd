# SPDX-License-Identifier: Apache-2.0
"""Estimates are what their formula says of their inputs, and the 24 hours are warned of in time."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynabeam.transforms.errors import ConfigurationError
from dynabeam.transforms.planning.estimates import GIB, shown
from dynabeam.transforms.planning.facts import RETENTION_SECONDS, Reading, StreamRate, TableFacts
from dynabeam.transforms.planning.plan import make_plan
from dynabeam.transforms.planning.prices import Prices, parse_prices
from dynabeam.transforms.planning.stream import reading_speed, seconds_to_loss
from dynabeam.transforms.planning.throughput import speeds_for

SPEEDS = speeds_for(["postgresql"])
CONTINUOUS = Reading(
    continuous=True,
    every=0.0,
    runs_a_day=24,
    round_bytes=64 << 20,
    readers=2,
    all_readers=2,
    all_shards=4,
    snapshot=True,
    stream=True,
    from_horizon=True,
)
ROUNDS = dataclasses.replace(CONTINUOUS, continuous=False, every=2.0, readers=1)
RATE = StreamRate(
    changes=500.0,
    record_bytes=1000.0,
    busiest_share=0.25,
    active_shards=3,
    sampled_shards=4,
    seconds=300.0,
    calls=8,
)
ORDERS = TableFacts("orders", 1_000_000, 20 * GIB, 4, RETENTION_SECONDS, RATE)


def estimates(table=ORDERS, reading=CONTINUOUS, prices=None, speeds=SPEEDS):
    made = make_plan([table], {table.name: reading}, prices or Prices(), speeds)
    return {each.name: each for each in (*made.tables[0].estimates, *made.totals)}


def values(*args, **kwargs):
    return {name: each.value for name, each in estimates(*args, **kwargs).items()}


def rated(changes, **fields):
    return dataclasses.replace(ORDERS, rate=dataclasses.replace(RATE, changes=changes, **fields))


class TestEstimates:
    def test_by_hand(self):
        found = values()
        assert found["export_price"] == pytest.approx(2.0)  # 20 GB at $0.10
        assert found["export_files"] == 2  # partitions of 10 GB
        assert found["export_storage_price"] == pytest.approx(0.46)
        assert found["snapshot_seconds"] == pytest.approx(1_000_000 / 45_000)
        # Three active shards every 250 ms, an idle one every second.
        assert found["polls_a_day"] == 3 * 86_400 * 4 + 86_400
        assert found["stream_calls_a_day"] == found["polls_a_day"]
        paid = found["polls_a_day"] * 30 - 2_500_000
        assert found["stream_price"] == pytest.approx(paid / 100_000 * 0.02)
        assert found["pages_a_day"] == pytest.approx(500 * 86_400 / 1000)
        # Four shards at once, 20 pages a second each, 1000 changes a page: more than can be merged.
        assert found["reading_speed"] == 45_000
        assert found["catch_up_seconds"] == pytest.approx(500 * 86_400 / 44_500)
        assert found["seconds_to_loss"] is None

    def test_rounds_poll_by_their_pause(self):
        assert values(reading=ROUNDS)["polls_a_day"] == 43_200 * 4 * 3
        once = dataclasses.replace(ROUNDS, every=0.0, runs_a_day=24)
        assert values(reading=once)["polls_a_day"] == 24 * 4 * 3

    @pytest.mark.parametrize("reading", [CONTINUOUS, ROUNDS])
    @given(
        items=st.integers(0, 10**10),
        size=st.integers(0, 10**14),
        shards=st.integers(1, 5000),
        changes=st.one_of(st.none(), st.floats(0, 10**7)),
    )
    def test_each_is_what_its_formula_makes_of_its_inputs(
        self, reading, items, size, shards, changes
    ):
        rate = None if changes is None else dataclasses.replace(RATE, changes=changes)
        table = TableFacts("orders", items, size, shards, RETENTION_SECONDS / 2, rate)
        for estimate in estimates(table, reading).values():
            if estimate.formula == "DescribeStream" or estimate.formula.startswith("sum of "):
                continue
            known = {name: value for name, value in estimate.inputs.items() if value is not None}
            if len(known) == len(estimate.inputs) and estimate.value is not None:
                names = {"ceil": math.ceil, "min": min, "max": max}
                assert eval(estimate.formula, names, known) == pytest.approx(estimate.value)

    def test_without_a_sample_nothing_is_made_up(self):
        found = estimates(dataclasses.replace(ORDERS, rate=None))
        for name in ("pages_a_day", "catch_up_seconds", "seconds_to_loss"):
            assert found[name].value is None
            assert found[name].text == "not known"
        assert "--sample" in found["catch_up_seconds"].note

    def test_what_is_not_read_has_no_estimates(self):
        found = values(reading=dataclasses.replace(CONTINUOUS, snapshot=False))
        assert "export_price" not in found
        assert "polls_a_day" in found
        found = values(reading=dataclasses.replace(CONTINUOUS, stream=False))
        assert "export_price" in found
        assert "polls_a_day" not in found


class TestTwentyFourHours:
    def test_reading_that_is_fast_enough_never_loses(self):
        assert seconds_to_loss(rated(40_000.0), CONTINUOUS, SPEEDS) is None

    def test_slower_than_the_changes_from_the_oldest_record_loses_at_once(self):
        assert seconds_to_loss(rated(90_000.0), CONTINUOUS, SPEEDS) == 0.0

    def test_slower_than_the_changes_from_the_tip_loses_by_and_by(self):
        latest = dataclasses.replace(CONTINUOUS, from_horizon=False)
        # Half as fast: half a second is lost each second.
        assert seconds_to_loss(rated(90_000.0), latest, SPEEDS) == 2 * RETENTION_SECONDS

    def test_one_hot_shard_is_read_page_after_page(self):
        # 20 pages a second of 1000 changes, whatever the threads: 20,000 changes.
        hot = rated(30_000.0, busiest_share=0.9)
        assert reading_speed(hot, CONTINUOUS, SPEEDS) > 30_000
        assert seconds_to_loss(hot, CONTINUOUS, SPEEDS) == 0.0
        assert seconds_to_loss(rated(30_000.0), CONTINUOUS, SPEEDS) is None

    @given(changes=st.floats(1, 10**7), speed=st.floats(1, 10**6))
    def test_the_faster_the_reading_the_later_the_loss(self, changes, speed):
        table, latest = rated(changes), dataclasses.replace(CONTINUOUS, from_horizon=False)
        slow = seconds_to_loss(table, latest, speeds_for([], speed))
        fast = seconds_to_loss(table, latest, speeds_for([], 2 * speed))
        assert fast is None or (slow is not None and slow <= fast)

    def test_is_warned_of_loudly(self):
        made = make_plan([rated(90_000.0)], {"orders": CONTINUOUS}, Prices(), SPEEDS)
        (warning,) = made.warnings
        assert "orders: THE 24 HOURS END FIRST: 90,000 changes/s come" in warning
        assert "45,000/s can be read. Changes are lost from the start" in warning
        assert make_plan([ORDERS], {"orders": CONTINUOUS}, Prices(), SPEEDS).warnings == []

    def test_tables_that_are_too_much_together(self):
        tables = [dataclasses.replace(rated(30_000.0), name=name) for name in ("a", "b")]
        made = make_plan(tables, dict.fromkeys("ab", CONTINUOUS), Prices(), SPEEDS)
        (warning,) = made.warnings
        assert warning.startswith("all tables: THE 24 HOURS END FIRST: together 60,000 changes/s")

    def test_a_run_a_day_is_too_seldom(self):
        daily = dataclasses.replace(ROUNDS, every=0.0, runs_a_day=1)
        made = make_plan([ORDERS], {"orders": daily}, Prices(), SPEEDS)
        assert any("rounds are 1.0 d apart" in each for each in made.warnings)

    def test_a_table_without_a_stream(self):
        made = make_plan(
            [TableFacts("orders", 1, 100, 0, 0.0)], {"orders": CONTINUOUS}, Prices(), SPEEDS
        )
        assert "has no stream that is on" in made.warnings[0]


class TestPrices:
    def test_can_be_given(self):
        prices = parse_prices(["export_gb=0.12", "stream_free=0"])
        assert (prices.export_gb, prices.stream_free, prices.s3_put) == (0.12, 0.0, 0.005)
        assert prices.as_of == "as given"
        assert values(prices=prices)["export_price"] == pytest.approx(2.4)

    def test_have_a_date(self):
        assert parse_prices([]) == Prices(as_of="2026-11", region="us-east-1")

    @pytest.mark.parametrize("text", ["export_gb", "export_gb=x", "export_gb=-1", "as_of=1", "x=1"])
    def test_wrong_ones(self, text):
        with pytest.raises(ConfigurationError, match="--price: not a price"):
            parse_prices([text])


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "bytes", "0 B"),
        (48.2 * GIB, "bytes", "48.2 GiB"),
        (1536, "bytes", "1.5 KiB"),
        (5400, "seconds", "1.5 h"),
        (12.34, "seconds", "12.3 s"),
        (0.001, "USD", "< $0.01"),
        (1234.5, "USD per month", "$1,234.50 a month"),
        (2.5, "per second", "2.5/s"),
        (1_036_800, "per day", "1,036,800 a day"),
    ],
)
def test_numbers_for_people(value, unit, text):
    assert shown(value, unit) == text
