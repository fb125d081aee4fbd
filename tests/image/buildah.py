# SPDX-License-Identifier: Apache-2.0
"""Buildah without a daemon: builds the image and runs programs in it, as root, by chroot.

Images live in a folder of the test's own and go with it. vfs copies instead of stacking: it needs
no right to mount, and some times the image's size of disk.
"""

from __future__ import annotations

import configparser
import os
import pathlib
import subprocess
import sys
from collections.abc import Sequence

from tests.image.base_images import DOCKERFILE, debian, names, write_context
from tests.runners.parts import MissingToolError, require, run
from tests.runners.processes import ROOT

__all__ = ["Buildah"]

_CA = "/run/secrets/ca.crt"


class Buildah:
    """Images in a folder.

    Args:
        folder: For images and containers; a few GB.

    Raises:
        MissingToolError: This machine lacks buildah or the rights of root.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        buildah = require("buildah", "building the image")
        if os.geteuid() != 0:
            raise MissingToolError("building the image needs root: it makes Debian's file system")
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        stores = [f"--root={folder / 'images'}", f"--runroot={folder / 'run'}"]
        self._buildah = [buildah, *stores, "--storage-driver=vfs"]

    def build(self, image: str) -> None:
        """Builds the Dockerfile, on stand-ins of what it begins with."""
        self._stand_ins()
        secrets = self._pip_of_this_machine()
        ignored = f"--ignorefile={DOCKERFILE}.dockerignore"
        self._build(image, DOCKERFILE, ROOT, "--layers=false", ignored, *secrets)

    def container(self, image: str) -> str:
        """A container of an image, for `command`; returns its name."""
        return self.ask("from", "--pull-never", image).strip()

    def command(
        self, container: str, words: Sequence[str], *, user: str = "", options: Sequence[str] = ()
    ) -> list[str]:
        """What runs a program in a container, on this machine's network."""
        as_user = [f"--user={user}"] if user else []
        isolated = ["run", "--isolation=chroot", *as_user, *options]
        return [*self._buildah, *isolated, container, "--", *words]

    def ask(self, *words: str) -> str:
        """Runs buildah; returns what it prints.

        Raises:
            AssertionError: It failed.
        """
        return self._done([*self._buildah, *words])

    def output(self, container: str, *words: str, user: str = "") -> str:
        """What a program in a container prints."""
        return self._done(self.command(container, words, user=user))

    def mounted(self, container: str) -> pathlib.Path:
        """The container's files."""
        return pathlib.Path(self.ask("mount", container).strip())

    def remove(self) -> None:
        """Removes all containers and images."""
        self.ask("rm", "--all")
        self.ask("rmi", "--all", "--force")

    def _stand_ins(self) -> None:
        for stage, name in names().items():
            context = self.folder / f"base-{stage}"
            context.mkdir()
            if stage == "python":
                file = context / "Dockerfile"
                file.write_text("FROM scratch\nCOPY . /\n")
                self._build(name, file, debian())
            else:
                write_context(stage, context)
                self._build(name, context / "Dockerfile", context)

    def _build(self, image: str, file: pathlib.Path, context: pathlib.Path, *more: str) -> None:
        how = ["bud", "--isolation=chroot", "--pull-never", *more, f"--file={file}"]
        run([*self._buildah, *how, f"--tag={image}", str(context)], self.folder)

    def _pip_of_this_machine(self) -> list[str]:
        """Its index and certificate as secrets of the build: no layer keeps them."""
        listed = self._done([sys.executable, "-m", "pip", "config", "list"])
        config = configparser.ConfigParser(interpolation=None)
        config["global"] = {}
        secrets = []
        for line in listed.splitlines():
            key, _, value = line.partition("=")
            name = key.rpartition(".")[2]
            if name == "cert":
                secrets.append(f"--secret=id=ca.crt,src={value.strip(chr(39))}")
                value = _CA
            if name in {"cert", "index-url", "extra-index-url", "timeout", "default-timeout"}:
                config["global"][name] = value.strip("'")
        path = self.folder / "pip.conf"
        with path.open("w") as file:
            config.write(file)
        return [*secrets, f"--secret=id=pip.conf,src={path}"]

    def _done(self, command: Sequence[str]) -> str:
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=self.folder)
        assert done.returncode == 0, (
            f"{' '.join(command)}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        )
        return done.stdout
