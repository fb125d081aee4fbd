# SPDX-License-Identifier: Apache-2.0
"""Entry points: options, graph assembly and commands."""
