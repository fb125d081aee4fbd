# SPDX-License-Identifier: Apache-2.0
"""How many dead letters a run may have, and the error of one that has more.

Without a limit a single file of lines that are no items would fill a disk with letters. So they are
counted while a round runs, by each process that meets them, and exactly before it is committed.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable
from typing import Any

from dynabeam.transforms.dead_letters.store import DeadLetterStore
from dynabeam.transforms.errors import StateError
from dynabeam.transforms.model.dead_letter import DeadLetter

__all__ = ["DEFAULT_LIMIT", "DeadLetterLimit", "too_many"]

DEFAULT_LIMIT = 10_000
"""Open dead letters, unless `--max_dead_letters` says otherwise: no job of bad records is fine."""

_SHOWN = 3


class DeadLetterLimit:
    """Counts the letters of one round; picklable.

    Args:
        box: Where a few are shown once there are too many.
        limit: How many there may be.
        attempt: Distinguishes this round from others of the process.
    """

    def __init__(self, box: DeadLetterStore, limit: int, attempt: str) -> None:
        self._box = box
        self._limit = limit
        self._attempt = attempt

    def count(self, letter: DeadLetter) -> None:
        """Counts a letter.

        Raises:
            StateError: It is one too many.
        """
        with _lock:
            if _counted[0] != self._attempt:
                _counted[:] = [self._attempt, 0]
                _first.clear()
            _counted[1] += 1
            found = _counted[1]
            if found <= _SHOWN:
                _first.append(letter)
            shown = list(_first)
        if found > self._limit:
            raise too_many(found, self._limit, self._box.stop(shown), shown)


_lock = threading.Lock()
_counted: list[Any] = ["", 0]
"""The attempt whose dead letters are counted, and how many of them this process has seen."""
_first: list[DeadLetter] = []


def too_many(found: int, limit: int, where: str, letters: Iterable[DeadLetter]) -> StateError:
    """The error; it shows a few of the letters.

    Args:
        found: How many are open.
        limit: How many may be.
        where: Where they can be seen.
        letters: The newest.
    """
    shown = (f"{each.place}: {each.reason}" for each in itertools.islice(letters, _SHOWN))
    return StateError(
        f"there are {found:,} dead letters, more than the limit of {limit:,}: {' | '.join(shown)}",
        where="--max_dead_letters",
        expected=limit,
        found=found,
        hint=(
            f"See all with dynabeam dead_letters ({where}); fix the cause, or raise "
            "--max_dead_letters. Nothing is lost: the next run continues from the last positions"
        ),
    )
