# SPDX-License-Identifier: Apache-2.0
"""The public face: what `dynabeam` exports, from where, and what its import costs."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import dynabeam
import dynabeam.testing
from dynabeam.transforms import errors

ROOT = Path(__file__).resolve().parent.parent


def typed_names():
    """Module → names that type checkers see."""
    found = {}
    for node in ast.parse((ROOT / "dynabeam" / "__init__.py").read_text("utf-8")).body:
        if isinstance(node, ast.If):
            for each in node.body:
                if isinstance(each, ast.ImportFrom):
                    found[each.module] = sorted(alias.name for alias in each.names)
    return found


class TestNames:
    def test_type_checkers_see_what_there_is(self):
        prefix = "dynabeam.transforms."
        lazy = {prefix + module: sorted(names) for module, names in dynabeam._MODULES.items()}
        assert typed_names() == lazy
        assert sorted({*dynabeam._MODULE_OF, "__version__"}) == sorted(dynabeam.__all__)

    @pytest.mark.parametrize("name", dynabeam.__all__)
    def test_each_is_the_thing_itself(self, name):
        value = getattr(dynabeam, name)
        assert name in dir(dynabeam)
        assert getattr(value, "__name__", name) == name
        assert getattr(dynabeam, name) is value

    def test_every_error_can_be_caught(self):
        assert set(errors.__all__) <= set(dynabeam.__all__)

    def test_others_are_not_there(self):
        with pytest.raises(AttributeError, match="module 'dynabeam' has no attribute 'ReadFrom'"):
            _ = dynabeam.ReadFrom

    def test_the_house_does_not_use_its_own_door(self):
        """It would be a circle: the face imports the modules below it."""
        through = []
        for path in [*(ROOT / "transforms").rglob("*.py"), *(ROOT / "pipelines").rglob("*.py")]:
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.ImportFrom) and node.module == "dynabeam":
                    through.append(path.relative_to(ROOT).as_posix())
        assert through == []

    def test_the_simulator(self):
        assert all(hasattr(dynabeam.testing, name) for name in dynabeam.testing.__all__)
        assert "Simulator" in dynabeam.testing.__all__


def output_of(*arguments):
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def test_the_import_takes_nothing_along():
    """Beam alone takes seconds; the whole of it here is some 10 ms."""
    code = (
        "import sys; before = set(sys.modules); import dynabeam; "
        "print(*{each.partition('.')[0] for each in set(sys.modules) - before})"
    )
    taken = set(output_of("-c", code).split())
    assert taken - set(sys.stdlib_module_names) == {"dynabeam"}


def test_the_simulator_as_a_process():
    command = [sys.executable, "-m", "dynabeam.testing", "--port", "0", "--seed", "1"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            endpoint = json.loads(process.stdout.readline())["endpoint_url"]
            remote = dynabeam.testing.RemoteSimulator(endpoint)
            remote.create_table("orders", "id:S")
            remote.put_many("orders", [{"id": {"S": "a"}}])
        finally:
            process.terminate()
    assert process.returncode == 0


def commands():
    """Every module that can be started, as `python -m` takes it."""
    for path in sorted((ROOT / "pipelines").rglob("*.py")):
        if '__name__ == "__main__"' in path.read_text("utf-8"):
            module = path.relative_to(ROOT).with_suffix("")
            yield ".".join(module.parts).removesuffix(".__main__")


COMMANDS = sorted(commands())


def test_commands_are_found():
    assert {"pipelines.replicate", "pipelines.status", "pipelines.command_line"} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_starts_from_the_checkout(command):
    """`python -m pipelines.X` is what a developer types; installed it is `dynabeam X`."""
    said = output_of("-m", command, "--help")
    assert "usage" in said.lower()
