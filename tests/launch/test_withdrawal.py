# SPDX-License-Identifier: Apache-2.0
"""A deployment that was begun for a job which never ran is over; an earlier one stays."""

from __future__ import annotations

import pytest

from dynabeam.pipelines.continuous.deployments import begin
from dynabeam.pipelines.launch.flink_submission import deployment_of, withdraw
from dynabeam.transforms.errors import StateError
from dynabeam.transforms.state.state_directory import StateDirectory


@pytest.fixture
def begun(tmp_path):
    """A state directory with a deployment: its path, and the deployment's folder."""
    directory = StateDirectory(str(tmp_path / "state"))
    with directory.locked():
        state = directory.load()
        directory.keep_identity(state)
        folder = begin(directory, state)
        directory.commit(state)
    return directory.path, folder


def test_a_new_one_is_over(begun):
    path, folder = begun
    assert deployment_of(path)
    assert withdraw(path, "", "nobody")
    assert deployment_of(path) == ""
    with pytest.raises(StateError, match="another run has taken over: nobody"):
        folder.check_current()
    assert not withdraw(path, "", "nobody")


def test_an_earlier_one_stays(begun):
    path, folder = begun
    before = deployment_of(path)
    assert not withdraw(path, before, "nobody")
    assert deployment_of(path) == before
    folder.check_current()
