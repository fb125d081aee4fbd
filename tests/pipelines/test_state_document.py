# SPDX-License-Identifier: Apache-2.0
"""The position document: its format, its names, who may replace it, and who may read it."""

import json
import os
import stat

import pytest

from dynabeam.transforms.continuous.control_folder import Assignment, ControlFolder
from dynabeam.transforms.continuous.discovery_plan import DiscoveryPlan
from dynabeam.transforms.continuous.generations import TableGeneration, read_generation
from dynabeam.transforms.dead_letters.store import DeadLetterStore
from dynabeam.transforms.errors import SinkError, StateError, StateInUseError
from dynabeam.transforms.sinks.base import Round
from dynabeam.transforms.sinks.registry import open_sink
from dynabeam.transforms.state import state_directory
from dynabeam.transforms.state.round_outputs import keep_outcome
from dynabeam.transforms.state.snapshot_signals import SnapshotSignal, SnapshotSignals
from dynabeam.transforms.state.state_directory import State, StateDirectory
from dynabeam.transforms.storage import filesystem
from tests.state.states import state_of
from tests.storage.test_conditional_writes import gcs, own_options, sim  # noqa: F401 - fixtures

ORDERS = (
    '{"generation":2,'
    '"snapshot":{"bytes":0,"files":{},"generation":1,"manifest":null,"reuse":"","rows":0,'
    '"status":"none"},'
    '"stream":null,'
    '"table":{"arn":"arn:aws:dynamodb:eu-west-1:111122223333:table/orders",'
    '"keys":[{"name":"id","type":"S"}],"name":"orders"},'
    '"table_id":"id",'
    '"totals":{"changes":0,"dead_letters":0,"gaps":0,"healed_rows":0,"newest_us":0,'
    '"snapshot_rows":0,"stale":0,"swept":0}}'
)
FORMAT_1 = (
    '{"attempt":"5f0c7a1e2b3d4c5f","deployment":"","format":1,"round":7,'
    '"state_id":"0123456789abcdef0123456789abcdef",'
    f'"tables":{{"orders":{ORDERS}}}}}'
)
FORMAT_2 = (
    '{"attempt":"5f0c7a1e2b3d4c5f","deployment":"","format":2,"owner":"OWNER","revision":1,'
    '"round":7,"state_id":"0123456789abcdef0123456789abcdef",'
    f'"tables":{{"orders":{ORDERS}}}}}'
)
STATE = State(
    "0123456789abcdef0123456789abcdef",
    7,
    "5f0c7a1e2b3d4c5f",
    {"orders": state_of(generation=2)},
)


class TestFormat:
    def test_format_1_is_read_and_becomes_format_2(self, tmp_path):
        (tmp_path / "state.json").write_text(FORMAT_1)
        directory = StateDirectory(str(tmp_path))
        directory._owner = "OWNER"
        with directory.locked():
            assert directory.load() == STATE
            directory.commit(STATE)
        assert (tmp_path / "state.json").read_text() == FORMAT_2

    def test_format_2(self, tmp_path):
        (tmp_path / "state.json").write_text(FORMAT_2)
        assert StateDirectory(str(tmp_path)).load() == STATE

    @pytest.mark.parametrize("newer", [{"format": 3}, {"sinks_of_tomorrow": {}}])
    def test_a_newer_one_is_left_as_it_is(self, tmp_path, newer):
        text = json.dumps(json.loads(FORMAT_2) | newer)
        (tmp_path / "state.json").write_text(text)
        directory = StateDirectory(str(tmp_path))
        with pytest.raises(StateError, match="newer") as caught, directory.locked():
            directory.load()
        assert "newer one" in caught.value.hint
        assert (tmp_path / "state.json").read_text() == text

    @pytest.mark.parametrize("text", ["[]", "7", '{"format":2}', '{"format":"2"}', "null", "{"])
    def test_damaged(self, tmp_path, text):
        (tmp_path / "state.json").write_text(text)
        with pytest.raises(StateError, match=r"damaged|unknown format"):
            StateDirectory(str(tmp_path)).load()


class TestBrothers:
    """The other documents of a state directory that a newer version may have written."""

    def test_generations(self, tmp_path):
        folder = ControlFolder(str(tmp_path))
        TableGeneration(generation=3).write(folder, "orders")
        path = folder.generation_file("orders")
        document = json.loads(filesystem.read_bytes(path, StateError))
        for newer in ({"format": 2}, {"colour": "red"}):
            filesystem.write_atomic(path, json.dumps(document | newer).encode(), StateError)
            with pytest.raises(StateError) as caught:
                read_generation(folder, "orders")
            assert "newer one" in caught.value.hint
        filesystem.write_atomic(path, b"{", StateError)
        with pytest.raises(StateError, match="damaged"):
            read_generation(folder, "orders")

    def test_orders(self, tmp_path):
        orders = SnapshotSignals(str(tmp_path))
        orders.give(SnapshotSignal("orders", "x", 7))
        (path,) = (tmp_path / "requests").rglob("*.json")
        path.write_text(json.dumps(json.loads(path.read_text()) | {"colour": "red"}))
        with pytest.raises(StateError) as caught:
            orders.pending("orders")
        assert "newer one" in caught.value.hint

    @pytest.mark.parametrize("newer", [{"format": 2}, {"colour": "red"}])
    def test_assignments(self, newer):
        document = json.loads(Assignment([], []).to_json()) | newer
        with pytest.raises(StateError) as caught:
            Assignment.from_json("a.json", json.dumps(document).encode())
        assert "newer one" in caught.value.hint


ODD_NAMES = ["..", ".", "../../home/user", "a/b", "/etc", "a\\b", "a\n", "\0", "x" * 300, 7, ["a"]]


class TestNames:
    @pytest.mark.parametrize("name", ODD_NAMES)
    @pytest.mark.parametrize("field", ["attempt", "deployment", "state_id"])
    def test_of_the_position_document(self, tmp_path, field, name):
        (tmp_path / "state.json").write_text(json.dumps(json.loads(FORMAT_2) | {field: name}))
        with pytest.raises(StateError, match="could lead out of its folder"):
            StateDirectory(str(tmp_path)).load()

    @pytest.mark.parametrize("name", ODD_NAMES)
    def test_of_letters_that_were_put_back(self, tmp_path, name):
        (tmp_path / "secret.json").write_text("{}")
        box = DeadLetterStore(str(tmp_path))
        listed = {"format": 1, "letters": [["orders", name]], "max_retries": 5}
        (tmp_path / "retried.json").write_text(json.dumps(listed))
        with pytest.raises(StateError, match="could lead out of its folder"):
            keep_outcome(box, [], str(tmp_path / "retried.json"))
        assert (tmp_path / "secret.json").exists()

    @pytest.mark.parametrize("name", ODD_NAMES)
    def test_of_an_attempt(self, tmp_path, name):
        victim = tmp_path / "home" / "user" / "file"
        victim.parent.mkdir(parents=True)
        victim.write_text("")
        sink = open_sink(f"file:///{tmp_path}/log/out")
        with pytest.raises(SinkError, match="could lead out of its folder"):
            sink.recover(Round("s", 1, name))
        with pytest.raises(StateError, match="could lead out of its folder"):
            StateDirectory(str(tmp_path)).attempt_file(name, "reports.jsonl")
        assert victim.exists()

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            *(("staged", each) for each in ODD_NAMES),
            *(("final", each) for each in ODD_NAMES),
            ("final", "../elsewhere/part-1"),
            ("final", "orders/../part-1"),
            ("final", "customers/round=0000000001/part-1"),
            ("final", "orders/round=0000000002/part-1"),
            ("final", "orders/round=0000000001/notes"),
            ("final", "orders/round=0000000001/part-1/../../x"),
            ("table", ".."),
            ("table", ""),
            ("table", None),
        ],
    )
    def test_of_a_commit_list(self, tmp_path, field, value):
        root = tmp_path / "out"
        staging = root / "_staging" / "abc"
        staging.mkdir(parents=True)
        (staging / "x.jsonl").write_text("{}\n")
        (root / "_dynabeam.json").write_text('{"format":1,"state_id":"s","round":0}')
        file = {
            "staged": "x.jsonl",
            "final": "orders/round=0000000001/part-00000-abc.jsonl",
            "table": "orders",
            "rows": 1,
            "bytes": 3,
        }
        listed = {"format": 1, "state_id": "s", "number": 1, "attempt": "abc", "files": [file]}
        sink = open_sink(f"file:///{root}")
        before = sorted(tmp_path.rglob("*"))
        (staging / "files.json").write_text(json.dumps(listed | {"files": [file | {field: value}]}))
        with pytest.raises(SinkError):
            sink.recover(Round("s", 1, "abc"))
        assert sorted(tmp_path.rglob("*")) == sorted([*before, staging / "files.json"])
        # As an older version wrote it, without the attempt in the name: it is published.
        older = file | {"final": "orders/round=0000000001/part-00000.jsonl"}
        (staging / "files.json").write_text(json.dumps(listed | {"files": [older]}))
        sink.recover(Round("s", 1, "abc"))
        assert (root / older["final"]).read_text() == "{}\n"

    def test_of_the_discovery_plan(self, tmp_path):
        folder = ControlFolder(str(tmp_path))
        document = {"format": 1, "selection": {}, "options": {}, "reuse": "", "every_seconds": 1}
        document["committed"] = {"state_id": "s", "number": 1, "attempt": "../.."}
        filesystem.write_atomic(folder.discovery, json.dumps(document).encode(), StateError)
        with pytest.raises(StateError, match="could lead out of its folder"):
            DiscoveryPlan.read(folder)

    @pytest.mark.parametrize("name", ["table-a/../../b-id", "..", ""])
    def test_of_an_assignment(self, tmp_path, name):
        with pytest.raises(StateError, match="could lead out of its folder"):
            ControlFolder(str(tmp_path)).assign(name, Assignment([], []))

    def test_tables_with_dots_are_tables(self, tmp_path):
        """`a..b` is a name of DynamoDB's."""
        path = ControlFolder(str(tmp_path)).assign("table-a..b-id", Assignment([], []))
        assert os.path.dirname(path) == str(tmp_path / "assignments")


class TestCompareAndSwap:
    @pytest.fixture(params=["local", "s3", "gs"])
    def place(self, request, tmp_path):
        if request.param == "local":
            return str(tmp_path / "state")
        request.getfixturevalue("sim" if request.param == "s3" else "gcs")
        return f"{request.param}://bucket/state"

    def test_a_document_that_was_replaced_is_not_replaced_again(self, place):
        first, second = StateDirectory(place), StateDirectory(place)
        first.commit(STATE)
        second.load()
        first.commit(State(STATE.state_id, 8, "first", {}))
        with pytest.raises(StateInUseError, match="replaced the position document"):
            second.commit(State(STATE.state_id, 8, "second", {}))
        assert StateDirectory(place).load().attempt == "first"

    def test_one_holder(self, place):
        with StateDirectory(place, lease_seconds=1.0).locked():
            other = StateDirectory(place, lease_seconds=1.0)
            with pytest.raises(StateInUseError, match=f"process {os.getpid()} on "):
                other.check_free()
            with pytest.raises(StateInUseError, match="another run is using"), other.locked():
                raise AssertionError
        with StateDirectory(place, lease_seconds=1.0).locked():
            pass

    def test_a_directory_that_was_given_back_is_not_written_by_looking(self, sim):  # noqa: F811
        """When it was committed last is what `dynabeam status` goes by."""
        with StateDirectory("s3://bucket/state").locked():
            pass
        before = sim.s3_get("bucket", "state/state.json")
        with StateDirectory("s3://bucket/state").locked():
            pass
        assert sim.s3_get("bucket", "state/state.json") == before

    def test_of_two_identities_one_stays(self, place):
        first, second = StateDirectory(place), StateDirectory(place)
        states = first.load(), second.load()
        first.keep_identity(states[0])
        second.keep_identity(states[1])
        assert StateDirectory(place).load() == State(states[0].state_id, 0, "", {})

    def test_whoever_takes_the_lease_ends_the_commits_of_the_one_before(self, sim):  # noqa: F811
        """Even if nothing else was committed meanwhile."""
        asleep = StateDirectory("s3://bucket/state")
        asleep.commit(STATE)
        asleep.load()
        with (
            StateDirectory("s3://bucket/state").locked(),
            pytest.raises(StateInUseError, match="replaced the position document"),
        ):
            asleep.commit(State(STATE.state_id, 8, "late", {}))
        assert StateDirectory("s3://bucket/state").load() == STATE

    def test_a_new_directory_has_an_identity_once_it_is_held(self, sim):  # noqa: F811
        directory = StateDirectory("s3://bucket/state")
        with directory.locked():
            state = directory.load()
            directory.keep_identity(state)
            directory.commit(State(state.state_id, 1, "a", {}))
        assert StateDirectory("s3://bucket/state").load() == State(state.state_id, 1, "a", {})

    def test_nothing_is_written_while_it_is_looked_at(self, sim):  # noqa: F811
        StateDirectory("s3://bucket/state").load()
        StateDirectory("s3://bucket/state").check_free()
        assert sim.objects.keys("bucket") == []


class TestFiles:
    def test_they_are_their_owner_s_alone(self, world):
        world.sim.put_many("orders", [{"id": {"S": "o"}}])
        world.catch_up()
        before = os.umask(0o022)
        try:
            assert world.run("--tables=orders", "--s3_export_bucket=exports").code == 0
        finally:
            found = os.umask(before)
        assert found == 0o022
        made = [world.state_dir, world.changelog, world.mirror]
        made += [each for folder in made[:2] for each in folder.rglob("*")]
        modes = {str(each): stat.S_IMODE(each.stat().st_mode) for each in made}
        assert len(modes) > 8
        for each in made:
            assert modes[str(each)] == (0o700 if each.is_dir() else 0o600), each

    def test_also_without_the_command_line(self, tmp_path):
        before = os.umask(0)
        try:
            filesystem.write_atomic(str(tmp_path / "a" / "b" / "file"), b"", StateError)
            with filesystem.open_for_writing(str(tmp_path / "c" / "file"), StateError):
                pass
        finally:
            os.umask(before)
        found = {
            each.relative_to(tmp_path).as_posix(): stat.S_IMODE(each.stat().st_mode)
            for each in tmp_path.rglob("*")
        }
        folders, files = ("a", "a/b", "c"), ("a/b/file", "c/file")
        assert found == dict.fromkeys(folders, 0o700) | dict.fromkeys(files, 0o600)

    def test_a_folder_that_is_there_stays_as_it_is(self, tmp_path):
        (tmp_path / "shared").mkdir()
        (tmp_path / "shared").chmod(0o750)
        filesystem.write_atomic(str(tmp_path / "shared" / "file"), b"", StateError)
        assert stat.S_IMODE((tmp_path / "shared").stat().st_mode) == 0o750

    @pytest.mark.parametrize("step", ["fsync", "replace"])
    @pytest.mark.parametrize(
        "problem", [OSError(28, "No space left on device"), KeyboardInterrupt()]
    )
    def test_a_failed_write_leaves_nothing(self, tmp_path, monkeypatch, step, problem):
        path = tmp_path / "file"
        path.write_text("before")

        def fail(*_):
            raise problem

        monkeypatch.setattr(filesystem.os, step, fail)
        with pytest.raises((StateError, KeyboardInterrupt)):
            filesystem.write_atomic(str(path), b"after", StateError)
        monkeypatch.undo()
        assert [each.name for each in tmp_path.iterdir()] == ["file"]
        assert path.read_text() == "before"


def test_the_format_number_is_the_newest_golden_one():
    assert json.loads(FORMAT_2)["format"] == state_directory.FORMAT
