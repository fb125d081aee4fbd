# SPDX-License-Identifier: Apache-2.0
"""What a continuous run tells its runner, and what it refuses."""

import pytest

from dynabeam.pipelines.options.runners import continuous_runner, option
from dynabeam.transforms.errors import ConfigurationError
from dynabeam.transforms.sinks.registry import check_capabilities, open_sink


class TestPinned:
    def test_flink_gets_what_it_needs(self):
        runner = continuous_runner(["--runner=FlinkRunner", "--flink_master=localhost:8081"])
        for needed in (
            "--streaming",
            "--finish_bundle_before_checkpointing",
            "--externalized_checkpoints_enabled",
            "--retain_externalized_checkpoints_on_cancellation",
        ):
            assert needed in runner.pinned
        for name in (
            "checkpointing_interval",
            "max_bundle_size",
            "max_bundle_time_mills",
            "parallelism",
            "max_parallelism",
            "max_cache_memory_usage_mb",
        ):
            assert int(option(runner.pinned, name)) > 0
        assert [*runner.arguments] == [
            "--runner=FlinkRunner",
            "--flink_master=localhost:8081",
            *runner.pinned,
        ]

    @pytest.mark.parametrize("given", [["--parallelism=7"], ["--parallelism", "7"]])
    def test_what_is_given_is_left_alone(self, given):
        runner = continuous_runner(["--runner=FlinkRunner", *given])
        assert option(runner.arguments, "parallelism") == "7"
        assert not [each for each in runner.pinned if each.startswith("--parallelism")]

    def test_prism_never_splits_a_bundle_of_keyed_state(self):
        found = continuous_runner(["--runner=PrismRunner", "--experiments=other"])
        assert "--experiments=prism_disable_sdf_split" in found.pinned
        assert option(found.arguments, "experiments") == "prism_disable_sdf_split"
        assert "--experiments=other" in found.arguments

    def test_savepoints_are_recognised(self):
        arguments = ["--runner=FlinkRunner", "--savepoint_path=/s/savepoint-1"]
        assert continuous_runner(arguments).savepoint == "/s/savepoint-1"
        assert continuous_runner(["--runner=FlinkRunner"]).savepoint == ""


class TestRefused:
    def test_no_runner(self):
        with pytest.raises(ConfigurationError, match=r"--runner.*PrismRunner"):
            continuous_runner(["--parallelism=2"])

    @pytest.mark.parametrize("runner", ["DirectRunner", "FnApiRunner"])
    def test_the_in_process_runner(self, runner):
        with pytest.raises(ConfigurationError, match="hands nothing on before its input ends"):
            continuous_runner([f"--runner={runner}"])

    def test_a_sink_that_is_written_in_rounds(self, tmp_path):
        facts = continuous_runner(["--runner=PrismRunner"]).facts
        with pytest.raises(ConfigurationError, match="written in rounds"):
            check_capabilities([open_sink(f"duckdb:///{tmp_path}/m.duckdb")], facts)

    @pytest.mark.parametrize(
        "arguments",
        [
            ["--runner=DataflowRunner", "--sdk_container_image=i"],
            ["--runner=FlinkRunner", "--flink_master=flink.example:8081"],
            ["--runner=PortableRunner", "--job_endpoint=jobs.example:8099"],
        ],
    )
    def test_a_local_folder_and_workers_elsewhere(self, arguments, tmp_path):
        facts = continuous_runner(arguments).facts
        assert not facts.shares_disk
        with pytest.raises(ConfigurationError, match="do not see this machine's disk"):
            check_capabilities([open_sink(f"file:///{tmp_path}/out")], facts)

    @pytest.mark.parametrize("place", ["localhost:8081", "127.0.0.1:8081", "[local]", "[::1]:8081"])
    def test_a_local_folder_and_workers_here(self, place, tmp_path):
        facts = continuous_runner(["--runner=FlinkRunner", f"--flink_master={place}"]).facts
        check_capabilities([open_sink(f"file:///{tmp_path}/out")], facts)
