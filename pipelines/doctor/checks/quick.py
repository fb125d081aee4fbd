# SPDX-License-Identifier: Apache-2.0
"""The quick part of the doctor's checks, which `replicate` makes before it starts.

Only what asks AWS for nothing: tables, streams and recovery are looked at by `pipelines.preflight`
on its way, with the same texts, and sinks and state directory by their own checks.
"""

from __future__ import annotations

import shutil
from typing import TextIO

from dynabeam.pipelines.doctor.checks.runner import runner_findings
from dynabeam.pipelines.doctor.checks.state import room_finding
from dynabeam.pipelines.options.replicate import ReplicateOptions
from dynabeam.transforms.errors import ConfigurationError
from dynabeam.transforms.state.state_directory import StateDirectory
from dynabeam.transforms.storage import filesystem

__all__ = ["check_quickly", "staged_bytes"]


def staged_bytes(options: ReplicateOptions) -> int:
    """What a round may need on disk: what it reads, what a sink stages of it, and some room."""
    return 3 * options.round_bytes


def check_quickly(options: ReplicateOptions, stream: TextIO) -> None:
    """Checks runner and room; writes a line for what is only a warning.

    Raises:
        ConfigurationError: A run cannot work.
    """
    findings = list(runner_findings(options))
    path = StateDirectory(options.state_dir).path
    if filesystem.is_local(path):
        free = shutil.disk_usage(filesystem.nearest_existing(path)).free
        findings.append(room_finding(options.state_dir, free, staged_bytes(options)))
    for each in findings:
        if each.status == "failure":
            why = f" ({each.why})" if each.why else ""
            raise ConfigurationError(f"{each.text}{why}", where=each.subject, hint=each.hint)
        if each.status == "warning":
            stream.write(f"warning: {each.subject}: {each.text}. {each.hint}\n")
