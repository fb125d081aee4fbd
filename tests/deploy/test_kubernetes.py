# SPDX-License-Identifier: Apache-2.0
"""The manifests: every field is one that Kubernetes knows, and the parts fit together."""

from __future__ import annotations

import copy
import pathlib
import subprocess

import pytest
import yaml

from dynabeam.pipelines.options.arguments import option
from tests.deploy.checkers import check_kubernetes
from tests.deploy.custom_objects import check_custom
from tests.deploy.files import CONTINUOUS, ROUNDS, containers, manifests, of_kind
from tests.runners.conftest import or_skip
from tests.runners.flink_parts import FLINK
from tests.runners.parts import require

FOLDERS = [CONTINUOUS, ROUNDS]
VERSIONS = ["1.31", "1.37"]
"""The first has what Jobs say of their failures for good."""
CUSTOM = ("FlinkDeployment", "PodMonitor")
IMAGE = "dynabeam"


def written(objects, folder: pathlib.Path) -> pathlib.Path:
    path = folder / "objects.yaml"
    path.write_text(yaml.safe_dump_all(objects))
    return path


def main_container(flink):
    (found,) = flink["spec"]["podTemplate"]["spec"]["containers"]
    return found


def worker_pool(flink):
    (found,) = flink["spec"]["taskManager"]["podTemplate"]["spec"]["containers"]
    return found


def submitter():
    (found,) = containers(of_kind(manifests(CONTINUOUS), "Job"))
    return found


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda each: each.name)
class TestFolder:
    @pytest.mark.parametrize("version", VERSIONS)
    def test_fields_are_known(self, folder, version, tmp_path):
        own = [each for each in manifests(folder) if each["kind"] not in CUSTOM]
        assert own
        assert or_skip(lambda: check_kubernetes(written(own, tmp_path), version)) == []

    def test_a_misspelt_field_would_be_found(self, folder, tmp_path):
        own = [each for each in manifests(folder) if each["kind"] not in CUSTOM]
        for each in own:
            for container in containers(each):
                container["securityContext"]["readOnlyRootFileSystem"] = True
        found = or_skip(lambda: check_kubernetes(written(own, tmp_path), VERSIONS[0]))
        assert "readOnlyRootFileSystem" in " ".join(found)

    def test_custom_objects_have_known_fields(self, folder):
        objects = [each for each in manifests(folder) if each["kind"] in CUSTOM]
        assert [each["kind"] for each in objects] == (list(CUSTOM) if folder == CONTINUOUS else [])
        assert [each for thing in objects for each in check_custom(thing)] == []

    def test_every_file_is_named(self, folder):
        kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text("utf-8"))
        files = {each.name for each in folder.iterdir()} - {"kustomization.yaml"}
        assert set(kustomization["resources"]) == files

    def test_containers_of_ours_are_bounded_and_harmless(self, folder):
        pods = [each for thing in manifests(folder) for each in containers(thing)]
        ours = [each for each in pods if each.get("image") == IMAGE]
        assert ours
        for each in ours:
            assert {"cpu", "memory"} <= each["resources"]["requests"].keys()
            assert "memory" in each["resources"]["limits"]
            security = each["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert {"name": "HOME", "value": "/tmp"} in each["env"]
            assert "/tmp" in [mount["mountPath"] for mount in each["volumeMounts"]]

    def test_no_pod_is_root(self, folder):
        text = yaml.safe_dump_all(manifests(folder))
        pods = text.count("containers:") - text.count("name: worker-pool")
        assert text.count("runAsNonRoot: true") == pods

    def test_what_is_named_is_there(self, folder):
        objects = manifests(folder)
        if folder == CONTINUOUS:
            secret = of_kind(objects, "Secret")
            keys = secret["stringData"].keys()
            for container in [each for thing in objects for each in containers(thing)]:
                for variable in container.get("env", []):
                    wanted = variable.get("valueFrom", {}).get("secretKeyRef")
                    assert wanted is None or wanted["name"] == secret["metadata"]["name"]
                    assert wanted is None or wanted["key"] in keys
        else:
            claim = of_kind(objects, "PersistentVolumeClaim")["metadata"]["name"]
            assert f"claimName: {claim}" in yaml.safe_dump_all(objects)
        account = of_kind(objects, "ServiceAccount")["metadata"]["name"]
        text = yaml.safe_dump_all(objects)
        named = text.count("serviceAccount: ") + text.count("serviceAccountName: ")
        assert named >= 1
        assert (
            text.count(f"serviceAccount: {account}\n")
            + text.count(f"serviceAccountName: {account}\n")
            == named
        )

    def test_kustomize_puts_the_image_in(self, folder):
        kubectl = or_skip(lambda: require("kubectl", "building kustomizations"))
        done = subprocess.run(
            [kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=True
        )
        built = list(yaml.safe_load_all(done.stdout))
        assert len(built) == len(manifests(folder))
        assert {each["metadata"]["namespace"] for each in built} == {"dynabeam"}
        images = [each.get("image") for thing in built for each in containers(thing)]
        assert "REGISTRY/dynabeam:VERSION" in images
        assert IMAGE not in images


class TestContinuous:
    @pytest.fixture
    def flink(self):
        return of_kind(manifests(CONTINUOUS), "FlinkDeployment")

    def test_typos_in_custom_objects_would_be_found(self, flink):
        wrong = copy.deepcopy(flink)
        wrong["spec"]["taskManager"]["resource"]["memroy"] = "1g"
        worker_pool(wrong)["readinessProb"] = {}
        wrong["spec"]["flinkVersion"] = "v9_9"
        found = " ".join(check_custom(wrong))
        assert all(each in found for each in ("memroy", "readinessProb", "v9_9"))
        monitor = of_kind(manifests(CONTINUOUS), "PodMonitor")
        monitor["spec"]["podMetricsEndpoints"][0]["intervall"] = "15s"
        assert "intervall" in " ".join(check_custom(monitor))

    def test_flink_is_the_one_that_is_tested(self, flink):
        assert flink["spec"]["flinkVersion"] == f"v{FLINK.replace('.', '_')}"
        release = flink["spec"]["image"].removeprefix("flink:").partition("-")[0]
        assert release.startswith(f"{FLINK}.")
        variables = {each["name"]: each["value"] for each in main_container(flink)["env"]}
        assert variables["ENABLE_BUILT_IN_PLUGINS"] == f"flink-s3-fs-hadoop-{release}.jar"

    def test_settings_of_flink_are_text(self, flink):
        assert all(isinstance(each, str) for each in flink["spec"]["flinkConfiguration"].values())

    def test_the_job_finds_flink_and_its_workers(self, flink):
        words = submitter()["args"]
        assert option(words, "flink_rest") == f"http://{flink['metadata']['name']}-rest:8081"
        pool = worker_pool(flink)
        assert pool["args"] == ["--worker_pool"]
        assert "command" not in pool
        # Where the image works belongs to root, and boot writes there.
        assert pool["workingDir"] == "/tmp"
        ports = {each["name"]: each["containerPort"] for each in pool["ports"]}
        assert option(words, "environment_config") == f"localhost:{ports['pool']}"
        assert option(words, "metrics_port") == str(ports["metrics"])
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert pool[probe]["tcpSocket"]["port"] == "pool"

    def test_submitter_and_workers_see_the_same(self, flink):
        """The submitter looks at the sinks that workers write: same image, variables, files."""
        ours = (worker_pool(flink), submitter())
        assert len({each["image"] for each in ours}) == 1
        assert ours[0]["env"] == ours[1]["env"]
        paths = [{each["mountPath"] for each in one["volumeMounts"]} for one in ours]
        assert paths[0] == paths[1] == {"/tmp", "/etc/dynabeam"}

    def test_prometheus_looks_at_ports_that_are_there(self, flink):
        monitor = of_kind(manifests(CONTINUOUS), "PodMonitor")["spec"]
        ports = {
            each["name"]
            for one in (main_container(flink), worker_pool(flink))
            for each in one["ports"]
        }
        wanted = {each["port"] for each in monitor["podMetricsEndpoints"]}
        assert wanted == {"metrics", "flink-metrics"} <= ports
        assert monitor["selector"]["matchLabels"]["app"] == flink["metadata"]["name"]
