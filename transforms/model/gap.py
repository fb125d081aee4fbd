# SPDX-License-Identifier: Apache-2.0
"""Gaps: the typed, loud event that changes are lost to the stream.

The stream keeps 24 hours. A reader that comes too late, a shard that vanished before it was read to
its end, or a stream that was switched off and on again has lost changes that no retry brings back.
Each such loss is one `Gap`, never a log line, and the table's policy decides what follows.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any

from dynabeam.transforms.errors import GapError
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.runtime.stored_format import typed_fields

__all__ = ["Gap", "GapKind", "GapPolicies", "GapPolicy"]


class GapKind(str, enum.Enum):
    """Why changes are missing."""

    TRIMMED = "trimmed"
    """The position is older than what the stream still holds."""
    VANISHED = "vanished"
    """A shard left the listing before it was read to its end."""
    STREAM_CHANGED = "stream_changed"
    """The table has another stream than the one whose positions are stored."""
    UNCOVERED = "uncovered"
    """The snapshot is older than the oldest change that the stream still holds."""
    CHAIN = "chain"
    """A change begins with another image than the one after the last known change of its key."""


_UNCERTAIN = "the stream may have lost changes; whether it did can no longer be determined"


class GapPolicy(str, enum.Enum):
    """What a table does about a gap."""

    FAIL = "fail"
    """Stop with an error (the default)."""
    CONTINUE = "continue"
    """Record and count the gap, then read on from the oldest change that is left."""
    HEAL = "heal"
    """Read on, and load what was lost from incremental exports (`transforms.state.repair_plan`)."""
    RESNAPSHOT = "resnapshot"
    """Read on, load the table from a new full export, and remove what that no longer has."""

    @property
    def repairs(self) -> bool:
        """True if the table is loaded again, in part or as a whole."""
        return self in (GapPolicy.HEAL, GapPolicy.RESNAPSHOT)


@dataclasses.dataclass(frozen=True)
class GapPolicies:
    """What each table does about a gap.

    Attributes:
        default: The policy of tables that are not named.
        by_table: Table name → its policy.
    """

    default: GapPolicy = GapPolicy.FAIL
    by_table: Mapping[str, GapPolicy] = dataclasses.field(default_factory=dict)

    def of(self, table: str) -> GapPolicy:
        """The policy of a table."""
        return self.by_table.get(table, self.default)

    def to_json(self) -> dict[str, Any]:
        """The policies as a JSON-able dict."""
        by_table = {name: each.value for name, each in self.by_table.items()}
        return {"default": self.default.value, "by_table": by_table}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> GapPolicies:
        """Reads what `to_json` wrote."""
        by_table = {name: GapPolicy(each) for name, each in document["by_table"].items()}
        return cls(GapPolicy(document["default"]), by_table)

    @property
    def repairs(self) -> bool:
        """True if any table is repaired."""
        return self.default.repairs or any(each.repairs for each in self.by_table.values())


@dataclasses.dataclass(frozen=True)
class Gap:
    """Changes of one table that the stream no longer holds.

    Attributes:
        table: Name of the table.
        kind: Why they are missing.
        stream_arn: The stream they were in.
        shard_id: The shard, empty if it concerns the whole stream.
        last_sequence: Last sequence number read before the gap, empty if none was.
        from_us: Earliest time of a lost change, microseconds since 1970, 0 if unknown.
        to_us: Latest time of a lost change.
        detail: What the service answered.
        generation: The generation of the changes that the reader gave when it found the gap; 0 if
            none did.
    """

    table: str
    kind: GapKind
    stream_arn: str
    shard_id: str
    last_sequence: str
    from_us: int
    to_us: int
    detail: str
    generation: int = 0

    @property
    def is_certain(self) -> bool:
        """True if changes are known to be missing, and not only that some may be.

        Of a shard that was not read for a day, or that is no longer there, it cannot be known
        whether it held anything that was not read.
        """
        unread = self.kind is GapKind.TRIMMED and not self.last_sequence
        return not unread and self.kind is not GapKind.VANISHED

    def report(self) -> Report:
        """The gap as a report of kind `gap`."""
        return Report("gap", self.table, self.to_json())

    def to_json(self) -> dict[str, Any]:
        """The gap as a JSON-able dict, without the table, with which it is kept."""
        fields: dict[str, Any] = dataclasses.asdict(self)
        fields["kind"] = self.kind.value
        del fields["table"]
        return fields

    @classmethod
    def from_json(cls, table: str, document: Mapping[str, Any]) -> Gap:
        """Reads what `to_json` wrote; earlier versions did not name the generation.

        Raises:
            ValueError: A field is damaged, or a newer version has added it.
            KeyError: It has no kind.
            TypeError: Another field is missing.
        """
        return typed_fields(cls, document, table=table, kind=GapKind(document["kind"]))

    def error(self) -> GapError:
        """The error under the policy `fail`."""
        shard = f", shard {self.shard_id}" if self.shard_id else ""
        last = f" after sequence number {self.last_sequence}" if self.last_sequence else ""
        what = f"changes are lost{last}" if self.is_certain else _UNCERTAIN
        return GapError(
            f"{what} ({self.kind.value}: {self.detail})",
            where=f"table {self.table}{shard}, stream {self.stream_arn}",
            hint=(
                "Have it repaired with --gaps=heal (incremental exports of the lost time) or "
                "--gaps=resnapshot (a new full export), or accept the loss with --gaps=continue"
            ),
        )
