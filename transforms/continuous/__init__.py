# SPDX-License-Identifier: Apache-2.0
"""Runs that never end: what they are told while they run, and the positions that they leave."""
