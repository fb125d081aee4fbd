# SPDX-License-Identifier: Apache-2.0
"""A whole replication as two roles, with no more permissions than `dynabeam setup` printed."""

import json

import pytest

from dynabeam.pipelines.command_line import main
from tests.pipelines.runs import orders

TABLES = "arn:aws:iam::111122223333:role/tables"
FILES = "arn:aws:iam::444455556666:role/files"
ROLES = (
    f"--role_arn={TABLES}",
    "--external_id=agreed-for-tables",
    f"--s3_role_arn={FILES}",
    "--s3_external_id=agreed-for-files",
    "--s3_export_bucket=exports",
)


@pytest.fixture
def restricted(world, capsys, monkeypatch):
    """The account, in which worker and roles may do what setup printed for each."""
    for name in ("DYNABEAM_S3_ROLE_ARN", "DYNABEAM_S3_EXTERNAL_ID"):
        monkeypatch.setenv(name, "")  # so that what the run sets is taken back
    world.sim.put_many("orders", orders(20))
    world.catch_up()
    capsys.readouterr()
    options = [*world.options, *ROLES, "--tables=orders", "--format=json"]
    assert main(["setup", *options, "--principal=arn:aws:iam::111122223333:user/simulated"]) == 0
    printed = json.loads(capsys.readouterr().out)["policies"]
    by_target = {each["target"]: each["document"] for each in printed if each["kind"] == "identity"}
    ids = {TABLES: "agreed-for-tables", FILES: "agreed-for-files"}
    for role, external_id in ids.items():
        world.sim.sts.add_role(role, external_id=external_id, policies=[by_target[role]])
    world.printed = by_target
    world.sim.set_policies("simulated", [by_target["arn:aws:iam::111122223333:user/simulated"]])
    yield world
    world.sim.set_policies("simulated", None)


def test_the_printed_policies_are_enough(restricted):
    ended = restricted.run(*ROLES, "--tables=orders")
    assert ended.code == 0, ended.err
    assert len(restricted.rows()) == 20
    assert "agreed-for" not in ended.err + ended.out
    for path in restricted.state_dir.rglob("*"):
        assert path.is_dir() or b"agreed-for" not in path.read_bytes()


def findings(world, capsys):
    """What the doctor says of permissions: (action, resource) → status."""
    capsys.readouterr()
    main(["doctor", *world.options, *ROLES, "--tables=orders", *world.sinks, "--json"])
    document = json.loads(capsys.readouterr().out)
    return {
        (each["action"], each["resource"]): each["status"]
        for each in document["findings"]
        if each["check"] == "permission"
    }


def test_the_doctor_tries_each_right_as_the_role_that_needs_it(restricted, capsys):
    found = findings(restricted, capsys)
    assert set(found.values()) == {"ok"}
    policy = json.loads(json.dumps(restricted.printed[TABLES]))
    writes = [each for each in policy["Statement"] if "s3:PutObject" in each["Action"]]
    assert len(writes) == 1
    writes[0]["Action"] = [each for each in writes[0]["Action"] if each != "s3:PutObject"]
    for key in restricted.sim.sts.keys_of(TABLES):
        restricted.sim.set_policies(key, [policy])
    missing = {each for each, status in findings(restricted, capsys).items() if status != "ok"}
    assert missing == {("s3:PutObject", writes[0]["Resource"])}
