# SPDX-License-Identifier: Apache-2.0
"""What gaps do in a run that never ends.

A reader's element lies in savepoints, with the policy of the day on which the run began. Whoever
resumes the run may have another one in mind, most of all after `fail` has stopped it: so a handler
is part of the graph, and where there is one, what an element says does not count.
"""

from __future__ import annotations

from typing import Protocol

from dynabeam.transforms.errors import GapError
from dynabeam.transforms.model.gap import GapPolicy

__all__ = ["GapHandler"]


class GapHandler(Protocol):
    """Gives the policies of a run, and learns when one of them stops it; picklable."""

    def policy_for(self, table: str) -> GapPolicy:
        """The policy of a table."""

    def on_fatal(self, table: str, error: GapError) -> None:
        """Called before the error is raised.

        Args:
            table: The table that lost changes.
            error: What stops the run.
        """
