# SPDX-License-Identifier: Apache-2.0
"""The files of `deploy/` as tests read them, and the command lines of `dynabeam` in them."""

from __future__ import annotations

import ast
import dataclasses
import pathlib
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

__all__ = [
    "AIRFLOW",
    "COMPOSE",
    "CONTINUOUS",
    "DEPLOY",
    "ROUNDS",
    "SYSTEMD",
    "CommandLine",
    "command_lines",
    "compose",
    "containers",
    "manifests",
    "of_kind",
    "start_line",
]

DEPLOY = pathlib.Path(__file__).resolve().parents[2] / "deploy"
CONTINUOUS = DEPLOY / "kubernetes" / "continuous"
ROUNDS = DEPLOY / "kubernetes" / "rounds"
COMPOSE = DEPLOY / "compose" / "compose.yaml"
SYSTEMD = DEPLOY / "systemd"
AIRFLOW = DEPLOY / "airflow" / "dynabeam_rounds.py"
_CREDENTIALS = "/run/credentials/dynabeam.service"


@dataclasses.dataclass(frozen=True)
class CommandLine:
    """One start of `dynabeam`.

    Attributes:
        place: The file, and where in it.
        words: What stands behind `dynabeam`, as the program gets it.
    """

    place: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.place}, {self.words[0]}"


def manifests(folder: pathlib.Path) -> list[dict[str, Any]]:
    """The objects that a kustomization names, in its order, as their files have them."""
    names = yaml.safe_load((folder / "kustomization.yaml").read_text("utf-8"))["resources"]
    texts = [(folder / name).read_text("utf-8") for name in names]
    return [each for text in texts for each in yaml.safe_load_all(text)]


def of_kind(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """The one object of a kind."""
    (found,) = [each for each in objects if each["kind"] == kind]
    return found


def containers(tree: Any) -> Iterator[dict[str, Any]]:
    """All containers of an object, however deep its pods are."""
    if isinstance(tree, Mapping):
        for name, value in tree.items():
            if name in ("containers", "initContainers"):
                yield from value
            yield from containers(value)
    elif isinstance(tree, list):
        for each in tree:
            yield from containers(each)


def compose() -> dict[str, Any]:
    """The compose file, with the dollar signs that Compose would leave."""
    document: dict[str, Any] = yaml.safe_load(COMPOSE.read_text("utf-8").replace("$$", "$"))
    return document


def start_line(unit: str) -> list[str]:
    """The words of a unit's `ExecStart=`, as systemd hands them over.

    Two dollars are one, `%%` is a percent sign, `%d` the folder of credentials; others do not occur
    (systemd.service(5), systemd.unit(5)).
    """
    text = unit.replace("\\\n", " ")
    (line,) = [each for each in text.splitlines() if each.startswith("ExecStart=")]
    words = shlex.split(line.removeprefix("ExecStart="))
    return [each.replace("$$", "$").replace("%d", _CREDENTIALS) for each in words]


def command_lines() -> list[CommandLine]:
    """Every start of `dynabeam` in the files."""
    return [*_kubernetes(), *_compose(), *_systemd(), *_airflow()]


def _kubernetes() -> Iterator[CommandLine]:
    for folder in (CONTINUOUS, ROUNDS):
        for each in manifests(folder):
            for container in containers(each):
                if container.get("command") == ["dynabeam"]:
                    place = f"kubernetes/{folder.name}, {each['kind']}"
                    yield CommandLine(place, tuple(container["args"]))


def _compose() -> Iterator[CommandLine]:
    for name, service in compose()["services"].items():
        if service.get("entrypoint") == ["dynabeam"]:
            yield CommandLine(f"compose, {name}", tuple(service["command"]))


def _systemd() -> Iterator[CommandLine]:
    for path in sorted(SYSTEMD.glob("*.service")):
        program, *words = start_line(path.read_text("utf-8"))
        assert program.endswith("/dynabeam")
        yield CommandLine(f"systemd/{path.name}", tuple(words))


def _airflow() -> Iterator[CommandLine]:
    """The arguments of operators, from the source: Airflow is not needed for it."""
    module = ast.parse(AIRFLOW.read_text("utf-8"))
    names: dict[str, Any] = {}
    for node in module.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                names[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                continue  # what is made of Airflow's own classes
    for node in ast.walk(module):
        if isinstance(node, ast.Call):
            given = {each.arg: each.value for each in node.keywords}
            if "arguments" in given:
                words = _evaluated(given["arguments"], names)
                yield CommandLine(f"airflow, {ast.literal_eval(given['task_id'])}", tuple(words))


def _evaluated(node: ast.expr, names: Mapping[str, Any]) -> Any:
    """A list of words of constants, names, `*NAME` and f-strings without formats."""
    match node:
        case ast.List(elts=parts):
            words: list[str] = []
            for each in parts:
                value = _evaluated(each, names)
                words += value if isinstance(each, ast.Starred) else [value]
            return words
        case ast.Starred(value=inner) | ast.FormattedValue(value=inner):
            return _evaluated(inner, names)
        case ast.JoinedStr(values=parts):
            return "".join(_evaluated(each, names) for each in parts)
        case ast.Name(id=name):
            return names[name]
    return ast.literal_eval(node)
