# SPDX-License-Identifier: Apache-2.0
"""What keeps a job from being launched on Dataflow: one error, with option, value and hint."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dynabeam.pipelines.templates.parameters import replication_parameters
from tests.launch.fake_dataflow import PROJECT, RefusalError, spec

ROOT = Path(__file__).parents[2]
BEFORE = {
    "no project": ((), ("--project",), ("--project: the project", "gcloud config get project")),
    "project": (
        ("--project=No_Project",),
        (),
        ("--project: not the id of a project", "'No_Project'", "6 to 30"),
    ),
    "no region": ((), ("--dataflow_region",), ("--dataflow_region: the region", "europe-west1")),
    "region of AWS": (
        ("--dataflow_region=eu-west-1",),
        (),
        ("--dataflow_region: not a region of Google's", "'eu-west-1'", "--aws_region"),
    ),
    "job name": (
        ("--job_name=Orders_1",),
        (),
        ("--job_name: not a name for a job", "'Orders_1'", "Lower-case"),
    ),
    "name": ((f"--name={'a' * 60}",), (), ("--name: not a name for a job", "at most 63")),
    "no template": ((), ("--template",), ("--template: the template is not named", "gs://")),
    "template": (("--template=gs://templates",), (), ("--template", "'gs://templates'")),
    "file": (("--template=/no/spec.json",), (), ("--template=/no/spec.json", "cannot be read")),
    "staging": (
        ("--staging_location=/tmp/staging",),
        (),
        ("--staging_location: not a place in Cloud Storage", "'/tmp/staging'", "gs://BUCKET"),
    ),
    "workers": (
        ("--num_workers=9", "--max_num_workers=3"),
        (),
        ("--num_workers, --max_num_workers", "9 > 3"),
    ),
    "mapping": (
        ("--update", "--transform_name_mapping=a=b"),
        (),
        ("--transform_name_mapping: not a mapping", "'a=b'", "Write JSON"),
    ),
    "mapping alone": (
        ('--transform_name_mapping={"a": "b"}',),
        (),
        ("--transform_name_mapping: only an update renames", "--update"),
    ),
    "label": (("--labels=team",), (), ("--labels: not a pair", "'team'", "--labels=KEY=VALUE")),
    "parameter": (("--buckets=many",), (), ("buckets", "'many'", "Write a number")),
    "local state": (("--state_dir=.dynabeam/x",), (), ("state_dir", "'.dynabeam/x'")),
    "keys": (("--secret_key=${env:KEY}",), (), ("--secret_key: no parameter of the template",)),
    "endpoint": (
        ("--dataflow_endpoint=localhost:1",),
        (),
        ("--dataflow_endpoint: not the address", "'localhost:1'"),
    ),
    "wait": (("--wait=soon",), (), ("--wait: not a duration", "'soon'")),
}


@pytest.mark.parametrize(("more", "without", "words"), BEFORE.values(), ids=BEFORE)
def test_nobody_is_asked_for_what_cannot_be(console, more, without, words):
    said = console.launch(*more, without=without)
    told_once(said, *words)
    assert console.fake.requests == []


def told_once(said, *words):
    """The command failed with one error, which has these words."""
    assert said.code == 1, said
    assert said.out == ""
    (line,) = [each for each in said.err.splitlines() if each.startswith("dynabeam: ")]
    assert line.startswith("dynabeam: ConfigurationError: ")
    assert "Traceback" not in said.err
    for each in words:
        assert each in line


@pytest.fixture(autouse=True)
def _nothing_is_left(fake):
    """After each test: nothing was launched, and the state directory is as it was."""
    yield
    assert set(fake.jobs) <= fake.expected
    assert not [each for each in fake.objects if each.startswith("state/")]


@pytest.fixture
def fake(fake):
    fake.expected = set()
    return fake


class TestLookedAtFirst:
    """What would come out only on the launcher's machine, minutes later."""

    @pytest.mark.parametrize(
        ("option", "path"),
        [
            ("--staging_location", "gs://no-such-bucket/dynabeam"),
            ("--temp_location", "gs://no-such-bucket/temp"),
            ("--state_dir", "gs://no-such-bucket/orders"),
        ],
    )
    def test_a_bucket(self, console, option, path):
        said = console.launch(f"{option}={path}")
        told_once(
            said,
            f"{option}: there is no such bucket; found '{path}'",
            "gcloud storage buckets create gs://no-such-bucket --location=europe-west1",
        )
        assert console.fake.requests == []

    def test_the_template(self, console):
        said = console.launch("--template=gs://templates/gone.json")
        told_once(
            said, "--template=gs://templates/gone.json: there is no template's", "Upload what"
        )
        assert console.fake.requests == []

    @pytest.mark.parametrize("content", [b"{", b"[]", b'{"metadata": {}}', b'{"image": ""}'])
    def test_what_is_no_template(self, console, content):
        console.fake.write("templates/other.json", content, None)
        said = console.launch("--template=gs://templates/other.json")
        told_once(said, "--template=gs://templates/other.json: not the specification")

    def test_a_template_of_another_version(self, console):
        known = [each for each in replication_parameters() if each.name != "verify_chain"]
        path = console.fake.put_spec(spec(known), "templates/old.json")
        said = console.launch(f"--template={path}")
        told_once(said, "--verify_chain: the template has no such parameter", path)

    def test_a_parameter_that_the_template_does_not_take(self, console):
        document = spec(replication_parameters())
        for each in document["metadata"]["parameters"]:
            if each["name"] == "tables":
                each["regexes"] = ["[a-z]+"]
        path = console.fake.put_spec(document, "templates/narrow.json")
        said = console.launch(f"--template={path}")
        told_once(said, "--tables: not a value", "expected '[a-z]+'", "'orders,customers'")

    def test_a_parameter_that_the_template_needs(self, console):
        document = spec(replication_parameters())
        document["metadata"]["parameters"].append({"name": "more", "helpText": "Say more."})
        path = console.fake.put_spec(document, "templates/new.json")
        said = console.launch(f"--template={path}")
        told_once(said, "--more: the template needs another parameter", "Say more")

    def test_a_mode_that_the_template_does_not_offer(self, console):
        said = console.launch("--streaming_mode=at_least_once")
        told_once(said, "--streaming_mode: the template does not offer", "'at_least_once'")
        assert console.fake.requests == []

    def test_a_job_of_the_name(self, console):
        job = console.fake.job_in("RUNNING")
        console.fake.expected = {job}
        told_once(
            console.launch(),
            "--job_name=dynabeam-orders: a job of this name has not ended",
            f"found '{job}, RUNNING'",
            "--update",
            "dynabeam launch drain",
        )
        assert console.fake.changes == []

    def test_several_jobs_of_the_name(self, console):
        jobs = [console.fake.job_in("RUNNING"), console.fake.job_in("DRAINING")]
        console.fake.expected = set(jobs)
        told_once(console.launch(), "several jobs of this name have not ended", *jobs)

    def test_what_may_not_be_looked_at_is_left_to_dataflow(self, console):
        console.fake.closed = {"staging"}
        said = console.launch("--validate_only")
        assert said.code == 0
        assert "--staging_location: you may not look at gs://staging/dynabeam" in said.err


REFUSED = {
    "permission": (
        RefusalError(
            403, "PERMISSION_DENIED", "Permission 'dataflow.jobs.create' denied on project: 'x'"
        ),
        ("--project=my-project: permission is missing", "roles/dataflow.developer"),
    ),
    "account": (
        RefusalError(
            403,
            "PERMISSION_DENIED",
            "Current user cannot act as service account w@my-project.iam.gserviceaccount.com.",
        ),
        ("--service_account_email", "roles/iam.serviceAccountUser"),
    ),
    "switched off": (
        RefusalError(
            403,
            "PERMISSION_DENIED",
            "Dataflow API has not been used in project 1 before or it is disabled.",
        ),
        ("--project=my-project: Dataflow is not switched on", "gcloud services enable"),
    ),
    "nobody": (
        RefusalError(401, "UNAUTHENTICATED", "Request is missing required credential."),
        ("GOOGLE_APPLICATION_CREDENTIALS", "gcloud auth application-default login"),
    ),
    "quota": (
        RefusalError(429, "RESOURCE_EXHAUSTED", "Quota exceeded for quota metric 'CPUs'"),
        ("--project=my-project: a quota of the project is used up", "CPUs"),
    ),
    "parameter": (
        RefusalError(
            400,
            "INVALID_ARGUMENT",
            "The template parameters are invalid. Details: tables: Missing required parameter",
        ),
        ("--template=gs://", "the template refuses a parameter", "tables: Missing"),
    ),
    "bucket": (
        RefusalError(
            400, "INVALID_ARGUMENT", "Unable to write to staging location gs://staging/dynabeam"
        ),
        ("--staging_location=gs://staging/dynabeam", "cannot be used"),
    ),
    "spec": (
        RefusalError(404, "NOT_FOUND", "Unable to open template file: gs://templates/x.json."),
        ("--template=gs://", "the template cannot be used"),
    ),
    "name": (
        RefusalError(409, "ALREADY_EXISTS", "There is already an active job named x."),
        ("--job_name=dynabeam-orders", "--update"),
    ),
    "other": (
        RefusalError(400, "FAILED_PRECONDITION", "The moon is full"),
        ("--project=my-project", "The moon is full"),
    ),
    "down": (
        RefusalError(503, "UNAVAILABLE", "The service is currently unavailable."),
        ("the service does not answer", "currently unavailable", "try again"),
    ),
}


@pytest.mark.parametrize(("refusal", "words"), REFUSED.values(), ids=REFUSED)
def test_what_dataflow_refuses(console, refusal, words):
    console.fake.refusals = [refusal]
    told_once(console.launch(), *words)


def test_a_project_that_is_not_there(console):
    told_once(
        console.launch("--project=no-such-project"),
        "--project=no-such-project",
        "Permission denied on resource project no-such-project",
        "check --project",
    )


def test_a_region_that_is_not_there(console):
    told_once(
        console.launch("--dataflow_region=us-nowhere1"),
        "--dataflow_region=us-nowhere1: Dataflow has no such region",
        "resources/locations",
    )


def test_a_service_that_does_not_answer(console):
    told_once(
        console.launch("--dataflow_endpoint=http://127.0.0.1:1"),
        "--dataflow_endpoint=http://127.0.0.1:1: the service does not answer",
    )


def test_nobody_to_ask_as(console, monkeypatch, tmp_path):
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    where = [f"{name}={value}" for name, value in console.where.items()]
    told_once(
        console.say("status", *where, "--job_id=1"),
        "GOOGLE_APPLICATION_CREDENTIALS: there are no credentials",
        "gcloud auth application-default login",
    )
    assert console.fake.requests == []


def test_without_googles_clients():
    """As it is after `pip install dynabeam`."""
    program = """
import sys
sys.modules["google.cloud.dataflow_v1beta3"] = None
from dynabeam.pipelines.command_line import main
sys.exit(main(["launch", "status", "--project=my-project", "--dataflow_region=us-east1",
               "--job_id=1"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 1
    assert "Google's clients are not installed: google.cloud.dataflow_v1beta3" in done.stderr
    assert "pip install 'dynabeam[dataflow]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_update_that_the_service_refuses(console):
    console.fake.expected = {console.fake.job_in("RUNNING")}
    console.fake.refusals = [
        RefusalError(400, "FAILED_PRECONDITION", "The Coder or type for step Read has changed")
    ]
    told_once(
        console.launch("--update"),
        "--update, --job_name=dynabeam-orders: the running job cannot be updated",
        "--transform_name_mapping",
    )


def test_an_update_whose_answer_is_lost_before_it_was_read(console):
    """The job of the name is the old one: it is not taken for the new."""
    old = console.fake.job_in("RUNNING")
    console.fake.expected = {old}
    console.fake.refusals = [RefusalError(504, "DEADLINE_EXCEEDED", "Deadline exceeded")]
    told_once(console.launch("--update"), "the service does not answer")


class TestOtherCommands:
    def test_a_job_that_is_not_there(self, console):
        told_once(
            console.about("status", "--job_id=2026-12-01_00_00_00-1"),
            "--job_id=2026-12-01_00_00_00-1: there is no such job",
            f"gcloud dataflow jobs list --project={PROJECT}",
        )

    def test_no_job_of_the_name(self, console):
        told_once(
            console.about("drain", "--name=orders"),
            "--job_name=dynabeam-orders: no job of this name runs",
            "--job_id",
        )

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            ((), "--min_num_workers, --max_num_workers: a job of Dataflow"),
            (("--max_num_workers=-1",), "--min_num_workers, --max_num_workers: a job of Dataflow"),
            (("--parallelism=3",), "--min_num_workers, --max_num_workers: a job of Dataflow"),
            (("--min_num_workers=5", "--max_num_workers=2"), "5 > 2"),
        ],
    )
    def test_scaling_to_nothing(self, console, words, told):
        job = console.fake.job_in("RUNNING")
        console.fake.expected = {job}
        told_once(console.about("scale", f"--job_id={job}", *words), told)
        assert console.fake.changes == []

    def test_scaling_a_job_that_has_ended(self, console):
        job = console.fake.job_in("DRAINED")
        console.fake.expected = {job}
        said = console.about("scale", f"--job_id={job}", "--max_num_workers=2")
        told_once(said, f"--job_id={job}: only a running job can be scaled", "'DRAINED'")

    def test_two_runners_at_once(self, console):
        told_once(
            console.about("status", "--flink_rest=http://localhost:8081"),
            "--flink_rest, --project: a job runs either on Flink or on Dataflow",
        )

    def test_nothing_is_known(self, console, tmp_path):
        said = console.say("status", f"--state_dir={tmp_path}")
        told_once(said, f"--state_dir={tmp_path}: nothing was launched", "--project")

    def test_an_unknown_option(self, console):
        told_once(console.about("status", "--job_idd=1"), "--job_idd: no such option", "--job_id")

    def test_an_unknown_command(self, console):
        said = console.say("datflow")
        assert said.code == 2
        assert "no command 'datflow'; there are dataflow, flink, status" in said.err


def test_a_secret_is_sent_by_reference(console):
    """Nobody here resolves it, not even to check the sink."""
    said = console.launch("--dry_run")
    sent = json.loads(said.out)["body"]["launchParameter"]["parameters"]
    assert "replica:${secret:projects/my-project/secrets/loader}@db" in sent["sink"]
    assert console.fake.requests == []


def test_a_password_in_clear_is_refused(console):
    said = console.launch("--sink=postgresql://replica:hunter2-hunter2@db/shop")
    told_once(said, "sink")
    assert "hunter2" not in said.err
