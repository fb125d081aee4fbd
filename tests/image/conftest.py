# SPDX-License-Identifier: Apache-2.0
"""The built image as a fixture. Without buildah: a failure in CI, a skip elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.image.buildah import Buildah
from tests.runners.conftest import or_skip

IMAGE = "dynabeam:test"


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buildah]:
    """A store with the image in it; prints how long building took."""

    def build() -> Buildah:
        made = Buildah(tmp_path_factory.mktemp("image"))
        began = time.monotonic()
        made.build(IMAGE)
        print(f"\nbuilt in {time.monotonic() - began:.0f} s")  # noqa: T201
        return made

    made = or_skip(build)
    yield made
    made.remove()


@pytest.fixture(scope="module")
def container(buildah: Buildah) -> str:
    """A container of the image: its name."""
    return buildah.container(IMAGE)
