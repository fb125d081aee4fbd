# SPDX-License-Identifier: Apache-2.0
"""The image, built and run as all that it is for."""

from __future__ import annotations

import fcntl
import json
import os
import pathlib
from collections.abc import Iterator

import pytest

from dynabeam.transforms.version_info import __version__
from tests.image.buildah import Buildah
from tests.image.conftest import IMAGE
from tests.runners.conftest import or_skip
from tests.runners.continuous_world import ContinuousWorld
from tests.runners.flink import Flink
from tests.runners.flink_cluster import ClusterSettings
from tests.runners.flink_parts import FlinkParts, flink_parts
from tests.runners.parts import cache_folder
from tests.runners.processes import Process, is_listening, wait_until
from tests.runners.steady_work import key_of

pytestmark = [pytest.mark.long, pytest.mark.runner]

_USER = "10001"
_PORT = 50000  # of Beam's boot: nothing changes it
_SECONDS = 180


class ImagePool:
    """The worker pool in the image, in place of `tests.runners.worker_pool.WorkerPool`."""

    options = ("--environment_type=EXTERNAL", f"--environment_config=127.0.0.1:{_PORT}")

    def __init__(self, command: list[str], log: pathlib.Path, variables: dict[str, str]) -> None:
        self._command = command
        self.log = log
        self._variables = variables
        self.process: Process | None = None

    def start(self) -> None:
        assert not is_listening(_PORT), f"port {_PORT} is taken: the pool would be another one"
        self.process = Process("pool in the image", self._command, self.log, self._variables)

    def wait_ready(self) -> None:
        assert self.process is not None
        wait_until(lambda: is_listening(_PORT), "the image's pool", 60, [self.process])

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill(with_children=True)
            self.process.stop()
            self.process = None


@pytest.fixture
def flink() -> Iterator[FlinkParts]:
    """An assembled Flink, while no other test runs one."""
    with (cache_folder() / "running.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield or_skip(flink_parts)


def test_what_it_is(buildah: Buildah):
    config = json.loads(buildah.ask("inspect", "--type=image", IMAGE))["OCIv1"]["config"]
    assert config["Entrypoint"] == ["/opt/apache/beam/boot"]
    assert config["WorkingDir"] == "/template"
    assert config["Labels"]["org.opencontainers.image.title"] == "dynabeam"
    variables = dict(each.split("=", 1) for each in config["Env"])
    assert variables["FLEX_TEMPLATE_PYTHON_PY_FILE"] == "/template/main.py"
    assert variables["RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT"] == "1"
    # The index and the certificate that it was built with have left no trace.
    assert not [name for name in variables if name.startswith("PIP_") or "PROXY" in name.upper()]


def test_no_secret_and_no_source_stays(buildah: Buildah, container: str):
    root = buildah.mounted(container)
    assert sorted(path.name for path in (root / "template").iterdir()) == [
        "main.py",
        "requirements.lock",
    ]
    assert not (root / "source").exists()
    for left in ("etc/pip.conf", "run/secrets/ca.crt", "root/.cache/pip"):
        path = root / left
        assert not path.is_file() or path.stat().st_size == 0, left
    assert (root / "opt/apache/beam/boot").stat().st_mode & 0o111


@pytest.mark.parametrize("user", ["", _USER])
def test_the_command_line(buildah: Buildah, container: str, user: str):
    said = buildah.output(container, "dynabeam", "--version", user=user)
    assert said.split()[-1] == __version__


def test_its_packages_agree(buildah: Buildah, container: str):
    assert "No broken requirements" in buildah.output(container, "pip", "check")


def test_the_demo_without_root(buildah: Buildah, container: str):
    words = ["dynabeam", "demo", "--seconds=2", "--dir=/tmp/demo"]
    said = buildah.output(container, *words, user=_USER)
    print(said[-2000:])  # noqa: T201


@pytest.fixture
def files_for_all(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder for the submitting root and for the pool's user, as a bucket would be."""
    before = os.umask(0)
    tmp_path.chmod(0o777)
    yield tmp_path
    os.umask(before)


def test_a_pool_without_root_serves_flink(
    buildah: Buildah, container: str, flink: FlinkParts, files_for_all: pathlib.Path
):
    folder = files_for_all
    with ContinuousWorld(folder, tables=1, export_seconds=3, changelog=False) as world:
        cluster = Flink(
            flink, folder / "flink", ClusterSettings(slots=2), "EXTERNAL", world.variables
        )
        shared = [f"--volume={folder}:{folder}"]
        shared += [f"--env={name}={value}" for name, value in world.variables.items()]
        boot = ["/opt/apache/beam/boot", "--worker_pool"]
        command = buildah.command(container, boot, user=_USER, options=shared)
        pool = ImagePool(command, folder / "pool.log", world.variables)
        cluster.pool = pool  # type: ignore[assignment]
        with cluster as running:
            running.start_command(
                world.command("--mode=continuous", "--detach", *running.connection_options())
            )
            assert pool.process is not None
            world.wait_for_snapshots(_SECONDS, pool.process, names=["table0"])
            world.sim.put_many("table0", [key_of(world.tables["table0"], n) for n in range(50)])
            world.wait_for_mirror(_SECONDS, pool.process)
        assert "Starting worker pool" in pool.log.read_text()
