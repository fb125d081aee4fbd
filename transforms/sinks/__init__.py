# SPDX-License-Identifier: Apache-2.0
"""Sinks: where changes end up. A new sink is one file and one line in the registry."""
