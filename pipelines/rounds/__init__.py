# SPDX-License-Identifier: Apache-2.0
"""Catch-up rounds of `dynabeam replicate`."""
