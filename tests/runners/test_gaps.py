# SPDX-License-Identifier: Apache-2.0
"""On Flink: a run is kept away while its streams lose changes; what each policy makes of it."""

from __future__ import annotations

import pathlib
import sys
from datetime import timedelta

import pytest

from tests.runners.flink_parts import FlinkParts
from tests.runners.gaps import HEALED, RESNAPSHOTTED, gaps

GAPS = (timedelta(minutes=20), timedelta(hours=23), timedelta(days=3))


@pytest.mark.long
@pytest.mark.flink
@pytest.mark.slow
@pytest.mark.runner
def test_gaps_of_all_lengths(flink: FlinkParts, tmp_path: pathlib.Path):
    # It fails by itself unless mirrors are equal, deletes included.
    seen = gaps(tmp_path, flink, GAPS)
    assert seen.refused_code == 1
    (line,) = {each for each in seen.refused_log.splitlines() if "cannot go on" in each}
    assert "GapError" in line
    assert "--gaps=heal" in line
    assert any("cannot go on" in each and "--gaps=heal" in each for each in seen.reasons)
    assert [gap.span for gap in seen.gaps] == list(GAPS)
    for gap in seen.gaps:
        sys.stdout.write(f"{gap.span}: {gap.ended}, equal after {gap.seconds:.0f} s\n")
        kinds = {name: each["kind"] for name, each in gap.ended.items()}
        assert kinds == {HEALED: "heal", RESNAPSHOTTED: "resnapshot"}
