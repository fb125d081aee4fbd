# SPDX-License-Identifier: Apache-2.0
"""A directory that an older version left: read, kept, and gone on with."""

import collections
import dataclasses
import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from dynabeam.pipelines.status.reading import read_status
from dynabeam.transforms.model.gap import GapKind
from dynabeam.transforms.state.gap_events import Repaired
from dynabeam.transforms.state.state_directory import StateDirectory
from tests.pipelines.runs import Place

DATA = Path(__file__).parents[1] / "data" / "state_directory"


@pytest.fixture
def replicated(tmp_path):
    """The directory of two tables, one of which is being healed."""
    shutil.copytree(DATA / "replicated" / "state", tmp_path / "state")
    return StateDirectory(str(tmp_path / "state"))


@pytest.fixture
def halfway(tmp_path, capsys, monkeypatch):
    """The directory of a table whose export is loaded halfway, moved here as people do not."""
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    shutil.copytree(DATA / "halfway", tmp_path, dirs_exist_ok=True)
    (kept,) = (tmp_path / "state" / "manifests").iterdir()
    renamed = {}
    for path in [kept, *(each for each in tmp_path.rglob("*.json*") if each.suffix != ".gz")]:
        text = path.read_text().replace("/tmp/golden/halfway", str(tmp_path))
        for before, after in renamed.items():
            text = text.replace(before, after)
        path.write_text(text)
        renamed.setdefault(kept.stem, hashlib.sha256(text.encode()).hexdigest())
    kept.rename(kept.with_stem(renamed[kept.stem]))
    return Place(tmp_path, capsys, ["--keys=orders:id", f"--export={tmp_path}/export"])


def test_its_status_is_what_its_own_version_said(replicated):
    said = json.loads((DATA / "replicated" / "status.json").read_text())
    stored_us = said["tables"][0]["stored_us"]
    os.utime(os.path.join(replicated.path, "state.json"), ns=(stored_us * 1000, stored_us * 1000))
    found = dataclasses.asdict(read_status(replicated, said["at_us"]))
    assert json.loads(json.dumps(found)) == said | {"state_dir": replicated.path}


def test_its_tables_are_what_they_were(replicated):
    state = replicated.load()
    assert (state.number, sorted(state.tables)) == (11, ["customers", "orders"])
    customers, orders = state.tables["customers"], state.tables["orders"]
    assert (customers.generation, orders.generation) == (1, 3)
    assert [each.kind for each in customers.gaps] == [GapKind.TRIMMED] * 2
    assert customers.totals.dead_letters == 1
    assert customers.repair is None
    # The heal is loaded, and nothing of it is swept yet.
    assert orders.repair is not None
    assert (orders.repair.plan.kind, orders.repair.loaded, orders.repair.sinks) == (
        "heal",
        True,
        None,
    )
    assert [(each.status, each.generation) for each in orders.heal] == [("done", 3)] * 3
    assert all(each.is_loaded for each in orders.loads)
    assert orders.repaired == (Repaired(2, 0),)
    # One shard is read on from where it was read to; what is over is not read again.
    (frontier,) = orders.frontiers
    assert [each.kind for each in frontier.shards] == ["after"]
    assert len(frontier.finished) == 6
    assert orders.stream.seen_by(0).caught_up
    assert {each.uri.rpartition("/")[2]: each.state for each in state.sinks.values()} == {
        "changelog": "active",
        "left_out": "dropped",
        "mirror.duckdb": "active",
    }


def test_written_again_it_says_the_same(replicated):
    before = json.loads(Path(replicated.path, "state.json").read_text())
    with replicated.locked():
        replicated.commit(replicated.load())
    after = json.loads(Path(replicated.path, "state.json").read_text())
    assert after.pop("revision") == before.pop("revision") + 1
    assert after.pop("owner") != before.pop("owner")
    assert after == before
    kept = Path(replicated.path, "manifests")
    assert {each.name for each in kept.iterdir()} == {
        each.name for each in (DATA / "replicated" / "state" / "manifests").iterdir()
    }


def test_a_load_goes_on_where_it_stopped(halfway):
    """What is staged is published, and no row is read again, nor is one left out."""
    sinks = [f"--sink=file:///{halfway.changelog}"]
    ended = halfway.run(sinks=sinks)
    assert ended.code == 0, ended.err
    document = halfway.committed()
    assert (document["round"], document["tables"]["orders"]["snapshot"]["status"]) == (2, "done")
    assert document["tables"]["orders"]["totals"]["snapshot_rows"] == 120
    found = collections.Counter(
        json.loads(line)["keys"]["id"]["S"]
        for path in halfway.published()
        for line in path.read_text().splitlines()
    )
    assert found == {f"o{number}": 1 for number in range(120)}
    rounds = {path.parent.name: len(path.read_text().splitlines()) for path in halfway.published()}
    assert rounds == {"dynabeam_round=0000000001": 26, "dynabeam_round=0000000002": 94}
