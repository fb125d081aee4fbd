# SPDX-License-Identifier: Apache-2.0
"""What a forked process must not inherit: threads, and locks that others may hold.

Of its parent's threads a forked process has only the one that forked. Whatever waits for another
one would wait for ever, so objects that own threads register here and are reset in the child.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol

__all__ = ["reset_in_child"]


class ResetsAfterFork(Protocol):
    """An object that owns threads, or things that live on threads."""

    def reset_after_fork(self) -> None:
        """Forgets threads, locks and what they held; called in the child, on its only thread."""
        ...


_registered: weakref.WeakSet[ResetsAfterFork] = weakref.WeakSet()


def reset_in_child(each: ResetsAfterFork) -> None:
    """Has `each.reset_after_fork` called in every process that is forked while it lives."""
    _registered.add(each)


def _in_child() -> None:
    for each in list(_registered):
        each.reset_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
