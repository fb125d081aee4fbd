# SPDX-License-Identifier: Apache-2.0
"""Runs into a DuckDB mirror: what they say of numbers, and readers of the file while they run."""

import json
import subprocess
import sys
from decimal import Decimal

from dynabeam.pipelines.command_line import main
from tests.pipelines.runs import orders

READER = """
import duckdb, sys, time
with duckdb.connect(sys.argv[1], read_only=True) as connection:
    print(connection.execute("SELECT count(*) FROM orders").fetchall(), flush=True)
    time.sleep(float(sys.argv[2]))
"""


def numbers(*texts):
    return [
        {"id": {"S": f"n{at}"}, "total": {"N": text}} for at, text in enumerate(texts, start=100)
    ]


def status(world, *options):
    world.capsys.readouterr()
    code = main(["status", f"--state_dir={world.state_dir}", *options])
    return code, world.capsys.readouterr().out


def run(world):
    # The simulated clock is ten minutes slow: what was written becomes old enough to be read.
    world.age()
    return world.run("--tables=orders", "--snapshot=never")


def unfit(world):
    (table,) = json.loads(status(world, "--json")[1])["tables"]
    return [count for sink, count in table["unfit_numbers"].items() if sink.startswith("duckdb")]


class TestNumbers:
    def test_what_fits_is_not_spoken_of(self, world):
        world.sim.put_many("orders", numbers("33.10318374633789", "18446744073709551615", "1e-18"))
        ended = run(world)
        assert ended.code == 0
        assert "did not fit" not in ended.out
        assert unfit(world) == []
        assert [total for _, total in world.rows(columns="id, total")] == [
            Decimal("33.10318374633789"),
            Decimal(2**64 - 1),
            Decimal("1e-18"),
        ]

    def test_what_does_not_is_told_with_the_option_that_mends_it(self, world):
        world.sim.put_many("orders", numbers("1", "9" * 38, "1E-130"))
        ended = run(world)
        (line,) = [each for each in ended.out.splitlines() if "duckdb" in each and "fit" in each]
        assert line.startswith("  orders: 2 numbers did not fit their decimal columns in duckdb")
        assert "numbers=text" in line
        assert unfit(world) == [2]
        code, text = status(world)
        assert code == 0
        assert "orders: 2 numbers do not fit their decimal columns in duckdb" in text
        world.sim.put_many("orders", numbers("9" * 30))
        assert run(world).code == 0
        assert unfit(world) == [3]

    def test_a_parquet_changelog_counts_its_own(self, world, tmp_path):
        world.sim.put_many("orders", numbers("1", "9" * 38, "1E-130"))
        world.age()
        parquet = f"--sink=file://{tmp_path}/parquet?format=parquet"
        ended = world.run("--tables=orders", "--snapshot=never", parquet)
        assert ended.code == 0, ended.err
        (table,) = json.loads(status(world, "--json")[1])["tables"]
        counted = {sink.partition(":")[0]: n for sink, n in table["unfit_numbers"].items()}
        assert counted == {"duckdb": 2, "file": 2}
        assert table["changes"] == 3


class TestReaders:
    def test_a_run_waits_for_a_reader_and_says_so(self, world, caplog):
        world.sim.put_many("orders", orders(3))
        assert run(world).code == 0
        world.sim.put_many("orders", orders(4, start=3))
        command = [sys.executable, "-c", READER, str(world.mirror), "3"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reader:
            assert reader.stdout.readline() == "[(3,)]\n"
            ended = run(world)
        assert ended.code == 0
        assert len(world.rows()) == 7
        assert f"process {reader.pid}" in ended.err + caplog.text
