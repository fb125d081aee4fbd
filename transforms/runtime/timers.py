# SPDX-License-Identifier: Apache-2.0
"""Times of event-time timers, on which all runners agree.

Beam's Python counts microseconds. Runners in Java (Flink, Dataflow) keep milliseconds, rounded
down: there a timer fires up to a millisecond before the time for which it was set, and is told that
earlier time. What then compares the two finds that it is not time yet, sets the timer again, which
fires at once, and so on for ever; the watermark hardly moves any more meanwhile. So timers are set
for whole milliseconds, rounded up.
"""

from __future__ import annotations

from apache_beam.utils.timestamp import Timestamp

__all__ = ["ceil_to_millis"]

_MILLI_US = 1000


def ceil_to_millis(us: int) -> Timestamp:
    """The first time, in whole milliseconds, that is not before a time in microseconds."""
    return Timestamp(micros=-(-us // _MILLI_US) * _MILLI_US)
