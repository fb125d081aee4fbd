# SPDX-License-Identifier: Apache-2.0
"""Sinks: where changes end up. A sink is one file, one line in the registry, one behaviour suite."""
