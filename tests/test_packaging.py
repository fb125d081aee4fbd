# SPDX-License-Identifier: Apache-2.0
"""What the repository promises about itself: one version, declared needs, true README, layout."""

import ast
import re
import runpy
import sys
import types
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from transforms.version_info import __version__

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("pipelines", "transforms")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
PYTHON_FILES = [*SOURCES, *sorted((ROOT / "tests").rglob("*.py")), ROOT / "setup.py"]
LOCKED_RELEASES = ("3.10", "3.11", "3.12", "3.13", "3.14")

# Import names that differ from the distribution's name, or come with another one.
DISTRIBUTION_OF = {
    "apache_beam": "apache-beam",
    "amazon": "amazon-ion",
    "awscrt": "boto3",
    "botocore": "boto3",
    "google": "google-cloud-dataflow-client",
    "grpc": "grpcio",
    "psycopg": "psycopg",
    "werkzeug": "moto",
}


def relative(path):
    return path.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def setup_arguments():
    """What setup.py hands to setuptools, without building anything."""
    taken = {}
    stand_in = types.ModuleType("setuptools")
    stand_in.find_packages = lambda include: include
    stand_in.setup = lambda **arguments: taken.update(arguments)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "setuptools", stand_in)
        runpy.run_path(str(ROOT / "setup.py"))
    return taken


def declared(setup_arguments):
    extras = setup_arguments["extras_require"].values()
    lines = [*setup_arguments["install_requires"], *(line for extra in extras for line in extra)]
    return {canonicalize_name(Requirement(line).name) for line in lines}


def locked():
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def absolute_imports(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module


@pytest.fixture(scope="module")
def commands():
    """The words of each command that the README shows."""
    readme = (ROOT / "README.md").read_text("utf-8").replace("\\\n", " ")
    fences = re.findall(r"^```sh\n(.*?)^```$", readme, re.M | re.S)
    lines = [line.split("#")[0].split() for fence in fences for line in fence.splitlines()]
    return [words for words in lines if words]


class TestVersion:
    def test_is_a_plain_release(self):
        assert re.fullmatch(r"\d+\.\d+\.\d+", str(Version(__version__)))

    def test_is_what_setup_py_builds(self, setup_arguments):
        assert setup_arguments["version"] == __version__

    def test_is_written_in_one_place(self):
        holders = [
            relative(path)
            for path in PYTHON_FILES
            if re.search(rf"""["']{re.escape(__version__)}["']""", path.read_text("utf-8"))
        ]
        assert holders == ["transforms/version_info.py"]

    def test_heads_the_changelog(self):
        headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
        assert re.fullmatch(
            rf"{re.escape(__version__)} \((unreleased|\d{{4}}-\d\d-\d\d)\)", headings[0]
        )


class TestRequirements:
    def test_every_import_is_declared(self, setup_arguments):
        names = declared(setup_arguments)
        undeclared = {}
        own = {*PACKAGES, "setuptools", "tests"}
        for path in PYTHON_FILES:
            for module in absolute_imports(path):
                top = module.partition(".")[0]
                if top in sys.stdlib_module_names or top in own:
                    continue
                if canonicalize_name(DISTRIBUTION_OF.get(top, top)) not in names:
                    undeclared.setdefault(top, relative(path))
        assert not undeclared, f"not in setup.py: {undeclared}"

    def test_extras_named_anywhere_exist(self, setup_arguments):
        known = set(setup_arguments["extras_require"])
        files = [*SOURCES, ROOT / "README.md", ROOT / "run_local.sh", ROOT / ".ci" / "lock"]
        named = {}
        for path in files:
            text = path.read_text("utf-8")
            lists = re.findall(r"dynabeam\[([a-z0-9_, -]+)\]", text)
            lists += re.findall(r"^extras *= *\"?([a-z0-9_,]+)", text, re.M | re.I)
            for extra in (part.strip() for line in lists for part in line.split(",")):
                named.setdefault(extra, relative(path))
        assert "simulator" in named
        assert set(named) <= known, f"setup.py has {sorted(known)}, but these are named: {named}"

    def test_extras_are_all_explained(self, setup_arguments):
        readme = (ROOT / "README.md").read_text("utf-8")
        missing = [
            name for name in setup_arguments["extras_require"] if f"\n| `{name}` |" not in readme
        ]
        assert not missing

    def test_install_and_lock_use_the_same_extras(self):
        (installed,) = re.findall(r"^extras=(.*)$", (ROOT / "run_local.sh").read_text(), re.M)
        (frozen,) = re.findall(r'^EXTRAS = "(.*)"$', (ROOT / ".ci" / "lock").read_text(), re.M)
        assert installed == frozen


class TestLock:
    def test_names_versions_only(self):
        for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines():
            if not line.startswith("#"):
                assert re.fullmatch(
                    r"[a-z0-9.-]+==[0-9a-z.+!]+( ; python_version [<>]=? .*)?", line
                )
            assert not re.search(r"://|@|--", line)

    @pytest.mark.parametrize("release", LOCKED_RELEASES)
    def test_pins_each_requirement_once_per_python(self, setup_arguments, release):
        pins = {}
        for requirement in locked():
            marker = requirement.marker
            if marker is None or marker.evaluate({"python_version": release}):
                pins.setdefault(canonicalize_name(requirement.name), []).append(requirement)
        assert {name: pin for name, pin in pins.items() if len(pin) > 1} == {}
        assert declared(setup_arguments) - set(pins) == set()

    def test_agrees_with_setup_py(self, setup_arguments):
        extras = setup_arguments["extras_require"].values()
        lines = [*setup_arguments["install_requires"], *(one for extra in extras for one in extra)]
        for requirement in map(Requirement, lines):
            for pin in locked():
                if canonicalize_name(pin.name) == canonicalize_name(requirement.name):
                    (version,) = (clause.version for clause in pin.specifier)
                    assert version in requirement.specifier


class TestReadme:
    def test_scripts_exist_and_can_be_started(self, commands):
        scripts = {words[0] for words in commands if words[0].startswith(".")}
        assert {"./run_local.sh", ".ci/run"} <= scripts
        for script in scripts:
            assert (ROOT / script).stat().st_mode & 0o111, f"{script} is not executable"

    def test_commands_exist(self, commands):
        named = {words[1] for words in commands if words[0] == "dynabeam"}
        named |= {words[1] for words in commands if words[0] == "./run_local.sh" and words[1:]}
        # run_local.sh has two of its own, and a demo for developers.
        assert (ROOT / "tests" / "runners" / "flink_demo.py").is_file()
        named = named - {"test", "help", "flink"} | {"demo", "command_line"}
        missing = {name for name in named if not (ROOT / "pipelines" / f"{name}.py").is_file()}
        assert not missing, f"README names commands that do not exist: {sorted(missing)}"

    def test_paths_exist(self, commands):
        readme = (ROOT / "README.md").read_text("utf-8")
        paths = set(re.findall(r"`((?:pipelines|transforms|tests)/[\w/]*)`", readme))
        paths |= {word for words in commands for word in words if word.startswith("tests/")}
        assert paths
        assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []

    def test_links_exist(self):
        readme = (ROOT / "README.md").read_text("utf-8")
        links = [link for link in re.findall(r"\]\(([^)#]+)", readme) if "://" not in link]
        assert "LICENSE" in links
        assert [link for link in links if not (ROOT / link).exists()] == []


class TestLayout:
    def test_transforms_never_import_pipelines(self):
        guilty = [
            relative(path)
            for path in (ROOT / "transforms").rglob("*.py")
            if any(module.partition(".")[0] == "pipelines" for module in absolute_imports(path))
        ]
        assert not guilty

    def test_names_say_something(self):
        empty = re.compile(r"(utils?|helpers?|common|misc|managers?)(\.py)?$")
        assert [
            relative(path)
            for path in SOURCES
            if any(empty.match(part) for part in path.relative_to(ROOT).parts)
        ] == []

    def test_no_file_is_over_600_lines(self):
        sizes = {relative(path): path.read_text("utf-8").count("\n") for path in PYTHON_FILES}
        assert {path: size for path, size in sizes.items() if size > 600} == {}

    def test_folders_with_code_are_packages(self):
        # A folder without __init__.py would be missing from the wheel, and two test modules of
        # one name in such folders would hide each other.
        folders = {path.parent for path in PYTHON_FILES} - {ROOT}
        assert [
            relative(folder) for folder in sorted(folders) if not (folder / "__init__.py").is_file()
        ] == []

    def test_packages_are_typed(self, setup_arguments):
        for package in PACKAGES:
            assert (ROOT / package / "py.typed").is_file()
            assert setup_arguments["package_data"][package] == ["py.typed"]

    def test_files_begin_with_their_license(self):
        scripts = [ROOT / "run_local.sh", ROOT / ".ci" / "run", ROOT / ".ci" / "lock"]
        unmarked = [
            relative(path)
            for path in [*PYTHON_FILES, *scripts]
            if "# SPDX-License-Identifier: Apache-2.0"
            not in path.read_text("utf-8").split("\n")[:2]
        ]
        assert not unmarked

    def test_license_is_the_whole_text(self):
        text = (ROOT / "LICENSE").read_text("utf-8")
        assert "Version 2.0, January 2004" in text
        assert "END OF TERMS AND CONDITIONS" in text
