# SPDX-License-Identifier: Apache-2.0
"""Programs that tests start, kill and start again; none of them outlives the tests.

Each runs in a session of its own, so that a kill may reach it alone or with all it started. A
reaper process watches this one through a pipe: when this one ends, even by SIGKILL, the reaper
kills whatever was not stopped.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

__all__ = ["ROOT", "Process", "free_ports", "is_listening", "wait_until"]

ROOT = pathlib.Path(__file__).resolve().parents[2]
_POLL = 0.05
_PORTS = range(15_000, 32_000)
_TAIL = 3000
_T = TypeVar("_T")

_REAPER = """
import os, signal, sys
alive = set()
for line in sys.stdin:
    (alive.add if line[0] == "+" else alive.discard)(int(line[1:]))
for group in alive:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass
"""
_lock = threading.Lock()
_reapers: dict[int, subprocess.Popen[str]] = {}


def _tell_reaper(line: str) -> None:
    with _lock:
        reaper = _reapers.get(os.getpid())  # a forked child has its own
        if reaper is None:
            reaper = subprocess.Popen(
                [sys.executable, "-S", "-c", _REAPER],
                stdin=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            _reapers[os.getpid()] = reaper
            atexit.register(_end_reaper, os.getpid())
        assert reaper.stdin is not None
        reaper.stdin.write(line + "\n")
        reaper.stdin.flush()


def _end_reaper(owner: int) -> None:
    """At the end of the process that started it; one that was forked from that leaves it alone."""
    if os.getpid() == owner:
        reaper = _reapers.pop(owner)
        assert reaper.stdin is not None
        reaper.stdin.close()
        reaper.wait(10)


class Process:
    """A program under test, running from the moment this is made.

    Args:
        name: For messages.
        command: The program and its arguments.
        log: Where its output is appended.
        variables: Environment variables, added to this process's.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: pathlib.Path,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **(variables or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        _tell_reaper(f"+{self.pid}")

    @property
    def pid(self) -> int:
        """The process id, which is also that of its group."""
        return self._popen.pid

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return self._popen.poll() is None

    @property
    def returncode(self) -> int | None:
        """How it ended: None while it runs, negative for a signal."""
        return self._popen.poll()

    def kill(self, *, with_children: bool = False) -> None:
        """SIGKILL, and wait for the end.

        Args:
            with_children: Also everything in its process group, as when a machine is lost.
        """
        if with_children:
            self._signal_group(signal.SIGKILL)
        else:
            self._popen.kill()
        self._popen.wait()

    def interrupt(self, seconds: float) -> int:
        """SIGINT, as Ctrl-C sends it, and wait for the end; returns the exit status.

        Raises:
            TimeoutError: See `wait`.
        """
        self._popen.send_signal(signal.SIGINT)
        return self.wait(seconds)

    def stop(self, seconds: float = 10) -> None:
        """SIGTERM, and after so many seconds SIGKILL; then SIGKILL to what is left of its group."""
        self._popen.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(seconds)
        self._signal_group(signal.SIGKILL)
        self._popen.wait()
        _tell_reaper(f"-{self.pid}")

    def tail(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-_TAIL:]

    def wait(self, seconds: float) -> int:
        """Waits for its end.

        Returns:
            The exit status.

        Raises:
            TimeoutError: It was still running; SIGABRT has ended it, to which a Python with
                `-X faulthandler` answers where it hung.
        """
        try:
            return self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self._popen.send_signal(signal.SIGABRT)
            self._popen.wait()
            raise TimeoutError(f"{self.name} ran for {seconds} s:\n{self.tail()}") from None

    def _signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)


def wait_until(
    answer: Callable[[], _T | None],
    what: str,
    seconds: float,
    needed: Sequence[Process] = (),
) -> _T:
    """Asks until there is an answer that is true.

    Args:
        answer: The question.
        what: For the error's text.
        seconds: How long to go on.
        needed: Processes without which there will be none.

    Raises:
        TimeoutError: No answer in time.
        ChildProcessError: A needed process has ended.
    """
    deadline = time.monotonic() + seconds
    while True:
        found = answer()
        if found:
            return found
        for process in needed:
            if not process.is_alive:
                raise ChildProcessError(
                    f"{process.name} ended with {process.returncode}:\n{process.tail()}"
                )
        if time.monotonic() > deadline:
            tails = "".join(f"\n--- {process.name}:\n{process.tail()}" for process in needed)
            raise TimeoutError(f"no {what} after {seconds} s{tails}")
        time.sleep(_POLL)


def free_ports(count: int) -> list[int]:
    """So many different ports of the loopback interface that nobody listens on now.

    Below those that the system gives to outgoing connections, so that none of these takes a port
    before, or between a kill and a new start, its server does.
    """
    found: list[int] = []
    for port in random.SystemRandom().sample(_PORTS, len(_PORTS)):
        with contextlib.suppress(OSError), socket.socket() as probe:
            # As servers do: connections of one that was killed may linger.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise OSError(f"fewer than {count} ports are free from {_PORTS.start} to {_PORTS.stop}")


def is_listening(port: int) -> bool:
    """Whether the loopback interface takes connections on the port."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False
