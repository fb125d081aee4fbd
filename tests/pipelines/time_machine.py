# SPDX-License-Identifier: Apache-2.0
"""Days that pass in no time, for the simulator and for the replication alike."""

import time
from datetime import timedelta
from types import SimpleNamespace

import dynabeam.pipelines.rounds.run

_MICROSECOND = timedelta(microseconds=1)


class TimeMachine:
    """Shifts the wall clock of this process together with a simulator's.

    Args:
        monkeypatch: pytest's.
        clock: The simulator's clock, at the present.
        pause: What passes when rounds pause.
    """

    def __init__(self, monkeypatch, clock, pause=timedelta(seconds=70)):
        self._clock = clock
        self._shift_ns = 0
        real = time.time_ns
        monkeypatch.setattr(time, "time_ns", lambda: real() + self._shift_ns)
        shim = SimpleNamespace(sleep=lambda _: self.let_pass(pause))
        monkeypatch.setattr(dynabeam.pipelines.rounds.run, "time", shim)

    def let_pass(self, span):
        """Lets time pass."""
        self._shift_ns += span // _MICROSECOND * 1000
        self._clock.advance(span)
