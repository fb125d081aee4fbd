# SPDX-License-Identifier: Apache-2.0
"""Mends what Beam has fixed since: splittable DoFns that defer leaked state on Flink (#27648).

Beam's runner before 2.76 keeps each residual of a splittable DoFn under a state name of its own, so
a reader that polls registers a new state with Flink at every turn: a RocksDB column family each,
some 50 ms, never given back (apache/beam, pull request 39191). The newest runner that Maven carries
is older. Here its counter of names is exchanged for a constant: a state belongs to one element, and
an element has one residual at a time, so one name per place in a bundle's answer is enough.
"""

from __future__ import annotations

import pathlib
import struct
import tempfile

from tests.runners.parts import require, run

__all__ = ["HANDLER", "constant_ids", "fixed"]

HANDLER = (
    "org/apache/beam/runners/fnexecution/control/"
    "BundleCheckpointHandlers$StateAndTimerBundleCheckpointHandler.class"
)
_COUNTER = b"org/apache/beam/sdk/fn/IdGenerators"
_CONSTANT = b"org/apache/beam/sdk/fn/ConstantId"
_SOURCE = """
package org.apache.beam.sdk.fn;

public final class ConstantId {
  public static IdGenerator incrementingLongs() {
    return () -> "0";
  }
}
"""


def fixed(handler: bytes) -> bytes:
    """The class with the constant in place of the counter.

    A class file names other classes in its pool of constants, each with its length before it.

    Raises:
        ValueError: It does not count: this release of Beam needs no fixing, or another one.
    """
    before = struct.pack(">BH", 1, len(_COUNTER)) + _COUNTER
    after = struct.pack(">BH", 1, len(_CONSTANT)) + _CONSTANT
    if handler.count(before) != 1:
        raise ValueError("Beam's handler of residuals has no counter of names")
    return handler.replace(before, after)


def constant_ids(classes: pathlib.Path) -> dict[str, bytes]:
    """Compiled classes to add: entry of the jar → content.

    Args:
        classes: Folder with Beam's jars.
    """
    compiler = require("javac", "fixing Beam's Flink runner")
    name = _CONSTANT.decode().rpartition("/")[2]
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder)
        (place / f"{name}.java").write_text(_SOURCE)
        run([compiler, "--release", "11", "-cp", f"{classes}/*", "-d", ".", f"{name}.java"], place)
        return {f"{_CONSTANT.decode()}.class": (place / f"{_CONSTANT.decode()}.class").read_bytes()}
