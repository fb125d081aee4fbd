# SPDX-License-Identifier: Apache-2.0
"""The units, by systemd's own checks, which need no systemd that runs."""

from __future__ import annotations

import pathlib
import re
import subprocess

import pytest

from tests.deploy.files import SYSTEMD, start_line
from tests.runners.conftest import or_skip
from tests.runners.parts import require

SERVICE = SYSTEMD / "dynabeam.service"
MOST_EXPOSED = 2.0
"""Of 10; systemd's figure for a service without any setting is 9.6."""


@pytest.fixture
def analyze():
    return or_skip(lambda: require("systemd-analyze", "checking units"))


@pytest.fixture
def units(tmp_path: pathlib.Path) -> pathlib.Path:
    """The units with a program that is there, which systemd insists on."""
    program = tmp_path / "dynabeam"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for path in SYSTEMD.iterdir():
        text = path.read_text("utf-8").replace(start_line_of(SERVICE), str(program))
        (tmp_path / path.name).write_text(text)
    return tmp_path


def start_line_of(path):
    return start_line(path.read_text("utf-8"))[0]


def verified(analyze, *paths):
    done = subprocess.run(
        [analyze, "verify", *map(str, paths)], capture_output=True, text=True, check=False
    )
    return done.returncode, (done.stdout + done.stderr).strip()


def test_units_are_understood(analyze, units):
    assert verified(analyze, units / "dynabeam.timer", units / "dynabeam.service") == (0, "")


def test_a_misspelt_setting_would_be_found(analyze, units):
    path = units / "dynabeam.service"
    path.write_text(path.read_text().replace("ProtectHostname=", "ProtectHostnam="))
    assert "ProtectHostnam" in verified(analyze, path)[1]


def test_the_service_is_shut_in(analyze, units):
    done = subprocess.run(
        [analyze, "security", "--offline=true", "--no-pager", str(units / "dynabeam.service")],
        capture_output=True,
        text=True,
        check=True,
    )
    (level,) = re.findall(r"Overall exposure level for dynabeam\.service: ([0-9.]+)", done.stdout)
    assert float(level) <= MOST_EXPOSED


def test_the_timer_starts_the_service():
    assert (SYSTEMD / "dynabeam.timer").stem == SERVICE.stem


def test_what_it_writes_is_below_its_state_directory():
    words = start_line(SERVICE.read_text("utf-8"))
    local = [each for each in words if each.startswith(("--state_dir=", "--sink=duckdb"))]
    assert len(local) == 2
    assert all("/var/lib/dynabeam/" in each for each in local)
    assert "StateDirectory=dynabeam\n" in SERVICE.read_text("utf-8")
