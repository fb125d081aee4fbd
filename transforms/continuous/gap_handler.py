# SPDX-License-Identifier: Apache-2.0
"""The rules for gaps of a run that never ends: of its graph, and with the folder as its voice."""

from __future__ import annotations

import dataclasses

from dynabeam.transforms.continuous.control_folder import ControlFolder
from dynabeam.transforms.continuous.fatal_errors import record_fatal_error
from dynabeam.transforms.errors import GapError
from dynabeam.transforms.model.gap import GapPolicies, GapPolicy

__all__ = ["FolderGapHandler"]


@dataclasses.dataclass(frozen=True)
class FolderGapHandler:
    """See `transforms.model.gap_handler.GapHandler`; picklable.

    Attributes:
        folder: Path of the deployment's folder.
        policies: What the command line asked for.
    """

    folder: str
    policies: GapPolicies

    def of(self, table: str) -> GapPolicy:
        """The policy of a table."""
        return self.policies.of(table)

    def stopped(self, table: str, error: GapError) -> None:
        """Keeps it in the deployment's folder.

        Raises:
            StateError: It cannot be written.
        """
        record_fatal_error(ControlFolder(self.folder), table, error)
