# SPDX-License-Identifier: Apache-2.0
"""Audits a DuckDB mirror of a million items: first honest, then with one row of each kind damaged.

`python -m tests.benchmarks.audit_million [--items 1000000]` writes a synthetic export, changes some
items in a simulated table, replicates both with the real `dynabeam replicate`, audits, damages the
mirror with SQL, and audits again, each in a process of its own. It prints rows/s, peak memory and
what was found, and fails if anything else was found than what was damaged.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timedelta, timezone

import duckdb

from dynabeam.transforms.testing.clock import SimClock
from dynabeam.transforms.testing.simulator import Simulator
from dynabeam.transforms.testing.synthetic_export import synthetic_lines, write_synthetic_export

CHANGES = 500
DIGITS = "12345678901234567890123456789.123456789"
ROWS = '_dynabeam_rows."orders"'
SNAPSHOT = "00000001." + "0" * 40

DAMAGE = {
    "missing": f"DELETE FROM {ROWS} WHERE rowid = (SELECT min(rowid) FROM {ROWS})",
    "extra": f"INSERT INTO {ROWS} SELECT * REPLACE ('nobody' AS customer, "
    f"encode('Snobody') || from_hex('0000') || encode('N1') AS _key, 1 AS order_no) FROM {ROWS} "
    f"WHERE rowid = (SELECT min(rowid) + 1000 FROM {ROWS})",
    "a digit of 38": f"UPDATE {ROWS} SET amount = amount + 0.000000001 WHERE rowid = "
    f"(SELECT min(rowid) FROM {ROWS} WHERE amount = {DIGITS})",
    "stale": f"UPDATE {ROWS} SET amount = 1, _version = '{SNAPSHOT}' WHERE rowid = "
    f"(SELECT max(rowid) FROM {ROWS} WHERE amount = {DIGITS})",
    "an empty text for NULL": f"UPDATE {ROWS} SET _other = NULL, coupon = '' WHERE rowid = "
    f"(SELECT max(rowid) FROM {ROWS} WHERE _other LIKE '%coupon%')",
}
EXPECTED = {"missing": 1, "extra": 1, "different": 2, "stale": 1}


def _run(command: str, *options: str) -> tuple[int, float, float]:
    began = time.monotonic()
    child = subprocess.Popen(
        [sys.executable, "-m", "dynabeam.pipelines.command_line", command, *options],
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(child.pid, 0)
    assert isinstance(usage, resource.struct_rusage)
    seconds = time.monotonic() - began
    cpu = usage.ru_utime + usage.ru_stime
    print(
        f"{command:<10} {seconds:7.1f} s  ({cpu:6.1f} s of CPU)  peak {usage.ru_maxrss >> 10:,} MiB"
    )
    return os.waitstatus_to_exitcode(status), seconds, cpu


def _change(sim: Simulator, items: int) -> None:
    """Changes items that are spread over the export: one number gets 38 digits."""
    client = sim.client("dynamodb")
    for at, line in enumerate(synthetic_lines(items)):
        if at % (items // CHANGES) == 0:
            item = json.loads(line)["Item"]
            client.put_item(TableName="orders", Item={**item, "amount": {"N": DIGITS}})


def _damage(path: str) -> None:
    with duckdb.connect(path) as connection:
        # As an attribute that was once a text, so that there is a column to be wrong.
        connection.execute(f"ALTER TABLE {ROWS} ADD COLUMN coupon VARCHAR")
        (text,) = connection.execute("SELECT attributes FROM _dynabeam.tables").fetchone()
        types = [each for each in json.loads(text) if each[0] != "coupon"] + [["coupon", "S"]]
        connection.execute("UPDATE _dynabeam.tables SET attributes = ?", [json.dumps(types)])
        for name, sql in DAMAGE.items():
            (changed,) = connection.execute(sql).fetchone()
            assert changed == 1, (name, changed)


def main() -> None:
    """Runs both audits and prints what they found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--items", type=int, default=1_000_000)
    given, rest = parser.parse_known_args()
    os.environ.setdefault("AWS_ACCESS_KEY_ID", "simulated")
    os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "simulated")
    clock = SimClock(offset=-timedelta(minutes=20))
    with tempfile.TemporaryDirectory() as folder, Simulator(seed=1, clock=clock) as sim:
        sim.create_table("orders", "customer:S,order_no:N")
        clock.advance(timedelta(minutes=10))
        write_synthetic_export(
            f"{folder}/export", items=given.items, table="orders", export_time=clock.now()
        )
        _change(sim, given.items)
        clock.set(datetime.now(timezone.utc))
        mirror, result = f"{folder}/mirror.duckdb", f"{folder}/audit.json"
        options = [
            *["--tables=orders", f"--endpoint_url={sim.endpoint_url}", f"--region={sim.region}"],
            *[f"--export={folder}/export", f"--state_dir={folder}/state"],
            *[f"--sink=duckdb:///{mirror}", *rest],
        ]
        if _run("replicate", *options)[0]:
            raise SystemExit("replicate failed")
        for name, expected in (("honest", {}), ("damaged", EXPECTED)):
            if expected:
                _damage(mirror)
            code, seconds, cpu = _run("audit", *options, f"--json={result}")
            if code == 2:
                raise SystemExit("the audit could not be done")
            with open(result) as file:
                table = json.load(file)["tables"][0]
            rows = table["items"] + table["rows"]
            found = {kind: n for kind, n in table["counts"].items() if n and kind != "equal"}
            print(
                f"{name:<10} {table['items']:,} items, {table['rows']:,} rows: "
                f"{rows / seconds:,.0f} rows/s ({rows / cpu:,.0f} per CPU second); "
                f"found {found or 'no difference'}"
            )
            for each in table["examples"]:
                print(f"           {each['kind']}: {each['key']}: {', '.join(each['attributes'])}")
            if found != expected:
                raise SystemExit(f"expected {expected}")


if __name__ == "__main__":
    main()
