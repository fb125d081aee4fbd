# SPDX-License-Identifier: Apache-2.0
"""The record of the last launch: read as it was written, and not believed if it is damaged."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from dynabeam.pipelines.launch.record import (
    LaunchRecord,
    checked_job_name,
    new_record,
    read_record,
    write_record,
)
from dynabeam.transforms.errors import ConfigurationError, StateError

GOLDEN = Path(__file__).parents[1] / "data" / "launch.json"
RECORD = LaunchRecord(
    runner="flink",
    job_id="c0ffee",
    job_name="dynabeam-shop",
    launched_us=1_764_547_200_000_000,
    rest="http://jobmanager:8081",
    savepoint="s3://savepoints/savepoint-c0ffee-1",
    arguments=("--tables=orders", "--sink=postgresql://loader:${env:PGPASSWORD}@db/shop"),
)


def test_what_this_version_writes_is_what_earlier_ones_wrote():
    assert GOLDEN.read_bytes().rstrip(b"\n") == RECORD.to_json()
    assert LaunchRecord.from_json(str(GOLDEN), GOLDEN.read_bytes()) == RECORD


def test_a_directory_without_a_launch(tmp_path):
    assert read_record(str(tmp_path / "state")) is None
    assert list(tmp_path.iterdir()) == []


def test_the_last_launch_counts(tmp_path):
    later = dataclasses.replace(RECORD, job_id="decaf")
    for each in (RECORD, later, later, RECORD):
        write_record(str(tmp_path / "state"), each)
        assert read_record(str(tmp_path / "state")) == each


def test_a_launch_is_now(tmp_path):
    found = new_record("dataflow", "1", "dynabeam", project="p", region="r")
    assert (found.runner, found.project, found.arguments) == ("dataflow", "p", ())
    assert found.launched_us > RECORD.launched_us


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 2}, "of an unknown format"),
        ({"color": "red"}, "written by a newer version"),
        ({"runner": "spark"}, "is damaged"),
        ({"job_id": 7}, "is damaged"),
        ({"arguments": "--tables=orders"}, "is damaged"),
    ],
)
def test_what_is_not_believed(tmp_path, changes, words):
    document = json.loads(RECORD.to_json()) | changes
    (tmp_path / "launch.json").write_text(json.dumps(document))
    with pytest.raises(StateError, match=words) as raised:
        read_record(str(tmp_path))
    assert str(tmp_path / "launch.json") in str(raised.value)


@pytest.mark.parametrize("missing", ["runner", "job_id", "job_name", "launched_us"])
def test_what_has_to_be_there(tmp_path, missing):
    document = json.loads(RECORD.to_json())
    del document[missing]
    (tmp_path / "launch.json").write_text(json.dumps(document))
    with pytest.raises(StateError, match="is damaged"):
        read_record(str(tmp_path))


@pytest.mark.parametrize(
    ("given", "name", "job_name"),
    [
        ("", "dynabeam", "dynabeam"),
        ("", "shop", "dynabeam-shop"),
        ("", "Shop_1", "dynabeam-shop-1"),
        ("shop-1", "Shop", "shop-1"),
        ("a" * 63, "", "a" * 63),
    ],
)
def test_names_of_jobs(given, name, job_name):
    assert checked_job_name(given, name) == job_name


@pytest.mark.parametrize(
    ("given", "name", "option"),
    [
        ("", "a" * 55, "--name"),
        ("1st", "shop", "--job_name"),
        ("shop_1", "shop", "--job_name"),
        ("shop\n", "shop", "--job_name"),
    ],
)
def test_names_that_dataflow_does_not_take(given, name, option):
    with pytest.raises(ConfigurationError, match=f"^{option}: not a name for a job"):
        checked_job_name(given, name)
