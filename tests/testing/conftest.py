# SPDX-License-Identifier: Apache-2.0
"""A simulator with a clock moved by hand, and real clients that never retry."""

from datetime import datetime, timezone

import pytest
from botocore.config import Config

from dynabeam.transforms.testing.clock import SimClock
from dynabeam.transforms.testing.simulator import Simulator

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone.utc)
ONE_TRY = Config(retries={"total_max_attempts": 1})


@pytest.fixture
def sim():
    with Simulator(seed=1, clock=SimClock.manual(NOW)) as simulator:
        yield simulator


@pytest.fixture
def dynamodb(sim):
    return sim.client("dynamodb", config=ONE_TRY)


@pytest.fixture
def streams(sim):
    return sim.client("dynamodbstreams", config=ONE_TRY)
