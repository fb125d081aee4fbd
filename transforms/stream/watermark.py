# SPDX-License-Identifier: Apache-2.0
"""The stream's watermark: set by hand, seeded, never back.

Its value is the minimum over the live shards of the time of the last record, or of the last empty
poll less a margin; a shard that is stuck holds it, a shard that is read to its end leaves it when
its children enter. A seed is needed because runners read a missing watermark as the beginning of
time. The estimator's state is coded explicitly: the default coder of Beam would pickle it.
"""

from __future__ import annotations

from typing import Any

import apache_beam as beam
from apache_beam.io.watermark_estimators import ManualWatermarkEstimator
from apache_beam.transforms.core import WatermarkEstimatorProvider
from apache_beam.utils.timestamp import MAX_TIMESTAMP, MIN_TIMESTAMP, Timestamp

from dynabeam.transforms.stream.frontier import Frontier
from dynabeam.transforms.stream.reader_group import FrontierGroup, ReaderGroup
from dynabeam.transforms.stream.reader_spec import ReaderSpec

__all__ = ["GroupWatermarks", "StreamWatermarks", "advance", "not_before", "seed_us"]

# The service keeps 24 hours and may drop older records later than that.
_OLDEST_RECORD_US = 48 * 3_600 * 1_000_000


class _Manual(WatermarkEstimatorProvider):
    """Makes manual estimators."""

    def create_watermark_estimator(self, estimator_state: Timestamp) -> Any:
        """An estimator that goes on where the last one stood."""
        return ManualWatermarkEstimator(estimator_state)

    def estimator_state_coder(self) -> beam.coders.Coder:
        """Timestamps, never pickle."""
        return beam.coders.TimestampCoder()


class StreamWatermarks(_Manual):
    """Makes the estimators of stream readers."""

    def initial_estimator_state(self, element: ReaderSpec, restriction: Frontier) -> Timestamp:
        """The seed: no record of this run is older."""
        return Timestamp(micros=seed_us(element, restriction))


class GroupWatermarks(_Manual):
    """Makes the estimators of groups of them: the minimum over the readers."""

    def initial_estimator_state(
        self, element: ReaderGroup, restriction: FrontierGroup
    ) -> Timestamp:
        """The seed: no record of this run is older."""
        readers = zip(element.sources, restriction.frontiers, strict=True)
        return Timestamp(micros=min(seed_us(spec, frontier) for spec, frontier in readers))


def seed_us(spec: ReaderSpec, frontier: Frontier) -> int:
    """Before any record that a reader can still meet, microseconds since 1970."""
    known = [each.low_us for each in frontier.shards if each.low_us]
    return max(0, min([spec.started_us - _OLDEST_RECORD_US, *known]))


def advance(estimator: Any, watermark_us: int) -> None:
    """Moves the watermark on; never back, which Beam refuses."""
    wanted = Timestamp(micros=watermark_us)
    standing = estimator.current_watermark()
    if watermark_us and (standing is None or wanted > standing):
        estimator.set_watermark(min(wanted, MAX_TIMESTAMP))


def not_before(estimator: Any, event_us: int) -> Timestamp:
    """A timestamp for an element of this event time that is not late."""
    standing = estimator.current_watermark()
    return max(Timestamp(micros=event_us), MIN_TIMESTAMP if standing is None else standing)
