# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: commands, each run as `python -m tests.benchmarks.NAME`."""
