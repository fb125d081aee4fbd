# SPDX-License-Identifier: Apache-2.0
"""A throttled listing of a stream holds a command up and does not end it."""

import pytest

from dynabeam.pipelines.command_line import main
from dynabeam.transforms.testing.faults import Faults
from tests.pipelines.runs import World, orders

THROTTLED = Faults(actions=frozenset({"DescribeStream", "ListStreams"}), throttle=0.7)


@pytest.fixture
def world(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "simulated")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "simulated")
    made = World(tmp_path, capsys)
    with made.sim:
        made.sim.put_many("orders", orders(20))
        made.age()
        made.sim.faults = THROTTLED
        yield made


@pytest.mark.parametrize("command", ["plan", "doctor"])
def test_commands_wait(world, command):
    code = main(
        [
            command,
            *world.options,
            "--tables=orders",
            "--s3_export_bucket=exports",
            *world.sinks,
            f"--state_dir={world.state_dir}",
        ]
    )
    text = "".join(world.capsys.readouterr())
    assert "Throttl" not in text
    assert "LimitExceeded" not in text
    assert "Traceback" not in text
    assert code in (0, 1)
    assert world.sim.stats.errors, text


def test_several_readers_begin_together(world):
    ended = world.run("--tables=orders", "--snapshot=never", "--readers=3")
    assert ended.code == 0, ended.err
    assert len(world.rows()) == 20
    assert world.sim.stats.errors
