# SPDX-License-Identifier: Apache-2.0
"""A state directory keeps its identity from before its first round."""

from dynabeam.transforms.state.state_directory import State, StateDirectory
from tests.state.states import state_of


def test_a_crash_before_the_first_commit_leaves_the_identity(tmp_path):
    directory = StateDirectory(str(tmp_path))
    first = directory.load()
    directory.keep_identity(first)
    assert StateDirectory(str(tmp_path)).load() == State(first.state_id, 0, "", {})


def test_a_committed_state_stays_as_it_is(tmp_path):
    directory = StateDirectory(str(tmp_path))
    committed = State(directory.load().state_id, 3, "attempt", {"orders": state_of()})
    directory.commit(committed)
    directory.keep_identity(committed)
    assert directory.load() == committed
