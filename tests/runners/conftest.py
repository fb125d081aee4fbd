# SPDX-License-Identifier: Apache-2.0
"""Runners as fixtures. Without Java, Maven or Go: a failure in CI, a skip elsewhere."""

from __future__ import annotations

import fcntl
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from dynabeam.transforms.testing.remote import RemoteSimulator
from tests.runners.flink_parts import FlinkParts, flink_parts
from tests.runners.parts import MissingToolError, cache_folder
from tests.runners.prism import prism_binary
from tests.runners.simulator_process import SimulatorProcess

_T = TypeVar("_T")


def pytest_configure(config: pytest.Config) -> None:
    """Registers the markers of this folder."""
    config.addinivalue_line("markers", "flink: needs Java and Maven: a Flink cluster is started")
    config.addinivalue_line("markers", "prism: needs Go: Beam's Prism is built")


def or_skip(assemble: Callable[[], _T]) -> _T:
    """What `assemble` returns; without a program that it needs, the test fails or is skipped."""
    try:
        return assemble()
    except MissingToolError as missing:
        if os.environ.get("CI"):
            pytest.fail(f"{missing}; in CI it must be there")
        pytest.skip(str(missing))


@pytest.fixture(autouse=True)
def one_cluster_at_a_time(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tests of several processes would start a cluster each, on a machine for one."""
    if request.node.get_closest_marker("flink") is None:
        yield
        return
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "running.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def flink() -> FlinkParts:
    """An assembled Flink, for `tests.runners.flink.Flink`."""
    return or_skip(flink_parts)


@pytest.fixture(scope="session")
def prism() -> pathlib.Path:
    """Prism's binary, for `--prism_location`."""
    return or_skip(prism_binary)


@pytest.fixture
def simulator(tmp_path: pathlib.Path) -> Iterator[RemoteSimulator]:
    """A simulator in a process of its own."""
    with SimulatorProcess(tmp_path / "simulator.log") as remote:
        yield remote
