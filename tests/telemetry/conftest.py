# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the telemetry's tests: a simulated account and the runs on it."""

from tests.pipelines.conftest import credentials, world

__all__ = ["credentials", "world"]
