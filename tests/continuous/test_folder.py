# SPDX-License-Identifier: Apache-2.0
"""The folder of a deployment: assignments, positions, dead letters, its end."""

from pathlib import Path

import pytest

from dynabeam.transforms.continuous.control_folder import Assignment, ControlFolder
from dynabeam.transforms.errors import StateError
from dynabeam.transforms.export.elements import SnapshotRequest
from dynabeam.transforms.model.report import Report, ReportCoder
from tests.stream.scripted import TABLE, source


@pytest.fixture
def folder(tmp_path):
    return ControlFolder(str(tmp_path / "continuous" / "abc"))


class TestAssignments:
    def test_what_is_assigned_is_read(self, folder):
        assignment = Assignment(
            [source(), source(reader=1, readers=2)],
            [SnapshotRequest(TABLE, 1, 16, bucket="exports", loaded={"a": "done", "b": 7})],
        )
        path = folder.assign("0001", assignment)
        assert folder.assignments() == [path]
        assert folder.read_assignment(path) == assignment

    def test_in_the_order_of_their_names(self, folder):
        paths = [folder.assign(name, Assignment([], [])) for name in ("0002", "0001", "0010")]
        assert folder.assignments() == [paths[1], paths[0], paths[2]]

    def test_an_empty_folder(self, folder):
        assert folder.assignments() == []
        assert folder.read_positions() == {}

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"{", "damaged"),
            (b"[]", "damaged"),
            (b'{"format":1}', "damaged"),
            (b'{"format":2}', "unknown format; expected 1; found 2"),
        ],
    )
    def test_a_damaged_one_names_the_file(self, folder, content, reason):
        with pytest.raises(StateError, match=reason) as caught:
            Assignment.from_json("/x/0001.json", content)
        assert "/x/0001.json" in str(caught.value)


class TestPositions:
    def test_are_replaced_whole(self, folder):
        folder.write_positions("a.b-c", [Report("gap", "a.b-c", {"x": 1})])
        reports = [Report("stream", "a.b-c", {"reader": n}) for n in range(2)]
        folder.write_positions("a.b-c", reports)
        assert folder.read_positions() == {"a.b-c": reports}

    def test_a_manifest_is_written_once_and_read_with_them(self, folder, tmp_path):
        files = [[f"s3://b/{n}.gz", 1, "md5"] for n in range(1000)]
        manifest = {"export_arn": "arn", "location": "s3://b/m", "files": files}
        report = Report("export", "a", {"manifest": manifest, "from_us": 0})
        other = Report("export", "a", {"manifest": None, "from_us": 5})
        folder.write_positions("a", [report, other])
        (kept,) = (tmp_path / "continuous" / "abc" / "manifests").iterdir()
        written = kept.stat().st_mtime_ns
        for _ in range(5):
            folder.write_positions("a", [report, other])
        assert kept.stat().st_mtime_ns == written
        assert (tmp_path / "continuous" / "abc" / "positions" / "a.jsonl").stat().st_size < 500
        assert folder.read_positions() == {"a": [report, other]}

    def test_positions_of_an_older_release_hold_their_manifest(self, folder):
        folder.write_positions("a", [])
        coder = ReportCoder()
        report = Report("export", "a", {"manifest": {"files": []}})
        Path(folder.positions_path("a")).write_bytes(coder.encode(report) + b"\n")
        assert folder.read_positions() == {"a": [report]}

    def test_a_manifest_elsewhere_is_refused(self, folder):
        report = Report("export", "a", {"manifest": {"kept": "../../../x"}})
        folder.write_positions("a", [report])
        with pytest.raises(StateError, match="name a manifest that cannot be"):
            folder.read_positions()


class TestEnd:
    def test_a_run_that_has_a_successor_must_stop(self, folder):
        folder.check_current()
        folder.end("catch-up rounds")
        with pytest.raises(StateError, match="taken over: catch-up rounds"):
            folder.check_current()
