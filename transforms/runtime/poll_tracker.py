# SPDX-License-Identifier: Apache-2.0
"""Splittable DoFns that poll something outside of the pipeline: state, tracker and base class.

The contract of tracker and `process`: poll, claim the state after the poll, emit, defer. A split
before any claim is declined, because it could be repeated forever without progress (as in Beam's
Java guard, PR #32044); for the same reason a poll that found nothing new is claimed too.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Generic, TypeVar

import apache_beam as beam
from apache_beam.io import iobase
from apache_beam.io.watermark_estimators import ManualWatermarkEstimator
from apache_beam.transforms.core import RestrictionProvider, WatermarkEstimatorProvider
from apache_beam.utils.timestamp import MAX_TIMESTAMP, MIN_TIMESTAMP, Duration, Timestamp

from dynabeam.transforms.runtime.json_coder import JsonCoder, element_format
from dynabeam.transforms.runtime.stored_format import Document, typed_fields

__all__ = [
    "ManualWatermark",
    "PollFn",
    "PollState",
    "PollStateCoder",
    "PollTracker",
    "advance",
    "is_due",
]


@dataclasses.dataclass(frozen=True)
class PollState:
    """What is left to poll; subclasses add what they remember.

    Attributes:
        done: True if nothing is.
        next_look_us: Not to poll again before this time, microseconds since 1970, whatever the
            runner does with delays; it is named as in the stored form.
    """

    done: bool = False
    next_look_us: int = 0


State = TypeVar("State", bound=PollState)


class PollTracker(iobase.RestrictionTracker, Generic[State]):
    """Tracks one element: a claim is the state after a poll, at most one per bundle."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._claimed: State | None = None
        self._handed_over = False

    def current_restriction(self) -> State:
        """What this bundle answers for."""
        return self._state

    def try_claim(self, position: State) -> bool:
        """Claims the state after a poll; refused if nothing is left, or one is claimed."""
        if self._state.done or self._claimed is not None:
            return False
        self._claimed = position
        return True

    def try_split(self, fraction_of_remainder: float) -> tuple[State, State] | None:
        """Hands over what is left after the claimed poll; None if there is nothing to hand over."""
        if self._claimed is None or self._claimed.done or self._handed_over:
            return None
        self._handed_over = True
        self._state = dataclasses.replace(self._claimed, done=True)
        return self._state, self._claimed

    def check_done(self) -> bool:
        """True if nothing is left or what is left was handed over.

        Raises:
            ValueError: It is not: going on would lose it.
        """
        claimed_all = self._claimed is not None and self._claimed.done
        if self._state.done or claimed_all:
            return True
        raise ValueError(f"The polling was neither ended nor handed over: {self._state}")

    def current_progress(self) -> iobase.RestrictionProgress:
        """All or nothing."""
        done = self._state.done or (self._claimed is not None and self._claimed.done)
        return iobase.RestrictionProgress(completed=float(done), remaining=float(not done))

    def is_bounded(self) -> bool:
        """False: how long it takes is not known."""
        return False


class PollStateCoder(JsonCoder[PollState]):
    """States as canonical JSON with a format number: savepoints keep them.

    Attributes:
        kind: The class of the states; its fields are JSON-able, sequences are tuples.
        where: The restriction that they are, for the text of errors.
    """

    where: ClassVar[str]

    def to_json(self, value: PollState) -> dict[str, Any]:
        """The document of a state."""
        return element_format("a restriction", self.where).dump(dataclasses.asdict(value))

    def from_json(self, document: Document) -> PollState:
        """Reads what `to_json` wrote.

        Raises:
            ValueDecodeError: If it is damaged, or the format number is unknown.
        """
        with element_format("a restriction", self.where).load(document) as fields:
            state: PollState = typed_fields(self.kind, fields)
            return state


class PollFn(beam.DoFn, RestrictionProvider, Generic[State]):
    """Base of DoFns whose restriction is a `PollState`; a subclass says `process`.

    Attributes:
        coder: The coder of its restrictions; a new state of the coder's `kind` is the first one.
    """

    coder: ClassVar[PollStateCoder]

    def initial_restriction(self, element: Any) -> State:
        """Everything is left to poll."""
        state: State = self.coder.kind()
        return state

    def create_tracker(self, restriction: State) -> PollTracker[State]:
        """A tracker of the present bundle."""
        return PollTracker(restriction)

    def restriction_coder(self) -> PollStateCoder:
        """Never pickle."""
        return self.coder

    def restriction_size(self, element: Any, restriction: State) -> int:
        """One poll, or nothing."""
        return 0 if restriction.done else 1

    def truncate(self, element: Any, restriction: State) -> None:
        """Nothing new is begun while a pipeline drains."""


def is_due(tracker: Any, now_us: int, pause_seconds: int) -> bool:
    """Whether to poll now; if it is too early, the rest is deferred.

    Runners come back early: the in-process one ignores delays.

    Args:
        tracker: The tracker as `process` gets it.
        now_us: The time, microseconds since 1970.
        pause_seconds: When to come back if it is too early.
    """
    state: PollState = tracker.current_restriction()
    if state.done:
        return False
    if now_us >= state.next_look_us:
        return True
    if tracker.try_claim(state):
        tracker.defer_remainder(Duration(seconds=pause_seconds))
    return False


class ManualWatermark(WatermarkEstimatorProvider):
    """A watermark that is set by hand; its state is coded, Beam's default would pickle it."""

    def initial_estimator_state(self, element: Any, restriction: Any) -> Timestamp:
        """None would be read as the beginning of time, and cannot be coded."""
        return MIN_TIMESTAMP

    def create_watermark_estimator(self, estimator_state: Timestamp) -> Any:
        """Continues where the last one ended."""
        return ManualWatermarkEstimator(estimator_state)

    def estimator_state_coder(self) -> beam.coders.Coder:
        """Timestamps, never pickle."""
        return beam.coders.TimestampCoder()


def advance(estimator: Any, watermark_us: int) -> None:
    """Moves a watermark that is set by hand on; never back, which Beam refuses.

    Args:
        estimator: The estimator of `ManualWatermark`.
        watermark_us: Where to, microseconds since 1970; 0 leaves it where it is.
    """
    wanted = Timestamp(micros=watermark_us)
    standing = estimator.current_watermark()
    if watermark_us and (standing is None or wanted > standing):
        estimator.set_watermark(min(wanted, MAX_TIMESTAMP))
