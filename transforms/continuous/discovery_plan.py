# SPDX-License-Identifier: Apache-2.0
"""What a deployment is to do about new tables: `discovery.json` of its folder.

Written by the command line, read by the run at each poll, so that a run finds tables whether or not
the command that launched it is still there. No secrets: whom AWS is called as is part of the graph.
"""

from __future__ import annotations

import dataclasses
import json

from dynabeam.transforms.aws.dynamodb import TableDescription
from dynabeam.transforms.aws.session import AwsAccess
from dynabeam.transforms.continuous.control_folder import Assignment, ControlFolder
from dynabeam.transforms.continuous.discovery import Needs
from dynabeam.transforms.errors import StateError
from dynabeam.transforms.runtime.clock import now_us
from dynabeam.transforms.runtime.stored_format import DocumentFormat, check_name, typed_fields
from dynabeam.transforms.sinks.base import Round
from dynabeam.transforms.state.table_reading import (
    ReadingOptions,
    choose_readers,
    list_for_readers,
    new_table_state,
    readers_of_each,
    snapshot_requests,
    stream_sources,
)
from dynabeam.transforms.state.table_selection import TableSelection
from dynabeam.transforms.state.table_state import TableState
from dynabeam.transforms.storage import filesystem

__all__ = ["DiscoveryPlan", "first_assignment"]

_FORMAT = DocumentFormat(
    "what to discover",
    hint="Stop the job with a savepoint and run the command that started it again",
)


@dataclasses.dataclass(frozen=True)
class DiscoveryPlan:
    """Which tables to look for, and how to begin them.

    Attributes:
        selection: Which tables belong to the run.
        options: How they are read.
        reuse: Empty for a new export of each, or `newest:<seconds>`.
        committed: The last committed round of the state directory.
        every_seconds: Time between two polls.
    """

    selection: TableSelection
    options: ReadingOptions
    reuse: str
    committed: Round
    every_seconds: int

    @property
    def needs(self) -> Needs:
        """What a new table has to have."""
        return Needs(
            stream=self.options.snapshot != "only",
            export=self.options.snapshot != "never",
        )

    def first_state(self, description: TableDescription) -> TableState:
        """The state of a table that is begun."""
        state = new_table_state(description.table, description, self.options)
        return dataclasses.replace(
            state, snapshot=dataclasses.replace(state.snapshot, reuse=self.reuse)
        )

    def begin(
        self, folder: ControlFolder, access: AwsAccess, found: TableDescription, tables: int
    ) -> None:
        """Has a deployment read a table from now on; may be repeated, and then changes nothing.

        Args:
            folder: The deployment's.
            access: Where and as whom AWS is called.
            found: The table.
            tables: How many tables the deployment reads with it.
        """
        state = self.first_state(found)
        if not self.options.readers:
            state = choose_readers(state, access, readers_of_each(tables))
        started_us = now_us()
        state = list_for_readers(state, self.options, access, started_us)
        sources = stream_sources(state, self.options, 0, started_us)
        requests = snapshot_requests(state, self.options, self.committed.state_id)
        # Known to the position document before it is read: what is read can be taken over.
        folder.write_table(state)
        folder.assign_once(first_assignment(state), Assignment(sources, requests))

    def write(self, folder: ControlFolder) -> None:
        """Writes it for a deployment.

        Raises:
            StateError: It cannot be written.
        """
        fields = {
            "selection": self.selection.to_json(),
            "options": self.options.to_json(),
            "reuse": self.reuse,
            "committed": dataclasses.asdict(self.committed),
            "every_seconds": self.every_seconds,
        }
        content = json.dumps(_FORMAT.dump(fields), indent=1, sort_keys=True).encode()
        filesystem.write_atomic(folder.discovery, content, StateError)

    @classmethod
    def read(cls, folder: ControlFolder) -> DiscoveryPlan | None:
        """The newest plan of a deployment, None if there is none.

        Raises:
            StateError: The document is damaged, or of an unknown format.
        """
        path = folder.discovery
        if not filesystem.exists(path):
            return None
        with _FORMAT.load(filesystem.read_bytes(path, StateError), where=path) as fields:
            committed = typed_fields(Round, fields["committed"])
            check_name(committed.state_id, what="the state's identity", where=path)
            if committed.attempt:
                check_name(committed.attempt, what="the attempt", where=path)
            return typed_fields(
                cls,
                fields,
                selection=TableSelection.from_json(fields["selection"]),
                options=ReadingOptions.from_json(fields["options"]),
                committed=committed,
            )


def first_assignment(state: TableState) -> str:
    """The name of the assignment that begins a table: the same, whoever finds the table."""
    return f"table-{state.name}-{state.table_id}"
