# SPDX-License-Identifier: Apache-2.0
"""Days that pass in no time between two runs, for programs that begin after them.

`python -m tests.runners.ahead ...` is `dynabeam ...`, and `tests.runners.boot` starts workers, with
a clock that is ahead by what has passed. Everything of ours takes the time from `time.time_ns`.
Beam and Flink keep the machine's time: what they measure is how long something takes, and no timer
of ours is set by the wall clock.

The variable `DYNABEAM_TEST_AHEAD` names the file that says how much, in nanoseconds.
"""

from __future__ import annotations

import os
import pathlib
import sys
import time
from datetime import timedelta

__all__ = ["VARIABLE", "Ahead", "go_ahead"]

VARIABLE = "DYNABEAM_TEST_AHEAD"
_MICROSECOND = timedelta(microseconds=1)


class Ahead:
    """What has passed.

    Args:
        file: Where it is kept.
    """

    def __init__(self, file: pathlib.Path) -> None:
        self._file = file
        file.write_text("0")

    @property
    def variables(self) -> dict[str, str]:
        """Environment of what is to go by it."""
        return {VARIABLE: str(self._file)}

    def let_pass(self, span: timedelta) -> None:
        """Lets time pass, for what is started later."""
        passed = int(self._file.read_text()) + span // _MICROSECOND * 1000
        self._file.write_text(str(passed))


def go_ahead() -> None:
    """Sets this process's clock ahead, if the variable says so."""
    path = os.environ.get(VARIABLE)
    if not path:
        return
    ahead, real = int(pathlib.Path(path).read_text()), time.time_ns
    time.time_ns = lambda: real() + ahead


if __name__ == "__main__":
    go_ahead()
    from dynabeam.pipelines.command_line import main

    # Without arguments, so that it is a process of its own to it.
    sys.exit(main())
