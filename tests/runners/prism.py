# SPDX-License-Identifier: Apache-2.0
"""Prism, Beam's portable local runner, built from its Go module at our Beam's version."""

from __future__ import annotations

import pathlib

from apache_beam.version import __version__ as beam_version

from tests.runners.parts import assembled, require, run

__all__ = ["options", "prism_binary"]

_PACKAGE = "github.com/apache/beam/sdks/v2/go/cmd/prism"


def prism_binary() -> pathlib.Path:
    """The path of Prism's binary, for `--prism_location`; built on first use.

    Raises:
        MissingToolError: There is no Go.
        AssemblyError: The build failed.
    """
    go = require("go", "building Prism")
    return assembled(f"prism-{beam_version}", lambda folder: _build(go, folder)) / "prism"


def options(binary: pathlib.Path) -> list[str]:
    """Beam options of a pipeline that runs on Prism."""
    # A server of its own per pipeline: a job left in a shared one would outlive its test.
    return [
        "--runner=PrismRunner",
        f"--prism_location={binary}",
        "--environment_type=LOOPBACK",
        "--experiments=disable_prism_server_singleton",
    ]


def _build(go: str, folder: pathlib.Path) -> None:
    run([go, "install", f"{_PACKAGE}@v{beam_version}"], folder, GOBIN=str(folder))
