# SPDX-License-Identifier: Apache-2.0
"""Settings of AWS that cannot work: one line each, which names the setting and what to do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dynabeam.pipelines.failures import meant_for_people
from dynabeam.pipelines.options.aws import checked_endpoint, checked_region, referenced_secret
from dynabeam.pipelines.options.replicate import parse_replicate
from dynabeam.transforms.errors import AwsUnreachableError, ConfigurationError, CredentialsError

ROOT = Path(__file__).parents[2]
CONFIG = """\
[profile broken]
credential_process = /bin/false
[profile code]
role_arn = arn:aws:iam::123456789012:role/reader
source_profile = base
mfa_serial = arn:aws:iam::123456789012:mfa/somebody
[profile base]
aws_access_key_id = AKIDEXAMPLE
aws_secret_access_key = hidden
[profile web]
sso_session = company
sso_account_id = 123456789012
sso_role_name = reader
[sso-session company]
sso_start_url = https://company.awsapps.com/start
sso_region = eu-west-1
"""
KEYS = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "hidden"}
NOBODY = "http://127.0.0.1:9"
"""Loopback's port for discarding: nothing listens there."""


def run(tmp_path, environment, *options):
    """Replicates as a process of its own, without the environment of the tests."""
    (tmp_path / "config").write_text(CONFIG)
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return subprocess.run(
        [
            *[
                sys.executable,
                "-m",
                "dynabeam.pipelines.command_line",
                "replicate",
                "--tables=orders",
            ],
            *["--snapshot=never", f"--sink=file:///{tmp_path}/out", f"--state_dir={tmp_path}/s"],
            *options,
        ],
        env={
            **kept,
            "PYTHONPATH": str(ROOT),
            "HOME": str(tmp_path),
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": str(tmp_path / "config"),
            **environment,
        },
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("environment", "options", "said"),
    [
        ({"AWS_PROFILE": "nope"}, [], "CredentialsError: AWS_PROFILE: The config profile (nope)"),
        ({"AWS_PROFILE": "broken"}, [], "CredentialsError: AWS credentials cannot be loaded"),
        ({"AWS_PROFILE": "code"}, [], "CredentialsError: AWS_PROFILE=code: the profile's role"),
        ({"AWS_PROFILE": "web"}, [], "CredentialsError: "),
        (KEYS, [f"--endpoint_url={NOBODY}"], "AwsUnreachableError: no answer from AWS"),
        ({**KEYS, "HTTPS_PROXY": NOBODY}, [], "AwsUnreachableError: HTTPS_PROXY, HTTP_PROXY: "),
    ],
    ids=["profile", "process", "code", "web", "endpoint", "proxy"],
)
def test_one_line_and_no_traceback(tmp_path, environment, options, said):
    ended = run(tmp_path, environment, "--region=eu-west-1", *options)
    assert ended.returncode == 1
    assert said in ended.stderr
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
    assert "hidden" not in ended.stderr


def test_a_file_of_settings_that_is_none(tmp_path):
    (tmp_path / "odd").write_text("no settings\n")
    ended = run(tmp_path, {"AWS_CONFIG_FILE": str(tmp_path / "odd")}, "--region=eu-west-1")
    assert "ConfigurationError: ~/.aws/config, AWS_CONFIG_FILE: " in ended.stderr
    assert len(ended.stderr.splitlines()) == 1, ended.stderr


@pytest.mark.parametrize("command", ["status", "dead_letters"])
def test_a_state_directory_in_a_store_that_does_not_answer(tmp_path, command):
    """Beam by itself would ask again for nine minutes, and say nothing."""
    ended = subprocess.run(
        [
            *[sys.executable, "-m", "dynabeam.pipelines.command_line", command],
            *["--state_dir=s3://bucket/state", "--region=eu-west-1", f"--endpoint_url={NOBODY}"],
        ],
        env={**os.environ, **KEYS, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert "AwsUnreachableError" in line
    assert NOBODY in line


@pytest.mark.parametrize("name", ["eu west-1", "EU-WEST-1", "eu-west-1 ", "eu_west_1", "-"])
def test_no_name_of_a_region(name):
    with pytest.raises(ConfigurationError, match="--region: not the name of a region"):
        checked_region(name)


@pytest.mark.parametrize("url", ["localhost:8000", "http://", "ftp://h", "http://h:x", "h", "//h"])
def test_no_url_of_an_endpoint(url):
    with pytest.raises(ConfigurationError, match="--endpoint_url: not the URL of an endpoint"):
        checked_endpoint(url)


def test_what_is_right_passes():
    assert [checked_region(each) for each in ("", "eu-west-1", "us-gov-east-1")] == [
        "",
        "eu-west-1",
        "us-gov-east-1",
    ]
    for url in ("", "http://[::1]:8000", "https://dynamodb.eu-west-1.amazonaws.com/"):
        assert checked_endpoint(url) == url


def test_a_secret_itself_is_refused_and_not_shown(monkeypatch):
    monkeypatch.setenv("MY_SECRET", "s3cr3t")
    assert referenced_secret("--secret_key", "${env:MY_SECRET}") == "s3cr3t"
    for given in ("wJalrXUtnFEMI", "x${env:MY_SECRET}", "${env:MY_SECRET}wJalrXUtnFEMI"):
        with pytest.raises(ConfigurationError, match=r"--secret_key: .*by reference") as caught:
            parse_replicate(
                [
                    *["--tables=t", "--region=eu-west-1", "--snapshot=never", "--sink=file:///o"],
                    *["--access_key_id=AKIDEXAMPLE", f"--secret_key={given}"],
                ]
            )
        assert "wJalr" not in str(caught.value)
        assert "s3cr3t" not in str(caught.value)


def test_an_export_from_the_web():
    with pytest.raises(ConfigurationError, match=r"--export: .*https://b\.s3.*s3://BUCKET"):
        parse_replicate(["--sink=file:///o", "--export=https://b.s3.amazonaws.com/x"])


def test_what_a_worker_sent_home_as_text():
    text = (
        "Traceback (most recent call last):\n  File x\n"
        'botocore.exceptions.EndpointConnectionError: Could not connect to "https://a"\n\n'
        "During handling of the above exception, another exception occurred:\n"
        "botocore.exceptions.ProfileNotFound: The config profile (x) could not be found\n"
    )
    found = meant_for_people(RuntimeError(text))
    assert isinstance(found, CredentialsError)
    assert str(found).startswith("AWS_PROFILE: The config profile (x) could not be found.")
    first = meant_for_people(RuntimeError("\n".join(text.splitlines()[:3])))
    assert isinstance(first, AwsUnreachableError)
    assert 'Could not connect to "https://a"' in str(first)
    assert meant_for_people(RuntimeError("botocore.exceptions.Nothing: x")) is None
