# SPDX-License-Identifier: Apache-2.0
"""Contract of `${secret:…}`: asked of the store when used, kept a moment, and shown nowhere."""

import base64
import json
import logging
import os
import pickle
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from google.api_core.client_options import ClientOptions
from google.auth.credentials import AnonymousCredentials
from google.cloud.secretmanager import SecretManagerServiceClient

from dynabeam.pipelines.options.replicate import parse_replicate
from dynabeam.transforms import secrets
from dynabeam.transforms.aws import session
from dynabeam.transforms.aws.beam_s3 import s3_arguments
from dynabeam.transforms.aws.roles import Role
from dynabeam.transforms.aws.session import AwsAccess
from dynabeam.transforms.errors import ConfigurationError
from dynabeam.transforms.google import secret_manager
from dynabeam.transforms.secrets import is_reference, masked, resolve_secrets
from dynabeam.transforms.sinks.postgresql.connection import (
    PostgresSettings,
    connect,
    persistently,
)
from dynabeam.transforms.sinks.uri import parse_sink_uri
from dynabeam.transforms.storage import filesystem
from dynabeam.transforms.testing.simulator import Simulator
from tests.aws.test_web_identity import GOOGLE_TRUST, IDENTITY, WORKER
from tests.fake_metadata import FakeMetadata
from tests.sinks.postgres_server import server_for_tests

NAME = "projects/p/secrets/password"
SECRET = "MARKrotated/1"
ARN = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:dynabeam/db-AbCdEf"
ROLE = "arn:aws:iam::444455556666:role/tables"


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(secrets, "_answers", {})
    for kept in ("_assumed", "_identified", "_clients"):
        monkeypatch.setattr(session, kept, {})
    for name in [each for each in os.environ if each.startswith(("AWS_", "GCE_", "GOOGLE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def asked_again(monkeypatch):
    """Lets what is kept grow old."""
    monkeypatch.setattr(secrets, "_answers", {})


class TestGoogle:
    @pytest.fixture
    def store(self, monkeypatch):
        """Secret Manager's REST interface, for Google's own client."""
        values, asked = {f"{NAME}/versions/latest": SECRET.encode()}, []

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                name = self.path.partition("?")[0].removeprefix("/v1/").removesuffix(":access")
                asked.append(name)
                status, answer = 200, {"name": name}
                if name in values:
                    answer["payload"] = {"data": base64.b64encode(values[name]).decode()}
                else:
                    text = f"Secret [{name}] not found or has no versions."
                    answer = {"error": {"code": 404, "status": "NOT_FOUND", "message": text}}
                    status = 404
                body = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(body)

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        made = SecretManagerServiceClient(
            transport="rest",
            credentials=AnonymousCredentials(),
            client_options=ClientOptions(api_endpoint=f"http://127.0.0.1:{server.server_port}"),
        )
        monkeypatch.setattr(secret_manager, "_client", lambda *_: made)
        yield values, asked
        server.shutdown()
        server.server_close()

    def test_the_newest_version_or_a_given_one(self, store):
        values, _ = store
        values[f"{NAME}/versions/3"] = b"third\n"
        assert resolve_secrets(f"u:${{secret:{NAME}}}@h") == f"u:{SECRET}@h"
        assert resolve_secrets(f"${{secret:{NAME}/versions/3}}") == "third"
        assert masked(f"the password is {SECRET}!") == "the password is ***!"

    def test_it_is_kept_a_moment_and_a_rotated_one_is_taken_after_it(self, store, monkeypatch):
        values, asked = store
        for _ in range(3):
            assert resolve_secrets(f"${{secret:{NAME}}}") == SECRET
        assert asked == [f"{NAME}/versions/latest"]
        values[f"{NAME}/versions/latest"] = b"MARKrotated2"
        asked_again(monkeypatch)
        assert resolve_secrets(f"${{secret:{NAME}}}") == "MARKrotated2"

    def test_what_is_not_there_is_named_with_its_option(self, store):
        reference = "${secret:projects/p/secrets/other}"
        with pytest.raises(ConfigurationError, match="secretAccessor") as caught:
            resolve_secrets(reference, option="--external_id")
        assert str(caught.value).startswith(f"--external_id: {reference}: ")
        assert "404" in str(caught.value)

    def test_bytes_are_not_shown(self, store):
        store[0][f"{NAME}/versions/latest"] = b"MARK\xff"
        with pytest.raises(ConfigurationError, match="not UTF-8") as caught:
            resolve_secrets(f"${{secret:{NAME}}}")
        assert "MARK" not in str(caught.value)
        assert caught.value.__cause__ is None

    def test_no_sink_keeps_it(self, store):
        text = f"postgresql://u:${{secret:{NAME}}}@h/d?sslpassword=${{secret:{NAME}}}"
        uri = parse_sink_uri(text)
        settings = PostgresSettings.of(uri, "s", 1.0)
        assert dict(settings.parameters)["password"] == f"${{secret:{NAME}}}"
        assert dict(settings.parameters)["host"] == "h"
        assert b"MARK" not in pickle.dumps(settings)
        assert not store[1]

    def test_without_credentials_it_is_said_at_once(self, monkeypatch, tmp_path):
        monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:9")
        monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
        with pytest.raises(ConfigurationError, match="no Google credentials") as caught:
            resolve_secrets(f"${{secret:{NAME}}}", option="--sink")
        assert f"--sink: ${{secret:{NAME}}}" in str(caught.value)


class TestAws:
    @pytest.fixture
    def sim(self, monkeypatch):
        with Simulator(seed=1) as simulator, FakeMetadata() as metadata:
            monkeypatch.setenv("GCE_METADATA_HOST", metadata.host)
            simulator.sts.add_role(WORKER, trust=GOOGLE_TRUST)
            simulator.sts.add_role(ROLE, external_id=SECRET)
            simulator.secrets[ARN] = json.dumps({"password": SECRET, "port": 5432})
            simulator.create_table("orders", "id:S")
            before = filesystem.FileSystems._pipeline_options
            access = AwsAccess(simulator.region, simulator.endpoint_url, web_identity=IDENTITY)
            from apache_beam.options.pipeline_options import PipelineOptions  # noqa: PLC0415

            filesystem.FileSystems.set_options(PipelineOptions(s3_arguments(access)))
            yield simulator
            filesystem.FileSystems._pipeline_options = before

    def test_the_text_or_what_is_below_a_key(self, sim, caplog):
        caplog.set_level(logging.DEBUG)
        assert resolve_secrets(f"${{secret:{ARN}#password}}") == SECRET
        assert json.loads(resolve_secrets(f"${{secret:{ARN}}}"))["password"] == SECRET
        assert SECRET not in caplog.text

    @pytest.mark.parametrize(
        ("value", "reference", "what"),
        [
            ("MARKplain", f"${{secret:{ARN}#password}}", "no JSON"),
            ('{"other": "MARK"}', f"${{secret:{ARN}#password}}", "no text below that key"),
            ('{"port": 5432}', f"${{secret:{ARN}#port}}", "no text below that key"),
            (b"MARK", f"${{secret:{ARN}}}", "bytes"),
            (None, f"${{secret:{ARN}}}", "ResourceNotFoundException"),
        ],
    )
    def test_what_cannot_be_had_is_named_and_not_shown(self, sim, value, reference, what):
        sim.secrets.clear()
        if value is not None:
            sim.secrets[ARN] = value
        with pytest.raises(ConfigurationError, match=what) as caught:
            resolve_secrets(reference, option="--sink")
        assert str(caught.value).startswith(f"--sink: {reference}: ")
        assert "MARK" not in str(caught.value)
        assert "MARK" not in str(caught.value.__cause__)

    def test_a_missing_permission_says_what_to_allow(self, sim):
        sim.sts.add_role(WORKER, trust=GOOGLE_TRUST, policies=[])
        with pytest.raises(ConfigurationError, match="secretsmanager:GetSecretValue"):
            resolve_secrets(f"${{secret:{ARN}}}")

    def test_a_password_that_is_rotated_is_taken_after_a_failed_login(self, sim, monkeypatch):
        server = server_for_tests()
        with server.connect() as owner:
            owner.execute(
                "DO $$ BEGIN CREATE ROLE with_password; "
                "EXCEPTION WHEN duplicate_object THEN NULL; END $$; "
                "DROP ROLE IF EXISTS rotated; CREATE ROLE rotated LOGIN IN ROLE with_password; "
                "ALTER ROLE rotated PASSWORD 'MARKnewpassword'"
            )
        reference = f"${{secret:{ARN}#password}}"
        uri = f"postgresql://rotated:{reference}@127.0.0.1:{server.port}/postgres"
        settings = PostgresSettings.of(parse_sink_uri(uri), "s", 30.0)
        failures = []

        def after_a_failure():
            failures.append(1)
            sim.secrets[ARN] = json.dumps({"password": "MARKnewpassword"})

        monkeypatch.setattr(secrets, "_KEPT_SECONDS", 0.3)
        connection = persistently(settings, "", lambda: connect(settings), after_a_failure)
        assert failures
        assert connection.info.user == "rotated"
        connection.close()

    def test_an_external_id_may_be_one(self, sim):
        role = Role(ROLE, f"${{secret:{ARN}#password}}")
        where = AwsAccess(sim.region, sim.endpoint_url, web_identity=IDENTITY, role=role)
        assert where.new_client("dynamodb").describe_table(TableName="orders")["Table"]
        assert SECRET.encode() not in pickle.dumps(where)


@pytest.mark.parametrize(
    "name",
    ["password", "projects/p", "projects/p/secrets/s/versions/", "arn:aws:s3:::b", f"{ARN}#"],
)
@pytest.mark.parametrize("option", ["--sink", "--external_id"])
def test_a_name_that_no_store_can_have_is_refused_with_the_options(name, option):
    given = {
        "--sink": f"postgresql://u:${{secret:{name}}}@h/d",
        "--external_id": f"${{secret:{name}}}",
    }
    words = [
        "--tables=a",
        "--region=eu-west-1",
        "--snapshot=never",
        "--sink=duckdb:///m.duckdb",
        f"--role_arn={ROLE}",
        f"{option}={given[option]}",
    ]
    with pytest.raises(ConfigurationError) as caught:
        parse_replicate(words)
    assert str(caught.value).startswith(f"{option}: ${{secret:{name}}}: ")


def test_it_is_a_reference():
    assert is_reference(f"${{secret:{NAME}}}")


def test_google_s_client_is_imported_when_it_is_needed():
    program = (
        "import sys; import dynabeam.transforms.aws.beam_s3, dynabeam.transforms.aws.session;"
        "from dynabeam.transforms.secrets import resolve_secrets, check_references;"
        "check_references('--x', '${secret:projects/p/secrets/s}');"
        "print([each for each in sys.modules if each.startswith('google.cloud.secretmanager')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
