# SPDX-License-Identifier: Apache-2.0
"""On Flink, under load: what a stream lost is repaired, and a snapshot is taken to order."""

from __future__ import annotations

import pathlib

import pytest

from tests.runners.flink_parts import FlinkParts
from tests.runners.repairs import repairs


@pytest.mark.long
@pytest.mark.flink
@pytest.mark.slow
@pytest.mark.runner
def test_a_gap_is_healed_and_a_snapshot_taken_again(flink: FlinkParts, tmp_path: pathlib.Path):
    # It fails by itself unless mirrors are equal and nothing of the other table is missing.
    seen = repairs(tmp_path, flink, rate=20)
    assert seen.healed.ended is not None
    assert seen.healed.ended["kind"] == "heal"
    assert seen.snapshotted.ended is not None
    assert seen.snapshotted.generation > 1
    assert seen.lost > 0
    assert seen.written > 1000
    assert seen.discovery_seconds <= 60
