# SPDX-License-Identifier: Apache-2.0
"""What goes wrong in the simulated service, and how often.

`Faults` is a plain value: all zero by default, replaced as a whole while the simulator runs. The
draws come from the simulator's seed; with one client thread a run repeats exactly.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

__all__ = ["EXPORT_ACTIONS", "STREAM_ACTIONS", "Dice", "Faults"]

STREAM_ACTIONS = frozenset({"ListStreams", "DescribeStream", "GetShardIterator", "GetRecords"})
EXPORT_ACTIONS = frozenset(
    {
        "ExportTableToPointInTime",
        "DescribeExport",
        "ListExports",
        "DescribeContinuousBackups",
        "UpdateContinuousBackups",
    }
)


@dataclass(frozen=True)
class Faults:
    """Probabilities (0 to 1) and amounts of what the simulator does wrong on purpose.

    The first group hits the calls named in `actions` (names of API actions, S3's included, such
    as `GetObject`; `"*"` means all); the others say what they hit.

    Attributes:
        actions: The actions that the first group hits. The streams and exports, so that a
            test's own writes stay undisturbed.
        throttle: A throttling error, of a code that the action can have.
        internal_error: HTTP 500 InternalServerError.
        drop_before: The connection is closed and the call not carried out.
        drop_after: The call is carried out, then the connection closed, with none or half of the
            answer sent.
        slow: The answer comes `slow_seconds` (real time) late.
        slow_seconds: See `slow`.
        empty_page: GetRecords answers no records though there are some.
        max_empty_run: At most so many such pages in a row at one position.
        short_page: GetRecords answers fewer records than it could.
        late_end: The last page of a closed shard still carries an iterator, to an empty page.
        hollow_page: GetRecords answers 200 and a body that is none of its own, as a proxy may.
        false_end: GetRecords answers no records and no iterator, though the shard goes on.
        repeated_page: GetRecords answers with the page before the requested one.
        expired_iterator: GetRecords says that a fresh iterator has expired.
        latest_slack: LATEST may start up to so many records early.
        e_notation_times: A record's time is written like `1.7000000E9`.
        late_listing: A new shard is missing from the first `late_listing_asks` listings that
            should have had it, so that its closed parent looks like a leaf.
        late_listing_asks: See `late_listing`.
        child_filter_empty_asks: The first so many requests for the children of a shard by
            `ShardFilter` get an empty answer.
        enabling_asks: A new stream shows ENABLING, and no shards, so many times.
        updating_asks: A table whose stream was switched shows UPDATING so many times, and refuses
            to be switched meanwhile.
        roll_after: A shard closes after so many records; 0 for never.
        roll_children: A shard that closes by `roll_after` gets 1 to this many children.
        lose_record: A change is made, and its record never reaches the stream.
        conflict: A conditional write to S3 is answered with 409 ConditionalRequestConflict, and
            not carried out.
        conditional_writes: `kept` as S3 does; `unsupported`, answered with 501; `ignored`, written
            whether the condition holds or not. The last two are what older endpoints do.
        denied_actions: Answered with AccessDeniedException, for example `dynamodb:GetRecords`
            or `s3:GetObject`.
        rate_limits: DescribeStream above 10 and ListStreams above 5 calls a second of the
            simulated clock are throttled.
    """

    actions: frozenset[str] = STREAM_ACTIONS | EXPORT_ACTIONS
    throttle: float = 0.0
    internal_error: float = 0.0
    drop_before: float = 0.0
    drop_after: float = 0.0
    slow: float = 0.0
    slow_seconds: float = 0.05
    empty_page: float = 0.0
    max_empty_run: int = 3
    short_page: float = 0.0
    late_end: float = 0.0
    hollow_page: float = 0.0
    false_end: float = 0.0
    repeated_page: float = 0.0
    expired_iterator: float = 0.0
    latest_slack: int = 0
    e_notation_times: float = 0.0
    late_listing: float = 0.0
    late_listing_asks: int = 2
    child_filter_empty_asks: int = 0
    enabling_asks: int = 0
    updating_asks: int = 0
    roll_after: int = 0
    roll_children: int = 1
    lose_record: float = 0.0
    conflict: float = 0.0
    conditional_writes: Literal["kept", "unsupported", "ignored"] = "kept"
    denied_actions: frozenset[str] = frozenset()
    rate_limits: bool = False

    def __post_init__(self) -> None:
        for name in ("actions", "denied_actions"):
            object.__setattr__(self, name, frozenset(getattr(self, name)))
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, (int, float)) and value < 0:
                raise ValueError(f"{field.name}: must be 0 or more, found {value!r}")
        if self.roll_children < 1:
            raise ValueError(f"roll_children: must be 1 or more, found {self.roll_children!r}")

    def hits(self, action: str) -> bool:
        """Whether the first group of faults hits this action."""
        return action in self.actions or "*" in self.actions

    def to_json(self) -> dict[str, Any]:
        """As a JSON object, for the admin route."""
        return {
            field.name: sorted(value) if isinstance(value, frozenset) else value
            for field in fields(self)
            for value in [getattr(self, field.name)]
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Faults:
        """From a JSON object; what it does not name is at its default.

        Raises:
            TypeError: It names a fault that does not exist.
        """
        return replace(cls(), **values)


class Dice:
    """Seeded draws, safe to use from several threads."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - repeatable on purpose
        self._lock = threading.Lock()

    def chance(self, probability: float) -> bool:
        """True with this probability. Draws nothing when it is 0."""
        if probability <= 0:
            return False
        with self._lock:
            return self._random.random() < probability

    def between(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both included."""
        with self._lock:
            return self._random.randint(low, high)

    def pick(self, choices: tuple[str, ...]) -> str:
        """One of the choices."""
        with self._lock:
            return self._random.choice(choices)
