# SPDX-License-Identifier: Apache-2.0
"""The stream's watermark: set by hand, seeded, never back.

Its value is the minimum over the live shards of the time of the last record, or of the last empty
poll less a margin; a shard that is stuck holds it, a shard that is read to its end leaves it when
its children enter. A seed is needed because runners read a missing watermark as the beginning of
time.
"""

from __future__ import annotations

from typing import Any

from apache_beam.utils.timestamp import MIN_TIMESTAMP, Timestamp

from dynabeam.transforms.runtime.poll_tracker import ManualWatermark
from dynabeam.transforms.stream.frontier import Frontier
from dynabeam.transforms.stream.reader_group import FrontierGroup, ReaderGroup
from dynabeam.transforms.stream.reader_spec import ReaderSpec

__all__ = ["GroupWatermarks", "StreamWatermarks", "clamp_to_watermark", "seed_us"]

# The service keeps 24 hours and may drop older records later than that.
_OLDEST_RECORD_US = 48 * 3_600 * 1_000_000


class StreamWatermarks(ManualWatermark):
    """Makes the estimators of stream readers."""

    def initial_estimator_state(self, element: ReaderSpec, restriction: Frontier) -> Timestamp:
        """The seed: no record of this run is older."""
        return Timestamp(micros=seed_us(element, restriction))


class GroupWatermarks(ManualWatermark):
    """Makes the estimators of groups of them: the minimum over the readers."""

    def initial_estimator_state(
        self, element: ReaderGroup, restriction: FrontierGroup
    ) -> Timestamp:
        """The seed: no record of this run is older."""
        readers = zip(element.sources, restriction.frontiers, strict=True)
        return Timestamp(micros=min(seed_us(spec, frontier) for spec, frontier in readers))


def seed_us(spec: ReaderSpec, frontier: Frontier) -> int:
    """A time before any record that a reader can still meet, microseconds since 1970."""
    known = [each.low_us for each in frontier.shards if each.low_us]
    return max(0, min([spec.started_us - _OLDEST_RECORD_US, *known]))


def clamp_to_watermark(estimator: Any, event_us: int) -> Timestamp:
    """A timestamp for an element of this event time that is not late.

    Args:
        estimator: The estimator of the element's reader.
        event_us: Microseconds since 1970.
    """
    standing = estimator.current_watermark()
    return max(Timestamp(micros=event_us), MIN_TIMESTAMP if standing is None else standing)
