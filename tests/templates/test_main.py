# SPDX-License-Identifier: Apache-2.0
"""`main.py`, started as the launcher starts it: the job file, errors, and no secret in either."""

import base64
import itertools
import re
import zlib

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from dynabeam.pipelines.templates.main import main
from dynabeam.pipelines.templates.parameters import replication_parameters
from tests.sinks.postgres_server import server_for_tests
from tests.templates.launcher import IMAGE, start, unpacked

ROLE = "arn:aws:iam::111122223333:role/templates"
MARKS = {
    "AWS_SECRET_ACCESS_KEY": "MARKtemplatesecretkey1",
    "AWS_SESSION_TOKEN": "MARKtemplatesessiontoken2",
    "MARKED_EXTERNAL_ID": "MARKtemplateexternalid3",
    "MARKED_PASSWORD": "MARKtemplatepassword4",
}

pytestmark = [pytest.mark.usefixtures("credentials"), pytest.mark.slow]


@pytest.fixture
def parameters(account, tmp_path):
    """What a launch has to be told, with places of its own."""
    place = f"s3://target/{tmp_path.name}"
    return {
        "aws_region": account.sim.region,
        "endpoint_url": account.sim.endpoint_url,
        "tables": "orders",
        "s3_export_bucket": "exports",
        "sink": f"{place}/json {place}/parquet?format=parquet",
        "state_dir": f"{place}/state",
    }


def keys(account, prefix):
    """Keys of objects below a prefix of the bucket `target`."""
    client = account.sim.client("s3")
    found = client.list_objects_v2(Bucket="target", Prefix=prefix).get("Contents", ())
    return [each["Key"] for each in found]


@pytest.fixture(scope="module")
def launch(account, google, tmp_path_factory):
    """One launch with every parameter that the launcher may give, some of them left empty."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "simulated")
        given = {each.name: "" for each in replication_parameters()} | {
            "aws_region": account.sim.region,
            "endpoint_url": account.sim.endpoint_url,
            "tables": "orders",
            "s3_export_bucket": "exports",
            "sink": "gs://target/one/json s3://target/one/parquet?format=parquet",
            "state_dir": "gs://target/one/state",
            "take_over": "true",
            "verify_chain": "false",
            "max_num_workers": "4",
            "subnetwork": "regions/europe-west1/subnetworks/private",
            "use_public_ips": "false",
            "labels": "team=data",
            "a_flag_of_next_year": "1",
        }
        return start(tmp_path_factory.mktemp("launch"), google, given)


class TestContinuous:
    def test_it_writes_the_job_file_and_ends(self, launch):
        assert launch.code == 0, launch.err
        assert launch.errors == []
        # The service waits for the file and the end; nothing stays with a job that is not there.
        assert launch.after < 15

    def test_the_job_is_what_was_launched(self, launch):
        environment = launch.job["environment"]
        (pool,) = environment["workerPools"]
        assert launch.job["name"] == "orders"
        assert launch.job["type"] == "JOB_TYPE_STREAMING"
        assert [each["containerImage"] for each in pool["sdkHarnessContainerImages"]] == [IMAGE]
        assert pool["autoscalingSettings"]["maxNumWorkers"] == 4
        assert pool["subnetwork"] == "regions/europe-west1/subnetworks/private"
        assert pool["ipConfiguration"] == "WORKER_IP_PRIVATE"
        assert environment["serviceAccountEmail"].startswith("dynabeam@")
        assert launch.job["labels"] == {"team": "data"}

    def test_several_sinks_are_in_the_graph(self, launch):
        names = {each.unique_name for each in launch.pipeline.components.transforms.values()}
        assert {"Write1_gs", "Write2_s3"} <= {each.partition("/")[0] for each in names}

    def test_flags_that_nobody_knows_are_told(self, launch):
        lines = [each for each in launch.err.splitlines() if "a_flag_of_next_year" in each]
        assert lines == [
            "warning: --a_flag_of_next_year: neither a parameter nor an option of Beam; left out"
        ]

    def test_the_deployment_is_begun(self, launch, google):
        (folder,) = {
            each.split("/")[4] for each in google.storage.objects if "/state/continuous/" in each
        }
        # Its path is in the graph, behind what Beam packs it into.
        assert any(
            f"/continuous/{folder}".encode() in each
            for each in unpacked(launch.pipeline.SerializeToString())
        )


class TestRounds:
    def test_the_graph_of_the_job_file_catches_up(self, account, google, parameters, tmp_path):
        launch = start(tmp_path, google, {**parameters, "mode": "catch_up", "round_bytes": "8MiB"})
        assert launch.code == 0, launch.err
        # All that people find in the launch's console log.
        (line,) = [each for each in launch.err.splitlines() if not each.startswith("WARNING ")]
        assert re.fullmatch(r"The job is written down in gs://.*/job_object", line)
        assert launch.job["type"] == "JOB_TYPE_BATCH"
        (pool,) = launch.job["environment"]["workerPools"]
        assert (pool["numWorkers"], pool["autoscalingSettings"]["maxNumWorkers"]) == (1, 1)
        prefix = tmp_path.name
        assert keys(account, prefix) == []
        for _ in range(2):
            # The second time there is nothing new.
            with beam.Pipeline.from_runner_api(launch.pipeline, "FnApiRunner", PipelineOptions([])):
                pass
            files = keys(account, prefix)
            assert [each for each in files if each.endswith(".jsonl")] != []
            assert [each for each in files if each.endswith(".parquet")] != []

    def test_a_failure_of_the_command_is_one_of_the_job(self, google, parameters, tmp_path):
        launch = start(tmp_path, google, {**parameters, "mode": "catch_up", "tables": "nowhere"})
        assert launch.code == 0, launch.err
        pipeline = beam.Pipeline.from_runner_api(
            launch.pipeline, "FnApiRunner", PipelineOptions([])
        )
        with pytest.raises(Exception, match=r"ended with exit code 1: dynabeam: .*nowhere"):
            pipeline.run()

    def test_without_an_image(self, google, parameters, tmp_path):
        given = {**parameters, "mode": "catch_up", "sdk_container_image": ""}
        launch = start(tmp_path, google, given)
        assert launch.code == 1
        (line,) = launch.errors
        assert "--sdk_container_image: Dataflow's workers would not have Dynabeam" in line
        assert launch.job is None


class TestRefused:
    """One line on the console, no job file, no deployment."""

    @pytest.mark.parametrize(
        ("name", "value", "words"),
        [
            ("sink", "", "sink: the parameter 'Sinks' is not given. Write gs://"),
            ("sink", "duckdb:///m.duckdb", "found 'duckdb:///m.duckdb'. Write gs://"),
            ("sink", "s3://target/x?format=odt", "format"),
            ("gaps", "pray", "gaps: not a value for the parameter 'Lost changes'; found 'pray'."),
            ("state_dir", "/data", "state_dir: not a value for the parameter 'State directory'"),
            ("take_over", "yes", "take_over: not a value for the parameter 'Take over'; found"),
            (
                "mode",
                "continuous",
                "mode: not a value for the parameter 'Mode'; found 'continuous'",
            ),
            ("detach", "true", "None has it, since the launcher never stays with a job."),
            ("buckets", "4000", "--buckets: not a number in its range; expected '1 … 1024'"),
            ("tables", "nowhere", "nowhere"),
            ("num_workers", "many", "num_workers"),
            ("sdk_container_image", "", "--sdk_container_image: Dataflow's workers would not have"),
            ("region", "Europe", "--region: not the name of a Google Cloud region"),
        ],
    )
    def test_it_says_which_parameter(
        self, account, parameters, tmp_path, capsys, name, value, words
    ):
        left = tmp_path / "job_object"
        given = {
            "job_name": "orders",
            "project": "project",
            "region": "europe-west1",
            "runner": "DataflowRunner",
            "sdk_container_image": IMAGE,
            "temp_location": str(tmp_path),
            "staging_location": str(tmp_path),
            "template_location": str(left),
            "no_auth": "true",
            "dataflow_endpoint": "http://localhost",
            **parameters,
            name: value,
        }
        assert main(sorted(f"--{each}={one}" for each, one in given.items())) == 1
        err = capsys.readouterr().err
        (line,) = [each for each in err.splitlines() if each.startswith("dynabeam: ")]
        assert words in line
        assert "Traceback" not in err
        assert not left.exists()
        prefix = parameters["state_dir"].removeprefix("s3://target/")
        assert [each for each in keys(account, prefix) if "/continuous/" in each] == []

    def test_errors_that_nobody_expects_are_shown_whole(self, monkeypatch, capsys):
        def broken(_):
            raise RuntimeError("no\nwords")

        monkeypatch.setattr("dynabeam.pipelines.templates.main.launched", broken)
        assert main([]) == 1
        err = capsys.readouterr().err
        assert err.splitlines()[-1] == "dynabeam: failed: RuntimeError: no words"
        assert "Traceback" in err


class TestSecrets:
    @pytest.mark.parametrize("template", ["continuous", "rounds"])
    def test_none_is_left(self, account, google, parameters, tmp_path, template):
        server = server_for_tests()
        with server.connect() as connection:
            connection.execute(
                "DO $$ BEGIN CREATE ROLE with_password; "
                "EXCEPTION WHEN duplicate_object THEN NULL; END $$; "
                "DO $$ BEGIN CREATE ROLE templates LOGIN; "
                "EXCEPTION WHEN duplicate_object THEN NULL; END $$; "
                "GRANT with_password TO templates; "
                f"ALTER ROLE templates PASSWORD '{MARKS['MARKED_PASSWORD']}'; "
                "GRANT CREATE, TEMPORARY ON DATABASE postgres TO templates"
            )
        account.sim.sts.add_role(ROLE, external_id=MARKS["MARKED_EXTERNAL_ID"])
        address = f"127.0.0.1:{server.port}/postgres?schema=templates_{template}"
        mirror = f"postgresql://templates:${{env:MARKED_PASSWORD}}@{address}"
        given = {
            **parameters,
            "sink": f"{parameters['sink']} {mirror}",
            "role_arn": ROLE,
            "external_id": "${env:MARKED_EXTERNAL_ID}",
            **({"mode": "catch_up"} if template == "rounds" else {}),
        }
        launch = start(tmp_path, google, given, environment=MARKS)
        assert launch.code == 0, launch.err
        packed = (unpacked(each) for each in launch.left.values())
        content = b"\n".join([launch.out.encode(), launch.err.encode(), *itertools.chain(*packed)])
        # The references are there, so the search reaches where the secrets would be.
        assert b"${env:MARKED_PASSWORD}" in content
        assert b"MARKED_EXTERNAL_ID" in content
        assert [name for name, mark in MARKS.items() if mark.encode() in content] == []

    def test_one_would_be_found(self):
        """However Beam packs it."""

        class Careless(beam.DoFn):
            def __init__(self, secret):
                self.secret = secret

            def process(self, element):
                yield element

        pipeline = beam.Pipeline()
        _ = pipeline | beam.Create([1]) | beam.ParDo(Careless("MARKtemplatecareless5"))
        content = pipeline.to_runner_api().SerializeToString()
        assert b"MARKtemplatecareless5" not in content
        assert any(b"MARKtemplatecareless5" in each for each in unpacked(content))
        twice = base64.b64encode(zlib.compress(base64.b64encode(zlib.compress(b"MARK" * 9))))
        assert any(b"MARKMARK" in each for each in unpacked(b"\x12\x40" + twice + b"\x1a"))
