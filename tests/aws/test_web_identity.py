# SPDX-License-Identifier: Apache-2.0
"""Contract of web identities: AWS without keys, by Google's word or by a token in a file."""

import datetime
import logging
import os
import pickle
import socket
import subprocess
import sys
import time

import pytest
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from botocore.exceptions import ClientError

from dynabeam.transforms.aws import session
from dynabeam.transforms.aws.beam_s3 import hand_down, s3_arguments
from dynabeam.transforms.aws.dynamodb import describe_table
from dynabeam.transforms.aws.roles import Role
from dynabeam.transforms.aws.session import AwsAccess
from dynabeam.transforms.aws.streams import connect
from dynabeam.transforms.aws.web_identity import WebIdentity
from dynabeam.transforms.errors import AwsAccessError, CredentialsError, StateError
from dynabeam.transforms.google.metadata import claims_of, identity_token
from dynabeam.transforms.storage import filesystem
from dynabeam.transforms.testing.simulator import Simulator
from tests.fake_metadata import SUBJECT, FakeMetadata

WORKER = "arn:aws:iam::111122223333:role/dataflow"
OTHER = "arn:aws:iam::444455556666:role/tables"
EKS = "arn:aws:iam::111122223333:role/eks"
ISSUER = "oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLE"
AUDIENCE = "dynabeam-audience"
IDENTITY = WebIdentity("google", WORKER, AUDIENCE)


def trust(principal, **conditions):
    return {
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"Federated": principal},
                "Action": "sts:AssumeRoleWithWebIdentity",
                "Condition": {"StringEquals": conditions},
            }
        ]
    }


GOOGLE_TRUST = trust(
    "accounts.google.com",
    **{
        "accounts.google.com:sub": SUBJECT,
        "accounts.google.com:aud": SUBJECT,
        "accounts.google.com:oaud": AUDIENCE,
    },
)


@pytest.fixture(autouse=True)
def no_keys(monkeypatch, tmp_path):
    """A machine that has no credentials of AWS, and on which nobody else may be asked for any."""
    for name in [each for each in os.environ if each.startswith(("AWS_", "GCE_", "GOOGLE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    for kept in ("_assumed", "_identified", "_clients"):
        monkeypatch.setattr(session, kept, {})


@pytest.fixture
def metadata(monkeypatch):
    with FakeMetadata() as fake:
        monkeypatch.setenv("GCE_METADATA_HOST", fake.host)
        yield fake


@pytest.fixture
def sim():
    before = FileSystems._pipeline_options
    with Simulator(seed=1) as simulator:
        simulator.create_table("orders", "id:S")
        simulator.create_bucket("things")
        simulator.s3_put("things", "a", b"content")
        simulator.sts.add_role(WORKER, trust=GOOGLE_TRUST)
        simulator.sts.add_role(OTHER, external_id="outside")
        yield simulator
    FileSystems._pipeline_options = before


def access(sim, **changed):
    return AwsAccess(sim.region, sim.endpoint_url, **{"web_identity": IDENTITY, **changed})


def test_tables_and_buckets_are_used_as_the_role_that_trusts_the_account(sim, metadata):
    where = access(sim)
    caller = where.new_client("sts").get_caller_identity()
    assert caller["Arn"] == "arn:aws:sts::111122223333:assumed-role/dataflow/dynabeam"
    assert where.new_client("dynamodb").describe_table(TableName="orders")["Table"]
    assert where.new_client("s3").get_object(Bucket="things", Key="a")["Body"].read() == b"content"
    assert len(metadata.given) == len(sim.sts.keys_of(WORKER)) == 1


def test_the_token_is_the_one_that_google_s_own_library_gets(metadata):
    ours = identity_token(AUDIENCE, option="--x")
    # In a process of its own, as google-auth looks at the environment when it is imported.
    program = (
        "from google.auth.transport.requests import Request;"
        "from google.oauth2.id_token import fetch_id_token;"
        f"print(fetch_id_token(Request(), {AUDIENCE!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "GCE_METADATA_IP": metadata.host, "NO_PROXY": "127.0.0.1"},
        capture_output=True,
        text=True,
        check=False,
    )
    theirs = done.stdout.strip()
    assert metadata.given == [ours, theirs], done.stderr
    assert claims_of(ours)["aud"] == claims_of(theirs)["aud"] == AUDIENCE


def test_a_role_of_another_account_is_assumed_from_it(sim, metadata):
    where = access(sim, role=Role(OTHER, "outside"))
    caller = where.new_client("sts").get_caller_identity()
    assert caller["Arn"] == "arn:aws:sts::444455556666:assumed-role/tables/dynabeam"
    where.new_client("s3").get_object(Bucket="things", Key="a")
    assert len(sim.sts.keys_of(WORKER)) == len(sim.sts.keys_of(OTHER)) == 1
    assert len(metadata.given) == 1


def test_sessions_are_renewed_before_they_end(sim, metadata):
    # Less than ten minutes: each use renews, and none is ever late.
    sim.sts.session_seconds = 4
    tables = access(sim, role=Role(OTHER, "outside")).new_client("dynamodb")
    tables.describe_table(TableName="orders")
    time.sleep(4.1)
    assert tables.describe_table(TableName="orders")["Table"]
    assert sim.stats.errors == {}
    assert len(metadata.given) == len(set(metadata.given)) >= 2


def test_a_session_is_used_until_fifteen_minutes_before_its_end(sim, metadata, monkeypatch):
    tables = access(sim).new_client("dynamodb")
    credentials = tables._request_signer._credentials
    began = datetime.datetime.now(datetime.timezone.utc)
    for minute, renewals in ((0, 1), (30, 1), (44, 1), (46, 2), (59, 2)):
        later = began + datetime.timedelta(minutes=minute)
        monkeypatch.setattr(credentials, "_time_fetcher", lambda later=later: later)
        monkeypatch.setattr("botocore.credentials._local_now", lambda later=later: later)
        if minute == 46:
            # The next one ends by the real clock, which is an hour behind by then.
            sim.sts.session_seconds = 2 * 3600
        tables.describe_table(TableName="orders")
        assert len(metadata.given) == renewals


def test_streams_are_read_by_the_runtime_s_own_client_too(sim, metadata):
    sim.put_many("orders", [{"id": {"S": "1"}}])
    arn = describe_table(access(sim), "orders").stream_arn
    api = connect(access(sim))
    shard = api.describe(arn).shards[0].shard_id
    iterator = api.shard_iterator(arn, shard)
    assert b'"Keys"' in api.get_records(arn, iterator)
    assert len(metadata.given) == 1


def test_files_are_used_as_it_by_options_and_in_worker_processes(sim, metadata):
    where = access(sim)
    FileSystems.set_options(PipelineOptions(s3_arguments(where)))
    assert filesystem.read_bytes("s3://things/a", StateError) == b"content"
    environment = dict(os.environ)
    hand_down(where, environment)
    program = (
        "from dynabeam.transforms.storage import filesystem;"
        "from dynabeam.transforms.errors import StateError;"
        "print(filesystem.read_bytes('s3://things/a', StateError))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "b'content'", done.stderr
    assert len(metadata.given) == 2
    hand_down(access(sim, web_identity=WebIdentity()), environment)
    assert not [name for name in environment if name.startswith("DYNABEAM_WEB")]


def test_no_token_and_no_session_is_kept_or_shown(sim, metadata, caplog):
    caplog.set_level(logging.DEBUG)
    where = access(sim, role=Role(OTHER, "outside"))
    where.new_client("dynamodb").describe_table(TableName="orders")
    (token,) = metadata.given
    for text in (pickle.dumps(where).decode("latin-1"), repr(where), caplog.text):
        assert token not in text
        assert token.rpartition(".")[2] not in text
        assert "token-1" not in text
    assert pickle.loads(pickle.dumps(where)) == where
    assert not [each for each in os.environ.values() if token in each]


class TestRefusals:
    def test_another_audience_is_one_error_that_says_what_the_token_claims(self, sim, metadata):
        where = access(sim, web_identity=WebIdentity("google", WORKER, "another"))
        with pytest.raises(AwsAccessError) as caught:
            describe_table(where, "orders")
        text = str(caught.value)
        assert text.startswith(f"{WORKER}: AWS refused sts:AssumeRoleWithWebIdentity")
        assert f"sub={SUBJECT} aud={SUBJECT} oaud=another" in text
        assert "--aws_audience" in text
        assert not any(each in text for each in metadata.given)
        assert sim.stats.calls["AssumeRoleWithWebIdentity"] == 1

    def test_an_expired_token_is_asked_for_once_more(self, sim, metadata):
        metadata.seconds = -1
        with pytest.raises(CredentialsError, match="clock"):
            describe_table(access(sim), "orders")
        assert len(metadata.given) == 2

    def test_s3_says_the_same(self, sim, metadata):
        where = access(sim, web_identity=WebIdentity("google", WORKER, "another"))
        FileSystems.set_options(PipelineOptions(s3_arguments(where)))
        began = time.monotonic()
        with pytest.raises(StateError, match="AssumeRoleWithWebIdentity") as caught:
            filesystem.read_bytes("s3://things/a", StateError)
        assert "oaud=another" in str(caught.value)
        # Beam asks again for nine minutes unless it is told not to.
        assert time.monotonic() - began < 5

    def test_what_passes_is_asked_again(self, sim, metadata):
        metadata.faults = [503, 500]
        assert describe_table(access(sim), "orders")

    def test_a_machine_without_a_service_account(self, sim, metadata):
        metadata.faults = [404]
        with pytest.raises(CredentialsError, match="gives no ID token: HTTP 404") as caught:
            describe_table(access(sim), "orders")
        assert str(caught.value).startswith("--aws_web_identity=google: ")
        assert "--service_account_email" in str(caught.value)

    def test_another_server_at_that_address(self, sim, metadata):
        metadata.flavor = ""
        with pytest.raises(CredentialsError, match="not Google's metadata server"):
            describe_table(access(sim), "orders")


class TestNotOnGoogle:
    def test_nobody_listens(self, sim, monkeypatch):
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{unused.getsockname()[1]}")
            self.refused(sim)

    def test_nobody_answers(self, sim, monkeypatch):
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen(0)
            # A full queue of connections: further ones are neither taken nor refused.
            fillers = [socket.socket() for _ in range(4)]
            for each in fillers:
                each.setblocking(False)
                each.connect_ex(silent.getsockname())
            monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{silent.getsockname()[1]}")
            self.refused(sim)
            for each in fillers:
                each.close()

    def refused(self, sim):
        began = time.monotonic()
        with pytest.raises(CredentialsError) as caught:
            describe_table(access(sim), "orders")
        assert time.monotonic() - began < 5
        text = str(caught.value)
        assert text.startswith("--aws_web_identity=google: Google's metadata server at 127.0.0.1")
        assert "AWS_WEB_IDENTITY_TOKEN_FILE" in text
        assert "does not run on Google Cloud, leave --aws_web_identity out" in text


class TestTokenFiles:
    """As on EKS: boto3's own variables."""

    @pytest.fixture
    def token_file(self, sim, metadata, tmp_path, monkeypatch):
        provider = f"arn:aws:iam::111122223333:oidc-provider/{ISSUER}"
        conditions = {f"{ISSUER}:aud": "sts.amazonaws.com", f"{ISSUER}:sub": SUBJECT}
        sim.sts.add_role(EKS, trust=trust(provider, **conditions))
        metadata.issuer = f"https://{ISSUER}"
        path = tmp_path / "token"
        path.write_text(metadata.token("sts.amazonaws.com"))
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(path))
        monkeypatch.setenv("AWS_ROLE_ARN", EKS)
        monkeypatch.setenv("AWS_ENDPOINT_URL", sim.endpoint_url)
        monkeypatch.setenv("AWS_DEFAULT_REGION", sim.region)
        return path

    def test_they_keep_working_with_further_roles(self, sim, token_file):
        where = access(sim, web_identity=WebIdentity())
        caller = where.new_client("sts").get_caller_identity()
        assert caller["Arn"].startswith("arn:aws:sts::111122223333:assumed-role/eks/")
        further = access(sim, web_identity=WebIdentity(), role=Role(OTHER, "outside"))
        assert "assumed-role/tables" in further.new_client("sts").get_caller_identity()["Arn"]

    @pytest.mark.parametrize("content", [None, " \n"], ids=["missing", "empty"])
    def test_a_file_without_a_token_is_named_at_once(self, sim, token_file, content):
        if content is None:
            token_file.unlink()
        else:
            token_file.write_text(content)
        with pytest.raises(CredentialsError, match=f"AWS_WEB_IDENTITY_TOKEN_FILE={token_file}"):
            access(sim, web_identity=WebIdentity()).new_client("dynamodb")

    def test_a_token_for_another_audience_is_refused(self, sim, metadata, token_file):
        token_file.write_text(metadata.token("another"))
        with pytest.raises(AwsAccessError, match="AWS_WEB_IDENTITY_TOKEN_FILE") as caught:
            describe_table(access(sim, web_identity=WebIdentity()), "orders")
        assert "dynamodb:DescribeTable" not in caught.value.hint


def test_google_s_trust_does_not_take_another_issuer(sim, metadata):
    metadata.issuer = f"https://{ISSUER}"
    client = sim.client("sts")
    with pytest.raises(ClientError, match="AccessDenied"):
        client.assume_role_with_web_identity(
            RoleArn=WORKER, RoleSessionName="me", WebIdentityToken=metadata.token(AUDIENCE)
        )
    with pytest.raises(ClientError, match="InvalidIdentityToken"):
        client.assume_role_with_web_identity(
            RoleArn=WORKER, RoleSessionName="me", WebIdentityToken="no.token"
        )
    with pytest.raises(ClientError, match="AccessDenied"):
        client.assume_role(RoleArn=WORKER, RoleSessionName="me")
