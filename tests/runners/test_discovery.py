# SPDX-License-Identifier: Apache-2.0
"""A table that appears while a continuous run goes on is in the sink, and nobody had to add it."""

from __future__ import annotations

import pathlib
import sys
import time

import pytest

from tests.runners.continuous_world import ContinuousWorld
from tests.runners.prism import options as prism_options
from tests.runners.processes import Process

_SECONDS = 120
_INTERRUPTED = 130


@pytest.mark.prism
@pytest.mark.slow
@pytest.mark.runner
def test_prism_discovers(prism: pathlib.Path, tmp_path: pathlib.Path):
    with ContinuousWorld(tmp_path, tables=1, export_seconds=3, changelog=False) as world:
        options = ("--mode=continuous", "--verify_chain", "--discover_every=20s")
        words = world.command(*options, *prism_options(prism), names=["table*"])
        process = Process("replicate", words, tmp_path / "replicate.log", world.variables)
        try:
            world.wait_for_snapshots(_SECONDS, process, names=["table0"])
            world.create("table1")
            began = time.monotonic()
            world.wait_for_snapshots(_SECONDS, process, names=["table1"])
            sys.stdout.write(f"a new table in PostgreSQL after {time.monotonic() - began:.1f} s\n")
            assert process.interrupt(_SECONDS) == _INTERRUPTED, process.tail()
        finally:
            process.stop()
        assert world.differences() == []
        # What the run found by itself is known to the position document when rounds go on.
        world.run("--until=caught_up", "--take_over", names=["table0", "table1"])
        assert world.differences() == []
