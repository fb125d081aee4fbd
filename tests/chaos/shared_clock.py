# SPDX-License-Identifier: Apache-2.0
"""A clock that a test moves while others go by it: the simulator, and runs of `dynabeam`.

`python -m tests.chaos.shared_clock replicate ...` is `dynabeam replicate ...` by this clock, and
perhaps by one that is off, with a lease of another length. Everything of ours takes the time from
`time.time_ns`; what measures how long something takes has clocks of its own, which stay as they
are. The variables say how; the file holds two numbers of 64 bits:

| at | what |
|---|---|
| 0 | nanoseconds that have passed beside the real ones |
| 8 | the last process that has all its imports, and begins |
"""

from __future__ import annotations

import functools
import mmap
import os
import pathlib
import struct
import sys
import time
from datetime import timedelta

__all__ = ["SharedClock"]

_FILE = "DYNABEAM_TEST_CLOCK"
_WRONG = "DYNABEAM_TEST_CLOCK_WRONG_NS"
_LEASE = "DYNABEAM_TEST_LEASE_SECONDS"
_PASSED, _BEGUN, _SIZE = 0, 8, 16
_MICROSECOND = timedelta(microseconds=1)


class SharedClock:
    """The time of a simulator and of processes.

    Args:
        file: Where it is kept; made here.
        service: The simulator's clock, at the present.
    """

    def __init__(self, file: pathlib.Path, service) -> None:
        file.write_bytes(bytes(_SIZE))
        self._file = file
        self._memory = _memory_of(file)
        self._service = service

    def variables(self, wrong: timedelta, lease_seconds: float) -> dict[str, str]:
        """Environment of a run.

        Args:
            wrong: How far its own clock is ahead of the right time.
            lease_seconds: How long its leases hold.
        """
        return {
            _FILE: str(self._file),
            _WRONG: str(wrong // _MICROSECOND * 1000),
            _LEASE: str(lease_seconds),
        }

    def let_pass(self, span: timedelta) -> None:
        """Lets time pass at once, for all."""
        # The service first: what it has stamped is never from the future for long.
        self._service.advance(span)
        (passed,) = struct.unpack_from("<q", self._memory, _PASSED)
        struct.pack_into("<q", self._memory, _PASSED, passed + span // _MICROSECOND * 1000)

    def has_begun(self, process_id: int) -> bool:
        """Whether a run has all its imports, which take seconds, and begins."""
        return struct.unpack_from("<q", self._memory, _BEGUN) == (process_id,)


def _memory_of(file: pathlib.Path) -> mmap.mmap:
    with file.open("r+b") as opened:
        return mmap.mmap(opened.fileno(), _SIZE)


def _go_by_it() -> mmap.mmap:
    memory, wrong = _memory_of(pathlib.Path(os.environ[_FILE])), int(os.environ[_WRONG])
    real = time.time_ns

    def now() -> int:
        return real() + struct.unpack_from("<q", memory, _PASSED)[0] + wrong

    time.time_ns = now
    return memory


if __name__ == "__main__":
    from dynabeam.pipelines import stop_signals

    # As in a command's own process: before the imports that take seconds.
    stop_signals.install()
    shared = _go_by_it()

    import dynabeam.pipelines.replicate
    from dynabeam.pipelines.command_line import main
    from dynabeam.transforms.state.state_directory import StateDirectory

    dynabeam.pipelines.replicate.StateDirectory = functools.partial(
        StateDirectory, lease_seconds=float(os.environ[_LEASE])
    )
    struct.pack_into("<q", shared, _BEGUN, os.getpid())
    # Without arguments, so that it is a process of its own to it.
    sys.exit(main())
