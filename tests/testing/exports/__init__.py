# SPDX-License-Identifier: Apache-2.0
"""Tests of simulated exports and point-in-time recovery."""
