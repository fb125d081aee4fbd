# SPDX-License-Identifier: Apache-2.0
"""How lost changes are repaired: by which exports, and what is swept once they are loaded.

A repair makes the table's generation one higher. It is planned after all readers of the table have
switched to the new generation, so two things hold, and nothing depends on which reader met the gap:
what was emitted at an older generation was written before the switch, and what is written later
comes at the new one. Rows of the repair's exports, `(generation, 0)` or `(generation, write time)`,
win over all older generations and lose to the stream.

**resnapshot**: one full export of a moment after the switch. Once it is applied, rows of older
generations are of items that the table no longer has, and are removed. One that was asked for may
be of a range of keys: then only its rows are loaded, and only those of it removed.

**heal**: incremental exports from before the first lost change up to after the switch. Their
windows touch: the time that the service keeps a write under is exact, and AWS advises touching
windows for just this ("Rolling back unwanted writes in-place", developer guide). The time of a
stream record is another clock's, so it counts as fuzzy by `FUZZ_US` here.

An incremental export holds the net change of each key, and nothing of a key that was absent at both
ends of its window. So a key that the stream brought shortly before the gap, and whose delete is
among what was lost, may be in no window. Therefore the first window ends before the gap, and is
there for this alone:

* a key that was written before it by the stream's clock existed, at the latest, when the second
  window began, which then shows its delete;
* a key that was written later was written inside the windows. If none of them has it, it is gone:
  such rows of older generations are removed, see `Repair.swept_since_us`. Snapshot rows are not,
  because their time is the export's and not that of a write; a heal is planned only if they are all
  older than the second window.

The last point assumes that an export lists every key that was written in its window and exists at
its end, also one whose item changed and changed back. AWS does not document that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, Literal

from dynabeam.transforms.aws.dynamodb import RecoveryWindow
from dynabeam.transforms.model.gap import GapPolicy
from dynabeam.transforms.model.key_range import KeyRange
from dynabeam.transforms.runtime.stored_format import damage_told, typed_fields
from dynabeam.transforms.state.coverage import FUZZ_US, REQUEST_MARGIN_US
from dynabeam.transforms.values.key_schema import KeySchema

__all__ = ["LONGEST_US", "SHORTEST_US", "Lost", "Repair", "plan_repair"]

SHORTEST_US = 15 * 60 * 1_000_000
"""The service refuses shorter windows of incremental exports."""

LONGEST_US = 24 * 3600 * 1_000_000
"""It refuses longer ones too."""

_BEFORE_US = 2 * FUZZ_US
_SECOND_US = 1_000_000


@dataclasses.dataclass(frozen=True)
class Lost:
    """What is known of the loss.

    Attributes:
        since_us: No lost change is older, microseconds since 1970; 0 if that is not known.
        snapshot_us: The moment that the loaded snapshot shows, 0 if the table never had one.
        snapshot_complete: False while a snapshot is to be loaded, or is known to be too old.
    """

    since_us: int
    snapshot_us: int
    snapshot_complete: bool


@dataclasses.dataclass(frozen=True)
class Repair:
    """A plan.

    Attributes:
        kind: `heal` or `resnapshot`.
        reason: Why it is another kind than the policy's; empty if it is not.
        windows: From (inclusive) and to (exclusive) of incremental exports, microseconds since
            1970, whole seconds, in order; empty for a full export.
        not_before_us: Exports are not requested earlier.
        swept_since_us: Which rows of older generations go once all is loaded: 0 for all, else those
            that the stream brought and that were written at this time or later.
        key_range: The range of keys that a new snapshot is of; empty for all.
    """

    kind: Literal["heal", "resnapshot"]
    reason: str
    windows: tuple[tuple[int, int], ...]
    not_before_us: int
    swept_since_us: int
    key_range: str = ""

    @property
    def loads_all(self) -> bool:
        """True if it brings every row of the table."""
        return self.kind == "resnapshot" and not self.key_range

    def swept_keys(self, keys: KeySchema) -> KeyRange | None:
        """The keys whose rows are swept; None for all."""
        return KeyRange.of(self.key_range, keys) if self.key_range else None

    def to_json(self) -> dict[str, Any]:
        """The plan as a JSON-able dict."""
        return {**dataclasses.asdict(self), "windows": [list(each) for each in self.windows]}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Repair:
        """Reads what `to_json` wrote.

        Raises:
            StateError: It is damaged, or a newer version wrote it.
        """
        with damage_told("the plan of a repair", where="repair"):
            return typed_fields(cls, document)

    def __str__(self) -> str:
        """The plan for people."""
        because = f" ({self.reason})" if self.reason else ""
        if self.kind == "resnapshot":
            part = f" of the keys {self.key_range}" if self.key_range else ""
            return f"taking a new snapshot{part}{because}"
        begin, end = self.windows[0][0], self.windows[-1][1]
        return (
            f"healing from {len(self.windows)} exports of {_text(begin)} to {_text(end)}{because}"
        )


def plan_repair(
    policy: GapPolicy,
    lost: Lost,
    switched_us: int,
    recovery: RecoveryWindow,
    key_range: str = "",
) -> Repair:
    """Plans the repair of a table.

    Args:
        policy: `heal` or `resnapshot`.
        lost: What is known of the loss.
        switched_us: A moment at which all readers had switched to the new generation.
        recovery: The table's point-in-time recovery.
        key_range: The range of keys that a new snapshot was ordered of; empty for all.

    Returns:
        A heal if that is the policy and it can be exact, else a new snapshot with the reason: of
        the range if nothing outside of it is known to be missing.
    """
    not_before_us = switched_us + FUZZ_US + REQUEST_MARGIN_US
    reason = ""
    windows: tuple[tuple[int, int], ...] = ()
    if policy is GapPolicy.HEAL:
        windows = _windows(lost.since_us, switched_us) if lost.since_us else ()
        reason = _why_not_heal(lost, windows, recovery)
    if policy is not GapPolicy.HEAL or reason:
        if key_range and (lost.since_us or not lost.snapshot_complete):
            reason, key_range = "of the whole table, which lacks more than these keys", ""
        return Repair("resnapshot", reason, (), not_before_us, 0, key_range)
    not_before_us = windows[-1][1] + REQUEST_MARGIN_US
    return Repair("heal", "", windows, not_before_us, windows[0][0] + FUZZ_US)


def _windows(since_us: int, switched_us: int) -> tuple[tuple[int, int], ...]:
    end = -(-(switched_us + FUZZ_US) // _SECOND_US) * _SECOND_US
    begin = min(since_us - _BEFORE_US, end - SHORTEST_US) // _SECOND_US * _SECOND_US
    pieces = -(-(end - begin) // LONGEST_US)
    length = -(-(end - begin) // pieces // _SECOND_US) * _SECOND_US
    starts = range(begin, end, length)
    return (
        (begin - SHORTEST_US, begin),
        *((start, min(start + length, end)) for start in starts),
    )


def _why_not_heal(
    lost: Lost, windows: tuple[tuple[int, int], ...], recovery: RecoveryWindow
) -> str:
    if not lost.since_us:
        return "since when changes are lost is not known"
    if not lost.snapshot_complete:
        return "the table's snapshot was not complete"
    if lost.snapshot_us and windows[1][0] < lost.snapshot_us + FUZZ_US:
        return f"the snapshot, of {_text(lost.snapshot_us)}, is younger than the lost changes"
    if not recovery.enabled:
        return "point-in-time recovery is off"
    if windows[0][0] < recovery.earliest_us:
        return (
            f"point-in-time recovery reaches back to {_text(recovery.earliest_us)}, and changes "
            f"since {_text(windows[0][0])} are needed"
        )
    return ""


def _text(us: int) -> str:
    moment = datetime.fromtimestamp(us // 1_000_000, timezone.utc)
    return moment.isoformat().replace("+00:00", "Z")
