# SPDX-License-Identifier: Apache-2.0
"""The state of a table as JSON: read as it was written, refused if damaged or newer."""

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynabeam.transforms.errors import StateError
from dynabeam.transforms.model.gap import Gap, GapKind
from dynabeam.transforms.state.gap_events import Repaired
from dynabeam.transforms.state.repair_plan import Repair
from dynabeam.transforms.state.state_directory import State, StateDirectory
from dynabeam.transforms.state.table_state import (
    LoadState,
    RepairState,
    SeenState,
    StreamState,
    TableState,
    Totals,
    Unrepaired,
)
from dynabeam.transforms.stream.frontier import Frontier, ShardPosition
from tests.state.states import TABLE, manifest_of, state_of

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "table-states.json").read_text("utf-8"))
LOAD = LoadState.new("pending", generation=3, not_before_us=7, from_us=5, to_us=6)
STATES = {
    "nothing read": state_of(),
    "all fields": TableState(
        TABLE,
        "id",
        3,
        StreamState(
            "arn",
            5,
            (Frontier((ShardPosition("s", "after", sequence="12", low_us=5),), swept_us=9), None),
            "trim_horizon",
            {1: SeenState(8, True, 1, ("s",), 7, False)},
            6,
        ),
        LoadState("loading", 2, "arn", manifest_of("/a", "/b"), {"/a": "done", "/b": 5}, 9, 15, 0),
        Totals(1, 2, 3, 4, 5, 6, 7, 8, 9),
        (LOAD, dataclasses.replace(LOAD, from_us=6, to_us=7, attempt=1, failed=("why",))),
        RepairState(Repair("heal", "", ((5, 6), (6, 7)), 7, 8), 5, True, ("/m",)),
        (Repaired(2, 0),),
        Unrepaired("heal", 5),
        (Gap("orders", GapKind.TRIMMED, "arn", "s", "12", 5, 6, "why", 2),),
        "recreated",
        "order",
        2,
        True,
        True,
        {"duckdb": 3},
    ),
}
counts = st.integers(0, 2**63 - 1)
texts = st.text(max_size=5)
loads = st.builds(
    LoadState,
    st.sampled_from(["none", "pending", "loading", "done"]),
    counts,
    texts,
    st.sampled_from([None, manifest_of("/a", "/b"), manifest_of()]),
    st.dictionaries(texts, counts | st.just("done"), max_size=2),
    counts,
    counts,
    counts | st.none(),
    *(counts, counts, texts, counts, st.lists(texts, max_size=2).map(tuple)),
)
streams = st.builds(
    StreamState,
    texts,
    counts,
    st.lists(st.none() | st.builds(Frontier, swept_us=counts), max_size=2).map(tuple),
    texts,
    st.dictionaries(
        st.integers(0, 9),
        st.builds(
            SeenState, counts, st.booleans(), counts, st.tuples(texts), counts, st.booleans()
        ),
        max_size=2,
    ),
    counts,
)
states = st.builds(
    TableState,
    *(st.just(TABLE), texts, counts, st.none() | streams, loads),
    st.builds(Totals, *[counts] * 9),
    st.lists(loads, max_size=2).map(tuple),
    st.none()
    | st.builds(
        RepairState,
        st.builds(
            Repair, st.sampled_from(["heal", "resnapshot"]), texts, st.just(()), counts, counts
        ),
        counts,
        st.booleans(),
        st.none() | st.lists(texts, max_size=2).map(tuple),
    ),
    st.lists(st.builds(Repaired, counts, counts), max_size=2).map(tuple),
    st.none() | st.builds(Unrepaired, st.sampled_from(["", "heal", "resnapshot"]), counts),
    st.lists(
        st.builds(
            Gap,
            *(st.just("orders"), st.sampled_from(GapKind), texts, texts, texts),
            *(counts, counts, texts, counts),
        ),
        max_size=2,
    ).map(tuple),
    st.sampled_from(["", "deleted", "recreated"]),
    *(texts, counts, st.booleans(), st.booleans()),
    st.dictionaries(texts, counts, max_size=2),
)


@pytest.mark.parametrize("name", STATES)
def test_as_it_has_always_been_written(name):
    assert STATES[name].to_json() == GOLDEN[name]
    assert TableState.from_json(GOLDEN[name]) == STATES[name]


def test_what_the_first_versions_did_not_write():
    found = TableState.from_json(GOLDEN["of the first versions"])
    assert found.snapshot.generation == 1
    assert (found.totals.healed_rows, found.totals.swept) == (0, 0)
    assert found.stream.seen == {0: SeenState(0, False, 0, (), 0, True)}
    assert [each.generation for each in found.gaps] == [0]
    assert found.heal == ()


@given(state=states)
def test_read_as_it_was_written(state):
    text = json.dumps(state.to_json())
    assert TableState.from_json(json.loads(text)) == state


@pytest.mark.parametrize("kept", [None, manifest_of("/a", "/b")])
@given(state=states)
def test_through_the_directory(kept, state, tmp_path_factory):
    state = dataclasses.replace(state, snapshot=dataclasses.replace(state.snapshot, manifest=kept))
    directory = StateDirectory(str(tmp_path_factory.mktemp("state")))
    directory.commit(State("id", 1, "a", {"orders": state}))
    assert StateDirectory(directory.path).load().tables == {"orders": state}


def parts(document, path=()):
    """The paths of all values in a document."""
    steps = document.items() if isinstance(document, dict) else enumerate(document)
    for name, each in steps:
        yield (*path, name)
        if isinstance(each, (dict, list)):
            yield from parts(each, (*path, name))


def changed(path, value):
    """A document that has another value at a path, or one more field there."""
    document = json.loads(json.dumps(GOLDEN["all fields"]))
    *way, last = path
    part = document
    for step in way:
        part = part[step]
    part[last] = value
    return document


def problem_of(document, tmp_path):
    """The error of a state directory that has a document."""
    path = tmp_path / "state.json"
    whole = {"format": 2, "state_id": "id", "round": 1, "attempt": "a"}
    path.write_text(json.dumps({**whole, "tables": {"orders": document}}))
    with pytest.raises(StateError) as caught:
        StateDirectory(str(tmp_path)).load()
    assert str(path) in str(caught.value)
    return caught.value


@pytest.mark.parametrize("path", list(parts(GOLDEN["all fields"])), ids=str)
def test_a_damaged_value_names_the_file_and_the_field(path, tmp_path):
    error = problem_of(changed(path, {"neither": ["this"]}), tmp_path)
    if "newer version" not in str(error):
        assert f"tables: orders: {path[0]}" in str(error)


OBJECTS = [(), ("stream",), ("stream", "seen", "1"), ("snapshot",), ("totals",), ("heal", 0)]
OBJECTS += [("repair",), ("repair", "plan"), ("unrepaired",), ("gaps", 0)]
OBJECTS += [("stream", "frontiers", 0), ("snapshot", "manifest")]


@pytest.mark.parametrize("path", OBJECTS, ids=str)
def test_a_field_of_a_newer_version_is_not_lost(path, tmp_path):
    error = problem_of(changed((*path, "colour"), "red"), tmp_path)
    assert "colour" in str(error)
    assert "or a newer one" in error.hint
