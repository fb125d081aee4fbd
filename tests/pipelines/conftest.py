# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the commands' tests: an account with a table, a folder without AWS."""

import pytest

from tests.pipelines.runs import ExportFolder, Place, World


@pytest.fixture
def credentials(monkeypatch):
    """Credentials for the simulator, which looks at none; nothing else of the environment's."""
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "simulated")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "simulated")


@pytest.fixture
def world(credentials, tmp_path, capsys):
    """The table `orders` with stream and recovery, in a simulated account."""
    created = World(tmp_path, capsys)
    with created.sim:
        yield created


@pytest.fixture
def place(tmp_path, capsys, monkeypatch):
    """State and sinks, without AWS."""
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    return Place(tmp_path, capsys, ["--keys=orders:id"])


@pytest.fixture
def export(tmp_path):
    """A full export of `orders`, 40 items in two data files."""
    return ExportFolder(tmp_path / "bucket")
