# SPDX-License-Identifier: Apache-2.0
"""Contract of `dynabeam setup --apply`: says, asks, does, waits, and leaves alone what is right."""

import io
import json

import pytest

from dynabeam.pipelines.command_line import main
from dynabeam.pipelines.setup import __main__ as command
from dynabeam.pipelines.setup.apply import Applier
from dynabeam.transforms.aws.session import AwsAccess
from dynabeam.transforms.aws.table_settings import Needs, Pacing, read_settings
from dynabeam.transforms.errors import AwsAccessError, ConfigurationError, TableError
from dynabeam.transforms.testing.faults import Faults
from dynabeam.transforms.testing.simulator import Simulator

BOTH = Needs(stream=True, recovery=True)


@pytest.fixture
def sim(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "simulated")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "simulated")
    with Simulator(seed=5) as simulator:
        simulator.create_table("orders", "id:S", stream=None)
        yield simulator


@pytest.fixture
def setup(sim, capsys):
    def run(*arguments, tables="orders"):
        capsys.readouterr()
        code = main(
            [
                "setup",
                "--apply",
                f"--tables={tables}",
                f"--endpoint_url={sim.endpoint_url}",
                f"--region={sim.region}",
                "--s3_export_bucket=exports",
                *arguments,
            ]
        )
        return (code, *capsys.readouterr())

    return run


def applier(sim, **changed):
    given = {
        "access": AwsAccess(sim.region, sim.endpoint_url),
        "needs": BOTH,
        "replace_streams": False,
        "yes": True,
        "ask": None,
        "out": io.StringIO(),
        "pacing": Pacing(seconds=60, sleep=lambda _: None),
        **changed,
    }
    return Applier(**given)


def settings(sim, name="orders"):
    return read_settings(AwsAccess(sim.region, sim.endpoint_url), name, BOTH)


def changes(sim):
    return [sim.stats.calls.get(name, 0) for name in ("UpdateTable", "UpdateContinuousBackups")]


def test_turns_on_what_is_off_and_only_once(sim, setup):
    code, out, err = setup("--yes")
    assert (code, out) == (0, "")
    assert "orders: stream: off → NEW_AND_OLD_IMAGES" in err
    assert "orders: point-in-time recovery: off → on" in err
    assert settings(sim).satisfies(BOTH)
    assert changes(sim) == [1, 1]

    code, _, err = setup()
    assert code == 0
    assert "orders: is set up already" in err
    assert "nothing to do" in err
    assert changes(sim) == [1, 1]


def test_refuses_to_change_unasked(sim, setup):
    code, _, err = setup()
    assert code == 1
    assert "--yes" in err
    assert "stream: off → NEW_AND_OLD_IMAGES" in err
    assert changes(sim) == [0, 0]


def test_only_what_is_needed(sim, setup):
    assert setup("--yes", "--snapshot=never")[0] == 0
    assert changes(sim) == [1, 0]


@pytest.mark.parametrize(("answer", "done"), [("y\n", True), ("n\n", False), ("", False)])
def test_asks_at_a_terminal(sim, setup, monkeypatch, answer, done):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(command.sys, "stdin", Terminal(answer))
    code, _, err = setup()
    assert "Change 1 table? [y/N]" in err
    assert (code == 0) is settings(sim).satisfies(BOTH) is done


def test_another_view_type_is_told_and_left(sim, setup):
    sim.create_table("legacy", "id:S", stream="KEYS_ONLY")
    before = settings(sim, "legacy").stream_arn
    code, _, err = setup("--yes", tables="orders,legacy")
    assert code == 1
    assert "new ARN" in err
    assert "gap" in err
    assert "--replace_streams" in err
    assert settings(sim).satisfies(BOTH)
    assert settings(sim, "legacy").stream_arn == before


def test_another_view_type_is_replaced_if_told_to(sim, setup):
    sim.create_table("legacy", "id:S", stream="KEYS_ONLY")
    before = settings(sim, "legacy").stream_arn
    code, _, err = setup("--yes", "--replace_streams", tables="legacy")
    assert code == 0, err
    assert "gap" in err
    now = settings(sim, "legacy")
    assert now.satisfies(BOTH)
    assert now.stream_arn != before


def test_waits_while_the_table_changes_and_bears_backups_that_are_not_there_yet(sim):
    sim.faults = Faults(updating_asks=3)
    sim.exports.unavailable_asks = 2
    sim.create_table("legacy", "id:S", stream="OLD_IMAGE")
    assert applier(sim, replace_streams=True).apply(["orders", "legacy"])
    assert settings(sim).satisfies(BOTH)
    assert settings(sim, "legacy").satisfies(BOTH)


def test_what_is_not_on_in_time_is_said(sim):
    sim.faults = Faults(updating_asks=1000)
    times = iter(range(0, 10_000, 5))
    pacing = Pacing(seconds=60, sleep=lambda _: None, now=lambda: float(next(times)))
    with pytest.raises(TableError, match="after 60 s"):
        applier(sim, pacing=pacing).apply(["orders"])


def test_a_table_that_fails_does_not_hold_up_the_others(sim):
    sim.create_table("legacy", "id:S", stream=None)
    allowed = {
        "Effect": "Allow",
        "Action": ["dynamodb:Describe*", "dynamodb:Update*"],
        "Resource": "arn:aws:dynamodb:*:table/orders",
    }
    seen = {"Effect": "Allow", "Action": "dynamodb:Describe*", "Resource": "*"}
    sim.set_policies("simulated", [{"Statement": [allowed, seen]}])
    with pytest.raises(AwsAccessError, match="dynamodb:UpdateTable"):
        applier(sim).apply(["legacy", "orders"])
    assert settings(sim).satisfies(BOTH)


def test_the_printed_permissions_of_the_operator_are_enough(sim, setup, tmp_path):
    assert setup("--yes", f"--output={tmp_path}/p.json", "--format=json", "--snapshot=auto")[0] == 0
    printed = json.loads((tmp_path / "p.json").read_text())["policies"]
    (operator,) = (each for each in printed if each["name"] == "dynabeam-setup")
    sim.create_table("later", "id:S", stream=None)
    document = json.loads(json.dumps(operator["document"]).replace("table/orders", "table/later"))
    sim.set_policies("simulated", [document])
    assert setup("--yes", tables="later")[0] == 0
    used = {permission.action for permission in sim.used_permissions("simulated")}
    granted = set()
    for each in document["Statement"]:
        action = each["Action"]
        granted |= {action} if isinstance(action, str) else set(action)
    assert used == granted


def test_nobody_to_ask_is_an_error_with_a_hint(sim):
    with pytest.raises(ConfigurationError, match="--yes"):
        applier(sim, yes=False).apply(["orders"])
