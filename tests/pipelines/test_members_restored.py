# SPDX-License-Identifier: Apache-2.0
"""A sink or a state directory that is gone, or that was restored from an older copy."""

import json
import shutil

import pytest

from dynabeam.transforms.sinks.duckdb.mirror import DuckDBMirror
from tests.pipelines.member_runs import KEPT_LOG, NEW_MIRROR, away, begun


@pytest.fixture
def world(credentials, tmp_path, capsys, monkeypatch):
    with begun(tmp_path, capsys, monkeypatch) as world:
        yield world


class TestSinks:
    def test_a_file_that_was_restored_from_an_older_copy(self, world):
        world.ok()
        path = world.folder / "kept.duckdb"
        copy = path.read_bytes()
        away(world)
        path.write_bytes(copy)
        world.work()
        ended = world.ok()
        assert "behind: it lacks what was read after round" in ended.err
        world.assert_equal()

    def test_a_file_that_is_gone(self, world):
        world.ok()
        away(world)
        (world.folder / "kept.duckdb").unlink()
        ended = world.ok()
        assert "gone, and created again" in ended.err
        world.assert_equal()

    def test_a_file_that_is_gone_while_it_is_loaded(self, world, monkeypatch):
        """Its rows had all been loaded; only the sweep was missing."""
        uri = world.uri(NEW_MIRROR)
        world.ok()
        world.work()

        def die(*_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(DuckDBMirror, "remove_older_generations", die)
            assert world.replicate(extra=[uri]).code == 130
        assert world.document()["tables"]["orders"]["repair"]["loaded"]
        (world.folder / "new.duckdb").unlink()
        world.ok(extra=[uri])
        world.assert_equal(NEW_MIRROR)

    def test_a_changelog_that_was_restored_from_an_older_copy(self, world):
        world.ok()
        first = world.document()["round"]
        shutil.copytree(world.folder / "out", world.folder / "copy")
        away(world)
        last = world.document()["sinks"][str(world.folder / "out")]["wrote"]
        assert last > first
        shutil.rmtree(world.folder / "out")
        (world.folder / "copy").rename(world.folder / "out")
        world.work()
        ended = world.ok()
        assert "behind: whole from round" in ended.err
        sinks, _ = world.status()
        assert len(sinks[world.kept[1]]["lacks"]) == 1
        world.ok()
        assert world.status()[0] == {
            uri: {**each, "applied": world.document()["round"]} for uri, each in sinks.items()
        }


class TestStateDirectory:
    def test_a_state_directory_that_was_restored(self, world):
        """What it reads again is in no changelog twice, and mirrors stay what the table is."""
        world.ok()
        shutil.copytree(world.state_dir, world.folder / "copy")
        away(world)
        all_changes = world.changes(KEPT_LOG)
        shutil.rmtree(world.state_dir)
        (world.folder / "copy").rename(world.state_dir)
        world.work()
        ended = world.ok()
        assert ended.err.count("ahead: it holds round") == 2
        assert "what it had of later rounds is in" in ended.err
        world.assert_equal()
        changes = world.changes(KEPT_LOG)
        assert len(changes) == len(set(changes))
        assert set(all_changes) <= set(changes)
        (aside,) = (world.folder / "out" / "_staging").iterdir()
        assert any(each.is_file() for each in aside.rglob("*"))
        world.work()
        world.ok()
        world.assert_equal()
        assert aside.exists()

    def test_with_rows_of_a_later_generation(self, world):
        """Changes that are read again would lose against them, for ever."""
        world.ok()
        shutil.copytree(world.state_dir, world.folder / "copy")
        world.command("snapshot", "--tables=orders", *world.options)
        away(world)
        assert world.document()["tables"]["orders"]["generation"] == 2
        shutil.rmtree(world.state_dir)
        (world.folder / "copy").rename(world.state_dir)
        world.delete("new while away")
        world.put("stays", value=99)
        world.work()
        world.ok()
        world.assert_equal()
        assert world.document()["tables"]["orders"]["generation"] == 3

    def test_a_document_that_did_not_know_its_sinks(self, world):
        world.ok()
        away(world)
        path = world.state_dir / "state.json"
        document = world.document()
        del document["sinks"]
        path.write_text(json.dumps(document))
        world.work()
        ended = world.ok()
        assert "loading" not in ended.err
        world.assert_equal()
        assert {each["state"] for each in world.document()["sinks"].values()} == {"active"}
        document = world.document()
        del document["sinks"]
        path.write_text(json.dumps(document))
        uri = world.uri(NEW_MIRROR)
        world.ok(extra=[uri])
        world.assert_equal(NEW_MIRROR)
