# SPDX-License-Identifier: Apache-2.0
"""A round whose driver does not see what its workers wrote: nothing is committed, nothing twice."""

import json
from pathlib import Path

import pytest
from apache_beam.runners.runner import PipelineResult, PipelineState

from dynabeam.pipelines.options.runners import round_runner
from dynabeam.pipelines.rounds import run as rounds
from dynabeam.transforms.sinks.files.staging import RoundFiles
from dynabeam.transforms.state.round_outputs import DEAD_LETTERS, REPORTS
from dynabeam.transforms.storage import filesystem
from tests.pipelines.runs import orders

OPTIONS = ("--tables=orders", "--snapshot=never")


@pytest.fixture
def written(world):
    world.sim.put_many("orders", orders(3))
    world.catch_up()
    return world


def assert_repeated(world, ended, *parts):
    """Nothing counts; the next run does it, once."""
    assert ended.code == 1
    assert "Traceback" not in ended.err
    for part in parts:
        assert part in ended.err
    assert world.committed() is None
    assert world.published() == []
    assert world.run(*OPTIONS).code == 0
    assert sum(len(path.read_bytes().splitlines()) for path in world.published()) == 3
    assert len(world.rows()) == 3


@pytest.mark.parametrize("name", [REPORTS, DEAD_LETTERS])
def test_a_file_that_is_on_another_disk(written, monkeypatch, name):
    real = filesystem.write_atomic

    def elsewhere(path, content, error):
        if not path.endswith(name):
            real(path, content, error)

    with monkeypatch.context() as patch:
        patch.setattr(filesystem, "write_atomic", elsewhere)
        ended = written.run(*OPTIONS)
    assert_repeated(written, ended, "StateError", name, "did not arrive whole")


def test_a_report_that_is_missing(written, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(rounds, "read_reports", lambda path: [])
        ended = written.run(*OPTIONS)
    assert_repeated(written, ended, "StateError", "reader 0 of table orders")


def test_staged_files_that_are_on_another_disk(written, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(RoundFiles, "write_list", lambda *_: None)
        ended = written.run(*OPTIONS)
    assert_repeated(written, ended, "SinkError", "expected '3 rows'", "no commit list")


@pytest.mark.parametrize("state", [PipelineState.CANCELLED, PipelineState.DRAINED])
def test_a_job_that_somebody_cancels(written, monkeypatch, state):
    """A service's `wait_until_finish` returns then, without an error."""

    class Cancelled(PipelineResult):
        def __init__(self):
            super().__init__(state)

        def wait_until_finish(self, duration=None):
            return self.state

    with monkeypatch.context() as patch:
        patch.setattr(rounds.beam.Pipeline, "run", lambda *_: Cancelled())
        ended = written.run(*OPTIONS)
    assert_repeated(written, ended, "StateError", "ended before it was done", state)


HERE = "--job_endpoint=localhost:8099"
REMOTE = [
    "DataflowRunner",
    "dataflow",
    "DATAFLOWRUNNER",
    "apache_beam.runners.dataflow.DataflowRunner",
    "SparkRunner",
    "my.own.Runner",
]


class TestRunners:
    @pytest.mark.parametrize("runner", REMOTE)
    def test_workers_elsewhere_and_files_here(self, written, runner):
        ended = written.run(*OPTIONS, f"--runner={runner}")
        assert ended.code == 1
        (line,) = ended.error_lines
        assert line.startswith("dynabeam: ConfigurationError: --sink=duckdb:")
        assert "do not see this machine's disk" in line
        assert not written.state_dir.exists()
        assert not written.mirror.exists()

    def test_the_state_counts_too(self, written):
        ended = written.run(*OPTIONS, "--runner=DataflowRunner", sinks=["--sink=s3://b/log"])
        assert ended.code == 1
        (line,) = ended.error_lines
        assert str(written.state_dir) in line
        assert "object store" in line

    def test_retry_too(self, written):
        from dynabeam.pipelines.command_line import main  # noqa: PLC0415

        written.capsys.readouterr()
        arguments = [*written.options, *written.sinks, "--runner=DataflowRunner"]
        assert main(["retry", *arguments, f"--state_dir={written.state_dir}"]) == 1
        assert "do not see this machine's disk" in written.capsys.readouterr().err

    def test_the_doctor_says_so(self, written):
        from dynabeam.pipelines.command_line import main  # noqa: PLC0415

        written.capsys.readouterr()
        arguments = [*written.options, *written.sinks, *OPTIONS, "--runner=DataflowRunner"]
        assert main(["doctor", *arguments, f"--state_dir={written.state_dir}"]) == 1
        out = written.capsys.readouterr().out
        assert "rounds run in this process" not in out
        assert "DataflowRunner" in out

    @pytest.mark.parametrize(
        ("arguments", "name", "shares"),
        [
            ([], "the in-process runner", True),
            (["--runner=DirectRunner"], "the in-process runner", True),
            (["--runner=direct"], "the in-process runner", True),
            (["--runner=fnapirunner"], "the in-process runner", True),
            (["--runner=PrismRunner"], "PrismRunner", True),
            (["--runner=prism", "--environment_type=docker"], "PrismRunner", False),
            (["--runner=FlinkRunner"], "FlinkRunner", True),
            (["--runner=flink", "--flink_master=host:8081"], "FlinkRunner", False),
            (["--runner=flink", "--flink_master=localhost:8081"], "FlinkRunner", True),
            (["--runner=PortableRunner", "--job_endpoint=localhost:8099"], "PortableRunner", False),
            (
                [
                    "--runner=portable",
                    "--job_endpoint=localhost:8099",
                    "--environment_type=LOOPBACK",
                ],
                "PortableRunner",
                True,
            ),
            (["--runner=Dataflow"], "DataflowRunner", False),
        ],
    )
    def test_facts(self, arguments, name, shares):
        found = round_runner(arguments)
        assert (found.runner, found.continuous, found.shares_disk) == (name, False, shares)


def test_files_of_two_attempts_never_share_a_name(world):
    """The state was restored from a copy, and the round run again."""
    world.sim.put_many("orders", orders(3))
    world.catch_up()
    assert world.run(*OPTIONS).code == 0
    document = json.loads((world.state_dir / "state.json").read_text())
    (path,) = world.published()
    assert path.name == f"part-00000-{document['attempt']}.jsonl"
    assert Path(path).parent.name == "dynabeam_round=0000000001"
