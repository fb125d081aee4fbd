# SPDX-License-Identifier: Apache-2.0
"""Contract of roles: who calls what, sessions that renew themselves, errors that name the role."""

import copy
import os
import pickle
import subprocess
import sys
import time

import pytest
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from botocore.exceptions import ClientError

from dynabeam.transforms.aws.beam_s3 import hand_down, s3_arguments
from dynabeam.transforms.aws.dynamodb import describe_table
from dynabeam.transforms.aws.roles import Role
from dynabeam.transforms.aws.session import AwsAccess
from dynabeam.transforms.errors import AwsAccessError, ConfigurationError, StateError
from dynabeam.transforms.storage import filesystem
from dynabeam.transforms.testing.simulator import Simulator

TABLES = "arn:aws:iam::111122223333:role/tables"
FILES = "arn:aws:iam::444455556666:role/data/files"
ONLY_DESCRIBE = {
    "Statement": [{"Effect": "Allow", "Action": "dynamodb:DescribeTable", "Resource": "*"}]
}
ONLY_READ = {"Statement": [{"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"}]}


@pytest.fixture
def sim(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAWORKER")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "simulated")
    # Sessions are kept by endpoint, and the port of an earlier simulator may come again.
    monkeypatch.setattr("dynabeam.transforms.aws.session._assumed", {})
    before = FileSystems._pipeline_options
    with Simulator(seed=1) as simulator:
        simulator.create_table("orders", "id:S")
        simulator.create_bucket("things")
        simulator.s3_put("things", "a", b"content")
        simulator.sts.add_role(TABLES, external_id="outside", policies=[ONLY_DESCRIBE])
        simulator.sts.add_role(FILES, external_id="inside", policies=[ONLY_READ])
        simulator.set_policies("AKIAWORKER", [])
        yield simulator
    FileSystems._pipeline_options = before


def allow_assuming(sim, *roles):
    statement = {"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": list(roles)}
    sim.set_policies("AKIAWORKER", [{"Statement": [statement]}])


def access(sim, **changed):
    given = {"role": Role(TABLES, "outside"), "bucket_role": Role(FILES, "inside"), **changed}
    return AwsAccess(sim.region, sim.endpoint_url, **given)


def test_tables_are_read_as_one_role_and_buckets_as_another(sim):
    allow_assuming(sim, TABLES, FILES)
    where = access(sim)
    assert where.new_client("dynamodb").describe_table(TableName="orders")["Table"]
    body = where.new_client("s3").get_object(Bucket="things", Key="a")["Body"]
    assert body.read() == b"content"
    with pytest.raises(ClientError, match="AccessDenied"):
        where.new_client("s3").list_objects_v2(Bucket="things")
    assert len(sim.sts.keys_of(TABLES)) == len(sim.sts.keys_of(FILES)) == 1


def test_without_a_role_for_buckets_they_are_used_as_who_the_process_is(sim):
    allow_assuming(sim, TABLES)
    where = access(sim, bucket_role=Role())
    with pytest.raises(ClientError, match="AccessDenied"):
        where.new_client("s3").get_object(Bucket="things", Key="a")
    assert not sim.sts.keys_of(FILES)


def test_the_caller_is_the_role(sim):
    allow_assuming(sim, TABLES)
    caller = access(sim).new_client("sts").get_caller_identity()
    assert caller["Arn"] == "arn:aws:sts::111122223333:assumed-role/tables/dynabeam"


def test_clients_of_one_process_share_a_session(sim):
    allow_assuming(sim, TABLES)
    where = access(sim)
    where.new_client("dynamodb").describe_table(TableName="orders")
    where.new_client("dynamodb").describe_table(TableName="orders")
    where.new_client("sts").get_caller_identity()
    assert len(sim.sts.keys_of(TABLES)) == 1


def test_sessions_are_renewed_before_they_end(sim):
    allow_assuming(sim, TABLES)
    sim.sts.session_seconds = 0.5
    tables = access(sim).new_client("dynamodb")
    first = tables._request_signer._credentials
    tables.describe_table(TableName="orders")
    ended = copy.copy(first.get_frozen_credentials())
    time.sleep(0.6)
    assert tables.describe_table(TableName="orders")["Table"]
    assert sim.stats.errors == {}
    assert len(sim.sts.keys_of(TABLES)) >= 2

    keys = (ended.access_key, ended.secret_key, ended.token)
    stale = sim.client(
        "dynamodb",
        **dict(
            zip(
                ("aws_access_key_id", "aws_secret_access_key", "aws_session_token"),
                keys,
                strict=True,
            )
        ),
    )
    with pytest.raises(ClientError, match="ExpiredToken"):
        stale.describe_table(TableName="orders")


def test_a_long_session_is_not_renewed_at_every_call(sim):
    allow_assuming(sim, TABLES)
    tables = access(sim).new_client("dynamodb")
    for _ in range(5):
        tables.describe_table(TableName="orders")
    assert len(sim.sts.keys_of(TABLES)) == 1


@pytest.mark.parametrize("external_id", ["", "wrong"])
def test_a_role_that_may_not_be_assumed_is_named_and_its_external_id_is_not(sim, external_id):
    allow_assuming(sim, TABLES)
    where = access(sim, role=Role(TABLES, external_id))
    with pytest.raises(AwsAccessError, match="sts:AssumeRole") as caught:
        describe_table(where, "orders")
    assert TABLES in str(caught.value)
    assert "outside" not in str(caught.value)
    assert "wrong" not in str(caught.value)
    assert "dynabeam setup" in str(caught.value)


def test_the_right_to_assume_is_needed(sim):
    with pytest.raises(AwsAccessError, match="sts:AssumeRole"):
        describe_table(access(sim), "orders")


def test_an_external_id_is_shown_nowhere_and_survives_pickling(sim):
    where = access(sim)
    assert "outside" not in repr(where)
    assert "inside" not in str(where)
    assert pickle.loads(pickle.dumps(where)) == where


def test_an_external_id_may_be_a_reference_that_is_looked_up_at_the_worker(sim, monkeypatch):
    allow_assuming(sim, TABLES)
    where = access(sim, role=Role(TABLES, "${env:OUTSIDE}"))
    with pytest.raises(ConfigurationError, match="OUTSIDE"):
        where.new_client("dynamodb")
    monkeypatch.setenv("OUTSIDE", "outside")
    assert b"outside" not in pickle.dumps(where)
    assert where.new_client("dynamodb").describe_table(TableName="orders")["Table"]


def test_files_are_used_as_the_bucket_role_by_options(sim):
    allow_assuming(sim, FILES)
    FileSystems.set_options(PipelineOptions(s3_arguments(access(sim))))
    assert filesystem.read_bytes("s3://things/a", StateError) == b"content"
    with pytest.raises(AwsAccessError, match="s3:PutObject"):
        filesystem.write_atomic("s3://things/b", b"more", StateError)
    with pytest.raises(AwsAccessError, match="s3:ListBucket"):
        filesystem.list_files("s3://things/folder")


def test_files_are_used_as_the_bucket_role_in_worker_processes(sim):
    allow_assuming(sim, FILES)
    environment = dict(os.environ)
    hand_down(access(sim), environment)
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
    hand_down(access(sim, bucket_role=Role()), environment)
    assert not [name for name in environment if name.startswith("DYNABEAM_S3")]
