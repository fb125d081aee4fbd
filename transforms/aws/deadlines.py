# SPDX-License-Identifier: Apache-2.0
"""Deadlines of what is in flight: one thread of the process watches all of them.

AWS's C runtime bounds how long a connection takes to be made, but not how long an answer takes to
come, and an answer that comes byte by byte never ends.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable

from dynabeam.transforms.aws.forks import reset_in_child

__all__ = ["Deadlines", "deadlines"]

_LOGGER = logging.getLogger(__name__)
_CHECK_SECONDS = 1.0


class Deadlines:
    """Things to do unless they are cancelled in time, to the second; thread-safe."""

    def __init__(self) -> None:
        self.reset_after_fork()
        reset_in_child(self)

    def reset_after_fork(self) -> None:
        """Forgets everything."""
        self._numbers = itertools.count()
        self._pending: dict[int, tuple[float, Callable[[], None]]] = {}
        self._added = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, seconds: float, do: Callable[[], None]) -> int:
        """Schedules something, to be done on a thread that must not be blocked.

        Args:
            seconds: From now.
            do: What to do then.

        Returns:
            A number to cancel it by.
        """
        number = next(self._numbers)
        self._pending[number] = time.monotonic() + seconds, do
        if not self._added.is_set():
            self._added.set()
        if self._thread is None:
            self._start()
        return number

    def cancel(self, number: int) -> None:
        """Cancels it, unless it is being done already."""
        self._pending.pop(number, None)

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                # A daemon, because the process ends without it: who waits is gone then as well.
                self._thread = threading.Thread(
                    target=self._watch, name="dynabeam-deadlines", daemon=True
                )
                self._thread.start()

    def _watch(self) -> None:
        while True:
            self._added.clear()
            if not self._pending:
                self._added.wait()
            now = time.monotonic()
            for number, (at, do) in self._pending.copy().items():
                if at <= now and self._pending.pop(number, None) is not None:
                    try:
                        do()
                    except BaseException:
                        # The others' deadlines have to be kept.
                        _LOGGER.exception("a deadline could not be kept")
            nearest = min((at for at, _ in self._pending.copy().values()), default=now)
            time.sleep(min(_CHECK_SECONDS, max(0.01, nearest - now)))


deadlines = Deadlines()
"""Those of this process."""
