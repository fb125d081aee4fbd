# SPDX-License-Identifier: Apache-2.0
"""`dynabeam doctor` sees the bucket's KMS key, and asks for the permissions to it."""

import pytest

from tests.pipelines.test_doctor import doctor

ID = "0a1b2c3d-0000-4000-8000-0a1b2c3d4e5f"
ARN = f"arn:aws:kms:eu-west-1:111122223333:key/{ID}"
FOREIGN = f"arn:aws:kms:eu-west-1:444455556666:key/{ID}"
PERMISSIONS = {("kms:Decrypt", ARN), ("kms:GenerateDataKey", ARN)}
OWNER = "--s3_export_bucket_owner=444455556666"


def encrypt(world, key=None, algorithm="aws:kms"):
    default = {"SSEAlgorithm": algorithm} | ({"KMSMasterKeyID": key} if key else {})
    world.sim.client("s3").put_bucket_encryption(
        Bucket="exports",
        ServerSideEncryptionConfiguration={
            "Rules": [{"ApplyServerSideEncryptionByDefault": default}]
        },
    )


def look(world, *options):
    """The finding of the encryption, and those of permissions to keys."""
    ended = doctor(world, "--tables=orders", "--s3_export_bucket=exports", *options)
    assert ended.code == 0, "none of this keeps a run from working for sure"
    findings = ended.document["findings"]
    (found,) = [each for each in findings if each["check"] == "encryption"]
    return found, [each for each in findings if each["action"].startswith("kms:")]


@pytest.mark.parametrize("algorithm", ["aws:kms", "aws:kms:dsse"])
@pytest.mark.parametrize("key", [ID, ARN])
def test_the_key_and_the_permissions_to_it(world, key, algorithm):
    encrypt(world, key, algorithm)
    found, permissions = look(world)
    assert (found["status"], found["subject"]) == ("ok", "exports")
    assert ARN in found["text"]
    assert {(each["action"], each["resource"]) for each in permissions} == PERMISSIONS
    assert {each["status"] for each in permissions} == {"ok"}


@pytest.mark.parametrize(
    ("state", "hint"), [("Disabled", "enable-key"), ("PendingDeletion", "cancel-key-deletion")]
)
def test_a_key_that_is_off(world, state, hint):
    encrypt(world, ARN)
    world.sim.kms_keys[ARN] = state
    ended = doctor(world, "--tables=orders", "--s3_export_bucket=exports")
    assert ended.code == 1
    (found,) = [each for each in ended.document["findings"] if each["status"] == "failure"]
    assert (found["check"], found["subject"]) == ("key", ARN)
    assert state in found["text"]
    assert "an export" in found["why"]
    assert f"aws kms {hint} --key-id {ARN}" in found["hint"]


def test_a_key_that_is_on(world):
    encrypt(world, ARN)
    world.sim.kms_keys[ARN] = "Enabled"
    ended = doctor(world, "--tables=orders", "--s3_export_bucket=exports")
    (found,) = [each for each in ended.document["findings"] if each["check"] == "key"]
    assert (found["status"], found["subject"], found["text"]) == ("ok", ARN, "enabled")


def test_permissions_to_the_key_that_the_policy_lacks(world):
    encrypt(world, ARN)
    everything_else = {"Effect": "Allow", "NotAction": "kms:*", "Resource": "*"}
    world.sim.set_policies("simulated", [{"Statement": everything_else}])
    _, permissions = look(world)
    assert {(each["action"], each["resource"]) for each in permissions} == PERMISSIONS
    for each in permissions:
        # The key's own policy may allow it: so it is no failure.
        assert each["status"] == "warning"
        assert "the key's policy may" in each["text"]
        assert f'"Action": "{each["action"]}", "Resource": "{ARN}"' in each["hint"]


@pytest.mark.parametrize(
    ("key", "algorithm"), [(None, "AES256"), (None, "aws:kms"), ("alias/aws/s3", "aws:kms")]
)
def test_what_takes_no_permissions(world, key, algorithm):
    encrypt(world, key, algorithm)
    found, permissions = look(world)
    assert (found["status"], permissions) == ("ok", [])


def test_a_bucket_without_any(world):
    found, permissions = look(world)
    assert (found["status"], found["text"], permissions) == ("ok", "without a KMS key", [])


def test_an_alias_is_no_resource_of_a_policy(world):
    encrypt(world, "alias/exports")
    found, permissions = look(world)
    assert (found["status"], permissions) == ("warning", [])
    assert "aws kms describe-key --key-id alias/exports" in found["hint"]
    assert "dynabeam setup --kms_key=ARN" in found["hint"]


@pytest.mark.parametrize("key", [None, ID, "alias/exports"])
def test_a_bucket_of_another_account_needs_a_key_with_its_arn(world, key):
    encrypt(world, key)
    found, permissions = look(world, OWNER)
    assert (found["status"], permissions) == ("warning", [])
    assert "by its ARN" in found["hint"]
    encrypt(world, FOREIGN)
    found, permissions = look(world, OWNER)
    assert found["status"] == "ok"
    assert {each["resource"] for each in permissions} == {FOREIGN}


def test_not_being_allowed_to_see_it_is_a_hint(world):
    encrypt(world, ARN)
    hidden = "s3:GetEncryptionConfiguration"
    statements = [
        {"Effect": "Allow", "Action": "*", "Resource": "*"},
        {"Effect": "Deny", "Action": hidden, "Resource": "arn:aws:s3:::exports"},
    ]
    world.sim.set_policies("simulated", [{"Statement": statements}])
    found, permissions = look(world)
    assert (found["status"], permissions) == ("warning", [])
    assert f"{hidden} is not allowed" in found["text"]
    assert "kms:GenerateDataKey" in found["why"]
    assert "aws s3api get-bucket-encryption --bucket exports" in found["hint"]
