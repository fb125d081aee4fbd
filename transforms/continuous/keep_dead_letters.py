# SPDX-License-Identifier: Apache-2.0
"""`KeepDeadLetters`: dead letters of a run that never ends, kept as they come.

A letter that comes again after a failure replaces itself: each is there exactly once.
"""

from __future__ import annotations

from typing import Any

import apache_beam as beam

from dynabeam.transforms.continuous.control_folder import ControlFolder
from dynabeam.transforms.continuous.fatal_errors import record_fatal_error
from dynabeam.transforms.dead_letters.limit import too_many
from dynabeam.transforms.model.dead_letter import DeadLetter

__all__ = ["KeepDeadLetters"]


_TOGETHER = 1000
_TOGETHER_BYTES = 8 << 20


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
        self._folder = ControlFolder(folder)
        self._box = self._folder.letters
        self._limit = limit
        self._letters: list[DeadLetter] = []
        self._size = 0

    def start_bundle(self) -> None:
        """Forgets what a bundle that failed has left; it comes again."""
        self._letters, self._size = [], 0

    def process(self, element: DeadLetter) -> None:
        """Takes one letter.

        Raises:
            StateError: They cannot be written, or are too many.
        """
        self._letters.append(element)
        self._size += len(element.raw)
        if len(self._letters) >= _TOGETHER or self._size >= _TOGETHER_BYTES:
            self._keep()

    def finish_bundle(self) -> None:
        """Keeps what the bundle has brought: nothing is passed over once it is finished.

        Raises:
            StateError: They cannot be written, or are too many.
        """
        self._keep()

    def _keep(self) -> None:
        letters, self._letters, self._size = self._letters, [], 0
        if not letters:
            return
        self._box.keep(letters)
        found = len(self._box.open_ids())
        if self._limit is not None and found > self._limit:
            error = too_many(found, self._limit, self._box.path, letters)
            record_fatal_error(self._folder, letters[-1].table, error)
            raise error
