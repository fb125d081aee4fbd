# SPDX-License-Identifier: Apache-2.0
"""Runs that never end: their control folder, and the positions that they store."""
