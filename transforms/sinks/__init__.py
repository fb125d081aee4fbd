# SPDX-License-Identifier: Apache-2.0
"""Sinks: where changes end up. A new one is a folder, a line in the registry, a tested target."""
