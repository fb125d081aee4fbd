# SPDX-License-Identifier: Apache-2.0
"""A pipeline of a user's own that never ends, of what `dynabeam` exports alone."""

from __future__ import annotations

import contextlib
import json
import pathlib
import sys
from typing import Any

import apache_beam as beam
import psycopg
import pytest

from dynabeam import AwsAccess, Change, Changes, ReadFromDynamoDB, WriteToMirror, decode_item
from dynabeam.testing import RemoteSimulator
from tests.runners.flink import Flink
from tests.runners.flink_parts import FlinkParts
from tests.runners.prism import options as prism_options
from tests.runners.processes import Process, wait_until
from tests.runners.simulator_process import CREDENTIALS, REGION
from tests.sinks.targets import postgresql_uri, server_for_tests

_PIPELINE = "tests.runners.test_public_face:build"
_TABLES = ["customers", "orders"]
_SECONDS = 90
_NOT_YET = (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn)


def build(pipeline: Any, *, endpoint_url: str, mirror: str, folder: str) -> None:
    """Tables into a mirror, and each change, by a step of one's own, into a file."""
    access = AwsAccess(region=REGION, endpoint_url=endpoint_url)
    read = pipeline | ReadFromDynamoDB(_TABLES, access=access).with_stream(until="forever")
    _ = read.blocks | WriteToMirror(mirror)
    changes = read.blocks | Changes()
    # Behind a shuffle, so that changes go through their coder.
    _ = changes | beam.Reshuffle() | beam.Map(_keep, folder)


def _keep(change: Change, folder: str) -> None:
    number = decode_item(change.new or "")["n"]
    (pathlib.Path(folder) / f"{change.table}-{number}").touch()


class _World:
    def __init__(self, simulator: RemoteSimulator, folder: pathlib.Path) -> None:
        self._simulator = simulator
        self._folder = folder / "changes"
        self._folder.mkdir()
        self._written = 0
        mirror = postgresql_uri("postgresql://SERVER", folder)
        self._schema = mirror.rpartition("schema=")[2]
        for table in _TABLES:
            simulator.create_table(table)
        self.arguments = {
            "endpoint_url": simulator.endpoint_url,
            "mirror": mirror,
            "folder": str(self._folder),
        }

    def write(self, count: int = 20) -> None:
        for table in _TABLES:
            numbers = range(self._written, self._written + count)
            items = [{"id": {"S": f"o{each % 7}"}, "n": {"N": str(each)}} for each in numbers]
            self._simulator.put_many(table, items)
        self._written += count

    def wait_complete(self, *needed: Process) -> None:
        """Waits until the mirror equals the tables, and every change was met."""
        wanted = {f"{table}-{number}" for table in _TABLES for number in range(self._written)}
        wait_until(lambda: self._mirror() == self._tables(), "the mirror", _SECONDS, needed)
        wait_until(lambda: self._met() == wanted, "the changes", _SECONDS, needed)

    def _met(self) -> set[str]:
        return {each.name for each in self._folder.iterdir()}

    def _tables(self) -> set[tuple[str, str, int]]:
        return {
            (table, each["id"]["S"], int(each["n"]["N"]))
            for table in _TABLES
            for each in self._simulator.items(table)
        }

    def _mirror(self) -> set[tuple[str, str, int]]:
        found: set[tuple[str, str, int]] = set()
        with server_for_tests().connect() as connection:
            for table in _TABLES:
                with contextlib.suppress(*_NOT_YET):
                    rows = connection.execute(f'SELECT id, n FROM {self._schema}."{table}"')
                    found |= {(table, key, int(number)) for key, number in rows}
        return found


@pytest.fixture
def world(simulator: RemoteSimulator, tmp_path: pathlib.Path) -> _World:
    made = _World(simulator, tmp_path)
    made.write()
    return made


@pytest.mark.prism
@pytest.mark.slow
@pytest.mark.runner
def test_prism(prism: pathlib.Path, world: _World, tmp_path: pathlib.Path):
    submit = [sys.executable, "-m", "tests.runners.submit", "--stay"]
    words = [_PIPELINE, json.dumps(world.arguments), "--streaming", *prism_options(prism)]
    process = Process("pipeline", [*submit, *words], tmp_path / "pipeline.log", CREDENTIALS)
    try:
        world.wait_complete(process)
        world.write()
        world.wait_complete(process)
    finally:
        process.stop()


@pytest.mark.flink
@pytest.mark.slow
@pytest.mark.runner
def test_flink_resumes_from_a_savepoint(flink: FlinkParts, world: _World, tmp_path: pathlib.Path):
    folder = tmp_path / "flink"
    with Flink(flink, folder, environment="EXTERNAL", variables=CREDENTIALS) as cluster:
        job = cluster.start_pipeline(_PIPELINE, world.arguments)
        world.wait_complete()
        savepoint = cluster.rest.stop_with_savepoint(job, str(cluster.cluster.savepoints))
        world.write()
        cluster.start_pipeline(_PIPELINE, world.arguments, savepoint=savepoint)
        world.wait_complete()
