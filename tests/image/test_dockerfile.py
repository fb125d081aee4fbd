# SPDX-License-Identifier: Apache-2.0
"""What the files of the image promise, without building it."""

from __future__ import annotations

import os
import pathlib
import re
import runpy
import subprocess
import sys

import pytest
from apache_beam.version import __version__ as beam_version

from tests.image.base_images import DOCKERFILE, names
from tests.image.lint import hadolint
from tests.runners.processes import ROOT

FOLDER = DOCKERFILE.parent
TEXT = DOCKERFILE.read_text("utf-8")
LOCK = FOLDER / "requirements.lock"
PINS = dict(re.findall(r"^([a-z0-9.-]+)==(\S+)", LOCK.read_text("utf-8"), re.M))
FILES = [path for path in FOLDER.iterdir() if path.is_file()]


def lint(path: pathlib.Path) -> subprocess.CompletedProcess[str]:
    words = [str(hadolint()), "--no-color", str(path)]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def ignored() -> list[str]:
    text = pathlib.Path(f"{DOCKERFILE}.dockerignore").read_text("utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_hadolint_finds_nothing():
    done = lint(DOCKERFILE)
    assert done.returncode == 0, done.stdout


def test_hadolint_would_find_something(tmp_path: pathlib.Path):
    worse = tmp_path / "Dockerfile"
    worse.write_text(TEXT.replace("${LAUNCHER} AS", "latest AS").replace("--no-cache-dir", ""))
    done = lint(worse)
    assert done.returncode == 1
    assert {"DL3007", "DL3042"} <= set(re.findall(r"DL\d+", done.stdout))


def test_beam_is_the_locked_one():
    assert names()["beam"] == f"apache/beam_python3.11_sdk:{PINS['apache-beam']}"
    assert PINS["apache-beam"] == beam_version


def test_tags_are_pinned():
    for name in names().values():
        tag = name.rpartition(":")[2]
        assert re.search(r"\d+[._]\w+", tag), name
    assert sorted(names()) == ["beam", "launcher", "python"]


def test_the_pythons_are_one():
    lock = runpy.run_path(str(ROOT / ".ci" / "lock"))
    (release,) = re.findall(r"^python:(3\.\d+)\.", names()["python"])
    assert f"beam_python{release}_sdk" in names()["beam"]
    assert release == lock["IMAGE_PYTHON"]


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the image has Python 3.11")
def test_the_lock_is_what_its_command_writes():
    lock = runpy.run_path(str(ROOT / ".ci" / "lock"))
    assert lock["image_lock"]() == LOCK.read_text("utf-8"), "run: .venv/bin/python .ci/lock image"


def test_the_lock_has_what_sinks_need_and_no_tools_of_tests():
    wanted = {"duckdb", "psycopg", "psycopg-binary", "boto3", "pyarrow", "prometheus-client"}
    assert wanted | {"google-cloud-dataflow-client", "moto", "setuptools"} <= set(PINS)
    assert not {"pytest", "mypy", "ruff", "hypothesis", "pytest-xdist"} & set(PINS)


def test_every_pin_has_hashes_of_the_lock():
    everything = (ROOT / "requirements.lock").read_text("utf-8")
    for block in re.findall(r"^[a-z].*\n(?: .*\n)*", LOCK.read_text("utf-8"), re.M):
        hashes = re.findall(r"sha256:[0-9a-f]{64}", block)
        assert hashes, block
        assert all(each in everything for each in hashes)
    assert TEXT.count("--require-hashes") == 1
    assert TEXT.count("pip install") == 2  # the other one takes the wheel that was built here


def test_files_hold_no_host_of_an_index_and_no_secret():
    for path in FILES:
        text = path.read_text("utf-8")
        assert not re.search(
            r"index.url|https?://|_proxy|PIP_[A-Z]|trusted.host|\bENV .*(KEY|TOKEN)", text, re.I
        )


def test_the_context_is_what_is_named():
    lines = ignored()
    assert lines[0] == "*"
    named = [line[1:] for line in lines if line.startswith("!")]
    assert [name for name in named if not (ROOT / name).exists()] == []
    # What the wheel is built from, and what is copied.
    copied = re.findall(r"^COPY (deploy/\S+)", TEXT, re.M)
    assert set(copied) <= set(named)
    assert {"setup.py", "pyproject.toml", "README.md", "dynabeam", "pipelines"} <= set(named)


def test_scripts_of_the_image_are_executable():
    script = ROOT / ".ci" / "image"
    assert os.access(script, os.X_OK)
