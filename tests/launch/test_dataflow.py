# SPDX-License-Identifier: Apache-2.0
"""`dynabeam launch` on Dataflow, by Google's own clients against a fake of the HTTP interfaces."""

from __future__ import annotations

import json

import pytest

from dynabeam.pipelines.launch.record import read_record
from dynabeam.pipelines.templates.parameters import parameters_of, replication_parameters
from tests.launch.conftest import REPLICATE
from tests.launch.fake_dataflow import PROJECT, REGION, STATES, spec

JOB = "dynabeam-orders"
LAUNCH = f"/v1b3/projects/{PROJECT}/locations/{REGION}/flexTemplates:launch"
WORKERS = (
    "--temp_location=gs://staging/temp",
    "--service_account_email=worker@my-project.iam.gserviceaccount.com",
    "--sdk_container_image=europe-docker.pkg.dev/my-project/dynabeam/dynabeam:1",
    "--machine_type=n2-standard-2",
    "--launcher_machine_type=n2-standard-1",
    "--num_workers=2",
    "--max_num_workers=6",
    "--autoscaling_algorithm=THROUGHPUT_BASED",
    "--disk_size_gb=30",
    "--worker_zone=europe-west1-b",
    "--network=shop",
    "--subnetwork=regions/europe-west1/subnetworks/shop",
    "--no_use_public_ips",
    "--dataflow_kms_key=projects/my-project/locations/europe-west1/keyRings/r/cryptoKeys/k",
    "--labels=team=shop",
    "--labels=env=prod",
    "--experiments=no_use_multiple_sdk_containers",
    "--dataflow_service_options=sdf_checkpoint_after_duration=30s",
    "--streaming_mode=exactly_once",
    "--additional_pipeline_options=element_processing_timeout_minutes=10",
    "--launch_option=ft_launch_timeout_secs=900",
)
ENVIRONMENT = {
    "stagingLocation": "gs://staging/dynabeam",
    "tempLocation": "gs://staging/temp",
    "serviceAccountEmail": "worker@my-project.iam.gserviceaccount.com",
    "sdkContainerImage": "europe-docker.pkg.dev/my-project/dynabeam/dynabeam:1",
    "machineType": "n2-standard-2",
    "launcherMachineType": "n2-standard-1",
    "numWorkers": 2,
    "maxWorkers": 6,
    "autoscalingAlgorithm": 2,
    "diskSizeGb": 30,
    "workerZone": "europe-west1-b",
    "network": "shop",
    "subnetwork": "regions/europe-west1/subnetworks/shop",
    "ipConfiguration": 2,
    "kmsKeyName": "projects/my-project/locations/europe-west1/keyRings/r/cryptoKeys/k",
    "additionalUserLabels": {"team": "shop", "env": "prod"},
    "additionalExperiments": [
        "no_use_multiple_sdk_containers",
        "sdf_checkpoint_after_duration=30s",
    ],
    "streamingMode": 1,
    "additionalPipelineOptions": ["element_processing_timeout_minutes=10"],
}


def launched(fake):
    """The only launch that was sent."""
    (found,) = [body for _, path, body in fake.requests if path == LAUNCH]
    return found


class TestLaunch:
    def test_everything_arrives(self, console):
        said = console.launch(*WORKERS)
        assert said.code == 0, said.err
        (job_id,) = console.fake.jobs
        assert launched(console.fake) == {
            "launchParameter": {
                "jobName": JOB,
                "containerSpecGcsPath": console.template,
                "parameters": parameters_of(REPLICATE),
                "environment": ENVIRONMENT,
                "launchOptions": {"ft_launch_timeout_secs": "900"},
            }
        }
        assert f"Launched {JOB}: job {job_id}\n" in said.out
        log = f"gs://staging/dynabeam/template_launches/{job_id}/console_logs"
        assert f"  log     {log}\n" in said.out
        assert f"dynabeam launch status --project={PROJECT} --dataflow_region={REGION}" in said.out

    def test_a_dry_run_prints_what_is_sent(self, console):
        said = console.launch(*WORKERS, "--dry_run")
        assert said.code == 0, said.err
        assert console.fake.requests == []
        printed = json.loads(said.out)
        assert console.launch(*WORKERS).code == 0
        assert printed == {
            "method": "POST",
            "url": f"{console.fake.url}{LAUNCH}",
            "body": launched(console.fake),
        }

    def test_a_dry_run_needs_nobody(self, console):
        gone = "--dataflow_endpoint=http://127.0.0.1:1"
        said = console.launch("--dry_run", gone)
        assert json.loads(said.out)["url"].startswith("http://127.0.0.1:1/v1b3/")

    def test_without_an_endpoint_it_is_googles(self, console):
        said = console.launch("--dry_run", without=["--dataflow_endpoint"])
        assert json.loads(said.out)["url"] == f"https://dataflow.googleapis.com{LAUNCH}"

    def test_region_is_googles(self, console):
        assert console.launch(f"--region={REGION}", without=["--dataflow_region"]).code == 0
        assert launched(console.fake)["launchParameter"]["parameters"]["aws_region"] == "eu-west-1"

    def test_the_template_may_be_a_file(self, console, tmp_path):
        file = tmp_path / "spec.json"
        file.write_text(json.dumps(spec(replication_parameters())))
        said = console.launch(f"--template={file}")
        assert said.code == 0, said.err
        sent = launched(console.fake)["launchParameter"]
        assert "containerSpecGcsPath" not in sent
        assert sent["containerSpec"]["image"] == spec()["image"]
        names = [each["name"] for each in sent["containerSpec"]["metadata"]["parameters"]]
        assert names == [each.name for each in replication_parameters()]

    def test_a_template_for_rounds_is_batch(self, console):
        rounds = console.fake.put_spec(spec(replication_parameters("rounds")), "templates/r.json")
        said = console.launch(f"--template={rounds}", "--mode=catch_up")
        assert said.code == 0, said.err
        assert launched(console.fake)["launchParameter"]["parameters"]["mode"] == "catch_up"

    def test_validating_launches_nothing(self, console):
        said = console.launch("--validate_only")
        assert (said.code, console.fake.jobs) == (0, {})
        assert launched(console.fake)["validateOnly"] is True
        assert "nothing was launched" in said.out
        assert "state/orders/launch.json" not in console.fake.objects

    def test_it_is_recorded(self, console):
        assert console.launch().code == 0
        (job_id,) = console.fake.jobs
        record = read_record("gs://state/orders")
        assert record is not None
        assert (record.runner, record.job_id, record.job_name) == ("dataflow", job_id, JOB)
        assert record.staging == "gs://staging/dynabeam"
        said = console.say("status", "--state_dir=gs://state/orders", "--no_auth")
        assert f"{JOB} is PENDING" in said.out

    def test_a_state_directory_out_of_reach_is_told(self, console, monkeypatch):
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "simulated")
        said = console.launch("--state_dir=s3://state/orders", "--endpoint_url=http://127.0.0.1:1")
        assert said.code == 0, said.err
        assert len(console.fake.jobs) == 1
        assert "The launch is not recorded, so name the job by its id" in said.err

    def test_waiting_ends_when_it_runs(self, console):
        said = console.launch("--wait=20s")
        assert said.code == 0, said.err
        assert said.out.endswith(f"{JOB} runs\n")
        states = [line.split()[-1] for line in said.err.splitlines() if " s  " in line]
        assert states == ["QUEUED", "PENDING", "RUNNING"]

    def test_waiting_has_an_end(self, console):
        said = console.launch("--wait=0.1s")
        assert said.code == 1
        assert "the job does not run after" in said.err
        assert "console_logs" in said.err

    def test_an_answer_that_is_lost_is_looked_for(self, console):
        console.fake.refusals = ["silent"]
        said = console.launch()
        assert said.code == 0, said.err
        (job_id,) = console.fake.jobs
        assert f"Launched {JOB}: job {job_id}" in said.out
        assert "looking whether it was launched" in said.err


class TestUpdate:
    def test_a_running_job_is_replaced(self, console):
        old = console.fake.job_in("RUNNING")
        mapping = {"Write0_gs": "", "Write1_file": "Write0_file"}
        said = console.launch(
            "--update", f"--transform_name_mapping={json.dumps(mapping)}", "--wait=20s"
        )
        assert said.code == 0, said.err
        sent = launched(console.fake)["launchParameter"]
        assert (sent["update"], sent["transformNameMappings"]) == (True, mapping)
        (new,) = [each for each in console.fake.jobs if each != old]
        assert f"Updating {JOB}: job {new}" in said.out
        said = console.about("status", f"--job_id={old}")
        assert said.code == 1
        assert "is UPDATED" in said.out
        assert f"replaced by job {new}" in said.out

    def test_there_has_to_be_one(self, console):
        said = console.launch("--update")
        assert said.code == 1
        assert f"--job_name={JOB}: no job of this name runs" in said.err
        assert console.fake.changes == []

    def test_it_has_to_run(self, console):
        console.fake.job_in("DRAINING")
        said = console.launch("--update")
        assert (said.code, console.fake.changes) == (1, [])
        assert "only a running job can be updated" in said.err

    def test_what_does_not_fit_leaves_the_old_one(self, console):
        old = console.fake.job_in("RUNNING")
        console.fake.incompatible = (
            "The new job is not compatible with the running job. The Coder or type for step "
            "Reconcile/Buckets has changed."
        )
        said = console.launch("--update", "--wait=20s")
        assert said.code == 1
        assert "The Coder or type for step Reconcile/Buckets has changed" in said.err
        assert "--transform_name_mapping" in said.err
        assert console.fake.state(console.fake.jobs[old]) == "RUNNING"


class TestAfterwards:
    @pytest.fixture
    def job(self, console):
        assert console.launch("--wait=20s").code == 0
        (job_id,) = console.fake.jobs
        return job_id

    def test_status(self, console, job):
        said = console.about("status", "--name=orders", "--json")
        assert said.code == 0, said.err
        found = json.loads(said.out)
        assert (found["job_id"], found["state"]) == (job, "RUNNING")
        assert found["counters"] == {"changes": 1200}
        assert found["log"] == f"gs://staging/dynabeam/template_launches/{job}/console_logs"

    def test_status_of_a_launch_that_failed(self, console):
        broken = console.fake.put_spec(
            spec(replication_parameters(), image="broken"), "templates/broken.json"
        )
        said = console.launch(f"--template={broken}", "--wait=20s")
        assert said.code == 1
        (job_id,) = console.fake.jobs
        log = f"gs://staging/dynabeam/template_launches/{job_id}/console_logs"
        assert "Template launch failed" in said.err
        assert log in said.err.splitlines()[-1]
        said = console.about("status", f"--job_id={job_id}")
        assert said.code == 1
        assert "  error: " in said.out
        assert log in said.out

    def test_drain(self, console, job):
        said = console.about("drain", f"--job_id={job}", "--wait=20s")
        assert said.code == 0, said.err
        assert said.out.endswith(f"{JOB} is DRAINED\n")
        assert console.fake.changes[-1][2] == {"requestedState": STATES["DRAINING"]}
        said = console.about("drain", f"--job_id={job}")
        assert said.code == 1
        assert f"--job_id={job}: the job has ended already; found 'DRAINED'" in said.err

    def test_cancel(self, console, job):
        said = console.about("cancel", "--job_name=dynabeam-orders", "--wait=20s")
        assert said.code == 0, said.err
        assert said.out.endswith(f"{JOB} is CANCELLED\n")
        assert console.fake.changes[-1][2] == {"requestedState": STATES["CANCELLED"]}

    def test_scale(self, console, job):
        said = console.about(
            "scale", f"--job_id={job}", "--min_num_workers=2", "--max_num_workers=9"
        )
        assert said.code == 0, said.err
        assert f"{JOB} may have at least 2 and at most 9 workers" in said.out
        limits = {"minNumWorkers": 2, "maxNumWorkers": 9}
        assert console.fake.changes[-1][2] == {"runtimeUpdatableParams": limits}
        told = console.about("status", f"--job_id={job}").out
        assert "  at least 2 workers\n  at most 9 workers\n" in told

    def test_scaling_one_way_leaves_the_other(self, console, job):
        assert console.about("scale", f"--job_id={job}", "--max_num_workers=4").code == 0
        assert console.fake.changes[-1][2] == {"runtimeUpdatableParams": {"maxNumWorkers": 4}}
        told = console.about("status", f"--job_id={job}").out
        assert "at most 4 workers" in told
        assert "at least" not in told

    def test_there_are_no_savepoints(self, console, job):
        said = console.about("savepoint", f"--job_id={job}")
        assert said.code == 1
        assert "Dataflow has no savepoints" in said.err
        assert "--update" in said.err
