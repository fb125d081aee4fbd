# SPDX-License-Identifier: Apache-2.0
"""What is kept between runs: read as it says, or a typed error that names the file.

What is read is written again and compared with a plain reading of the document, so that no value is
made of another one.
"""

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynabeam.pipelines.rounds.last_run import LastRun, read_last_run
from dynabeam.pipelines.status.acknowledged import read_acknowledged
from dynabeam.transforms.continuous.control_folder import Assignment, ControlFolder
from dynabeam.transforms.continuous.discover_tables import Discovered, DiscoveredCoder
from dynabeam.transforms.continuous.discovery import Finding, read_findings, write_findings
from dynabeam.transforms.continuous.fatal_errors import load_fatal_errors, record_fatal_error
from dynabeam.transforms.continuous.generations import TableGeneration, read_generation
from dynabeam.transforms.continuous.stream_ends import (
    Followed,
    StreamEnd,
    add_followed,
    read_ends,
    read_followed,
    write_end,
)
from dynabeam.transforms.continuous.watch_assignments import Seen, SeenCoder
from dynabeam.transforms.dead_letters.store import DeadLetterStore
from dynabeam.transforms.errors import DynabeamError, SinkError, StateError, ValueDecodeError
from dynabeam.transforms.export.elements import (
    FileSlice,
    FileSliceCoder,
    SnapshotRequest,
    SnapshotRequestCoder,
)
from dynabeam.transforms.export.ensure_export import WaitState, WaitStateCoder
from dynabeam.transforms.export.manifest import DataFile
from dynabeam.transforms.model.block import SCHEMA, Block, BlockCoder
from dynabeam.transforms.model.dead_letter import DeadLetter
from dynabeam.transforms.model.report import Report, ReportCoder
from dynabeam.transforms.sinks.base import Round
from dynabeam.transforms.sinks.files.staging import RoundFiles
from dynabeam.transforms.state.snapshot_signals import SnapshotSignal, SnapshotSignals
from dynabeam.transforms.state.state_directory import State, StateDirectory
from dynabeam.transforms.state.table_state import SeenState, StreamState
from dynabeam.transforms.stream.frontier import Counts, Frontier, FrontierCoder, ShardPosition
from dynabeam.transforms.stream.reader_spec import ReaderSpecCoder
from tests.fuzz.cases import cases
from tests.fuzz.hostile import damaged, documents
from tests.sinks.changes import Change, only_block, table
from tests.state.states import state_of
from tests.stream.scripted import ARN, TABLE, source

FRONTIER = Frontier(
    shards=(
        ShardPosition("shardId-00000001800000000000-00000001", "after", "", "12", low_us=5),
        ShardPosition("shardId-00000001800000000000-00000002"),
    ),
    pending=(("shardId-00000001800000000001-00000003", "shardId-00000001800000000000-00000001"),),
    finished=(("shardId-00000001700000000000-00000001", 7),),
    foreign=("shardId-00000001700000000000-00000002",),
    foreign_before_ms=8,
    swept_us=9,
    counts=Counts(changes=3),
    generation=2,
)
REQUEST = SnapshotRequest(TABLE, 1, 4, "newest:60", "bucket", loaded={"/x": "done", "/y": 5})
SLICE = FileSlice(
    TABLE, 1, 4, "arn", 5, DataFile("/x", 3, "aGk="), 0, 0, 1, "ION", "FULL_EXPORT", ""
)
ELEMENTS = {
    "frontier": (FrontierCoder(), FRONTIER),
    "stream source": (ReaderSpecCoder(), source(FRONTIER)),
    "snapshot request": (SnapshotRequestCoder(), REQUEST),
    "file slice": (FileSliceCoder(), SLICE),
    "report": (ReportCoder(), Report("stream", "orders", {"frontier": FRONTIER.to_json()})),
    "wait state": (WaitStateCoder(), WaitState(export_arn="arn", next_look_us=5, attempt=1)),
    "seen": (SeenCoder(), Seen(names=("a", "b"), next_look_us=5)),
    "discovered": (DiscoveredCoder(), Discovered(("a",), ("t",), 5, ("s",))),
}


def json_of(content):
    """A plain reading; `damaged` if it is none, or readers may differ."""
    twice = []

    def pairs(members):
        twice.append(len(dict(members)) < len(members))
        return dict(members)

    try:
        found = json.loads(content, object_pairs_hook=pairs)
    except (ValueError, RecursionError):
        return None
    return None if any(twice) else found


def says(document, written):
    """Whether what was written again says all that the document said, and as it said it."""
    if isinstance(document, dict):
        return isinstance(written, dict) and all(
            name in written and says(named(name, value), written[name])
            for name, value in document.items()
            if name in written or not is_default(value)
        )
    if isinstance(document, list):
        return (
            isinstance(written, list)
            and len(document) == len(written)
            and all(map(says, document, written))
        )
    same = type(document) is type(written) and document == written
    return same or (is_default(document) and is_default(written))


def named(name, value):
    """A value without what is passed over in it: members of a table that nobody knows."""
    if name == "table" and isinstance(value, dict):
        return {each: value[each] for each in ("name", "arn") if each in value}
    return value


def is_default(value):
    # What has its default is left out when it is written.
    return value in (0, "", None, [], {}, "trim_horizon") and not isinstance(value, bool)


class TestElements:
    @pytest.mark.parametrize("name", sorted(ELEMENTS))
    @cases(0.12)
    @given(data=st.data())
    def test_each_coder(self, name, data):
        coder, element = ELEMENTS[name]
        content = data.draw(documents(coder.encode(element)))
        try:
            found = coder.decode(content)
        except ValueDecodeError as error:
            told(error)
            return
        document = json_of(content)
        if document is not None:
            assert document.pop("format", 1) == 1
            assert says(document, json.loads(coder.encode(found)))

    @cases(0.15)
    @given(data=st.data())
    def test_blocks(self, data):
        block = only_block(table(), [Change(n, {"id": {"S": f"k{n}"}}) for n in range(3)])
        content = data.draw(damaged(BlockCoder().encode(block)))
        try:
            found = BlockCoder().decode(content)
        except DynabeamError as error:
            told(error)
            return
        assert isinstance(found, Block)
        assert found.rows.schema == SCHEMA


def told(error, place=""):
    """An error for people: one line, and what it is about."""
    text = str(error)
    assert str(place) in text
    assert text
    assert "\n" not in text


def orders(folder):
    SnapshotSignals(str(folder)).give(SnapshotSignal("orders", "1", 5))


def deployment(folder):
    return ControlFolder(str(folder / "continuous" / "d1"))


def letter(number=1):
    return DeadLetter(
        "orders",
        "stream",
        f"record {number}",
        "why",
        b"{%d" % number,
        origin={"sequence": str(number)},
        first_us=number,
        last_us=number,
    )


def positions(folder):
    manifest = {"export_arn": "arn", "location": "/x", "files": []}
    deployment(folder).write_positions(
        "orders",
        [
            Report("stream", "orders", {"frontier": FRONTIER.to_json()}),
            Report("export", "orders", {"manifest": manifest}),
        ],
    )


def state(folder):
    seen = {0: SeenState(5, True, 1, ("s",), 4, False)}
    states = {"orders": state_of(stream=StreamState(ARN, 5, (FRONTIER,), seen=seen))}
    StateDirectory(str(folder)).commit(State("ab12", 3, "attempt", states))


def last_run(folder):
    document = {"format": 1, **dataclasses.asdict(LastRun(5, 6, "failed", "why", ["orders"]))}
    (folder / "last_run.json").write_text(json.dumps(document))


def acknowledged(folder):
    (folder / "acknowledged.json").write_text('{"format":1,"tables":{"orders":3}}')


def letters(folder):
    box = DeadLetterStore(str(folder))
    box.keep([letter(1), letter(2)])
    box.done([("orders", letter(1).id)])


def marker(folder):
    staging_of(folder).claim_round(Round("ab12", 3, "attempt"))


def staging_of(folder):
    return RoundFiles(str(folder))


DOCUMENTS = {
    "state.json": (state, lambda folder: StateDirectory(str(folder)).load()),
    "last_run.json": (last_run, lambda folder: read_last_run(StateDirectory(str(folder)))),
    "acknowledged.json": (
        acknowledged,
        lambda folder: list(read_acknowledged(StateDirectory(str(folder))).values()),
    ),
    "order": (orders, lambda folder: SnapshotSignals(str(folder)).pending("orders")),
    "dead letters": (letters, lambda folder: list(DeadLetterStore(str(folder)).read())),
    "assignment": (
        lambda folder: deployment(folder).assign("a", Assignment([source(FRONTIER)], [REQUEST])),
        lambda folder: [
            deployment(folder).read_assignment(each) for each in deployment(folder).assignments()
        ],
    ),
    "positions": (positions, lambda folder: deployment(folder).read_positions()),
    "generation": (
        lambda folder: TableGeneration(3, 5).write(deployment(folder), "orders"),
        lambda folder: read_generation(deployment(folder), "orders"),
    ),
    "stop": (
        lambda folder: record_fatal_error(deployment(folder), "orders", StateError("why")),
        lambda folder: load_fatal_errors(deployment(folder)),
    ),
    "first state": (
        lambda folder: deployment(folder).write_table(state_of()),
        lambda folder: list(deployment(folder).read_tables().values()),
    ),
    "findings": (
        lambda folder: write_findings(
            deployment(folder).findings, {"orders": Finding("orders", "deleted", "why")}
        ),
        lambda folder: list(read_findings(deployment(folder).findings).values()),
    ),
    "end of a stream": (
        lambda folder: write_end(deployment(folder), StreamEnd("orders", ARN, 1, 2, 5)),
        lambda folder: read_ends(deployment(folder)),
    ),
    "followed stream": (
        lambda folder: add_followed(
            deployment(folder), "orders", Followed(ARN, 5, "id", TABLE.to_json())
        ),
        lambda folder: read_followed(deployment(folder), "orders"),
    ),
    "marker": (marker, lambda folder: staging_of(folder).read_marker()),
}


class TestFiles:
    """Each document as its own code wrote it, then damaged in one place."""

    @pytest.mark.parametrize("name", sorted(DOCUMENTS))
    @cases(0.1)
    @given(data=st.data())
    def test_each_document(self, name, data, tmp_path_factory):
        write, read = DOCUMENTS[name]
        folder = tmp_path_factory.mktemp("kept")
        write(folder)
        sound = shown(read(folder))
        files = [each for each in sorted(folder.rglob("*")) if each.is_file()]
        path = data.draw(st.sampled_from([each for each in files if each.stat().st_size]))
        before = path.read_bytes()
        after = data.draw(documents_of_lines(before))
        path.write_bytes(after)
        try:
            found = shown(read(folder))
        except (StateError, SinkError) as error:
            told(error, folder)
            return
        if after == before:
            assert found == sound
        # It was written with types, and is read with those.
        assert types_of(found) <= types_of(sound) | EMPTY, found


EMPTY = {(), ("list",), ("dict",), ("tuple",), ("NoneType",)}


def documents_of_lines(content):
    """A document of one line, or of several of which one is damaged."""
    lines = content.splitlines()
    if len(lines) < 2 or content.startswith(b"{\n"):
        return documents(content)

    def joined(at, line):
        return b"\n".join([*lines[:at], line, *lines[at + 1 :]]) + b"\n"

    return st.integers(0, len(lines) - 1).flatmap(
        lambda at: documents(lines[at]).map(lambda line: joined(at, line))
    )


def shown(value):
    """What was read as plain data."""
    if dataclasses.is_dataclass(value):
        return {each.name: shown(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {name: shown(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [shown(each) for each in value]
    return value


OPEN = {
    "loaded",
    "table",
    "frontier",
    "fields",
    "manifest",
    "plan",
    "ended",
    "context",
    "origin",
}
"""Members that are documents themselves: whoever uses them reads them with a check of its own."""


def types_of(value, path=()):
    """The types of what stands at each path of names, but within open documents."""
    if isinstance(value, dict):
        found = set()
        for name, each in value.items():
            if name not in OPEN:
                found |= types_of(each, (*path, name if str(name).isidentifier() else ""))
        return found
    if isinstance(value, list):
        return set().union(*(types_of(each, (*path, "[]")) for each in value)) if value else set()
    return {(*path, type(value).__name__)}


class TestManifests:
    @cases(0.05)
    @given(data=st.data())
    def test_a_kept_manifest_is_what_its_name_says(self, data, tmp_path_factory):
        folder = tmp_path_factory.mktemp("kept")
        positions(folder)
        (path,) = folder.rglob("manifests/*.json")
        content = data.draw(documents(path.read_bytes()))
        path.write_bytes(content)
        try:
            deployment(folder).read_positions()
        except StateError as error:
            told(error, path)
            return
        assert hashlib.sha256(content).hexdigest() == Path(path).stem
