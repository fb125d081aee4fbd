# SPDX-License-Identifier: Apache-2.0
"""An account of AWS for launches."""

import pytest

from tests.pipelines.conftest import credentials
from tests.pipelines.runs import World, orders
from tests.templates.machine import Google

__all__ = ["account", "credentials"]


@pytest.fixture(scope="module")
def account(tmp_path_factory):
    """A simulated account with the table `orders` and a bucket for sinks and state."""
    created = World(tmp_path_factory.mktemp("world"), None)
    created.sim.create_bucket("target")
    with created.sim:
        created.sim.put_many("orders", orders(3))
        created.age()
        yield created


@pytest.fixture(scope="module")
def google():
    """Cloud Storage and the metadata server of a machine."""
    with Google() as created:
        yield created
