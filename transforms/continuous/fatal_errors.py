# SPDX-License-Identifier: Apache-2.0
"""Why a run cannot go on, where the command line looks for it: one small file a table.

A runner that restarts what has failed (Flink) does so for ever, and shows the reason in its own log
only. What a restart cannot fix is kept here before it is raised: lost changes under the policy
`fail`, and more dead letters than allowed. A command that resumes the run forgets it; if nothing
has changed, it is soon written again.
"""

from __future__ import annotations

import json
import os
from urllib.parse import quote, unquote

from dynabeam.transforms.continuous.control_folder import ControlFolder
from dynabeam.transforms.errors import DynabeamError, StateError
from dynabeam.transforms.runtime.stored_format import damage_told
from dynabeam.transforms.storage import filesystem

__all__ = ["clear_fatal_errors", "load_fatal_errors", "record_fatal_error"]


def record_fatal_error(folder: ControlFolder, table: str, error: DynabeamError) -> None:
    """Keeps why a table stops its run; the last error of a table counts.

    Raises:
        StateError: It cannot be written.
    """
    path = filesystem.join(folder.stops, f"{quote(table, safe='')}.json")
    filesystem.write_atomic(
        path, json.dumps(f"{type(error).__name__}: {error}").encode(), StateError
    )


def load_fatal_errors(folder: ControlFolder) -> dict[str, str]:
    """Why a run cannot continue: table → its error."""
    found = {}
    for path in filesystem.list_files(folder.stops):
        name = os.path.basename(path)
        if name.endswith(".json"):
            hint = "Remove the file: the run writes it again if it still cannot continue"
            with damage_told("the error that stopped a run", where=path, hint=hint):
                why = json.loads(filesystem.read_bytes(path, StateError))
                if not isinstance(why, str):
                    raise TypeError(f"a text was expected, not {type(why).__name__}")
            found[unquote(name.removesuffix(".json"))] = why
    return found


def clear_fatal_errors(folder: ControlFolder) -> None:
    """Forgets them, because the run is begun again."""
    filesystem.delete(filesystem.list_files(folder.stops), StateError)
