# SPDX-License-Identifier: Apache-2.0
"""Flink's REST interface: what is asked of a JobManager, and what it is told."""
