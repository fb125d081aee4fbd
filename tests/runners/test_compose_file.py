# SPDX-License-Identifier: Apache-2.0
"""What the compose file starts, as processes of this machine: same command lines, same settings.

Docker has no part in it, and Grafana neither: its dashboard's questions are put to Prometheus.
"""

from __future__ import annotations

import json
import pathlib
import re
import sys
import types
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml

from dynabeam.pipelines.demo.workload import TABLES
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.sinks.registry import open_sink
from dynabeam.transforms.testing.remote import RemoteSimulator
from dynabeam.transforms.values.key_schema import KeyAttribute, KeySchema
from dynabeam.transforms.values.keys import encode_key
from dynabeam.transforms.values.plain_json import same_item
from tests.deploy.checkers import prometheus
from tests.deploy.files import COMPOSE, compose
from tests.runners.conftest import or_skip
from tests.runners.flink_cluster import ClusterSettings, FlinkCluster
from tests.runners.flink_parts import FlinkParts, uber_jar
from tests.runners.processes import Process, free_ports, is_listening, wait_until
from tests.runners.worker_pool import WorkerPool, Workers
from tests.sinks.postgres_server import PostgresServer
from tests.sinks.targets import Target, postgresql_rows

SERVICES = compose()["services"]
FOLDER = COMPOSE.parent
SECONDS = 180
CHANGING = 40
DASHBOARD = FOLDER.parents[1] / "dashboards" / "dynabeam.json"
# There are no rounds here, no shard stays behind, and positions are stored after a minute or two.
WITHOUT_DATA = {"Rounds and changelog files", "Shards furthest behind", "Positions stored"}


class Machine:
    """The services, each at a port of its own of the loopback interface."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.simulator, self.metrics, self.prometheus = free_ports(3)
        self.places: dict[str, str] = {
            "--port=4566": f"--port={self.simulator}",
            "simulator:4566": f"127.0.0.1:{self.simulator}",
            "=9464": f"={self.metrics}",
            "taskmanager:9464": f"127.0.0.1:{self.metrics}",
            "/simulator.py": str(FOLDER / "simulator.py"),
            "/watch.py": str(FOLDER / "watch.py"),
        }

    def here(self, text: str) -> str:
        for there, place in self.places.items():
            text = text.replace(there, place)
        return text

    def start(self, name: str, *more: str) -> Process:
        """Starts a service of ours by its entry point and command."""
        service = SERVICES[name]
        program, *words = [*service["entrypoint"], *service["command"]]
        starts = {
            "python": [sys.executable],
            "dynabeam": [sys.executable, "-m", "dynabeam.pipelines.command_line"],
        }
        command = [*starts[program], *map(self.here, words), *more]
        return Process(name, command, self.folder / f"{name}.log", self.variables)

    @property
    def variables(self) -> Mapping[str, str]:
        given = dict(SERVICES["pool"]["environment"])
        # A container's own.
        del given["HOME"]
        return given

    def ask_prometheus(self, query: str) -> list[dict[str, Any]]:
        words = urllib.parse.urlencode({"query": query})
        url = f"http://127.0.0.1:{self.prometheus}/api/v1/query?{words}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            found: list[dict[str, Any]] = json.loads(answer.read())["data"]["result"]
        return found


def flink_settings(checkpoints: pathlib.Path) -> dict[str, str]:
    """Flink's properties of the file, but for where its parts are and what a JobManager takes."""
    text = SERVICES["taskmanager"]["environment"]["FLINK_PROPERTIES"]
    found = {str(name): str(value) for name, value in yaml.safe_load(text).items()}
    del found["jobmanager.rpc.address"], found["jobmanager.memory.process.size"]
    return {
        name: value.replace("file:///checkpoints", checkpoints.as_uri())
        for name, value in found.items()
    }


@pytest.mark.long
@pytest.mark.flink
@pytest.mark.slow
@pytest.mark.runner
class TestComposeFile:
    @pytest.fixture
    def machine(self, tmp_path: pathlib.Path) -> Machine:
        return Machine(tmp_path)

    @pytest.fixture
    def postgres(self, machine: Machine) -> Iterator[PostgresServer]:
        told = SERVICES["postgres"]["environment"]
        with PostgresServer() as server:
            with server.connect() as connection:
                connection.execute(f"CREATE ROLE {told['POSTGRES_USER']} LOGIN SUPERUSER")
            server.create_database(told["POSTGRES_DB"])
            machine.places["@postgres/"] = f"@127.0.0.1:{server.port}/"
            yield server

    @pytest.fixture
    def cluster(
        self, flink: FlinkParts, machine: Machine, tmp_path: pathlib.Path
    ) -> Iterator[FlinkCluster]:
        folder = tmp_path / "cluster"
        extra = flink_settings(folder / "checkpoints")
        with FlinkCluster(flink, folder, ClusterSettings(extra=extra)) as cluster:
            machine.places["http://jobmanager:8081"] = cluster.rest.url
            yield cluster

    @pytest.fixture
    def pool(self, machine: Machine, tmp_path: pathlib.Path) -> Iterator[WorkerPool]:
        workers = Workers(tmp_path / "workers")
        with WorkerPool(workers, tmp_path / "pool.log", machine.variables) as pool:
            (place,) = re.findall("--environment_config=(.*)", " ".join(pool.options))
            machine.places["localhost:50000"] = place
            yield pool
        workers.kill()

    @pytest.fixture
    def monitoring(self, machine: Machine, tmp_path: pathlib.Path) -> Iterator[Process]:
        config = tmp_path / "prometheus.yml"
        config.write_text(machine.here((FOLDER / "prometheus.yml").read_text("utf-8")))
        command = [
            str(or_skip(lambda: prometheus("prometheus"))),
            f"--config.file={config}",
            f"--storage.tsdb.path={tmp_path / 'prometheus'}",
            f"--web.listen-address=127.0.0.1:{machine.prometheus}",
        ]
        process = Process("Prometheus", command, tmp_path / "prometheus.log")
        yield process
        process.stop()

    @pytest.fixture
    def simulator(self, machine: Machine) -> Iterator[Process]:
        process = machine.start("simulator", f"--seconds={CHANGING}")
        wait_until(lambda: is_listening(machine.simulator), "simulator", SECONDS, [process])
        yield process
        process.stop()

    def test_data_flows(
        self,
        machine: Machine,
        postgres: PostgresServer,
        cluster: FlinkCluster,
        pool: WorkerPool,
        monitoring: Process,
        simulator: Process,
        flink: FlinkParts,
    ):
        jar = uber_jar(flink, machine.folder)
        submit = machine.start("submit", f"--flink_job_server_jar={jar}")
        assert submit.wait(SECONDS) == 0, submit.tail()
        assert submit.tail().endswith("dynabeam-demo runs\n"), submit.tail()
        wait_until(lambda: "stand still" in simulator.tail(), "last change", SECONDS, [simulator])
        wait_until(lambda: not self._differences(machine, postgres), "mirror = table", SECONDS)
        self._is_watched(machine)
        self._is_shown(machine, monitoring)

    def _differences(self, machine: Machine, postgres: PostgresServer) -> list[str]:
        database = SERVICES["postgres"]["environment"]["POSTGRES_DB"]
        server = types.SimpleNamespace(connect=lambda: postgres.connect(database))
        sim = RemoteSimulator(f"http://127.0.0.1:{machine.simulator}")
        sink = open_sink(postgres.uri(database))
        found = []
        for name, key in TABLES.items():
            attributes = [KeyAttribute(*part.split(":")) for part in key.split(",")]
            table = Table(name, KeySchema(*attributes))
            truth = {encode_key(item, table.keys): item for item in sim.items(name)}
            assert truth
            rows = self._rows(sink, table, server)
            found += [f"{name} {each!r}" for each in truth.keys() ^ rows.keys()]
            both = truth.keys() & rows.keys()
            found += [f"{name} {each!r}" for each in both if not same_item(truth[each], rows[each])]
        return found

    def _rows(self, sink: Any, table: Table, server: Any) -> dict[bytes, Any]:
        with server.connect() as connection:
            there = connection.execute(
                "SELECT count(*) FROM pg_views WHERE schemaname = 'dynabeam' AND viewname = %s",
                [table.name],
            ).fetchone()[0]
        target = Target("postgresql://SERVER")
        return dict(postgresql_rows(target, sink, table, server)) if there else {}

    def _is_watched(self, machine: Machine):
        watch = machine.start("watch", "--times=1")
        assert watch.wait(60) == 0, watch.tail()
        lines = [line for line in watch.tail().splitlines() if line]
        assert [line.split()[0] for line in lines] == list(TABLES)
        for line in lines:
            items, rows = re.findall("[0-9,]+", line.partition(" ")[2])
            assert items == rows != "0", line
        sys.stdout.write(f"\n{watch.tail()}")

    def _is_shown(self, machine: Machine, monitoring: Process):
        """Every question of the dashboard is understood, and a panel has an answer to some."""

        def scraped() -> bool:
            return bool(machine.ask_prometheus("rate(dynabeam_changes_total[1m]) >= 0"))

        wait_until(scraped, "figures in Prometheus", 60, [monitoring])
        answers: dict[str, int] = {}
        for panel in json.loads(DASHBOARD.read_text("utf-8"))["panels"]:
            for target in panel.get("targets", ()):
                query = target["expr"].replace("$__rate_interval", "1m")
                query = re.sub(r"\$(table|instance)", ".*", query)
                found = machine.ask_prometheus(query)
                answers[panel["title"]] = answers.get(panel["title"], 0) + len(found)
        assert len(answers) > 2 * len(WITHOUT_DATA)
        assert {title for title, count in answers.items() if not count} <= WITHOUT_DATA
