# SPDX-License-Identifier: Apache-2.0
"""How many examples a test takes, and how long one may last before it counts as a hang."""

import functools
import signal

from hypothesis import HealthCheck, settings

SECONDS = 20.0
_FEWEST = 3


class HangError(BaseException):
    """An example did not end; not an `Exception`, so that nothing passes it over."""


def cases(share=1.0):
    """Takes that share of the profile's examples, each watched by an alarm.

    Stands above `given`; the test is a function of one process's main thread.
    """

    def decorate(test):
        count = max(_FEWEST, round(settings.default.max_examples * share))
        test.hypothesis.inner_test = _watched(test.hypothesis.inner_test)
        return settings(
            max_examples=count,
            deadline=None,
            suppress_health_check=[
                *(HealthCheck.too_slow, HealthCheck.data_too_large),
                *(HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much),
            ],
        )(test)

    return decorate


def _watched(test):
    @functools.wraps(test)
    def watched(*arguments, **named):
        def ring(signum, frame):
            raise HangError(f"an example took more than {SECONDS:.0f} s")

        before = signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            return test(*arguments, **named)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    return watched
