# SPDX-License-Identifier: Apache-2.0
"""What Dataflow is told, and what is refused, before anything is written."""

import pytest

from dynabeam.pipelines.options.google_cloud import job_name
from dynabeam.pipelines.options.replicate import parse_replicate
from dynabeam.pipelines.options.runners import check_rounds, continuous_runner, round_runner
from dynabeam.transforms.errors import ConfigurationError

DATAFLOW = "--runner=DataflowRunner"
IMAGE = "--sdk_container_image=registry.example/dynabeam:1"
COMMON = ["--tables=orders", "--sink=s3://b/log", "--s3_export_bucket=exports"]


def parsed(*arguments):
    return parse_replicate([*COMMON, *arguments])


class TestRegions:
    @pytest.mark.parametrize("option", ["--region", "--aws_region", "--aws-region"])
    def test_of_aws(self, option):
        options = parsed(f"{option}=eu-west-1")
        assert options.access.region == "eu-west-1"
        assert not [each for each in options.beam_arguments if "region" in each]

    @pytest.mark.parametrize("option", ["--region", "--dataflow_region", "--dataflow-region"])
    @pytest.mark.parametrize("runner", ["DataflowRunner", "dataflow"])
    def test_of_dataflow(self, option, runner):
        options = parsed(f"--runner={runner}", f"{option}=europe-west1", "--aws_region=eu-west-1")
        assert options.access.region == "eu-west-1"
        assert options.beam_arguments[-1] == "--region=europe-west1"

    def test_the_same_twice(self):
        assert parsed("--region=us-east-1", "--aws_region=us-east-1").access.region == "us-east-1"
        both = ["--region=us-east1", "--dataflow_region=us-east1", "--aws_region=us-east-1"]
        assert parsed(DATAFLOW, *both).beam_arguments[-1] == "--region=us-east1"

    @pytest.mark.parametrize(
        ("arguments", "where", "what"),
        [
            (["--region=eu-west-1", "--aws_region=eu-west-2"], "--region, --aws_region", "two"),
            (["--region=europe-west1"], "--region", "one of Google's"),
            (["--aws_region=us-central1"], "--aws_region", "one of Google's"),
            (["--region=eu-west-1", "--dataflow_region=us-east1"], "--dataflow_region", "not on"),
            ([DATAFLOW, "--region=eu-west-1"], "--region", "Google Cloud region"),
            (
                [DATAFLOW, "--dataflow_region=eu-west-1", "--aws_region=eu-west-1"],
                "--dataflow_region",
                "Google Cloud region",
            ),
            (
                [DATAFLOW, "--dataflow_region=us-east1", "--region=us-east4"],
                "--region, --dataflow_region",
                "two",
            ),
            ([DATAFLOW, "--region=us-east1"], "--aws_region", "do not know the AWS region"),
            (
                [DATAFLOW, "--region=us-east1", "--aws_region=us-east1"],
                "--aws_region",
                "one of Google's",
            ),
        ],
    )
    def test_mixed_up(self, arguments, where, what, monkeypatch):
        for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(ConfigurationError, match=what) as caught:
            parsed(*arguments)
        assert caught.value.where == where

    def test_aws_from_the_environment(self, monkeypatch):
        monkeypatch.setenv("AWS_REGION", "eu-west-1")
        assert parsed(DATAFLOW, "--region=us-east1").access.region == "eu-west-1"


class TestJobName:
    @pytest.mark.parametrize(
        ("name", "wanted"),
        [
            ("dynabeam", "dynabeam"),
            ("orders", "dynabeam-orders"),
            ("Orders_EU.2", "dynabeam-orders-eu-2"),
            ("-", "dynabeam"),
            ("7", "dynabeam-7"),
        ],
    )
    def test_follows_from_the_name(self, name, wanted):
        assert job_name(name) == wanted
        assert f"--job_name={wanted}" in continuous_runner([DATAFLOW, IMAGE], name).pinned

    def test_a_given_one_stays(self):
        runner = continuous_runner([DATAFLOW, IMAGE, "--job_name=mine"], "orders")
        assert [each for each in runner.arguments if "job_name" in each] == ["--job_name=mine"]

    @pytest.mark.parametrize("name", ["Mine", "7up", "a_b", "a-"])
    def test_one_that_dataflow_refuses(self, name):
        with pytest.raises(ConfigurationError, match="--job_name.*" + name):
            continuous_runner([DATAFLOW, IMAGE, f"--job_name={name}"])

    def test_flink_has_it_too(self):
        assert "--job_name=dynabeam-a" in continuous_runner(["--runner=FlinkRunner"], "a").pinned


class TestRefused:
    def test_no_image(self):
        with pytest.raises(ConfigurationError, match="--sdk_container_image") as caught:
            continuous_runner([DATAFLOW])
        assert "would not have Dynabeam" in str(caught.value)

    @pytest.mark.parametrize("option", ["--setup_file=./setup.py", "--extra_package=d.whl", IMAGE])
    def test_any_package_will_do(self, option):
        assert continuous_runner([DATAFLOW, option]).is_dataflow

    @pytest.mark.parametrize(
        "option", ["s3_access_key_id", "s3_secret_access_key", "s3_session_token"]
    )
    def test_keys_in_clear(self, option):
        with pytest.raises(ConfigurationError, match="readable in the job") as caught:
            continuous_runner([DATAFLOW, IMAGE, f"--{option}=AKIDSECRET"])
        assert f"--{option}" in str(caught.value)
        assert "AKIDSECRET" not in str(caught.value)

    def test_an_update_elsewhere(self):
        with pytest.raises(ConfigurationError, match=r"--update.*savepoint"):
            continuous_runner(["--runner=FlinkRunner", "--update"])

    @pytest.mark.parametrize(
        "arguments",
        [[DATAFLOW], ["--runner=flink", "--flink_master=host:8081"], ["--runner=SparkRunner"]],
    )
    def test_rounds_whose_workers_are_elsewhere(self, arguments):
        with pytest.raises(ConfigurationError, match=r"--runner.*--mode=continuous"):
            check_rounds(round_runner(arguments))

    def test_rounds_here(self):
        check_rounds(round_runner([]))
        check_rounds(round_runner(["--runner=PrismRunner"]))


class TestResuming:
    def test_update(self):
        runner = continuous_runner([DATAFLOW, IMAGE, "--update"])
        assert (runner.updates, runner.resumes) == (True, True)

    def test_savepoint(self):
        runner = continuous_runner(["--runner=FlinkRunner", "--savepoint_path=/s"])
        assert (runner.updates, runner.resumes) == (False, True)

    def test_neither(self):
        assert not continuous_runner([DATAFLOW, IMAGE]).resumes
