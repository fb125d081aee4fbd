# SPDX-License-Identifier: Apache-2.0
"""Every Python example of README, docs and the public face: type-checked, and run as it stands.

An example runs as a script of its own, in an empty folder, with the environment of somebody whose
AWS is the simulator: tables `orders` and `customers`. Its functions named `test_…` are called. One
that cannot run here has `<!-- not run: REASON -->` on the line before its fence.
"""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dynabeam.transforms.testing.simulator import Simulator

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "dynabeam").glob("*.py")),
]
FENCE = re.compile(r"(?:^<!-- not run: (.+) -->\n)?^```python\n(.*?)^```$", re.M | re.S)
CALL_TESTS = """
for name, value in list(globals().items()):
    if name.startswith("test_"):
        value()
"""


@dataclasses.dataclass(frozen=True)
class Example:
    page: str
    number: int
    code: str
    not_run: str

    @property
    def name(self):
        stem = re.sub(r"\W", "_", self.page)
        return f"example_{stem}_{self.number}"


def examples():
    for page in PAGES:
        for number, found in enumerate(FENCE.finditer(page.read_text("utf-8")), 1):
            yield Example(page.relative_to(ROOT).as_posix(), number, found[2], found[1] or "")


EXAMPLES = list(examples())


def test_there_are_some():
    pages = {each.page for each in EXAMPLES}
    assert {"README.md", "dynabeam/__init__.py", "dynabeam/testing.py"} <= pages
    assert any(not each.not_run for each in EXAMPLES if each.page == "README.md")


def test_types(tmp_path):
    """As strict as mypy can be: only Beam, which has no types of its own here, may be untyped."""
    for each in EXAMPLES:
        (tmp_path / f"{each.name}.py").write_text(each.code)
    checked = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--config-file=pyproject.toml"),
            *("--allow-subclassing-any", "--no-incremental", str(tmp_path)),
        ],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(EXAMPLES)} source file" in checked.stdout


@pytest.fixture
def environment():
    """Somebody's, whose AWS is the simulator."""
    with Simulator(seed=5) as sim:
        for name in ("orders", "customers"):
            sim.create_table(name, "id:S")
            for total in ("1", "2.50"):
                sim.put_many(name, [{"id": {"S": "a"}, "total": {"N": total}}])
        sim.create_bucket("my-exports")
        yield os.environ | {
            "AWS_ACCESS_KEY_ID": "simulated",
            "AWS_SECRET_ACCESS_KEY": "simulated",
            "AWS_DEFAULT_REGION": sim.region,
            "AWS_ENDPOINT_URL": sim.endpoint_url,
            "PYTHONPATH": str(ROOT),
        }


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda each: each.name)
def test_runs(example, environment, tmp_path):
    if example.not_run:
        pytest.skip(example.not_run)
    script = tmp_path / f"{example.name}.py"
    script.write_text(example.code + CALL_TESTS)
    done = subprocess.run(
        [sys.executable, script.name],
        check=False,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    if "print" in example.code:
        assert "orders" in done.stdout
