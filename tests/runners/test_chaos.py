# SPDX-License-Identifier: Apache-2.0
"""A continuous run on Flink loses nothing, whatever dies."""

from __future__ import annotations

import pathlib
import sys

import pytest

from tests.runners.chaos import ChaosSettings, chaos
from tests.runners.flink_parts import FlinkParts

_RESTORES = 5
"""Three TaskManagers, the workers, and the beginning from a retained checkpoint."""


@pytest.mark.long
@pytest.mark.flink
@pytest.mark.slow
@pytest.mark.runner
def test_nothing_is_lost(flink: FlinkParts, tmp_path: pathlib.Path):
    settings = ChaosSettings()
    left = chaos(tmp_path, flink, settings)
    sys.stdout.write(str(left))
    assert left.lost == 0
    # Mirrors were compared item by item; these show that there was something to survive.
    assert left.written / left.seconds >= 500
    assert left.restores >= _RESTORES
    assert left.faults["ExpiredIteratorException"] > 0
    assert sum(left.faults.values()) > 100
    assert left.snapshot_rows >= 300 * settings.tables
    assert left.dead_letters == 0
