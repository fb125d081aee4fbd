# SPDX-License-Identifier: Apache-2.0
"""Contract of the simulated STS: as the service refuses, names and ends sessions."""

import time

import pytest
from botocore.exceptions import ClientError

from dynabeam.transforms.testing.simulator import Simulator

ROLE = "arn:aws:iam::444455556666:role/team/reader"


@pytest.fixture(scope="module")
def sim():
    with Simulator(seed=3) as simulator:
        simulator.sts.add_role(ROLE, external_id="inside")
        simulator.create_bucket("things")
        yield simulator


def assume(sim, arn=ROLE, **more):
    answer = sim.client("sts").assume_role(RoleArn=arn, RoleSessionName="me", **more)
    given = answer["Credentials"]
    return {
        "aws_access_key_id": given["AccessKeyId"],
        "aws_secret_access_key": given["SecretAccessKey"],
        "aws_session_token": given["SessionToken"],
    }


def code_of(call, **arguments):
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    return caught.value.response["Error"]["Code"]


def test_the_user_is_who_calls_without_a_role(sim):
    caller = sim.client("sts").get_caller_identity()
    assert (caller["Arn"], caller["Account"]) == (sim.user_arn, sim.account_id)


def test_a_session_has_the_account_of_its_role_and_not_its_path(sim):
    caller = sim.client("sts", **assume(sim, ExternalId="inside")).get_caller_identity()
    assert caller["Arn"] == "arn:aws:sts::444455556666:assumed-role/reader/me"
    assert caller["Account"] == "444455556666"


@pytest.mark.parametrize(
    "given",
    [{}, {"ExternalId": "other"}, {"arn": ROLE + "s", "ExternalId": "inside"}],
    ids=["no external id", "another external id", "no such role"],
)
def test_refusals(sim, given):
    assert code_of(lambda: assume(sim, **given)) == "AccessDenied"


def test_a_session_ends(sim):
    sim.sts.session_seconds = 0.2
    session = assume(sim, ExternalId="inside")
    sim.sts.session_seconds = 3600
    time.sleep(0.25)
    assert code_of(sim.client("dynamodb", **session).list_tables) == "ExpiredTokenException"
    assert code_of(sim.client("s3", **session).list_objects_v2, Bucket="things") == "ExpiredToken"
    assert code_of(sim.client("sts", **session).get_caller_identity) == "ExpiredToken"


def test_a_session_needs_its_own_token(sim):
    session = {**assume(sim, ExternalId="inside"), "aws_session_token": "forged"}
    code = code_of(sim.client("dynamodb", **session).list_tables)
    assert code == "UnrecognizedClientException"
