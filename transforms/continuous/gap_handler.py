# SPDX-License-Identifier: Apache-2.0
"""What gaps do in a run that never ends: its graph says so, its folder keeps what stopped it."""

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
        policies: The policies of the command line.
    """

    folder: str
    policies: GapPolicies

    def policy_for(self, table: str) -> GapPolicy:
        """The policy of a table."""
        return self.policies.of(table)

    def on_fatal(self, table: str, error: GapError) -> None:
        """Records the error in the deployment's folder.

        Raises:
            StateError: It cannot be written.
        """
        record_fatal_error(ControlFolder(self.folder), table, error)
