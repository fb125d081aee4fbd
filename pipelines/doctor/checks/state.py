# SPDX-License-Identifier: Apache-2.0
"""The state directory: that it can be written, is not in use, can be read, and has room."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from apache_beam.io.filesystem import BeamIOError

from dynabeam.pipelines.doctor.checks.finding import Finding, failure, of_error, ok, warning
from dynabeam.transforms.errors import DynabeamError, StateError
from dynabeam.transforms.state.state_directory import StateDirectory
from dynabeam.transforms.storage import filesystem

__all__ = ["room_finding", "state_findings"]

_WHY = "positions that cannot be stored are lost with the process"
_LITTLE = 1 << 30


def state_findings(path: str, *, needed: int) -> Iterator[Finding]:
    """Findings of the state directory; nothing is written to it.

    Args:
        path: Where it is.
        needed: Bytes that a round may stage there.
    """
    directory = StateDirectory(path)
    try:
        if filesystem.is_local(directory.path):
            free_at = filesystem.check_folder(directory.path, StateError)
        directory.check_free()
        state = directory.load()
    except DynabeamError as error:
        yield of_error("state", path, error, why=_WHY)
        return
    except BeamIOError as error:
        yield failure(
            "state",
            path,
            f"it cannot be read: {error}",
            why=_WHY,
            hint="See the findings of the permissions on this folder",
        )
        return
    if state.number or state.tables:
        yield ok("state", path, f"round {state.number}, {len(state.tables)} tables")
    else:
        yield ok("state", path, "new")
    if filesystem.is_local(directory.path):
        yield room_finding(path, shutil.disk_usage(free_at).free, needed)


def room_finding(path: str, free: int, needed: int) -> Finding:
    """Whether there is room for what a round stages."""
    text = f"{free >> 20:,} MiB free"
    hint = "Free some, give another --state_dir, or a smaller --round_bytes"
    if free < needed:
        return failure("room", path, text, why=f"a round may need {needed >> 20:,} MiB", hint=hint)
    if free < _LITTLE:
        why = "a round that finds no room fails, and is repeated"
        return warning("room", path, text, why=why, hint=hint)
    return ok("room", path, text)
