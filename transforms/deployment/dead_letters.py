# SPDX-License-Identifier: Apache-2.0
"""`KeepDeadLetters`: dead letters of a run that never ends, one file each.

A file's name is the digest of its letter, so a letter that comes again after a failure replaces
itself: each is there exactly once.
"""

from __future__ import annotations

import hashlib
from typing import Any

import apache_beam as beam
from apache_beam.metrics.metric import Metrics

from transforms import storage
from transforms.dead_letters import DeadLetter
from transforms.deployment.folder import DeploymentFolder
from transforms.errors import StateError

__all__ = ["KeepDeadLetters"]


class KeepDeadLetters(beam.PTransform):
    """Writes each dead letter to a file: `PCollection[DeadLetter]` → nothing of use.

    Args:
        folder: The deployment's folder.
    """

    def __init__(self, folder: str) -> None:
        super().__init__()
        self._folder = folder

    def expand(self, letters: Any) -> Any:
        """Writes them."""
        return letters | "Keep" >> beam.ParDo(_KeepFn(self._folder)).with_output_types(DeadLetter)


class _KeepFn(beam.DoFn):
    def __init__(self, folder: str) -> None:
        self._folder = DeploymentFolder(folder)
        self._kept = Metrics.counter("dynabeam", "dead_letters")

    def process(self, element: DeadLetter) -> None:
        """Writes one letter."""
        line = element.to_line()
        name = hashlib.sha256(line).hexdigest()[:32]
        storage.write_atomic(self._folder.dead_letters(name), line, StateError)
        self._kept.inc()
