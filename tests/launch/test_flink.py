# SPDX-License-Identifier: Apache-2.0
"""`dynabeam launch` on Flink, as far as it is looked at before anything is started.

The whole of it is `tests/runners/test_launches.py`, on a real cluster.
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dynabeam.pipelines.command_line import main
from dynabeam.pipelines.launch.flink import plan
from dynabeam.pipelines.options.runners import runner_name
from dynabeam.transforms.errors import ConfigurationError
from dynabeam.transforms.flink.rest import FlinkRefusedError, FlinkRest, innermost_cause

TRACE = """org.apache.flink.util.FlinkException: The savepoint failed
\tat org.apache.flink.Somewhere.run(Somewhere.java:1)
Caused by: java.util.concurrent.CompletionException: wrapped
\tat org.apache.flink.Somewhere.run(Somewhere.java:2)
Caused by: java.io.IOException: Failed to create directory /proc/x
\t... 3 more
"""
OPTIONS = (
    "--tables=orders",
    "--region=eu-west-1",
    "--snapshot=never",
    "--sink=postgresql://replica@db/shop",
)


class JobManager:
    """Answers as a JobManager that has no jobs.

    Attributes:
        answers: Path → JSON, or a status and what Flink says.
        asked: Paths that were asked for.
    """

    def __init__(self):
        self.answers = {
            "/overview": {"flink-version": "1.20.1", "slots-total": 4, "slots-available": 4},
            "/jobmanager/config": [{"key": "state.savepoints.dir", "value": "s3://savepoints"}],
            "/jobs/overview": {"jobs": []},
        }
        self.asked = []

    def __enter__(self):
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.asked.append(self.path)
                found = outer.answers.get(self.path, (404, {"errors": ["Not found: " + self.path]}))
                status, body = found if isinstance(found, tuple) else (200, found)
                content = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def jobmanager():
    with JobManager() as jobmanager:
        yield jobmanager


@pytest.fixture
def launch(jobmanager, capsys, tmp_path):
    """Runs `launch flink`: exit code, output, errors."""

    def run(*more):
        words = [f"--flink_rest={jobmanager.url}", f"--state_dir={tmp_path}/state", *OPTIONS]
        given = {each.partition("=")[0] for each in more}
        words = [each for each in words if each.partition("=")[0] not in given]
        code = main(["launch", "flink", *words, *more])
        said = capsys.readouterr()
        if code:
            assert not (tmp_path / "state").exists()
            (line,) = [each for each in said.err.splitlines() if each.startswith("dynabeam: ")]
            assert line.startswith("dynabeam: ConfigurationError: ")
        return code, said.out, said.err

    return run


def test_a_dry_run_asks_nobody(launch, jobmanager):
    code, out, _ = launch("--dry_run", "--parallelism=4", "--name=shop")
    assert code == 0
    assert jobmanager.asked == []
    found = json.loads(out)
    assert (found["flink_rest"], found["job_name"]) == (jobmanager.url, "dynabeam-shop")
    words = found["command"]
    assert words[:2] == ["dynabeam", "replicate"]
    master = jobmanager.url.removeprefix("http://")
    for each in (
        *("--mode=continuous", "--detach", "--job_name=dynabeam-shop", "--parallelism=4"),
        *(f"--flink_master={master}", "--environment_type=EXTERNAL"),
        "--environment_config=localhost:50000",
    ):
        assert words.count(each) == 1


class TestPlan:
    def plan(self, *words, **more):
        given = {"rest": "http://jm:8081", "job_name": "", "savepoint": "", "seconds": 1}
        return plan([*OPTIONS, "--state_dir=s3://b/state", *words], **{**given, **more})

    def test_the_address_may_be_beams(self):
        found = self.plan("--flink_master=jobmanager:8081", rest="")
        assert found.rest.url == "http://jobmanager:8081"
        assert not [each for each in found.words if each == "--flink_master=jm:8081"]

    def test_a_job_server_that_runs(self):
        found = self.plan("--job_endpoint=jobserver:8099")
        assert "--runner=PortableRunner" in found.words
        assert not [each for each in found.words if each.startswith("--flink_master")]

    def test_without_java_it_is_a_jar(self, monkeypatch):
        monkeypatch.setenv("PATH", "")
        monkeypatch.delenv("JAVA_HOME", raising=False)
        found = self.plan()
        (runner,) = [each for each in found.words if each.startswith("--runner=")]
        assert runner == "--runner=dynabeam.pipelines.launch.uber_jar.FlinkRunner"
        assert runner_name([runner]) == "FlinkRunner"

    def test_a_savepoint_is_handed_on(self):
        found = self.plan(savepoint="s3://savepoints/1")
        assert "--savepoint_path=s3://savepoints/1" in found.words
        assert "--savepoint_path=s3://savepoints/1" not in found.given

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            (("--runner=DataflowRunner",), "--runner: not Flink's runner; found 'DataflowRunner'"),
            (("--environment_type=LOOPBACK",), "--environment_type: these workers are threads"),
            (("--sink=duckdb:///m.duckdb",), "duckdb"),
            (("--state_dir=/local",), "--state_dir"),
        ],
    )
    def test_what_cannot_work(self, words, told):
        with pytest.raises(ConfigurationError, match=told):
            self.plan(*words)

    def test_an_address_is_needed(self):
        with pytest.raises(ConfigurationError, match="--flink_rest: Flink's address is missing"):
            self.plan(rest="")


class TestRefused:
    def test_a_version_that_beam_does_not_know(self, launch, jobmanager):
        jobmanager.answers["/overview"] |= {"flink-version": "1.15.4"}
        code, _, err = launch()
        assert code == 1
        assert "Beam has no job server for this version of Flink" in err
        assert "found '1.15'" in err

    def test_too_few_slots(self, launch):
        code, _, err = launch("--parallelism=5")
        assert code == 1
        assert "--parallelism: Flink has fewer free slots than that" in err

    def test_slots_that_become_free(self, launch, jobmanager, tmp_path):
        """As those of a job that has just been stopped; it comes as far as the next thing."""
        jobmanager.answers["/overview"] |= {"slots-available": 1}
        timer = threading.Timer(
            1,
            jobmanager.answers.update,
            [{"/overview": {**jobmanager.answers["/overview"], "slots-available": 4}}],
        )
        timer.start()
        code, _, err = launch("--parallelism=3", f"--savepoint_path={tmp_path}/gone")
        timer.join()
        assert code == 1
        assert "there is no savepoint" in err
        assert jobmanager.asked.count("/overview") > 1

    def test_more_subtasks_than_parts_of_the_state(self, launch):
        code, _, err = launch("--parallelism=5", "--max_parallelism=4")
        assert code == 1
        assert "expected '1 to 4'; found 5" in err

    def test_a_cluster_that_grows_has_slots_enough(self, launch, jobmanager, tmp_path):
        """It comes as far as the next thing that is wrong."""
        jobmanager.answers["/jobmanager/config"].append(
            {"key": "kubernetes.cluster-id", "value": "dynabeam"}
        )
        code, _, err = launch("--parallelism=5", f"--savepoint_path={tmp_path}/gone")
        assert code == 1
        assert f"--savepoint_path={tmp_path}/gone: there is no savepoint" in err

    def test_a_job_of_the_name(self, launch, jobmanager):
        jobmanager.answers["/jobs/overview"] = {
            "jobs": [
                {"jid": "a1", "name": "dynabeam-shop", "state": "RESTARTING", "start-time": 1},
                {"jid": "a0", "name": "dynabeam-shop", "state": "FAILED", "start-time": 0},
            ]
        }
        code, _, err = launch("--name=shop")
        assert code == 1
        assert "--job_name=dynabeam-shop: a job of this name has not ended" in err
        assert "found 'a1, RESTARTING'" in err
        assert "dynabeam launch savepoint --stop" in err

    def test_somebody_else_answers(self, launch, jobmanager):
        jobmanager.answers = {"/overview": (404, {"detail": "what?"})}
        code, _, err = launch()
        assert code == 1
        assert f"--flink_rest={jobmanager.url}: Flink's REST interface does not answer" in err

    def test_nothing_to_resume(self, launch, tmp_path):
        code, _, err = launch("--resume")
        assert code == 1
        assert f"--state_dir={tmp_path}/state: nothing was launched on Flink" in err


def test_flink_says_why(jobmanager):
    jobmanager.answers["/jobs/1"] = (500, {"errors": ["Internal server error.", TRACE]})
    with pytest.raises(FlinkRefusedError, match="500 to GET /jobs/1: IOException: Failed") as told:
        FlinkRest(jobmanager.url).get("/jobs/1")
    assert told.value.status == 500


@pytest.mark.parametrize(
    ("trace", "line"),
    [
        (TRACE, "IOException: Failed to create directory /proc/x"),
        ("java.lang.Exception: all: of it", "Exception: all: of it"),
        ("Job 7 not found: it ended", "Job 7 not found: it ended"),
        ("", ""),
    ],
)
def test_the_innermost_cause(trace, line):
    assert innermost_cause(trace) == line


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://jobmanager:8081/", "jobmanager:8081"),
        ("http://[::1]:8081", "[::1]:8081"),
        ("https://flink.example", "flink.example:443"),
    ],
)
def test_addresses(url, address):
    assert FlinkRest(url).address == address
