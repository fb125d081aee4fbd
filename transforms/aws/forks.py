# SPDX-License-Identifier: Apache-2.0
"""What a process that was forked must not go on with: threads, and locks that others may hold.

Of its parent's threads a forked process has only the one that forked. Whatever waits for another
one would wait for ever, so objects that own threads register here and begin anew in the child.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol

__all__ = ["begin_anew_in_child"]


class BeginsAnew(Protocol):
    """An object that owns threads, or things that live on threads."""

    def begin_anew(self) -> None:
        """Forgets threads, locks and what they held; called in the child, on its only thread."""
        ...


_registered: weakref.WeakSet[BeginsAnew] = weakref.WeakSet()


def begin_anew_in_child(each: BeginsAnew) -> None:
    """Has `each.begin_anew` called in every process that is forked while it lives."""
    _registered.add(each)


def _in_child() -> None:
    for each in list(_registered):
        each.begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
