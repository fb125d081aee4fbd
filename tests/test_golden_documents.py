# SPDX-License-Identifier: Apache-2.0
"""The bytes of what is stored beside the position document, and of small elements.

Another version reads them, so they change with a new format number only. What they have to be is in
`data/stored-documents.json`.
"""

import json
import pathlib
import types

import pytest

from dynabeam.pipelines.rounds.last_run import LastRun, read_last_run, recorded
from dynabeam.pipelines.status.acknowledged import acknowledge, read_acknowledged
from dynabeam.transforms.continuous.control_folder import Assignment, ControlFolder
from dynabeam.transforms.continuous.discover_tables import Discovered, DiscoveredCoder
from dynabeam.transforms.continuous.discovery import Finding, read_findings, write_findings
from dynabeam.transforms.continuous.discovery_plan import DiscoveryPlan
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
from dynabeam.transforms.dead_letters.store import DeadLetterStore
from dynabeam.transforms.errors import GapError, StateError
from dynabeam.transforms.export.elements import SnapshotRequest
from dynabeam.transforms.export.manifest import DataFile, ExportManifest
from dynabeam.transforms.model.dead_letter import DeadLetter, DeadLetterCoder
from dynabeam.transforms.model.gap import GapPolicies, GapPolicy
from dynabeam.transforms.model.report import Report, ReportCoder
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.sinks.base import Round
from dynabeam.transforms.state.repair_plan import Repair
from dynabeam.transforms.state.round_outputs import Retried, keep_outcome
from dynabeam.transforms.state.snapshot_signals import SnapshotSignal, SnapshotSignals
from dynabeam.transforms.state.table_reading import ReadingOptions
from dynabeam.transforms.state.table_selection import TableSelection
from dynabeam.transforms.stream.frontier import Frontier
from dynabeam.transforms.stream.reader_spec import ReaderSpec
from dynabeam.transforms.values.key_schema import KeyAttribute, KeySchema

_DATA = pathlib.Path(__file__).parent / "data" / "stored-documents.json"
GOLDEN = {name: text.encode() for name, text in json.loads(_DATA.read_text()).items()}
TABLE = Table("orders", KeySchema(KeyAttribute("id", "S")), "arn")
SOURCE = ReaderSpec(TABLE, "arn", 0, 1, 1, 4, "latest", Frontier(), GapPolicy.HEAL, 5, 6, 7)
LETTER = DeadLetter(
    "orders", "stream", "p", "é", b"\x00x", "E", "retry", {"b": "1", "a": "2"}, {"n": [1]}, 2, 3, 4
)
MANIFEST = ExportManifest(
    *("l", "arn", "t", "id", "FULL_EXPORT", "ION", "", 0, 1, 2), (DataFile("f", 2, "m"),), ("w",)
)


class TestElements:
    @pytest.mark.parametrize(
        ("name", "coder", "value"),
        [
            (
                "report",
                ReportCoder(),
                Report("gap", "orders", {"z": [1], "a": None, "é": True}),
            ),
            (
                "discovered",
                DiscoveredCoder(),
                Discovered(assignments=("a",), tables=("t",), next_look_us=5, followed=("s",)),
            ),
            (
                "dead letter",
                DeadLetterCoder(),
                LETTER,
            ),
        ],
    )
    def test_golden_bytes(self, name, coder, value):
        assert coder.encode(value) == GOLDEN[name]
        assert coder.decode(GOLDEN[name]) == value

    def test_a_manifest(self):
        golden = json.loads(GOLDEN["manifest"])
        assert MANIFEST.to_json() == golden
        assert ExportManifest.from_json(golden) == MANIFEST

    def test_a_plan(self):
        plan = Repair("heal", "why", ((1, 2), (2, 3)), 4, 5, "a..b")
        golden = json.loads(GOLDEN["plan"])
        assert plan.to_json() == golden
        assert Repair.from_json(golden) == plan


class TestFiles:
    @pytest.fixture
    def folder(self, tmp_path):
        return ControlFolder(str(tmp_path))

    @pytest.fixture
    def directory(self, tmp_path):
        return types.SimpleNamespace(path=str(tmp_path))

    def test_a_generation(self, folder, tmp_path):
        found = TableGeneration(2, 3, "loading", "heal", 4, 5, {"b": 1, "a": 2}, 6, "id", "k")
        found.write(folder, "orders")
        assert (tmp_path / "generations/orders.json").read_bytes() == GOLDEN["generation"]
        assert read_generation(folder, "orders") == found

    def test_what_to_discover(self, folder, tmp_path):
        plan = DiscoveryPlan(
            TableSelection(("a*",), {"k": ("v",)}, ("b",)),
            ReadingOptions(
                snapshot="auto",
                start="latest",
                bucket="b",
                prefix="p",
                bucket_owner="o",
                gaps=GapPolicies(GapPolicy.FAIL, {"orders": GapPolicy.HEAL}),
                buckets=4,
                readers=0,
            ),
            "newest:60",
            Round("state", 3, "attempt"),
            30,
        )
        plan.write(folder)
        assert (tmp_path / "discovery.json").read_bytes() == GOLDEN["discovery plan"]
        assert DiscoveryPlan.read(folder) == plan

    def test_an_end(self, folder, tmp_path):
        end = StreamEnd("orders", "arn", 1, 2, 3)
        write_end(folder, end)
        assert (tmp_path / "ends/orders.json").read_bytes() == GOLDEN["stream end"]
        assert read_ends(folder) == [end]

    def test_what_follows(self, folder, tmp_path):
        followed = Followed("arn", 1, "id", TABLE.to_json())
        add_followed(folder, "orders", followed)
        assert (tmp_path / "followed/orders.json").read_bytes() == GOLDEN["followed streams"]
        assert read_followed(folder, "orders") == [followed]

    def test_findings(self, tmp_path):
        path = str(tmp_path / "findings.json")
        finding = Finding("orders", "not_ready", "é")
        write_findings(path, {"orders": finding})
        assert (tmp_path / "findings.json").read_bytes() == GOLDEN["findings"]
        assert read_findings(path) == {"orders": finding}

    def test_an_assignment(self, folder, tmp_path):
        assignment = Assignment([SOURCE], [SnapshotRequest(TABLE, 1, 4, loaded={"f": "done"})])
        path = folder.assign("1", assignment)
        assert (tmp_path / "assignments/1.json").read_bytes() == GOLDEN["assignment"]
        assert folder.read_assignment(path) == assignment

    def test_a_fatal_error(self, folder, tmp_path):
        record_fatal_error(folder, "orders", GapError("é is lost"))
        assert (tmp_path / "stops/orders.json").read_bytes() == GOLDEN["fatal error"]
        assert load_fatal_errors(folder) == {"orders": f"GapError: {GapError('é is lost')}"}

    def test_a_signal(self, tmp_path):
        signal = SnapshotSignal("orders", "1", 5, "a..b")
        SnapshotSignals(str(tmp_path)).give(signal)
        (path,) = (tmp_path / "requests/orders").iterdir()
        assert path.name == "00000000000000000005-1.json"
        assert path.read_bytes() == GOLDEN["snapshot signal"]
        assert SnapshotSignals(str(tmp_path)).pending("orders") == signal

    def test_what_was_retried(self, tmp_path):
        Retried([LETTER], 3).write(str(tmp_path / "retried.json"))
        assert (tmp_path / "retried.json").read_bytes() == GOLDEN["retried"]

    def test_the_last_run(self, directory, tmp_path, monkeypatch):
        monkeypatch.setattr("dynabeam.pipelines.rounds.last_run.now_us", lambda: 7)
        with recorded(directory) as run:
            run.tables = ["orders"]
        assert (tmp_path / "last_run.json").read_bytes() == GOLDEN["last run"]
        assert read_last_run(directory) == LastRun(7, 7, "caught_up", "", ["orders"])

    def test_acknowledged_losses(self, directory, tmp_path):
        acknowledge(directory, {"orders": 2, "a": 1})
        assert (tmp_path / "acknowledged.json").read_bytes() == GOLDEN["acknowledged"]
        assert read_acknowledged(directory) == {"orders": 2, "a": 1}

    @pytest.mark.parametrize(
        ("name", "path", "read"),
        [
            ("findings", "findings.json", lambda at: read_findings(str(at / "findings.json"))),
            (
                "followed streams",
                "followed/orders.json",
                lambda at: read_followed(ControlFolder(str(at)), "orders"),
            ),
            (
                "retried",
                "retried.json",
                lambda at: keep_outcome(DeadLetterStore(str(at)), [], str(at / "retried.json")),
            ),
        ],
    )
    def test_fields_of_a_newer_version_are_refused_in_lists_too(self, tmp_path, name, path, read):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        document = json.loads(GOLDEN[name])
        (tmp_path / path).write_text(json.dumps(document))
        read(tmp_path)
        (tmp_path / path).write_text(json.dumps(document | {"colour": "red"}))
        with pytest.raises(StateError, match=r"newer version.*colour.*or a newer one"):
            read(tmp_path)
