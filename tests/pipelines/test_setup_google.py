# SPDX-License-Identifier: Apache-2.0
"""`dynabeam setup` and `doctor` for workers of Google's: what is printed is what AWS takes."""

import json

import pytest

from dynabeam.pipelines.command_line import main
from dynabeam.transforms.aws import session
from dynabeam.transforms.aws.session import AwsAccess
from dynabeam.transforms.testing.simulator import Simulator
from tests.aws.test_web_identity import AUDIENCE, IDENTITY, WORKER
from tests.fake_metadata import EMAIL, SUBJECT, FakeMetadata

OPTIONS = [
    "--tables=orders",
    "--region=eu-west-1",
    "--snapshot=never",
    "--aws_web_identity=google",
    f"--aws_web_identity_role_arn={WORKER}",
    f"--aws_audience={AUDIENCE}",
]
SETUP = [
    "setup",
    *OPTIONS,
    "--account=111122223333",
    f"--google_service_account={EMAIL}",
    f"--google_subject={SUBJECT}",
    "--state_dir=gs://states/orders",
    "--sink=postgresql://u:${secret:projects/q/secrets/pg/versions/2}@h/d",
]


@pytest.fixture(autouse=True)
def metadata(monkeypatch):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for kept in ("_assumed", "_identified", "_clients"):
        monkeypatch.setattr(session, kept, {})
    with FakeMetadata() as fake:
        monkeypatch.setenv("GCE_METADATA_HOST", fake.host)
        yield fake


def printed(capsys, *more):
    assert main([*SETUP, *more]) == 0
    return capsys.readouterr().out


def test_the_printed_trust_and_policy_let_the_worker_in_and_nobody_else(capsys, metadata):
    found = {
        each["name"]: each for each in json.loads(printed(capsys, "--format=json"))["policies"]
    }
    trust = found["dynabeam-trust-google"]
    assert trust["target"] == found["dynabeam"]["target"] == WORKER
    with Simulator(seed=1) as sim:
        sim.create_table("orders", "id:S")
        sim.sts.add_role(WORKER, trust=trust["document"], policies=[found["dynabeam"]["document"]])
        where = AwsAccess(sim.region, sim.endpoint_url, web_identity=IDENTITY)
        assert where.new_client("dynamodb").describe_table(TableName="orders")["Table"]


def test_a_secret_of_aws_is_allowed_to_the_worker(capsys):
    arn = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:db-AbCdEf"
    sink = f"--sink=postgresql://u:${{secret:{arn}#password}}@h/d"
    found = json.loads(printed(capsys, "--format=json", sink))["policies"][0]["document"]
    assert {
        "Sid": "ReadTheSecrets",
        "Effect": "Allow",
        "Action": "secretsmanager:GetSecretValue",
        "Resource": arn,
    } in found["Statement"]


def test_google_s_roles_are_printed_for_what_the_options_name(capsys):
    out = printed(capsys)
    member = f"--member=serviceAccount:{EMAIL}"
    for line in (
        f"gcloud iam service-accounts describe {EMAIL} --format='value(uniqueId)'",
        f"gcloud projects add-iam-policy-binding project {member} --role=roles/dataflow.worker",
        (
            f"gcloud storage buckets add-iam-policy-binding gs://states {member} "
            "--role=roles/storage.objectAdmin"
        ),
        (
            f"gcloud secrets add-iam-policy-binding pg --project=q {member} "
            "--role=roles/secretmanager.secretAccessor"
        ),
    ):
        assert f"{line}\n" in out
    assert "--role=roles/artifactregistry.reader" in out


@pytest.mark.parametrize("form", ["terraform", "cloudformation"])
def test_every_format_has_the_trust(capsys, form):
    out = printed(capsys, f"--format={form}")
    assert "accounts.google.com:oaud" in out
    assert "roles/dataflow.worker" in out
    if form == "terraform":
        assert 'type        = "Federated"' in out


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--aws_web_identity=azure"], "--aws_web_identity: no such provider"),
        (["--aws_web_identity_role_arn="], "--aws_web_identity_role_arn: a web identity needs"),
        (["--aws_web_identity_role_arn=role/x"], "--aws_web_identity_role_arn: not the ARN"),
        (["--aws_audience=a b"], "--aws_audience: not an audience"),
        (["--aws_web_identity="], "--aws_web_identity_role_arn: it goes with a web identity"),
        (["--access_key_id=a", "--secret_key=${env:HOME}"], "--aws_web_identity, --access_key_id"),
        (["--google_subject=me"], "--google_subject: not of the form"),
    ],
)
def test_bad_input(capsys, words, error, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "put back after the test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "put back after the test")
    assert main([*SETUP, *words]) != 0
    err = capsys.readouterr().err
    assert error in err
    assert "Traceback" not in err


class TestDoctor:
    def run(self, capsys, tmp_path, sim, *more):
        words = ["doctor", *OPTIONS, f"--endpoint_url={sim.endpoint_url}", *more]
        code = main([*words, f"--sink=file://{tmp_path}/out", f"--state_dir={tmp_path}/state"])
        return code, " ".join(capsys.readouterr().out.split())

    def test_who_the_token_makes_us(self, capsys, tmp_path):
        trust = json.loads(printed(capsys, "--format=json"))["policies"][-1]["document"]
        with Simulator(seed=1) as sim:
            sim.create_table("orders", "id:S")
            sim.sts.add_role(WORKER, trust=trust)
            _, out = self.run(capsys, tmp_path, sim)
            assert "ok identity arn:aws:sts::111122223333:assumed-role/dataflow/dynabeam" in out
            code, out = self.run(capsys, tmp_path, sim, "--aws_audience=other")
        assert code == 1
        assert "FAILURE identity" in out
        assert "oaud=other" in out
        assert "--aws_audience" in out

    def test_not_on_google(self, capsys, tmp_path, monkeypatch):
        monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:9")
        with Simulator(seed=1) as sim:
            code, out = self.run(capsys, tmp_path, sim)
        assert code == 1
        assert "FAILURE identity" in out
        assert "Google's metadata server at 127.0.0.1:9 does not answer" in out
