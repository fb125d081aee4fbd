# SPDX-License-Identifier: Apache-2.0
"""`dynabeam launch COMMAND`: jobs started, watched, changed and ended where people run Beam."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence

__all__ = ["main"]

_COMMANDS: Mapping[str, tuple[str, str, str]] = {
    "dataflow": ("dataflow", "main", "launch a Flex Template on Google Cloud Dataflow"),
    "flink": ("flink", "main", "launch a continuous run on a Flink cluster"),
    "status": ("status", "main", "show how the job is, its last errors, where its log lies"),
    "drain": ("changing", "drain", "end it without losing what it has read"),
    "cancel": ("changing", "cancel", "end it at once"),
    "scale": ("changing", "scale", "give it more or fewer workers"),
    "savepoint": ("changing", "savepoint", "Flink: take a savepoint, and perhaps stop"),
}
"""Command → module, function and what it does; a module is imported when it is needed."""


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        sys.stdout.write("usage: dynabeam launch COMMAND [options]; COMMAND --help explains one\n")
        for name, (_, _, what) in _COMMANDS.items():
            sys.stdout.write(f"  {name:<10} {what}\n")
        return 0
    name, *rest = arguments
    if name not in _COMMANDS:
        sys.stderr.write(
            f"dynabeam launch: no command {name!r}; there are {', '.join(_COMMANDS)}\n"
        )
        return 2
    module, function, _ = _COMMANDS[name]
    code: int = getattr(importlib.import_module(f"dynabeam.pipelines.launch.{module}"), function)(
        rest
    )
    return code


if __name__ == "__main__":
    from dynabeam.pipelines.command_line import main as command_line

    sys.exit(command_line(["launch", *sys.argv[1:]]))
