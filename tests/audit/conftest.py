# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the sinks' tests, for what the sinks have written."""

from tests.sinks.conftest import no_rows_are_few

__all__ = ["no_rows_are_few"]
