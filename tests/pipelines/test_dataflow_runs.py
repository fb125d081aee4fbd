# SPDX-License-Identifier: Apache-2.0
"""Submissions to Dataflow as far as they go without the service, and what they leave behind.

Beam's runner builds, translates and stages for real, into a stand-in for Cloud Storage; the service
itself cannot be had here.
"""

import json

import pytest
from apache_beam.runners.dataflow.dataflow_runner import DataflowRunner

from tests.fake_gcs import FakeGCS
from tests.launch.fake_dataflow import PROJECT, FakeDataflow
from tests.pipelines.runs import orders

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class Dataflow:
    """The world's table, replicated on Dataflow into the simulator's S3."""

    def __init__(self, world, folder, capsys):
        self.world = world
        self.folder = folder
        self.capsys = capsys
        world.sim.put_many("orders", orders(5))
        world.catch_up()

    def arguments(self, *more):
        return [
            *["--mode=continuous", "--tables=orders", "--s3_export_bucket=exports"],
            *self.world.options,
            "--sink=s3://exports/log",
            "--state_dir=s3://exports/state",
            *["--runner=DataflowRunner", "--dataflow_region=europe-west1", "--project=project-1"],
            "--no_auth",
            *["--staging_location=gs://staging/s", "--temp_location=gs://staging/t"],
            "--sdk_container_image=registry.example/dynabeam:1",
            *more,
        ]

    def run(self, *more, endpoint="http://localhost:9"):
        from dynabeam.pipelines.command_line import main  # noqa: PLC0415

        self.capsys.readouterr()
        words = [*self.arguments(*more), f"--dataflow_endpoint={endpoint}"]
        code = main(["replicate", *words])
        return code, self.capsys.readouterr().err

    def stored(self):
        """Names of the objects of the state directory, and the sink's."""
        listed = self.world.sim.client("s3").list_objects_v2(Bucket="exports")
        names = [each["Key"] for each in listed.get("Contents", [])]
        return [each for each in names if not each.startswith("AWSDynamoDB")]

    def deployment(self):
        read = self.world.sim.client("s3").get_object(Bucket="exports", Key="state/state.json")
        return json.loads(read["Body"].read())["deployment"]


@pytest.fixture
def dataflow(world, tmp_path, capsys, monkeypatch):
    with FakeGCS() as storage:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", storage.url)
        yield Dataflow(world, tmp_path, capsys)


def test_a_dry_run_begins_nothing(dataflow):
    code, err = dataflow.run("--dry_run=true")
    assert code == 0, err
    assert "1 tables and 1 sinks are checked, and the graph is built" in err
    assert "Nothing was started" in err
    assert dataflow.stored() == []


def test_a_submission_that_fails_leaves_no_deployment(dataflow, monkeypatch):
    """The service cannot be reached; Beam raises what the client does."""

    def refuse(*_):
        raise OSError("connection refused")

    monkeypatch.setattr(DataflowRunner, "run_pipeline", refuse)
    code, err = dataflow.run()
    assert code == 1
    assert "connection refused" in err
    assert dataflow.deployment() == ""
    ended = [each for each in dataflow.stored() if each.startswith("state/continuous/")]
    assert any(each.endswith("over") for each in ended), ended


@pytest.mark.parametrize(
    ("option", "where"),
    [
        ("--project=123", "--project"),
        ("--project=My Project", "--project"),
    ],
)
def test_beam_s_options_are_checked_before_anything_is_written(dataflow, option, where):
    # Beam checks less if the endpoint is of this machine.
    code, err = dataflow.run(option, endpoint="https://dataflow.invalid")
    assert code == 1
    (line,) = [each for each in err.splitlines() if each.startswith("dynabeam: ")]
    assert "ConfigurationError" in line
    assert where in line
    assert dataflow.stored() == []


def test_a_local_state_directory(dataflow, tmp_path):
    code, err = dataflow.run(f"--state_dir={tmp_path}/state")
    assert code == 1
    assert "--state_dir" in err
    assert "do not see this machine's disk" in err
    assert not (tmp_path / "state").exists()
    assert dataflow.stored() == []


class TestUpdates:
    """The job of the name is looked for before Beam does, which would look for ever."""

    def test_without_a_job_nothing_is_written(self, dataflow):
        with FakeDataflow() as service:
            here = service.url.replace("127.0.0.1", "localhost")
            code, err = dataflow.run("--update", f"--project={PROJECT}", endpoint=here)
        assert code == 1
        (line,) = [each for each in err.splitlines() if each.startswith("dynabeam: ")]
        assert "--job_name=dynabeam" in line
        assert "no job of this name runs" in line
        assert dataflow.stored() == []
