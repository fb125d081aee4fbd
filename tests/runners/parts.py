# SPDX-License-Identifier: Apache-2.0
"""Where assembled runners are kept: once per machine, outside the tree, safe under parallel tests.

The cache is `$XDG_CACHE_HOME/dynabeam` (`~/.cache/dynabeam`). A part is built in a folder beside
its place and renamed when complete, under a file lock, so a reader never sees half of one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence

__all__ = ["AssemblyError", "MissingToolError", "assembled", "cache_folder", "require", "run"]

_TAIL = 4000


class MissingToolError(Exception):
    """This machine lacks a program that a runner needs; the text says which, and for what."""


class AssemblyError(Exception):
    """A program that fetches or builds a part of a runner failed; holds the end of its output."""


def cache_folder() -> pathlib.Path:
    """The folder of everything that is assembled once per machine."""
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(home) / "dynabeam"


def require(program: str, purpose: str) -> str:
    """The path of a program.

    Raises:
        MissingToolError: It is not on the PATH.
    """
    path = shutil.which(program)
    if path is None:
        raise MissingToolError(f"{purpose} needs `{program}`, which is not on the PATH")
    return path


def run(command: Sequence[str], folder: pathlib.Path, **variables: str) -> None:
    """Runs a program to its end.

    Args:
        command: The program and its arguments.
        folder: Where it runs.
        variables: Environment variables, added to this process's.

    Raises:
        AssemblyError: It failed.
    """
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        end = done.stdout[-_TAIL:]
        raise AssemblyError(f"{' '.join(command)} ended with {done.returncode}:\n{end}")


def assembled(name: str, build: Callable[[pathlib.Path], None]) -> pathlib.Path:
    """The folder `name` of the cache, built if it is not there yet.

    Args:
        name: What it holds, versions included: a folder is never changed once it is there.
        build: Fills an empty folder.

    Raises:
        AssemblyError: The build failed; nothing is left behind.
    """
    cache = cache_folder()
    place = cache / name
    if place.is_dir():
        return place
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / f"{name}.lock"):
        if not place.is_dir():
            building = pathlib.Path(tempfile.mkdtemp(prefix=f"{name}.", dir=cache))
            try:
                build(building)
                building.rename(place)
            finally:
                shutil.rmtree(building, ignore_errors=True)
    return place


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[None]:
    # The lock ends with the process, however that ends.
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
