# SPDX-License-Identifier: Apache-2.0
"""The command lines of rounds, run as they stand until each mirror equals its table.

Only places are others: folders, and the addresses of AWS and PostgreSQL.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import timedelta

import pytest

from dynabeam.pipelines.demo.proof import compare_items, mirror_items
from dynabeam.testing import SimClock, Simulator
from tests.deploy.files import CommandLine, command_lines
from tests.runners.processes import ROOT
from tests.sinks.postgres_server import server_for_tests

LINES = {each.place: each for each in command_lines()}
TABLES = ("orders", "customers")
PROGRAM = [sys.executable, "-m", "dynabeam.pipelines.command_line"]
POSTGRES = "my-postgres/analytics?sslmode=verify-full&sslrootcert=/etc/dynabeam/postgres-ca.pem"
PASSWORD = "of nobody"
SECONDS = 180

# All that a container may not do, whose root is read-only, it cannot do here.
READ_ONLY = (
    'mount --make-rprivate / && mount --bind "$0" "$0" && mount -o remount,bind,ro / && "$@"'
)


@pytest.fixture
def sim() -> Iterator[Simulator]:
    with Simulator(seed=3, clock=SimClock(offset=timedelta(minutes=-10)), initial_shards=2) as sim:
        for name in TABLES:
            sim.create_table(name, "id:S", stream=None)
            change(sim, name, range(40))
            client = sim.client("dynamodb")
            client.update_table(
                TableName=name,
                StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"},
            )
            client.update_continuous_backups(
                TableName=name,
                PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": True},
            )
        for bucket in ("my-exports", "my-lake"):
            sim.create_bucket(bucket)
        sim.clock.advance(timedelta(minutes=10))
        yield sim


@pytest.fixture
def place(tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder for all that is written, with the secrets that are read."""
    (tmp_path / "pgpassword").write_text(PASSWORD)
    (tmp_path / "data").mkdir()
    return tmp_path


def change(sim: Simulator, name: str, numbers: Sequence[int]):
    items = [{"id": {"S": f"item {each}"}, "turn": {"N": f"{each}.25"}} for each in numbers]
    sim.put_many(name, items)


def words(line: CommandLine, sim: Simulator, place: pathlib.Path, database: str) -> list[str]:
    """The words of a line, in this world's places."""
    postgres = f"127.0.0.1:{server_for_tests().port}/{database}"
    places = {
        "/run/credentials/dynabeam.service": str(place),
        "/var/lib/dynabeam": str(place / "data"),
        "=duckdb:////data": f"=duckdb:///{place / 'data'}",
        "--state_dir=/data": f"--state_dir={place / 'data'}",
        POSTGRES: postgres,
        "//loader:": "//postgres:",
    }
    found = list(line.words)
    for there, here in places.items():
        found = [each.replace(there, here) for each in found]
    assert not [each for each in found if "my-postgres" in each]
    return [*found, f"--endpoint_url={sim.endpoint_url}"]


def run(command: Sequence[str], place: pathlib.Path) -> subprocess.CompletedProcess[str]:
    variables = {
        "AWS_ACCESS_KEY_ID": "simulated",
        "AWS_SECRET_ACCESS_KEY": "simulated",
        "HOME": str(place),
        "PGPASSWORD": PASSWORD,
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(place),
    }
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def differences(sim: Simulator, place: pathlib.Path) -> list[str]:
    mirror = str(place / "data" / "mirror.duckdb")
    proofs = [compare_items(sim.items(name), mirror_items(mirror, name)) for name in TABLES]
    assert [each.compared for each in proofs] == [len(sim.items(name)) for name in TABLES]
    return [each for proof in proofs for each in proof.differences]


def rows(database: str) -> dict[str, int]:
    with server_for_tests().connect(database) as connection:
        counting = 'SELECT count(*) FROM dynabeam."{}"'
        return {name: connection.execute(counting.format(name)).fetchall()[0][0] for name in TABLES}


@pytest.mark.long
@pytest.mark.slow
class TestCronJob:
    LINE = LINES["kubernetes/rounds, CronJob"]

    def test_round_after_round_the_mirror_is_the_table(self, sim, place):
        command = [*PROGRAM, *words(self.LINE, sim, place, "unused")]
        run(command, place)
        assert differences(sim, place) == []
        for name in TABLES:
            change(sim, name, range(30, 60))
            sim.delete_many(name, [{"id": {"S": f"item {each}"}} for each in range(10)])
        assert differences(sim, place) != []
        run(command, place)
        assert differences(sim, place) == []
        assert [len(sim.items(name)) for name in TABLES] == [50, 50]

    def test_root_may_be_read_only(self, sim, place):
        unshare = shutil.which("unshare")
        if unshare is None or os.geteuid() != 0:
            pytest.skip("a file system of one's own needs root and `unshare`")
        own = [unshare, "--mount", "sh", "-c", READ_ONLY, str(place)]
        outside = place.parent / f"{place.name}-outside"
        refused = subprocess.run([*own, "touch", str(outside)], capture_output=True, check=False)
        assert b"Read-only file system" in refused.stderr
        run([*own, *PROGRAM, *words(self.LINE, sim, place, "unused")], place)
        assert differences(sim, place) == []


@pytest.mark.long
@pytest.mark.slow
def test_a_unit_of_systemd_catches_up(sim, place):
    server_for_tests().create_database("by_systemd")
    command = [*PROGRAM, *words(LINES["systemd/dynabeam.service"], sim, place, "by_systemd")]
    run(command, place)
    change(sim, "orders", range(70, 80))
    run(command, place)
    assert differences(sim, place) == []
    assert rows("by_systemd") == {"orders": 50, "customers": 40}


@pytest.mark.long
@pytest.mark.slow
def test_a_dag_catches_up_and_proves_it(sim, place):
    server_for_tests().create_database("by_airflow")
    catch_up, audit = (
        [*PROGRAM, *words(LINES[f"airflow, {task}"], sim, place, "by_airflow")]
        for task in ("catch_up", "audit")
    )
    run(catch_up, place)
    change(sim, "customers", range(20, 50))
    run(catch_up, place)
    assert rows("by_airflow") == {"orders": 40, "customers": 50}
    said = run(audit, place).stdout
    assert "customers" in said
