# SPDX-License-Identifier: Apache-2.0
"""Contract of kept manifests: written once, named by the document, read as they were."""

import dataclasses
import json
import os
from pathlib import Path

import pytest

from dynabeam.transforms.errors import StateError
from dynabeam.transforms.export.elements import DONE
from dynabeam.transforms.state.state_directory import State, StateDirectory
from dynabeam.transforms.state.table_state import LoadState
from tests.pipelines.runs import ExportFolder, orders
from tests.state.states import manifest_of, state_of

FILES = [f"/x/{n:05}.json.gz" for n in range(2000)]
MANIFEST = manifest_of(*FILES)


def load_of(manifest, files):
    return LoadState.new("loading", manifest=manifest, files=files, bytes=5, rows=9)


def tables(files):
    snapshot = load_of(dataclasses.replace(MANIFEST), files)
    return {"orders": state_of(snapshot=snapshot, heal=(load_of(None, {}),))}


def with_snapshot(state, snapshot):
    return {"orders": dataclasses.replace(state.tables["orders"], snapshot=snapshot)}


def kept(path):
    return sorted(Path(path, "manifests").glob("*.json"))


def test_once_for_many_rounds(tmp_path):
    directory = StateDirectory(str(tmp_path))
    state = State("id", 1, "a", tables({}))
    directory.commit(state)
    (manifest,) = kept(tmp_path)
    written = os.stat(manifest).st_mtime_ns
    for number in range(2, 30):
        snapshot = state.tables["orders"].snapshot
        files = {**snapshot.files, FILES[number - 2]: DONE}
        loaded = with_snapshot(state, dataclasses.replace(snapshot, files=files))
        state = State("id", number, "a", loaded)
        directory.commit(state)
        assert (tmp_path / "state.json").stat().st_size < 1000
    assert kept(tmp_path) == [manifest]
    assert os.stat(manifest).st_mtime_ns == written


@pytest.mark.parametrize(
    "files",
    [
        {},
        {FILES[0]: DONE, FILES[1]: 5},
        {FILES[0]: 7, FILES[3]: DONE},
        dict.fromkeys(FILES, DONE),
    ],
)
def test_read_as_it_was(tmp_path, files):
    directory = StateDirectory(str(tmp_path))
    directory.commit(State("id", 1, "a", tables(dict(files))))
    again = StateDirectory(str(tmp_path)).load()
    assert again.tables == tables(files)
    # And again, from what was read: the manifest is not written once more.
    (manifest,) = kept(tmp_path)
    written = os.stat(manifest).st_mtime_ns
    reader = StateDirectory(str(tmp_path))
    reader.commit(reader.load())
    assert os.stat(manifest).st_mtime_ns == written
    assert StateDirectory(str(tmp_path)).load().tables == tables(files)


def test_documents_of_older_releases_hold_it_themselves(tmp_path):
    document = {"format": 1, "state_id": "id", "round": 1, "attempt": "a"}
    before = tables({FILES[0]: DONE, FILES[1]: 5})
    written = {name: each.to_json() for name, each in before.items()}
    assert len(written["orders"]["snapshot"]["manifest"]["files"]) == len(FILES)
    (tmp_path / "state.json").write_text(json.dumps({**document, "tables": written}))
    assert StateDirectory(str(tmp_path)).load().tables == before


def test_a_manifest_that_nobody_has_any_more_goes(tmp_path):
    directory = StateDirectory(str(tmp_path))
    state = State("id", 1, "a", tables({}))
    directory.commit(state)
    (old,) = kept(tmp_path)
    newer = load_of(dataclasses.replace(MANIFEST, export_arn="newer"), {})
    state.tables = with_snapshot(state, newer)
    directory.commit(state)
    (new,) = kept(tmp_path)
    assert new != old


@pytest.mark.parametrize("name", ["../../etc/passwd", "", 5, "A" * 64, "0" * 63])
def test_a_name_that_leads_elsewhere(tmp_path, name):
    directory = StateDirectory(str(tmp_path))
    directory.commit(State("id", 1, "a", tables({})))
    path = tmp_path / "state.json"
    document = json.loads(path.read_text())
    document["tables"]["orders"]["snapshot"]["manifest"] = {"kept": name}
    path.write_text(json.dumps(document))
    with pytest.raises(StateError, match="names a manifest that cannot be"):
        directory.load()


@pytest.mark.parametrize("damage", [b"{}", None])
def test_one_that_is_lost_or_changed(tmp_path, damage):
    directory = StateDirectory(str(tmp_path))
    directory.commit(State("id", 1, "a", tables({})))
    (manifest,) = kept(tmp_path)
    if damage is None:
        manifest.unlink()
    else:
        manifest.write_bytes(damage)
    with pytest.raises(StateError, match=manifest.name):
        directory.load()


def test_rounds_go_on_with_it(place, tmp_path):
    export = ExportFolder(tmp_path / "e", files=4, items=orders(400))
    assert place.run(export.option).code == 0
    snapshot = place.committed()["tables"]["orders"]["snapshot"]
    assert set(snapshot["manifest"]) == {"kept"}
    assert place.run(export.option).code == 0
    assert len(place.rows()) == 400
