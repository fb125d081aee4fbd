# SPDX-License-Identifier: Apache-2.0
"""A continuous run that cannot go on says why, and its command ends."""

from __future__ import annotations

import pathlib
import time

import pytest

from tests.runners.continuous_world import ContinuousWorld
from tests.runners.prism import options as prism_options
from tests.runners.processes import Process
from tests.runners.steady_work import key_of

_SECONDS = 120


@pytest.mark.prism
@pytest.mark.slow
@pytest.mark.runner
def test_lost_changes_stop_prism(prism: pathlib.Path, tmp_path: pathlib.Path):
    with ContinuousWorld(tmp_path, tables=1, export_seconds=3, changelog=False) as world:
        words = world.command("--mode=continuous", "--gaps=fail", *prism_options(prism))
        process = Process("replicate", words, tmp_path / "replicate.log", world.variables)
        try:
            world.wait_for_snapshots(_SECONDS, process, names=["table0"])
            deadline = time.monotonic() + _SECONDS
            number = 0
            # The stream loses what nobody has read yet, again and again until a reader sees it.
            while process.is_alive and time.monotonic() < deadline:
                world.sim.put_many("table0", [key_of(world.tables["table0"], number)])
                world.sim.trim("table0", before=world.sim.now())
                number += 1
                time.sleep(0.1)
            assert process.wait(1) == 1, process.tail()
        finally:
            process.stop()
        said = process.log.read_text().splitlines()
        (line,) = [each for each in said if "the run cannot continue" in each]
        assert line.startswith("dynabeam: the run cannot continue because of table0: GapError: ")
        assert "--gaps=heal" in line
        reasons = world.status()["reasons"]
        assert [each for each in reasons if each.startswith("table0: the run cannot continue: Gap")]
