# SPDX-License-Identifier: Apache-2.0
"""The package as others get it: built, installed, and used beside a project with the same folders.

The project has packages `transforms` and `pipelines` of its own, as many Beam projects do.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from pathlib import Path, PurePosixPath

import pytest

from dynabeam.transforms.testing.simulator import Simulator
from dynabeam.transforms.version_info import __version__

ROOT = Path(__file__).resolve().parent.parent
BUILD = "from setuptools import build_meta; build_meta.build_{}({!r})"

OWN_TRANSFORMS = '''
import apache_beam as beam
from dynabeam import Change, decode_item

class Total(beam.DoFn):
    """A step of the project's own, in a package that is called `transforms`."""

    def process(self, change: Change):
        import os, dynabeam, transforms
        yield {
            "key": decode_item(change.key)["id"],
            "total": str(decode_item(change.new)["total"]),
            "type": type(change).__name__,
            "process": os.getpid(),
            "dynabeam": dynabeam.__file__,
            "transforms": transforms.__file__,
        }
'''
OWN_PIPELINES = """
import json
import os
import sys

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from dynabeam import AwsAccess, Changes, ReadFromDynamoDB
from dynabeam.testing import Simulator
from pipelines import PREFIX
from transforms.totals import Total

def main(out):
    with Simulator(seed=3, initial_shards=4) as sim:
        sim.create_table("orders", "id:S")
        items = [{"id": {"S": f"o{n}"}, "total": {"N": f"{n}.50"}} for n in range(20)]
        sim.put_many("orders", items)
        access = AwsAccess(region=sim.region, endpoint_url=sim.endpoint_url)
        options = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
        with beam.Pipeline("FnApiRunner", options=PipelineOptions(options)) as p:
            reading = ReadFromDynamoDB(["orders"], access=access).with_parallelism(readers=4)
            found = (p | reading).blocks | Changes() | beam.ParDo(Total()) | beam.Map(json.dumps)
            _ = found | beam.io.WriteToText(out + "/" + PREFIX, shard_name_template="-SSS")

if __name__ == "__main__":
    main(sys.argv[1])
    print(os.getpid())
"""


def outside(*path):
    """The environment of a process that does not see this checkout."""
    ours = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return ours | {
        "PYTHONPATH": os.pathsep.join(map(str, path)),
        "AWS_ACCESS_KEY_ID": "simulated",
        "AWS_SECRET_ACCESS_KEY": "simulated",
    }


def run(*arguments, cwd, path=()):
    done = subprocess.run(
        list(map(str, arguments)),
        check=False,
        cwd=cwd,
        env=outside(*path),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def tracked_files():
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("the checkout is not one of git")
    return [each for each in listed.stdout.splitlines() if (ROOT / each).exists()]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy, as a build leaves things beside the sources."""
    folder = tmp_path_factory.mktemp("checkout")
    for each in tracked_files():
        target = folder / each
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / each, target, follow_symlinks=False)
    return folder


@pytest.fixture(scope="module")
def wheel(checkout):
    run(sys.executable, "-c", BUILD.format("wheel", "dist"), cwd=checkout)
    (found,) = (checkout / "dist").glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A folder for `PYTHONPATH` that holds the package and nothing else."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-index"]
    run(*pip, "--no-deps", "--quiet", "--target", folder, wheel, cwd=folder)
    return folder


@pytest.fixture
def project(tmp_path):
    for name, text in {
        "transforms/__init__.py": "",
        "transforms/totals.py": OWN_TRANSFORMS,
        "pipelines/__init__.py": 'PREFIX = "found"\n',
        "pipelines/report.py": OWN_PIPELINES,
    }.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


def modules(folder):
    """The modules of a folder of the checkout, as the package names them."""
    sources = (ROOT / folder).glob("*.py" if folder == "dynabeam" else "**/*.py")
    prefix = "" if folder == "dynabeam" else "dynabeam/"
    return [prefix + each.relative_to(ROOT).as_posix() for each in sources]


MODULES = [*modules("dynabeam"), *modules("transforms"), *modules("pipelines")]


class TestFiles:
    def test_the_wheel_has_each_module_once_and_no_tests(self, wheel):
        names = zipfile.ZipFile(wheel).namelist()
        metadata = f"dynabeam-{__version__}.dist-info"
        held = [each for each in names if PurePosixPath(each).parts[0] != metadata]
        assert Counter(held) == Counter([*MODULES, "dynabeam/py.typed"])

    def test_the_source_archive_has_each_file_once(self, checkout):
        run(sys.executable, "-c", BUILD.format("sdist", "dist"), cwd=checkout)
        (archive,) = (checkout / "dist").glob("*.tar.gz")
        with tarfile.open(archive) as opened:
            names = [each.name.partition("/")[2] for each in opened if each.isfile()]
        made = ("PKG-INFO", "setup.cfg")
        held = [each for each in names if each not in made and "egg-info/" not in each]
        folders = ("transforms/", "pipelines/")
        links = ("dynabeam/transforms", "dynabeam/pipelines")
        wanted = [
            f"dynabeam/{each}" if each.startswith(folders) else each
            for each in tracked_files()
            if each not in links
        ]
        assert Counter(held) == Counter(wanted)

    def test_a_wheel_can_be_built_of_the_source_archive(self, checkout, wheel, tmp_path):
        run(sys.executable, "-c", BUILD.format("sdist", str(tmp_path)), cwd=checkout)
        (archive,) = tmp_path.glob("*.tar.gz")
        shutil.unpack_archive(archive, tmp_path)
        (source,) = (each for each in tmp_path.iterdir() if each.is_dir())
        run(sys.executable, "-c", BUILD.format("wheel", str(tmp_path)), cwd=source)
        (made,) = tmp_path.glob("*.whl")
        names = [sorted(zipfile.ZipFile(each).namelist()) for each in (made, wheel)]
        assert names[0] == names[1]


class TestInstalled:
    def test_beside_a_project_with_the_same_folders(self, project, installed, tmp_path):
        out = tmp_path / "out"
        said = run(sys.executable, "-m", "pipelines.report", out, cwd=project, path=[installed])
        lines = [line for each in out.glob("found*") for line in each.read_text().splitlines()]
        found = [json.loads(line) for line in lines]
        assert sorted((each["key"], each["total"]) for each in found) == sorted(
            (f"o{n}", f"{n}.5") for n in range(20)
        )
        assert int(said) not in {each["process"] for each in found}
        assert {each["type"] for each in found} == {"Change"}
        assert {each["dynabeam"] for each in found} == {str(installed / "dynabeam/__init__.py")}
        own = str(project / "transforms/__init__.py")
        assert {each["transforms"] for each in found} == {own}

    def test_the_command(self, installed, project):
        command = installed / "bin" / "dynabeam"
        said = run(sys.executable, command, "--version", cwd=project, path=[installed])
        assert said == f"dynabeam {__version__}\n"
        said = run(sys.executable, command, "replicate", "--help", cwd=project, path=[installed])
        assert "--tables" in said

    def test_commands_as_modules(self, installed, project):
        for command in ("replicate", "status"):
            module = f"dynabeam.pipelines.{command}"
            said = run(sys.executable, "-m", module, "--help", cwd=project, path=[installed])
            assert "--state_dir" in said

    def test_a_command_runs(self, installed, project, tmp_path):
        with Simulator(seed=4) as sim:
            sim.create_table("orders", "id:S")
            sim.put_many("orders", [{"id": {"S": "a"}}])
            arguments = [
                "--tables=orders",
                f"--region={sim.region}",
                f"--endpoint_url={sim.endpoint_url}",
                "--snapshot=never",
                f"--sink=file://{tmp_path}/out",
                f"--state_dir={tmp_path}/state",
            ]
            run(
                *(sys.executable, installed / "bin" / "dynabeam", "replicate", *arguments),
                cwd=project,
                path=[installed],
            )
        (file,) = (tmp_path / "out" / "orders").rglob("part-*")
        assert '"id":{"S":"a"}' in file.read_text()
