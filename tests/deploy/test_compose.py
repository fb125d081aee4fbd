# SPDX-License-Identifier: Apache-2.0
"""The compose file: its specification knows every key, and the services find each other."""

from __future__ import annotations

import json
import re
from urllib.parse import urlsplit

import pytest
import yaml

from dynabeam.pipelines.demo.workload import BUCKET, TABLES
from dynabeam.pipelines.options.arguments import option
from tests.deploy.checkers import check_compose, prometheus
from tests.deploy.files import COMPOSE, DEPLOY, compose
from tests.runners.conftest import or_skip
from tests.runners.flink_parts import FLINK
from tests.runners.parts import run

SERVICES = compose()["services"]
SUBMIT = SERVICES["submit"]["command"]
FOLDER = COMPOSE.parent
OURS = ("simulator", "pool", "submit", "watch")


def test_keys_are_known():
    assert or_skip(lambda: check_compose(COMPOSE)) == []


def test_a_misspelt_key_would_be_found(tmp_path):
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(COMPOSE.read_text("utf-8").replace("healthcheck:", "healtcheck:", 1))
    assert "healtcheck" in " ".join(or_skip(lambda: check_compose(wrong)))


def test_dollars_are_written_twice_where_they_are_meant():
    left = re.sub(r"\$\$|\$\{IMAGE:\?", "", COMPOSE.read_text("utf-8"))
    assert "$" not in left


def test_addresses_are_services():
    words = [*SUBMIT, *SERVICES["watch"]["command"]]
    addresses = [word.partition("=")[2] if word.startswith("--") else word for word in words]
    hosts = {urlsplit(each).hostname for each in addresses if "://" in each and "s3:" not in each}
    assert hosts == {"jobmanager", "simulator", "postgres"} <= SERVICES.keys()
    assert urlsplit(option(SUBMIT, "endpoint_url")).port == 4566
    assert "--port=4566" in SERVICES["simulator"]["command"]


def test_workers_are_beside_flink():
    pool = SERVICES["pool"]
    assert pool["command"] == ["--worker_pool"]
    assert "entrypoint" not in pool
    # Where the image works belongs to root, and boot writes there.
    assert pool["working_dir"] == "/tmp"
    assert pool["network_mode"] == "service:taskmanager"
    assert option(SUBMIT, "environment_config") == "localhost:50000"
    assert SERVICES["jobmanager"]["image"].startswith(f"flink:{FLINK}.")


def test_ours_have_one_image_that_is_told():
    assert {SERVICES[name]["image"].partition(":")[0] for name in OURS} == {"${IMAGE"}
    assert {SERVICES[name]["user"] for name in OURS} == {"10001"}


def test_nothing_is_open_to_other_machines():
    ports = [each for one in SERVICES.values() for each in one.get("ports", [])]
    assert ports
    assert all(each.startswith("127.0.0.1:") for each in ports)


def test_tables_and_bucket_are_the_simulators():
    assert option(SUBMIT, "tables").split(",") == list(TABLES)
    assert SERVICES["watch"]["command"][2:] == list(TABLES)
    assert option(SUBMIT, "s3_export_bucket") == BUCKET


def test_what_is_mounted_is_there():
    mounts = [each for one in SERVICES.values() for each in one.get("volumes", [])]
    sources = {each.split(":")[0] for each in mounts}
    named = {each for each in sources if not each.startswith(".")}
    assert named == compose()["volumes"].keys()
    missing = [each for each in sources - named if not (FOLDER / each).resolve().exists()]
    assert missing == []


class TestPrometheus:
    PATH = DEPLOY / "compose" / "prometheus.yml"

    @pytest.mark.long
    def test_is_understood(self, tmp_path):
        promtool = or_skip(lambda: prometheus("promtool"))
        run([str(promtool), "check", "config", str(self.PATH)], tmp_path)

    def test_looks_at_the_workers(self):
        (job,) = yaml.safe_load(self.PATH.read_text("utf-8"))["scrape_configs"]
        (target,) = job["static_configs"][0]["targets"]
        assert target == f"taskmanager:{option(SUBMIT, 'metrics_port')}"


class TestGrafana:
    def test_asks_prometheus(self):
        path = FOLDER / "grafana" / "datasources" / "prometheus.yaml"
        (source,) = yaml.safe_load(path.read_text("utf-8"))["datasources"]
        assert source["url"] == "http://prometheus:9090"
        # The dashboard's variable takes the one that is the default.
        assert (source["type"], source["isDefault"]) == ("prometheus", True)

    @pytest.mark.parametrize("wanted", ["provider", "home"])
    def test_finds_our_dashboard(self, wanted):
        path = FOLDER / "grafana" / "dashboards" / "dynabeam.yaml"
        (provider,) = yaml.safe_load(path.read_text("utf-8"))["providers"]
        mounted = {
            each.split(":")[1]: (FOLDER / each.split(":")[0]).resolve()
            for each in SERVICES["grafana"]["volumes"]
        }
        folder = mounted[provider["options"]["path"]]
        if wanted == "provider":
            (dashboard,) = folder.glob("*.json")
            assert json.loads(dashboard.read_text("utf-8"))["title"] == "Dynabeam"
        else:
            name = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
            assert (folder / name.removeprefix(f"{provider['options']['path']}/")).is_file()
