# SPDX-License-Identifier: Apache-2.0
"""SIGINT, SIGTERM and SIGHUP: a command ends where nothing has to be repeated, and without noise.

| when a signal comes | what happens |
|---|---|
| inside `finishing` (a round, a job to be cancelled) | it is finished, then the command ends |
| anywhere else, from the first import on | `Stopped` ends the command, through its `finally`s |
| a second time, or `Stopped` did not get through | the process ends at once |

The exit code is 128 and the signal's number: 130 after SIGINT, 143 after SIGTERM. Ending at once is
no harm to a replication, which survives `kill -9` at any point; it only repeats work. The cursor is
shown again, and the state directory given back, all the same.

Signals are handled twice: Python's handler runs in the main thread once that is back from whatever
it has called; a thread of our own learns of them by a pipe at once, and so also ends a process
whose main thread never comes back. Nothing here is installed in a process that merely imports this
package, or calls a command as a function: there Ctrl-C is `KeyboardInterrupt`, as always.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

__all__ = [
    "GOES_ON",
    "Stopped",
    "before_the_end",
    "deferred",
    "end_at_once",
    "finishing",
    "install",
    "install_for_command",
    "over",
    "requested",
]

GOES_ON = "dynabeam: interrupted; run again to continue from the last round\n"

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_GRACE_SECONDS = 10.0
"""How long `Stopped` may take to get through."""
_CLEANUP_SECONDS = 5.0
_ONE_PRESS_SECONDS = 0.2
_SHOW_CURSOR = b"\x1b[?25h"


class Stopped(SystemExit):
    """A signal asked this process to end; the exit code of one that nobody catches is right."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


class _Signals:
    """What has happened so far. One per process."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Nothing has happened."""
        self.installed = False
        self.number = 0
        self.count = 0
        self.at = 0.0
        self.deferred = 0
        self.raised = False
        self.over = False
        self.what = ""
        self.cleanups: list[Callable[[], None]] = []
        self.ending = threading.Lock()


_now = _Signals()


def install() -> Callable[[], None]:
    """Handles signals from now on; only in the main thread, and nothing if that is done already.

    One that is ignored, as by `nohup`, stays so.

    Returns:
        Puts everything back.
    """
    if _now.installed or threading.current_thread() is not threading.main_thread():
        return lambda: None
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = {each: signal.getsignal(each) for each in _SIGNALS}
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for each, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(each, _on_signal)
    unraisable = sys.unraisablehook
    sys.unraisablehook = _unraisable
    _now.installed = True
    threading.Thread(target=_watch, args=(reader,), name="dynabeam-signals", daemon=True).start()

    def uninstall() -> None:
        for each, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(each, handler)
        signal.set_wakeup_fd(wakeup)
        sys.unraisablehook = unraisable
        os.close(writer)  # which ends the thread
        _now.reset()

    return uninstall


def install_for_command() -> None:
    """Handles signals if this process is a command of ours, which it is from its start."""
    words = sys.orig_argv
    module = words[words.index("-m") + 1 :][:1] if "-m" in words else []
    script = os.path.basename(sys.argv[0]) if sys.argv else ""
    ours = bool(module) and module[0].startswith(("pipelines.", "dynabeam.pipelines."))
    if (ours or script in ("dynabeam", "dynabeam.exe")) and not _now.installed:
        install()


def requested() -> int:
    """The number of the first signal that came; 0 for none."""
    return _now.number


def over() -> None:
    """The command has ended: what comes now ends the process, without an exception on its way."""
    _now.over = _now.installed


@contextlib.contextmanager
def deferred(what: str) -> Iterator[None]:
    """Within this a first signal is only noted; see `requested`.

    Args:
        what: What goes on until its end, for people.
    """
    _now.deferred += 1
    _now.what = what
    try:
        yield
    finally:
        _now.deferred -= 1


@contextlib.contextmanager
def finishing(what: str) -> Iterator[None]:
    """Within this a first signal waits for the end.

    Args:
        what: What is finished, for people.

    Raises:
        Stopped: At the end, if a signal came.
    """
    with deferred(what):
        yield
    if _now.number and not _now.deferred:
        _now.raised = True
        raise Stopped(_now.number)


@contextlib.contextmanager
def before_the_end(cleanup: Callable[[], None]) -> Iterator[None]:
    """Has something called, by another thread, if the process is ended at once within this.

    Args:
        cleanup: Is not waited for longer than a few seconds.
    """
    _now.cleanups.append(cleanup)
    try:
        yield
    finally:
        _now.cleanups.remove(cleanup)


def end_at_once(error: Exception) -> None:
    """Ends this process because of an error that allows no further step; only a command's own.

    In any other process nothing happens here: whoever writes finds out before the next write.
    """
    if not _now.installed:
        return
    # Here, so that the first import of a command stays the lightest.
    from dynabeam.transforms.telemetry.logs import writes_json  # noqa: PLC0415

    _now.cleanups.clear()
    text = f"{type(error).__name__}: {error}"
    if writes_json():
        # Whoever reads the log reads nothing else. By a thread, as its lock may be held for ever.
        log = logging.getLogger("dynabeam.pipelines")
        teller = threading.Thread(target=log.error, args=("%s", text), daemon=True)
        teller.start()
        teller.join(_CLEANUP_SECONDS)
        _end(1, "")
    _end(1, f"dynabeam: {text}\n")


def _on_signal(number: int, frame: FrameType | None) -> None:
    del frame
    _now.number = _now.number or number
    if not _now.deferred and not _now.raised and not _now.over:
        _now.raised = True
        raise Stopped(_now.number)


def _watch(reader: int) -> None:
    until: float | None = None
    while True:
        ready, _, _ = select.select([reader], [], [], 0.2 if _now.number else None)
        if ready:
            came = os.read(reader, 64)
            if not came:
                os.close(reader)
                return
            for number in came:
                if number in _SIGNALS:
                    _met(number)
        if _now.number and not _now.deferred:
            until = until or time.monotonic() + _GRACE_SECONDS
            if time.monotonic() >= until:
                _end(128 + _now.number, GOES_ON)


def _met(number: int) -> None:
    first, at = _now.number, time.monotonic()
    if _now.count and number == first and at - _now.at < _ONE_PRESS_SECONDS:
        return  # A wrapper passes on what the terminal has sent to the whole group already.
    _now.count += 1
    _now.at = at
    _now.number = _now.number or number
    if _now.count > 1 or _now.over:
        _end(128 + _now.number, "" if _now.over else GOES_ON)
    elif _now.deferred:
        _write(f"dynabeam: stopping after {_now.what}; a second signal stops at once\n")


def _unraisable(problem: Any) -> None:
    if isinstance(problem.exc_value, Stopped):
        # It came in a place that cannot pass it on, such as a destructor.
        _end(128 + _now.number, GOES_ON)
    sys.__unraisablehook__(problem)


def _end(code: int, text: str) -> NoReturn:
    """Ends the process; whatever its other threads are doing stops there."""
    _now.ending.acquire()  # for ever: there is one end
    _write(text)
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):
            if os.isatty(descriptor):
                os.write(descriptor, _SHOW_CURSOR)
    # By another thread: what it needs may be locked by one that is not going to go on.
    cleaner = threading.Thread(target=_clean, args=(list(_now.cleanups),), daemon=True)
    cleaner.start()
    cleaner.join(_CLEANUP_SECONDS)
    os._exit(code)


def _clean(cleanups: list[Callable[[], None]]) -> None:
    for each in reversed(cleanups):
        each()


def _write(text: str) -> None:
    # Not by `sys.stderr`: another thread may hold its lock.
    with contextlib.suppress(OSError):
        os.write(2, text.encode())


def _forget_in_child() -> None:
    """A forked child has no thread that reads the pipe, and must not write into its parent's."""
    if _now.installed:
        signal.set_wakeup_fd(-1)
        for each in _SIGNALS:
            if signal.getsignal(each) is _on_signal:
                signal.signal(each, signal.SIG_DFL)
        _now.reset()


os.register_at_fork(after_in_child=_forget_in_child)
