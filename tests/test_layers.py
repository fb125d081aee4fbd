# SPDX-License-Identifier: Apache-2.0
"""The folders of `transforms` in floors: what is imported lies on a lower one."""

import ast
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
_FLOORS = (
    ("version_info", "printable"),
    ("errors",),
    ("secrets", "runtime", "google", "flink", "dataflow"),
    ("values",),
    ("model",),
    ("aws",),
    ("storage",),
    ("stream", "export"),
    ("telemetry",),
    ("reconcile", "dead_letters"),
    ("read_tables", "sinks"),
    ("state",),
    ("dynamodbio", "continuous", "audit", "planning"),
    ("testing",),
)
"""Each name of the top of `transforms`, the lowest floor first."""


def _imports(path):
    """The modules of the product that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names if each.name.startswith("dynabeam"))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dynabeam"):
            yield from (f"{node.module}.{each.name}" for each in node.names)


def _parts():
    """Name at the top of `transforms` → its files."""
    for each in sorted((_ROOT / "transforms").iterdir()):
        if each.is_dir() and (each / "__init__.py").exists():
            yield each.name, sorted(each.rglob("*.py"))
        elif each.suffix == ".py" and each.name != "__init__.py":
            yield each.stem, [each]


def test_each_part_has_a_floor():
    named = [each for floor in _FLOORS for each in floor]
    assert sorted(named) == sorted(name for name, _ in _parts())


def test_imports_go_down():
    floor_of = {each: number for number, floor in enumerate(_FLOORS) for each in floor}
    upward = []
    for name, files in _parts():
        for path in files:
            for module in _imports(path):
                top, _, rest = module.removeprefix("dynabeam.").partition(".")
                target = rest.partition(".")[0]
                own = top == "transforms" and target == name
                if not own and (top != "transforms" or floor_of[target] >= floor_of[name]):
                    upward.append(f"{path.relative_to(_ROOT)} → {module}")
    assert upward == []


def test_the_top_is_a_handful():
    modules = [path for path in (_ROOT / "transforms").glob("*.py") if path.name != "__init__.py"]
    assert len(modules) <= 7
