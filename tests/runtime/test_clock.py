# SPDX-License-Identifier: Apache-2.0
"""The service's time from its answers: right clocks stay as they are, wrong ones are put right."""

from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from botocore.exceptions import ClientError

from dynabeam.transforms.aws.dynamodb import describe_table
from dynabeam.transforms.aws.session import AwsAccess
from dynabeam.transforms.errors import TableError
from dynabeam.transforms.runtime.clock import machine_us, now_us, observe, offset_us
from dynabeam.transforms.testing.clock import SimClock
from dynabeam.transforms.testing.simulator import Simulator

SECOND = 1_000_000
SENT = 1_800_000_000 * SECOND


def date(us):
    return format_datetime(datetime.fromtimestamp(us // SECOND, timezone.utc), usegmt=True)


class TestBounds:
    @pytest.mark.parametrize("late_us", [0, 1, SECOND // 2, SECOND - 1])
    @pytest.mark.parametrize("took_us", [0, 20_000, 30 * SECOND])
    def test_a_clock_that_is_right_is_left_alone(self, late_us, took_us):
        sent = SENT + late_us
        for made in (sent, sent + took_us):
            observe(date(made), sent, sent + took_us)
            assert offset_us() == 0

    @pytest.mark.parametrize("off", [-7_200, -240, -5, 5, 240, 7_200])
    def test_a_clock_that_is_wrong_is_put_right_to_the_second(self, off):
        for late_us in range(0, SECOND, 100_000):
            sent = SENT + late_us
            observe(date(sent + off * SECOND), sent, sent + 50_000)
            assert abs(offset_us() - off * SECOND) <= SECOND
        # It does not wander from answer to answer.
        standing = offset_us()
        observe(date(sent + 10 * SECOND + off * SECOND), sent + 10 * SECOND, sent + 11 * SECOND)
        assert offset_us() == standing

    def test_a_slow_answer_proves_little(self):
        observe(date(SENT + 240 * SECOND), SENT, SENT + 20_000)
        standing = offset_us()
        observe(date(SENT + 240 * SECOND), SENT - 60 * SECOND, SENT + 60 * SECOND)
        assert offset_us() == standing

    def test_a_clock_that_is_set_right_is_believed_again(self):
        observe(date(SENT + 240 * SECOND), SENT, SENT + 20_000)
        observe(date(SENT), SENT, SENT + 20_000)
        assert offset_us() == 0

    @pytest.mark.parametrize("text", ["", "now", "Thu, 99 Foo 2026 00:00:00 GMT"])
    def test_what_is_no_date_says_nothing(self, text):
        observe(text, SENT, SENT)
        assert offset_us() == 0


@pytest.mark.parametrize("off", [timedelta(minutes=-4), timedelta(minutes=4), timedelta(hours=2)])
def test_answers_of_the_service_set_the_clock(off, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "simulated")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "simulated")
    with Simulator(clock=SimClock(offset=off)) as sim:
        sim.create_table("orders", "id:S")
        access = AwsAccess(region=sim.region, endpoint_url=sim.endpoint_url)
        describe_table(access, "orders")
        assert abs(now_us() - sim.clock.micros()) < 3 * SECOND
        assert abs(now_us() - machine_us() - off // timedelta(microseconds=1)) < 3 * SECOND


def test_errors_say_it_too(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "simulated")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "simulated")
    with Simulator(clock=SimClock(offset=timedelta(minutes=4))) as sim:
        access = AwsAccess(region=sim.region, endpoint_url=sim.endpoint_url)
        with pytest.raises((TableError, ClientError)):
            describe_table(access, "orders")
        assert abs(now_us() - sim.clock.micros()) < 3 * SECOND
