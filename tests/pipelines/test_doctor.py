# SPDX-License-Identifier: Apache-2.0
"""`dynabeam doctor` names what is missing, exactly, with how to fix it, and changes nothing."""

import hashlib
import json
import socket
from datetime import datetime, timedelta, timezone

import boto3
import pytest
from moto import mock_aws

from dynabeam.pipelines.command_line import main
from dynabeam.pipelines.doctor.__main__ import examine
from dynabeam.pipelines.doctor.checks.budget import budget_of
from dynabeam.pipelines.doctor.checks.finding import of_error
from dynabeam.pipelines.doctor.checks.identity import clock_finding
from dynabeam.pipelines.doctor.checks.keys import bucket_key_findings, table_key_findings
from dynabeam.pipelines.doctor.checks.policy_simulation import principal_of
from dynabeam.pipelines.doctor.checks.runner import runner_findings
from dynabeam.pipelines.doctor.checks.sinks import sink_findings
from dynabeam.pipelines.doctor.checks.state import room_finding, state_findings
from dynabeam.pipelines.options.features import features_of
from dynabeam.pipelines.options.replicate import parse_replicate
from dynabeam.transforms.aws.permissions import condition_block, permissions
from dynabeam.transforms.aws.session import AwsAccess
from dynabeam.transforms.errors import TableError
from dynabeam.transforms.sinks.registry import RunnerFacts
from dynabeam.transforms.state.state_directory import StateDirectory
from dynabeam.transforms.testing.simulator import Simulator
from tests.pipelines.runs import ORDERS_ARN
from tests.sinks.postgres_server import server_for_tests

KEY = "limited"
SIMULATE = {"Effect": "Allow", "Action": "iam:SimulatePrincipalPolicy", "Resource": "*"}


@pytest.fixture(scope="module")
def account():
    """One simulated account for all tests that only look; a limited key uses it."""
    with pytest.MonkeyPatch.context() as patch, Simulator(seed=5) as sim:
        for name in ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_SESSION_TOKEN"):
            patch.delenv(name, raising=False)
        patch.setenv("AWS_ACCESS_KEY_ID", KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", "simulated")
        sim.create_table("orders", "id:S")
        sim.create_bucket("exports")
        sim.create_bucket("lake")
        sim.client("dynamodb").update_continuous_backups(
            TableName="orders",
            PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": True},
        )
        yield sim


def options_of(sim, *more):
    return parse_replicate(
        [
            "--tables=ord*",
            f"--endpoint_url={sim.endpoint_url}",
            "--region=eu-west-1",
            "--s3_export_bucket=exports",
            "--s3_export_prefix=daily",
            "--export=newest:60",
            "--gaps=heal",
            "--state_dir=s3://lake/state",
            *more,
        ],
        complete=False,
    )


def catalogue(sim):
    """Each action of the catalogue with the resources that it is needed on."""
    found = {}
    for each in permissions(features_of(options_of(sim), [ORDERS_ARN])):
        for action in each.actions:
            found.setdefault(action, set()).update(each.resources)
    return found


def without(sim, missing):
    """The catalogue's policy without one action."""
    return {
        "Statement": [
            SIMULATE,
            *(
                {
                    "Effect": "Allow",
                    "Action": [action for action in each.actions if action != missing],
                    "Resource": list(each.resources),
                    "Condition": condition_block(each.conditions),
                }
                for each in permissions(features_of(options_of(sim), [ORDERS_ARN]))
            ),
        ]
    }


ACTIONS = [
    "dynamodb:DescribeContinuousBackups",
    "dynamodb:DescribeExport",
    "dynamodb:DescribeStream",
    "dynamodb:DescribeTable",
    "dynamodb:ExportTableToPointInTime",
    "dynamodb:GetRecords",
    "dynamodb:GetShardIterator",
    "dynamodb:ListExports",
    "dynamodb:ListStreams",
    "dynamodb:ListTables",
    "s3:AbortMultipartUpload",
    "s3:DeleteObject",
    "s3:GetObject",
    "s3:ListBucket",
    "s3:PutObject",
    "s3:PutObjectAcl",
]


class TestPermissions:
    def test_the_list_above_is_the_catalogue(self, account):
        assert sorted(catalogue(account)) == ACTIONS

    @pytest.mark.parametrize("missing", ACTIONS)
    def test_names_exactly_what_is_missing(self, account, missing):
        account.set_policies(KEY, [without(account, missing)])
        found = [each for each in examine(options_of(account)) if each.check == "permission"]
        named = {(each.action, each.resource) for each in found if each.status != "ok"}
        expected = {(missing, each) for each in catalogue(account)[missing]}
        if missing == "dynamodb:ListTables":
            # Without it nobody knows which tables a glob means.
            assert named == expected
            return
        assert named == expected
        for each in found:
            if each.action == missing:
                # A deletion cannot be tried harmlessly, and the bucket's own policy may allow it.
                # A run works without listing streams, and misses those that it does not know of.
                mild = "Delete" in missing or missing == "dynamodb:ListStreams"
                assert each.status == ("warning" if mild else "failure")
                assert each.why.startswith("it is needed to ")
                assert f'"Action": "{missing}", "Resource": "{each.resource}"' in each.hint

    def test_nothing_is_missing_with_all_of_it(self, account):
        account.set_policies(KEY, [without(account, None)])
        before = account.objects.keys("exports"), account.objects.keys("lake")
        found = [each for each in examine(options_of(account)) if each.check == "permission"]
        assert {each.status for each in found} == {"ok"}
        assert {(each.action, each.resource) for each in found} == {
            (action, resource)
            for action, resources in catalogue(account).items()
            for resource in resources
        }
        assert (account.objects.keys("exports"), account.objects.keys("lake")) == before
        exports = account.client("dynamodb").list_exports(TableArn=ORDERS_ARN)
        assert exports["ExportSummaries"] == []

    def test_written_objects_are_deleted_or_told(self, account):
        account.set_policies(KEY, [without(account, None)])
        found = list(examine(options_of(account), probe_writes=True))
        permissions = {each.resource: each for each in found if each.action == "s3:DeleteObject"}
        assert [each.status for each in permissions.values()] == ["ok"]
        assert account.objects.keys("lake") == []
        # Nobody needs to delete exports, so the policy does not allow it.
        (left,) = [each for each in found if each.check == "probe"]
        (key,) = account.objects.keys("exports", "daily/dynabeam-doctor-")
        assert left.subject == f"s3://exports/{key}"
        assert left.hint == f"aws s3 rm s3://exports/{key}"
        account.set_policies(KEY, None)
        account.client("s3").delete_object(Bucket="exports", Key=key)

    def test_recovery_that_no_run_looks_at_may_stay_unseen(self, account):
        options = options_of(account, "--gaps=fail")
        assert not features_of(options, [ORDERS_ARN]).see_recovery
        account.set_policies(KEY, [without(account, "dynamodb:DescribeContinuousBackups")])
        (found,) = [
            each for each in examine(options) if each.check == "recovery" and each.status != "ok"
        ]
        assert (found.subject, found.status) == ("orders", "warning")
        assert "aws dynamodb describe-continuous-backups" in found.hint

    def test_what_cannot_be_tried_nor_looked_up_is_a_warning(self, account):
        policy = without(account, None)
        policy["Statement"].remove(SIMULATE)
        account.set_policies(KEY, [policy])
        found = [each for each in examine(options_of(account)) if each.check == "permission"]
        unseen = {(each.action, each.status) for each in found if each.status != "ok"}
        assert unseen == {("s3:DeleteObject", "warning")}

    def test_an_explicit_deny_is_told_as_such(self, account):
        deny = {"Effect": "Deny", "Action": "dynamodb:GetRecords", "Resource": "*"}
        policy = without(account, None)
        account.set_policies(KEY, [policy, {"Statement": deny}])
        found = [each for each in examine(options_of(account)) if each.status == "failure"]
        assert [each.action for each in found] == ["dynamodb:GetRecords"]
        assert found[0].text == "AWS refuses it with an explicit deny in an identity-based policy"


class TestTables:
    def test_each_that_does_not_fit(self, world):
        world.create("keys", stream="KEYS_ONLY")
        world.create("bare", stream=None, recovery=False)
        ended = doctor(world, "--tables=orders,keys,bare,nope", "--s3_export_bucket=exports")
        assert ended.code == 1
        failed = {(each["check"], each["subject"]): each for each in failures(ended)}
        assert set(failed) == {
            ("stream", "keys"),
            ("stream", "bare"),
            ("recovery", "bare"),
            ("table", "nope"),
        }
        assert "found 'KEYS_ONLY'" in failed["stream", "keys"]["text"]
        assert "StreamEnabled=true" in failed["stream", "bare"]["hint"]
        assert "update-continuous-backups --table-name bare" in failed["recovery", "bare"]["hint"]
        assert all(each["why"] for each in failed.values())

    def test_a_bucket_that_is_not_there(self, world):
        ended = doctor(world, "--tables=orders", "--s3_export_bucket=exprots")
        (found,) = [each for each in failures(ended) if each["check"] == "bucket"]
        assert found["text"] == "there is no such bucket"
        assert "aws s3 mb s3://exprots --region eu-west-1" in found["hint"]

    def test_no_bucket_for_a_snapshot(self, world):
        ended = doctor(world, "--tables=orders")
        assert [each["subject"] for each in failures(ended)] == ["--s3_export_bucket"]
        ended = doctor(world, "--tables=orders", "--snapshot=never")
        assert (ended.code, failures(ended)) == (0, [])


def doctor(world, *options):
    world.capsys.readouterr()
    sinks = [] if any(each.startswith("--sink") for each in options) else world.sinks
    where = f"--state_dir={world.state_dir}"
    code = main(["doctor", "--json", *world.options, *options, *sinks, where])
    return type("Ended", (), {"code": code, "document": json.loads(world.capsys.readouterr().out)})


def failures(ended):
    return [each for each in ended.document["findings"] if each["status"] == "failure"]


class TestCommand:
    def test_a_replication_that_will_work(self, world):
        ended = doctor(world, "--tables=orders", "--s3_export_bucket=exports")
        document = ended.document
        assert (ended.code, document["format"], document["ok"]) == (0, 1, True)
        checks = {each["check"] for each in document["findings"]}
        assert checks == {
            "bucket",
            "budget",
            "clock",
            "encryption",
            "identity",
            "recovery",
            "permission",
            "room",
            "runner",
            "sink",
            "state",
            "stream",
            "table",
        }
        assert {each["status"] for each in document["findings"]} == {"ok"}
        fields = {"check", "subject", "status", "text", "why", "hint", "action", "resource"}
        assert all(set(each) == fields for each in document["findings"])
        assert not world.state_dir.exists()
        assert not world.mirror.exists()
        assert not world.changelog.exists()

    def test_one_line_a_check_and_the_hint_below(self, world, monkeypatch):
        world.create("bare", stream=None)
        world.capsys.readouterr()
        options = [*world.options, "--tables=bare", "--s3_export_bucket=exports", *world.sinks]
        assert main(["doctor", *options, f"--state_dir={world.state_dir}"]) == 1
        lines = world.capsys.readouterr().out.splitlines()
        assert lines[0].startswith("ok       identity  arn:aws:iam::111122223333:user/simulated: ")
        at = next(n for n, line in enumerate(lines) if line.startswith("FAILURE"))
        assert lines[at].startswith("FAILURE  stream    bare: the table has no stream")
        assert lines[at + 1].strip().startswith("why: ")
        assert lines[at + 2].strip().startswith("hint: Turn it on: aws dynamodb update-table")
        assert lines[-1].endswith(" ok, 0 warnings, 1 failures")

    def test_without_credentials_the_rest_is_still_looked_at(self, world, monkeypatch, tmp_path):
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            monkeypatch.setenv(name, str(tmp_path / "none"))
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        ended = doctor(world, "--tables=orders", "--s3_export_bucket=exports")
        assert [each["check"] for each in failures(ended)] == ["identity"]
        checks = {each["check"] for each in ended.document["findings"]}
        assert checks == {"identity", "state", "room", "sink", "runner"}

    def test_beside_a_run(self, world):
        world.catch_up()
        ran = world.run("--tables=orders", "--s3_export_bucket=exports")
        assert ran.code == 0
        with StateDirectory(str(world.state_dir)).locked():
            ended = doctor(world, "--tables=orders", "--s3_export_bucket=exports")
        (found,) = failures(ended)
        assert (found["check"], found["hint"][:11]) == ("state", "Wait for it")
        seen = {each["check"]: each["text"] for each in ended.document["findings"]}
        assert seen["sink"] == "a changelog"
        ended = doctor(world, "--tables=orders", "--s3_export_bucket=exports")
        texts = [each["text"] for each in ended.document["findings"]]
        assert any(each.startswith("a mirror, round ") for each in texts)
        assert world.run("--tables=orders", "--s3_export_bucket=exports").code == 0


def sinks(*uris):
    return list(sink_findings(uris, RunnerFacts("the in-process runner", False, shares_disk=True)))


class TestSinks:
    @pytest.mark.parametrize("scheme", ["duckdb", "file"])
    def test_that_cannot_be_made(self, tmp_path, scheme):
        (tmp_path / "plain").write_text("")
        uri = f"{scheme}:///{tmp_path}/plain/there"
        (found,) = sinks(uri)
        assert (found.status, found.subject) == ("failure", uri)
        assert "a file is in the way" in found.text

    @pytest.mark.parametrize("scheme", ["duckdb", "file"])
    def test_that_can(self, tmp_path, scheme):
        (found,) = sinks(f"{scheme}:///{tmp_path}/new/there")
        assert found.status == "ok"
        assert list(tmp_path.iterdir()) == []

    def test_a_file_that_is_no_database(self, tmp_path):
        (tmp_path / "m.duckdb").write_text("not a database, and long enough to be looked at" * 200)
        (found,) = sinks(f"duckdb:///{tmp_path}/m.duckdb")
        assert found.status == "failure"

    def test_a_server_that_does_not_answer(self):
        (found,) = sinks(f"postgresql://nobody@127.0.0.1:{closed_port()}/db")
        assert found.status == "failure"
        assert "See that the server runs" in found.hint

    def test_two_at_one_place(self, tmp_path):
        found = sinks(f"file:///{tmp_path}/out", f"file:///{tmp_path}/out/")
        assert [each.status for each in found] == ["ok", "ok", "failure"]
        assert "two sinks write" in found[2].text

    def test_a_postgresql_role_without_permissions(self, tmp_path):
        server = server_for_tests()
        name = "d" + hashlib.sha256(str(tmp_path).encode()).hexdigest()[:16]
        server.create_database(name)
        with server.connect(name) as connection:
            connection.execute(
                f"REVOKE ALL ON DATABASE {name} FROM PUBLIC; CREATE ROLE {name} LOGIN;"
                f"GRANT CONNECT ON DATABASE {name} TO {name}"
            )
        (poor,) = sinks(server.uri(name, name))
        assert (poor.status, "GRANT" in poor.hint) == ("failure", True)
        (rich,) = sinks(server.uri(name))
        assert (rich.status, rich.text.endswith("no mirror yet")) == ("ok", True)
        with server.connect(name) as connection:
            made = connection.execute(
                "SELECT count(*) FROM pg_namespace WHERE nspname = 'dynabeam'"
            ).fetchone()
        assert made == (0,)


def closed_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def continuous(*beam):
    options = [
        "--tables=t",
        "--aws_region=eu-west-1",
        "--s3_export_bucket=bucket",
        "--mode=continuous",
    ]
    return list(runner_findings(parse_replicate([*options, *beam], complete=False)))


class TestRunner:
    def test_a_job_server_that_answers(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            place = f"127.0.0.1:{server.getsockname()[1]}"
            (found,) = continuous("--runner=PortableRunner", f"--job_endpoint={place}")
        assert (found.status, found.text) == ("ok", f"--job_endpoint={place} answers")

    def test_one_that_does_not(self):
        place = f"127.0.0.1:{closed_port()}"
        (found,) = continuous("--runner=PortableRunner", f"--job_endpoint={place}")
        assert found.status == "failure"
        assert "cannot be reached" in found.text
        (found,) = continuous("--runner=PortableRunner", "--job_endpoint=nowhere")
        assert found.status == "failure"

    def test_none_that_can_stream(self):
        (found,) = continuous("--runner=FnApiRunner")
        assert (found.status, "--every=2s" in found.hint) == ("failure", True)

    def test_flink_needs_java(self, monkeypatch, tmp_path):
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.delenv("JAVA_HOME", raising=False)
        java, flink = continuous("--runner=FlinkRunner")
        assert (java.status, flink.status) == ("failure", "ok")
        assert "Install Java" in java.hint
        (tmp_path / "java").write_text("#!/bin/sh\n")
        (tmp_path / "java").chmod(0o755)
        assert continuous("--runner=FlinkRunner")[0].status == "ok"

    def test_prism_by_its_place(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        (found,) = continuous("--runner=PrismRunner")
        assert found.status == "warning"
        (found,) = continuous("--runner=PrismRunner", f"--prism_location={tmp_path}/prism")
        assert found.status == "failure"
        (tmp_path / "prism").write_text("")
        (found,) = continuous("--runner=PrismRunner", f"--prism_location={tmp_path}/prism")
        assert found.status == "ok"

    def test_dataflow_by_its_options(self):
        (found,) = continuous("--runner=DataflowRunner", "--project=p", "--setup_file=s")
        assert (found.status, found.text) == ("failure", "--temp_location not given")

    def test_replicate_looks_first(self, world):
        place = f"127.0.0.1:{closed_port()}"
        sinks = [f"--sink=file:///{world.changelog}"]
        ended = world.run(
            "--tables=orders",
            "--s3_export_bucket=exports",
            "--mode=continuous",
            "--runner=PortableRunner",
            f"--job_endpoint={place}",
            sinks=sinks,
        )
        assert ended.code == 1
        assert "cannot be reached" in ended.error_lines[0]
        assert "DescribeTable" not in world.sim.stats.calls
        assert not world.state_dir.exists()


class TestSmallOnes:
    def test_clock(self):
        now = datetime(2026, 1, 1, tzinfo=timezone.utc)
        statuses = [
            clock_finding(now, now + timedelta(seconds=off)).status for off in (-1, 31, -299, 301)
        ]
        assert statuses == ["ok", "warning", "warning", "failure"]

    def test_room(self):
        assert room_finding("d", 100 << 30, 200 << 20).status == "ok"
        assert room_finding("d", 900 << 20, 200 << 20).status == "warning"
        assert room_finding("d", 100 << 20, 200 << 20).status == "failure"

    def test_state_that_is_damaged(self, tmp_path):
        (tmp_path / "state.json").write_text("{")
        (found,) = state_findings(str(tmp_path), needed=1)
        assert (found.status, "damaged" in found.text) == ("failure", True)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["state.json"]

    def test_budget(self):
        assert budget_of({"a": 4}, continuous=True).status == "ok"
        assert "every 0.25 s" in budget_of({"a": 4}, continuous=True).text
        assert budget_of({"a": 1500}, continuous=True).status == "warning"
        assert budget_of({"a": 1500}, continuous=False).status == "ok"
        many = {str(n): 100 for n in range(400)}
        assert "DescribeStream calls a second" in budget_of(many, continuous=False).why

    @pytest.mark.parametrize(
        ("arn", "principal"),
        [
            ("arn:aws:iam::1:user/ann", "arn:aws:iam::1:user/ann"),
            ("arn:aws:sts::1:assumed-role/reader/session", "arn:aws:iam::1:role/reader"),
            ("arn:aws-cn:sts::1:assumed-role/reader/s", "arn:aws-cn:iam::1:role/reader"),
        ],
    )
    def test_whose_policies_count(self, arn, principal):
        assert principal_of(arn) == principal

    def test_errors_read_as_findings(self):
        error = TableError("it is off", where="table a", expected=1, found=2, hint="Turn it on.")
        found = of_error("stream", "a", error, why="so")
        assert (found.text, found.hint) == ("it is off; expected 1; found 2", "Turn it on")

    def test_keys(self, monkeypatch):
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "testing")
        # A run in this process may have set it.
        monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
        with mock_aws():
            kms = boto3.client("kms", region_name="eu-west-1")
            on, off, going = (kms.create_key()["KeyMetadata"]["Arn"] for _ in range(3))
            kms.disable_key(KeyId=off.rpartition("/")[2])
            kms.schedule_key_deletion(KeyId=going.rpartition("/")[2])
            missing = on[:-4] + "0000"
            access = AwsAccess(region="eu-west-1")
            keys = [on, off, going, missing]
            of_tables = list(table_key_findings(access, keys))
            of_buckets = [list(bucket_key_findings(access, each)) for each in keys]
        assert [each.status for each in of_tables] == ["ok", "failure", "failure", "warning"]
        # Nobody needs the permission to see the key of a bucket.
        assert [[each.status for each in found] for found in of_buckets] == [
            *(["ok"], ["failure"], ["failure"]),
            [],
        ]
        for found in (of_tables[1], *of_buckets[1]):
            assert f"aws kms enable-key --key-id {off}" in found.hint
        for found in (of_tables[2], *of_buckets[2]):
            assert "PendingDeletion" in found.text
            assert f"aws kms cancel-key-deletion --key-id {going}" in found.hint
        assert "exports" in of_tables[1].why
        assert "minutes later" in of_buckets[1][0].why
