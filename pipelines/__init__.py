# SPDX-License-Identifier: Apache-2.0
"""Entry points: options, graph assembly and commands."""

from dynabeam.pipelines import stop_signals

# Before the imports of a command, which take seconds.
stop_signals.install_for_command()
