# SPDX-License-Identifier: Apache-2.0
"""Snapshot and stream in one order, per key; and the chain of changes, verified."""
