# SPDX-License-Identifier: Apache-2.0
"""A server that tests start, wait for and stop, and may kill and start again."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import ClassVar, TypeVar

from tests.runners.processes import Process, wait_until

__all__ = ["Server"]

_START = 60
_S = TypeVar("_S", bound="Server")


class Server(abc.ABC):
    """A server as a process; a context manager that starts it, waits until it is up, and stops it.

    Attributes:
        name: For messages.
        process: The process, while it is started.
    """

    name: ClassVar[str]
    process: Process | None = None

    def __enter__(self: _S) -> _S:
        try:
            self.start()
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @abc.abstractmethod
    def launch(self) -> Process:
        """The process, just started."""

    @abc.abstractmethod
    def is_up(self) -> bool:
        """Whether it answers."""

    def start(self) -> None:
        """Starts it; does not wait."""
        assert self.process is None
        self.process = self.launch()

    def wait_ready(self) -> None:
        """Waits until it answers.

        Raises:
            ChildProcessError: It ended.
            TimeoutError: It takes too long.
        """
        self.wait_for(self.is_up, self.name)

    def wait_for(self, answer: Callable[[], bool], what: str, *others: Process) -> None:
        """Waits until something is true that takes this process, and perhaps others."""
        assert self.process is not None
        wait_until(answer, what, _START, [self.process, *others])

    def kill(self) -> None:
        """SIGKILL to the process and to what it has started."""
        assert self.process is not None
        self.process.kill(with_children=True)
        self._forget()

    def stop(self) -> None:
        """Ends it, and what it has started."""
        if self.process is not None:
            self._forget()

    def _forget(self) -> None:
        assert self.process is not None
        self.process.stop()
        self.process = None
