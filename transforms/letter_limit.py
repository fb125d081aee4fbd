# SPDX-License-Identifier: Apache-2.0
"""The error of a run that has met more dead letters than it may."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from transforms.dead_letters import DeadLetter
from transforms.errors import StateError

__all__ = ["too_many"]

_SHOWN = 3


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
        f"there are {found:,} dead letters, and {limit:,} may be: {' | '.join(shown)}",
        where="--max_dead_letters",
        expected=limit,
        found=found,
        mend=(
            f"See all with dynabeam dead_letters ({where}); mend the cause, or raise "
            "--max_dead_letters. Nothing is lost: the next run reads on from the last positions"
        ),
    )
