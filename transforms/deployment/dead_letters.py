# SPDX-License-Identifier: Apache-2.0
"""`KeepDeadLetters`: dead letters of a run that never ends, kept as they come.

A letter that comes again after a failure replaces itself: each is there exactly once.
"""

from __future__ import annotations

from typing import Any

import apache_beam as beam

from transforms.dead_letters import DeadLetter
from transforms.deployment.folder import DeploymentFolder
from transforms.deployment.stops import tell_stop
from transforms.letter_limit import too_many

__all__ = ["KeepDeadLetters"]


class KeepDeadLetters(beam.PTransform):
    """Keeps each dead letter: `PCollection[DeadLetter]` → nothing of use.

    Args:
        folder: The deployment's folder.
        limit: The job fails once more letters are open in the state directory; None for no limit.
            What it had read since its last checkpoint comes again, and nothing is lost.
    """

    def __init__(self, folder: str, limit: int | None = None) -> None:
        super().__init__()
        self._folder = folder
        self._limit = limit

    def expand(self, letters: Any) -> Any:
        """Keeps them."""
        keep = beam.ParDo(_KeepFn(self._folder, self._limit))
        return letters | "Keep" >> keep.with_output_types(DeadLetter)


class _KeepFn(beam.DoFn):
    def __init__(self, folder: str, limit: int | None) -> None:
        self._folder = DeploymentFolder(folder)
        self._box = self._folder.letters
        self._limit = limit

    def process(self, element: DeadLetter) -> None:
        """Keeps one letter.

        Raises:
            StateError: It cannot be written, or is one too many.
        """
        self._box.keep([element])
        if self._limit is None:
            return
        found = sum(self._box.counts().values())
        if found > self._limit:
            error = too_many(found, self._limit, self._box.path, [element])
            tell_stop(self._folder, element.table, error)
            raise error
