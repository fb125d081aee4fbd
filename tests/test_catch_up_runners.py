# SPDX-License-Identifier: Apache-2.0
"""The same catch-up run on each in-process form of Beam's runner: equal mirrors, no AWS mock."""

from __future__ import annotations

import datetime as dt
import os
import pathlib
import subprocess
import sys

import duckdb
import pytest

from dynabeam.transforms.testing.clock import SimClock
from dynabeam.transforms.testing.simulator import Simulator

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_AGO = dt.timedelta(minutes=10)


@pytest.mark.parametrize(
    "runner",
    [
        ["--runner=FnApiRunner"],
        ["--runner=DirectRunner"],
        ["--direct_running_mode=multi_processing", "--direct_num_workers=2"],
        ["--direct_running_mode=multi_threading", "--direct_num_workers=2", "--readers=3"],
    ],
    ids=["FnApiRunner", "DirectRunner", "two processes", "two threads, three readers"],
)
def test_mirror_equals_table(runner: list[str], tmp_path: pathlib.Path):
    with Simulator(seed=3, clock=SimClock(offset=-_AGO), initial_shards=4) as sim:
        sim.create_table("orders", "customer:S,number:N")
        sim.client("dynamodb").update_continuous_backups(
            TableName="orders",
            PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": True},
        )
        sim.create_bucket("exports")
        keys = [{"customer": {"S": f"c{n % 9}"}, "number": {"N": str(n)}} for n in range(400)]
        sim.put_many("orders", [{**key, "paid": {"N": "1.5"}} for key in keys])
        sim.clock.advance(_AGO)
        sim.roll("orders")
        sim.put_many("orders", [{**key, "paid": {"N": "2"}} for key in keys[::3]])
        sim.delete_many("orders", keys[::5])
        command = [sys.executable, "-m", "dynabeam.pipelines.command_line", "replicate"]
        command += ["--tables=orders", "--region=eu-west-1", f"--endpoint_url={sim.endpoint_url}"]
        command += ["--s3_export_bucket=exports", f"--state_dir={tmp_path}/state", *runner]
        command += [f"--sink=duckdb:///{tmp_path}/m.duckdb", "--buckets=4"]
        environment = os.environ | {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
        done = subprocess.run(
            command,
            env=environment,
            cwd=_ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        table = {
            (item["customer"]["S"], item["number"]["N"]): item["paid"]["N"]
            for item in sim.items("orders")
        }
    with duckdb.connect(f"{tmp_path}/m.duckdb", read_only=True) as mirror:
        rows = mirror.execute("SELECT customer, number, paid FROM orders").fetchall()
    assert {(c, str(int(n))): f"{p.normalize():f}" for c, n, p in rows} == table
    assert len(rows) == len(table) == 320
