# SPDX-License-Identifier: Apache-2.0
"""A fence around what a run writes: once it has lost its lease, it changes no file any more.

The driver of a run enters the fence when it takes the state directory (`transforms.storage.lease`),
and `transforms.storage.filesystem` checks it before it writes, moves or deletes. A check and the
request after it are two steps, and a process can be stopped between them for any time; what makes
such a late request harmless is said where the request is made: the position document is replaced by
compare-and-swap, files of two attempts never share a name, and what is deleted was listed before
the look.

The fence belongs to the thread that entered it: a process may drive several directories.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

__all__ = ["check_fence", "fenced"]

_checks: ContextVar[tuple[Callable[[], None], ...]] = ContextVar("checks", default=())


@contextlib.contextmanager
def fenced(check: Callable[[], None]) -> Iterator[None]:
    """Has `check` called before each change of a file, by this thread, until the end.

    Args:
        check: Raises a `StateError` once nothing may be written any more.
    """
    token = _checks.set((*_checks.get(), check))
    try:
        yield
    finally:
        _checks.reset(token)


def check_fence() -> None:
    """Does nothing while this thread may write.

    Raises:
        StateError: It may not: another run has taken over, or may do so at any moment.
    """
    for check in _checks.get():
        check()
