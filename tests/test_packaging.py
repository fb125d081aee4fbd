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
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from dynabeam.transforms.version_info import __version__

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("pipelines", "transforms")
FACE = sorted((ROOT / "dynabeam").glob("*.py"))
SOURCES = [
    *FACE,
    *sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")),
]
PYTHON_FILES = [*SOURCES, *sorted((ROOT / "tests").rglob("*.py")), ROOT / "setup.py"]
LOCKED_RELEASES = ("3.10", "3.11", "3.12", "3.13")

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
    "yaml": "pyyaml",
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


def hashed():
    """The requirements of the lock that is installed from, each with its hashes."""
    text = (ROOT / "requirements.lock").read_text("utf-8").replace(" \\\n", " ")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    found = []
    for line in lines:
        requirement, *hashes = re.split(r" +--hash=", line)
        found.append((Requirement(requirement), hashes))
    return found


def holds(requirement, release):
    """Whether a requirement is for a release of Python."""
    python = {"python_version": release, "python_full_version": f"{release}.1"}
    return requirement.marker is None or requirement.marker.evaluate(python)


def chosen(requirements, release):
    """The pins for a release of Python, by name."""
    pins = {}
    for each in requirements:
        if holds(each, release):
            pins.setdefault(canonicalize_name(each.name), []).append(str(each.specifier))
    return pins


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
        own = {"dynabeam", "setuptools", "tests"}
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

    def test_every_need_has_bounds(self, setup_arguments):
        extras = setup_arguments["extras_require"].values()
        lines = [*setup_arguments["install_requires"], *(one for extra in extras for one in extra)]
        unbounded = []
        for requirement in map(Requirement, lines):
            operators = {clause.operator for clause in requirement.specifier}
            if not operators >= {">=", "<"} and operators != {"=="}:
                unbounded.append(str(requirement))
        assert unbounded == []

    def test_one_range_per_package(self, setup_arguments):
        extras = setup_arguments["extras_require"].values()
        lines = [*setup_arguments["install_requires"], *(one for extra in extras for one in extra)]
        ranges = {}
        for requirement in map(Requirement, lines):
            name = canonicalize_name(requirement.name)
            ranges.setdefault(name, set()).add(str(requirement.specifier))
        assert {name: found for name, found in ranges.items() if len(found) > 1} == {}


class TestPythons:
    """Only the releases that are locked and tested with are claimed, and everywhere the same."""

    oldest, newest = LOCKED_RELEASES[0], LOCKED_RELEASES[-1]

    def test_setup_py(self, setup_arguments):
        allowed = SpecifierSet(setup_arguments["python_requires"])
        releases = [f"3.{minor}" for minor in range(30) if f"3.{minor}.1" in allowed]
        assert tuple(releases) == LOCKED_RELEASES
        named = [
            each.rpartition(" ")[2]
            for each in setup_arguments["classifiers"]
            if each.startswith("Programming Language :: Python :: 3.")
        ]
        assert tuple(named) == LOCKED_RELEASES

    def test_run_local(self):
        text = (ROOT / "run_local.sh").read_text()
        assert re.findall(r"^(?:oldest|newest)=(.*)$", text, re.M) == [self.oldest, self.newest]
        (names,) = re.findall(r"^ +for name in python3 (.*); do$", text, re.M)
        assert names.split() == [f"python{each}" for each in reversed(LOCKED_RELEASES)]
        assert set(re.findall(r"python(3\.\d+)", text)) == set(LOCKED_RELEASES)

    def test_lock_and_readme(self):
        interpreters = " ".join(f"python{each}" for each in LOCKED_RELEASES)
        readme = (ROOT / "README.md").read_text("utf-8")
        assert f"Python {self.oldest} to {self.newest} " in readme
        assert f".ci/lock {interpreters}\n" in readme
        lock = (ROOT / ".ci" / "lock").read_text()
        assert f".ci/lock {interpreters}\n" in lock
        assert f'OLDEST = "{self.oldest}"\n' in lock


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
        pins = chosen(locked(), release)
        assert {name: pin for name, pin in pins.items() if len(pin) > 1} == {}
        assert declared(setup_arguments) - set(pins) == set()

    @pytest.mark.parametrize("release", LOCKED_RELEASES)
    def test_hashes_are_of_the_same_versions(self, release):
        requirements = [requirement for requirement, _ in hashed()]
        assert chosen(requirements, release) == chosen(locked(), release)
        # The package itself is built with the one that is installed before it.
        assert "setuptools" in chosen(requirements, release)

    def test_every_version_has_its_hashes(self):
        for requirement, hashes in hashed():
            assert re.fullmatch(r"==[0-9a-z.+!]+", str(requirement.specifier))
            assert requirement.url is None
            assert hashes, f"{requirement} without a hash"
            assert len(set(hashes)) == len(hashes)
            for each in hashes:
                assert re.fullmatch(r"sha256:[0-9a-f]{64}", each)

    def test_hashes_name_no_place(self):
        assert not re.search(r"://|@|--(?!hash=)", (ROOT / "requirements.lock").read_text("utf-8"))

    def test_builds_with_what_is_locked(self):
        (line,) = re.findall(r"^requires = \[(.*)\]$", (ROOT / "pyproject.toml").read_text(), re.M)
        (needed,) = [Requirement(part.strip(' "')) for part in line.split(",")]
        for pin in locked():
            if pin.name == needed.name:
                (version,) = (clause.version for clause in pin.specifier)
                assert version in needed.specifier

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
        folder = ROOT / "pipelines"
        missing = {
            name
            for name in named
            if not (folder / f"{name}.py").is_file()
            and not (folder / name / "__main__.py").is_file()
        }
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
            if any(module.startswith("dynabeam.pipelines") for module in absolute_imports(path))
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
        assert (ROOT / "dynabeam" / "py.typed").is_file()
        assert setup_arguments["package_data"] == {"dynabeam": ["py.typed"]}

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
