# SPDX-License-Identifier: Apache-2.0
"""Programs of others that check files of `deploy/`, fetched once per machine."""

from __future__ import annotations

import os
import pathlib
import platform
import subprocess
import sys

from tests.runners.parts import assembled, require, run

__all__ = ["check_compose", "check_kubernetes", "prometheus"]

_PACKAGES = ("kubernetes-validate==1.37.0", "check-jsonschema==0.39.0")


def check_kubernetes(path: pathlib.Path, version: str) -> list[str]:
    """Objects of Kubernetes itself, against its schemas, no field unknown; what is wrong."""
    words = ["kubernetes-validate", "--strict", "--quiet", "-k", version, str(path)]
    return _complaints(words)


def check_compose(path: pathlib.Path) -> list[str]:
    """A compose file against the schema of its specification; what is wrong."""
    return _complaints(["check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)])


def prometheus(name: str) -> pathlib.Path:
    """`prometheus` or `promtool`, of the PATH's or of Debian's package.

    Raises:
        MissingToolError: Neither is there.
        AssemblyError: The package cannot be fetched.
    """
    found = [pathlib.Path(each) / name for each in os.environ["PATH"].split(":")]
    for path in found:
        if path.is_file():
            return path
    return assembled(f"prometheus-debian-{platform.machine()}", _unpack) / "usr" / "bin" / name


def _unpack(folder: pathlib.Path) -> None:
    apt = require("apt-get", "fetching Prometheus")
    unpack = require("dpkg-deb", "unpacking Prometheus")
    if os.geteuid() == 0:
        run([apt, "-qq", "update"], folder)
    run([apt, "-qq", "download", "prometheus"], folder)
    (package,) = folder.glob("prometheus_*.deb")
    run([unpack, "--extract", str(package), str(folder)], folder)
    package.unlink()


def _complaints(words: list[str]) -> list[str]:
    folder = assembled(f"deploy-checkers-{'-'.join(_PACKAGES).replace('==', '-')}", _install)
    done = subprocess.run(
        [sys.executable, str(folder / "bin" / words[0]), *words[1:]],
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    said = [each for each in (done.stdout + done.stderr).splitlines() if each.strip()]
    if done.returncode == 0:
        return []
    assert said, f"{words[0]} ended with {done.returncode} and said nothing"
    return said


def _install(folder: pathlib.Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    run([*pip, f"--target={folder}", *_PACKAGES], folder)
