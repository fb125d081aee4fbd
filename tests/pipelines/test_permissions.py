# SPDX-License-Identifier: Apache-2.0
"""The catalogue of permissions is sufficient and minimal, shown by whole runs in the simulator.

One run with the catalogue's policy works and uses every permission in it; runs without single ones
do not work. All single ones in turn are tried by `python -m tests.benchmarks.minimal_permissions`.
"""

import pytest

from dynabeam.pipelines.command_line import main
from dynabeam.pipelines.options.features import features_of
from dynabeam.pipelines.options.replicate import parse_replicate
from dynabeam.transforms.aws.permissions import condition_block, permissions
from dynabeam.transforms.testing.iam import Iam
from tests.pipelines.runs import ORDERS_ARN, World, orders

KEY = "limited"


class LimitedWorld(World):
    """A world whose runs are those of a key with policies.

    State and changelog are in S3 where it matters, and local where a run is to be quick.
    """

    def __init__(self, folder, capsys):
        super().__init__(folder, capsys)
        self.sim.create_bucket("lake")
        self.sim.put_many("orders", orders(5))
        self.catch_up()
        self.arguments = [
            "--tables=ord*",
            *self.options,
            "--s3_export_bucket=exports",
            "--s3_export_prefix=daily",
        ]
        self.in_s3 = ["--state_dir=s3://lake/state", "--sink=s3://lake/changes"]
        self.local = [f"--state_dir={self.state_dir}", f"--sink=file:///{self.changelog}"]

    def needed(self, places):
        """Actions, resources and conditions of the catalogue."""
        features = features_of(parse_replicate([*self.arguments, *places]), [ORDERS_ARN])
        return [
            (action, resource, each.conditions)
            for each in permissions(features)
            for action in each.actions
            for resource in each.resources
        ]

    def replicate(self, permissions, places):
        """A run with nothing but these permissions; returns the exit code."""
        self.sim.set_policies(KEY, [{"Statement": [statement(*each) for each in permissions]}])
        self.capsys.readouterr()
        return main(["replicate", *self.arguments, *places])


def statement(action, resource, conditions):
    allow = {"Effect": "Allow", "Action": action, "Resource": resource}
    return {**allow, "Condition": condition_block(conditions)}


@pytest.fixture
def limited(credentials, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    world = LimitedWorld(tmp_path, capsys)
    with world.sim:
        yield world


@pytest.mark.parametrize("more", [[], ["--export=newest:60"]])
def test_sufficient_and_each_right_is_used(limited, more):
    limited.arguments += more
    needed = limited.needed(limited.in_s3)
    assert limited.replicate(needed, limited.in_s3) == 0, limited.capsys.readouterr().err
    assert limited.sim.objects.keys("lake", "changes/orders/dynabeam_round=")
    # Missing objects are seen without listing more than the folders.
    listed = [each for each in needed if each[0] == "s3:ListBucket"]
    assert [(each[1], each[2][0][2]) for each in listed] == [
        ("arn:aws:s3:::lake", ("state/*",)),
        ("arn:aws:s3:::lake", ("changes/*",)),
    ]
    used = limited.sim.used_permissions(KEY)
    assert [each for each in used if not granted(each, needed)] == []
    unused = [
        each for each in needed if not any(granted(permission, [each]) for permission in used)
    ]
    # What no run of a table with one stream asks for, and what it goes on without.
    assert unused == [("dynamodb:ListStreams", "*", ())]


def granted(permission, statements):
    """Whether one of these statements allows it."""
    iam = Iam()
    iam.set_policies(KEY, [{"Statement": [statement(*each) for each in statements]}])
    return not iam.denial(KEY, permission)


@pytest.mark.parametrize(
    ("more", "looks"),
    [
        ([], True),
        (["--export=newest:60"], False),
        (["--export=s3://exports/old"], False),
        (["--export=newest:60", "--gaps=heal"], True),
        (["--export=newest:60", "--gaps=heal", "--snapshot=only"], False),
        (["--export=newest:60", "--every=2s"], True),
        (["--export=newest:60", "--every=2s", "--discover_every=0"], False),
        (["--export=newest:60", "--mode=continuous"], True),
    ],
)
def test_recovery_is_seen_by_those_who_look(more, looks):
    asked = ["--tables=ord*", "--region=eu-west-1", "--s3_export_bucket=exports", *more]
    features = features_of(parse_replicate(asked, complete=False), [ORDERS_ARN])
    sids = {each.sid for each in permissions(features)}
    assert ("SeeTheRecoveryWindow" in sids) is looks


@pytest.mark.parametrize("missing", ["dynamodb:GetRecords", "s3:PutObjectAcl"])
def test_without_one_action_the_run_does_not_work(limited, missing):
    rest = [each for each in limited.needed(limited.local) if each[0] != missing]
    assert limited.replicate(rest, limited.local) == 1
    _, err = limited.capsys.readouterr()
    (line,) = [each for each in err.splitlines() if each.startswith("dynabeam: ")]
    expected = "S3AccessDenied" if missing.startswith("s3:") else missing
    assert expected in line
