# SPDX-License-Identifier: Apache-2.0
"""Shared test set-up: hypothesis profiles, logs."""

import contextlib
import logging
import os

import pytest
from hypothesis import HealthCheck, settings

from dynabeam.transforms.aws import beam_s3, session
from dynabeam.transforms.runtime import clock
from dynabeam.transforms.runtime.beam_introspection import remember_signatures

_SLOW_MACHINES = [HealthCheck.too_slow, HealthCheck.data_too_large]

settings.register_profile(
    "ci", derandomize=True, deadline=None, print_blob=True, suppress_health_check=_SLOW_MACHINES
)
settings.register_profile("dev", deadline=None, suppress_health_check=_SLOW_MACHINES)
settings.register_profile(
    "deep", max_examples=3000, deadline=None, suppress_health_check=_SLOW_MACHINES
)
settings.load_profile("ci" if os.environ.get("CI") else "dev")

# As every command that builds graphs does it, for the tests of single transforms.
remember_signatures()


@pytest.fixture(autouse=True)
def _own_clock():
    """No test inherits the clock of a service that another one asked."""
    clock._Offset.us = 0
    yield
    clock._Offset.us = 0


@pytest.fixture(autouse=True)
def _own_environment():
    """A command tells its workers by the environment where S3 is; no test inherits that."""
    with _restored_environment():
        yield


@pytest.fixture(autouse=True, scope="module")
def _environment_of_a_file():
    """The same of fixtures that outlive a test."""
    with _restored_environment():
        yield


@contextlib.contextmanager
def _restored_environment():
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(autouse=True)
def _own_clients():
    """Clients of a service that ended with its test take 20 MB and some sockets each."""
    yield
    for kept in (session._clients, beam_s3._clients, beam_s3._plain_clients):
        kept.clear()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Slow files go first, and those that start clusters, of which one runs at a time, are spread.

    At the end one of the processes would wait for them alone.
    """
    files = {}
    for each in items:
        files.setdefault(each.path, []).append(each)

    def marked(name, how):
        return [p for p, tests in files.items() if how(t.get_closest_marker(name) for t in tests)]

    waiting = marked("runner", any)
    slow = [path for path in marked("slow", all) if path not in waiting]
    order = slow + [path for path in files if path not in waiting and path not in slow]
    step = len(order) // max(1, len(waiting))
    for at, path in enumerate(waiting):
        order.insert(at * (step + 1), path)
    items[:] = [each for path in order for each in files[path]]


@pytest.fixture(autouse=True)
def _log_of_commands():
    """Takes away the log that a command has set up: its stream ends with the test.

    What a worker in this process has done to the handlers of pytest is taken back too.
    """
    root = logging.getLogger()
    before = root.level
    handlers = [(each, each.formatter, list(each.filters)) for each in root.handlers]
    yield
    for each, formatter, filters in handlers:
        each.setFormatter(formatter)
        each.filters[:] = filters
    for each in [each for each in root.handlers if type(each) is logging.StreamHandler]:
        root.removeHandler(each)
    root.setLevel(before)
