# SPDX-License-Identifier: Apache-2.0
"""The simulator as a process of its own, told what to do over HTTP."""

import json
import signal
import subprocess
import sys
from datetime import timedelta

import boto3
import pytest

from dynabeam.transforms.testing.faults import Faults
from dynabeam.transforms.testing.remote import RemoteSimulator
from tests.testing.reading import arn_of, read_stream


@pytest.fixture(scope="module")
def process():
    command = [sys.executable, "-m", "dynabeam.transforms.testing", "--seed", "3", "--scale", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        try:
            yield running, json.loads(running.stdout.readline())["endpoint_url"]
        finally:
            running.send_signal(signal.SIGTERM)
            assert running.wait(timeout=30) == 0


def test_everything_a_test_needs_from_outside(process):
    remote = RemoteSimulator(process[1])
    remote.create_bucket("bucket")
    arn = remote.create_table("table", "id:S")
    assert arn.endswith(":table/table")
    item = {"id": {"S": "a"}, "b": {"B": "AAE="}}
    assert remote.put_many("table", [item, {"id": {"S": "b"}}, {"id": {"S": "c"}}]) == 3
    assert remote.delete_many("table", [{"id": {"S": "b"}}]) == 1
    assert remote.expire("table", {"id": {"S": "c"}})
    assert remote.items("table") == [item]
    assert len(remote.roll("table")) == 1
    assert len(remote.split("table", 3)) == 3
    start = remote.now()
    assert remote.advance(timedelta(hours=1)) == start + timedelta(hours=1)

    client = boto3.session.Session().client(
        "dynamodbstreams",
        endpoint_url=process[1],
        region_name="eu-west-1",
        aws_access_key_id="simulated",
        aws_secret_access_key="simulated",
    )
    stream = arn_of(client, "table")
    assert sum(map(len, read_stream(client, stream).values())) == 5 == len(remote.records("table"))
    remote.trim("table", before=remote.now())
    assert sum(map(len, read_stream(client, stream).values())) == 0
    client.close()

    remote.set_policies("limited", [])
    assert remote.used_permissions("limited") == []
    remote.set_policies("limited", None)

    faults = Faults(throttle=0.5, actions={"GetRecords"})
    remote.faults = faults
    assert remote.faults == faults
    remote.faults = Faults()
    remote.set_scale(1.0)
    assert remote.stats()["calls"]["GetRecords"] > 0


def test_errors_say_what_was_wrong(process):
    remote = RemoteSimulator(process[1])
    with pytest.raises(ValueError, match="Table: nope not found"):
        remote.items("nope")
    with pytest.raises(ValueError, match="backwards"):
        remote.advance(timedelta(seconds=-1))
