# SPDX-License-Identifier: Apache-2.0
"""Stand-ins of the images that the Dockerfile builds on, for machines that reach no image registry.

They have the names, the paths and the programs that it takes from the real ones: Debian 12 with its
Python 3.11, and Beam's own `boot`, built from its Go module. The launcher of Flex Templates is
published as an image alone; an empty file stands where it lies.
"""

from __future__ import annotations

import pathlib
import re

from apache_beam.version import __version__ as beam_version

from tests.runners.parts import assembled, require, run
from tests.runners.processes import ROOT

__all__ = ["DOCKERFILE", "boot_binary", "debian", "names", "write_context"]

DOCKERFILE = ROOT / "deploy" / "image" / "Dockerfile"
_BOOT = "github.com/apache/beam/sdks/v2/python/container"
_MIRROR = "http://deb.debian.org/debian"
_PACKAGES = "ca-certificates,python3,python3-pip,python3-venv,python-is-python3"


def names() -> dict[str, str]:
    """The images that the Dockerfile begins with, by the stage that they become."""
    text = DOCKERFILE.read_text("utf-8")
    given = dict(re.findall(r"^ARG (\w+)=(\S+)$", text, re.M))
    found = re.findall(r"^FROM (\S+[:/]\S+) AS (\w+)$", text, re.M)
    return {stage: re.sub(r"\$\{(\w+)\}", lambda m: given[m[1]], name) for name, stage in found}


def boot_binary() -> pathlib.Path:
    """Beam's `boot`; built on first use (a minute or two)."""
    go = require("go", "building Beam's boot")

    def build(folder: pathlib.Path) -> None:
        run([go, "install", f"{_BOOT}@v{beam_version}"], folder, GOBIN=str(folder))
        (folder / "container").rename(folder / "boot")

    return assembled(f"boot-{beam_version}", build) / "boot"


def debian() -> pathlib.Path:
    """A Debian with Python 3.11 below a folder; made on first use (three minutes, 260 MB)."""
    debootstrap = require("debootstrap", "making a base image")

    def build(folder: pathlib.Path) -> None:
        root = folder / "root"
        options = ["--variant=minbase", f"--include={_PACKAGES}"]
        run([debootstrap, *options, "bookworm", str(root), _MIRROR], folder)
        # The official image's Python is no package of Debian's, and pip may install into it.
        for mark in root.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
            mark.unlink()

    return assembled("image-debian-bookworm", build) / "root"


def write_context(stage: str, folder: pathlib.Path) -> None:
    """Writes what a stand-in is built from, with a Dockerfile, into a folder.

    Args:
        stage: `beam` or `launcher`; `python` is built right from `debian()`.
        folder: An empty one.
    """
    if stage == "beam":
        (folder / "boot").write_bytes(boot_binary().read_bytes())
        (folder / "boot").chmod(0o755)
        for name in ("LICENSE", "NOTICE"):
            (folder / name).write_text("")
        files, place = "boot LICENSE NOTICE", "/opt/apache/beam/"
    else:
        (folder / "python_template_launcher").write_text("")
        files, place = "python_template_launcher", "/opt/google/dataflow/"
    (folder / "Dockerfile").write_text(f"FROM scratch\nCOPY {files} {place}\n")
