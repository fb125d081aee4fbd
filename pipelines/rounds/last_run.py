# SPDX-License-Identifier: Apache-2.0
"""How the last run in rounds on a state directory is, or how it ended: `last_run.json`.

The position document says what is read, not whether anybody reads on: a run that a gap stopped
leaves the same one as a run that caught up. So each run says beside it that it has begun, and how
it ended. A run that was killed says nothing more, and a reader finds it neither ended nor
holding the directory.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Literal

from dynabeam.pipelines.failures import meant_for_people
from dynabeam.transforms.errors import ConfigurationError, StateError, StateInUseError
from dynabeam.transforms.runtime.clock import now_us
from dynabeam.transforms.runtime.stored_format import DocumentFormat
from dynabeam.transforms.secrets import masked
from dynabeam.transforms.state.state_directory import StateDirectory
from dynabeam.transforms.storage import filesystem
from dynabeam.transforms.storage.versioned_file import VersionedFile

__all__ = ["LastRun", "Outcome", "read_last_run", "recorded"]

Outcome = Literal["running", "caught_up", "interrupted", "failed"]

_NAME = "last_run.json"


@dataclasses.dataclass
class LastRun:
    """A run.

    Attributes:
        began_us: When it began, microseconds since 1970.
        ended_us: When it ended; 0 while it runs, or if it was killed.
        outcome: How it ended.
        reason: Why, if it failed; secrets are masked.
        tables: What it read; empty if it did not come that far.
    """

    began_us: int
    ended_us: int = 0
    outcome: Outcome = "running"
    reason: str = ""
    tables: list[str] = dataclasses.field(default_factory=list)


_FILE = VersionedFile(
    LastRun,
    DocumentFormat(
        "the record of the last run", hint="Delete the file: the next run writes it again"
    ),
)


@contextlib.contextmanager
def recorded(directory: StateDirectory) -> Iterator[LastRun]:
    """Writes down that a run has begun, and how it ends.

    Args:
        directory: The state directory, held by the run.

    Yields:
        The run; whoever runs it names the tables.
    """
    before = read_last_run(directory)
    run = LastRun(now_us())
    _write(directory, run)
    try:
        yield run
    except ConfigurationError:
        # Nothing was begun: what was so before is still so.
        if before is None:
            filesystem.delete([_path(directory)], StateError)
        else:
            _write(directory, before)
        raise
    except StateInUseError:
        # Another run holds the directory by now: what is written there is its own.
        raise
    except Exception as problem:
        error = meant_for_people(problem)
        run.reason = masked(str(error) if error else f"{type(problem).__name__}: {problem}")
        _end(directory, run, "failed")
        raise
    except BaseException:
        _end(directory, run, "interrupted")
        raise
    _end(directory, run, "caught_up")


def read_last_run(directory: StateDirectory) -> LastRun | None:
    """The last run; None if none has said anything.

    Raises:
        StateError: The file is damaged, or of a newer version.
    """
    return _FILE.find(_path(directory))


def _end(directory: StateDirectory, run: LastRun, outcome: Outcome) -> None:
    run.outcome, run.ended_us = outcome, now_us()
    _write(directory, run)


def _write(directory: StateDirectory, run: LastRun) -> None:
    _FILE.write(_path(directory), run)


def _path(directory: StateDirectory) -> str:
    return filesystem.join(directory.path, _NAME)
