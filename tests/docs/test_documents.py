# SPDX-License-Identifier: Apache-2.0
"""The documents name what there is, the map has every folder, and the pictures can be drawn."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.runners.conftest import or_skip
from tests.runners.parts import assembled, require, run

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
PACKAGES = {"mermaid": "11.17.2", "jsdom": "26.1.0"}
RENDER = Path(__file__).with_name("render.mjs")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
class TestNames:
    def test_paths_exist(self, document):
        text = document.read_text("utf-8")
        named = set(re.findall(r"\b(?:transforms|pipelines|tests|docs|deploy)/[\w/.-]*\w", text))
        named = {each.rstrip(".") for each in named}
        assert named
        assert [each for each in sorted(named) if not (ROOT / each).exists()] == []

    def test_links_lead_somewhere(self, document):
        links = re.findall(r"\]\(([^)#]+)", document.read_text("utf-8"))
        links = [each for each in links if "://" not in each]
        assert [each for each in links if not (document.parent / each).exists()] == []


def test_the_map_has_every_folder():
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    folders = [path.parent.name for path in (ROOT / "transforms").glob("*/__init__.py")]
    assert folders
    assert [each for each in sorted(folders) if f"`transforms/{each}/`" not in text] == []


def test_the_pictures_are_drawn():
    """By Mermaid itself, which is fetched once per machine."""
    folder = or_skip(_mermaid)
    script = folder / RENDER.name
    shutil.copyfile(RENDER, script)
    document = ROOT / "docs" / "architecture.md"
    done = subprocess.run(
        ["node", script, document], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    graph, state = json.loads(done.stdout)
    for picture, words in (
        (graph, ("EnsureExport", "ReadStream", "Reconcile", "VerifyChain", "one Write per sink")),
        (state, ("state.json", "manifests", "a continuous job", "visible in the sinks")),
    ):
        assert picture.startswith("<svg")
        shown = re.sub(r"<[^>]+>", " ", picture)
        assert [each for each in words if not _has(shown, each)] == []


def _has(shown, words):
    """Whether words stand in a picture, whose lines may be broken anywhere."""
    return "".join(words.split()) in "".join(shown.split())


def _mermaid():
    require("node", "drawing the pictures of the documents")
    npm = require("npm", "drawing the pictures of the documents")
    wanted = [f"{name}@{version}" for name, version in PACKAGES.items()]

    def build(folder):
        run([npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", *wanted], folder)

    return assembled(f"mermaid-{PACKAGES['mermaid']}", build)
