# SPDX-License-Identifier: Apache-2.0
"""The rules for gaps of a run that never ends: of its graph, and with the folder as its voice."""

from __future__ import annotations

import dataclasses

from transforms.deployment.folder import DeploymentFolder
from transforms.deployment.stops import tell_stop
from transforms.errors import GapError
from transforms.gaps import GapPolicies, GapPolicy

__all__ = ["FolderGapRules"]


@dataclasses.dataclass(frozen=True)
class FolderGapRules:
    """See `transforms.gap_rules.GapRules`; picklable.

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
        tell_stop(DeploymentFolder(self.folder), table, error)
