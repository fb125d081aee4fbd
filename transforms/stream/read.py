# SPDX-License-Identifier: Apache-2.0
"""`ReadStream`: DynamoDB Streams as blocks of changes, by one splittable DoFn.

Each element is one reader of one stream; its restriction is a frontier of shards. A catch-up run
(`until="tip"`) is bounded, so that what follows needs no triggers; it reads until every shard was
seen at the tip and then reports its positions. A continuous run never ends by itself, and its
positions live in the runner's checkpoints.

Promises: parents are read to their end before their children; every record that the stream holds
behind the given positions leaves exactly once per successful bundle, which is at least once over
all; what the stream lost is a gap, reported or raised; nothing is pickled that a savepoint keeps.

A catch-up run does not checkpoint itself: the in-process runner with several workers drops all
residuals of a bundle but the first worker's (`ParallelBundleManager.process_bundle` of Beam 2.77
merges results without them), which would lose records in silence. It is bounded by `max_bytes`
instead, and there is no checkpoint barrier in a batch job that would wait for it. A runner that
splits it by itself is obeyed.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable, Iterator
from typing import Any, Literal

import apache_beam as beam
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.core import RestrictionProvider
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Duration

from transforms.aws.session import AwsAccess
from transforms.aws.streams import StreamsClient, connect
from transforms.block import Block
from transforms.dead_letters import DeadLetter
from transforms.reports import Report
from transforms.stream.frontier import Frontier, FrontierCoder
from transforms.stream.gather import oldest_event_us
from transforms.stream.generations import Generations, raised
from transforms.stream.memory import ReaderMemory
from transforms.stream.pacing import Clock, Pacing
from transforms.stream.reader import Output, SliceReader
from transforms.stream.records import PageParser
from transforms.stream.requests import Requests
from transforms.stream.source import StreamSource
from transforms.stream.tracker import FrontierTracker, Moved
from transforms.stream.turns import ReaderKey, Turns, hold, release, turns_of
from transforms.stream.watermark import StreamWatermarks, advance, not_before
from transforms.telemetry.figures import figures

__all__ = ["BLOCKS", "DEAD_LETTERS", "REPORTS", "ReadStream", "Until"]

BLOCKS = "blocks"
REPORTS = "reports"
DEAD_LETTERS = "dead_letters"

_TRACKER = beam.DoFn.RestrictionParam()
_ESTIMATOR = beam.DoFn.WatermarkEstimatorParam(StreamWatermarks())

Until = Literal["tip", "forever"]
Connect = Callable[[AwsAccess], StreamsClient]


class ReadStream(beam.PTransform):
    """`PCollection[StreamSource]` to changes.

    The sources should be reshuffled, so that they spread over workers.

    Args:
        access: Where and as whom AWS is called.
        until: `tip`: read what is there when each shard is first seen idle, then end (a bounded
            collection). `forever`: never end (unbounded).
        pacing: Limits and times.
        clock: The clocks.
        connect: Makes the streams client on a worker.
        generations: Continuous: where readers learn that a table's generation went up.

    Returns:
        A dict of `blocks` (`Block`), `reports` (`Report`, kinds `stream` and `gap`) and
        `dead_letters` (`DeadLetter`).

        A report of kind `stream` has the fields `reader`, `readers`, `stream_arn`, `generation`,
        `frontier` (JSON of the positions), `caught_up`, `over` (no more comes), `changes`, `bytes`,
        `pages`, `empty_polls`, `throttles`, `children`, `newest_event_us`, `shards`, `at_us` (when
        it was made), `behind` (shards with changes waiting) and `behind_shards` (at most 20 of
        their ids). A catch-up run emits exactly one per element, at its end, with the counts of the
        run; a continuous run one every few seconds, with the counts since the last one (a worker
        that dies takes counts with it, no records).
    """

    def __init__(
        self,
        access: AwsAccess,
        until: Until,
        pacing: Pacing | None = None,
        clock: Clock | None = None,
        connect: Connect = connect,
        *,
        generations: Generations | None = None,
    ) -> None:
        super().__init__()
        if until not in ("tip", "forever"):
            raise ValueError(f"until must be 'tip' or 'forever', not {until!r}")
        made = _ReadToTip if until == "tip" else _ReadForever
        self._do_fn = made(
            access, pacing or Pacing(), clock or Clock(), connect, generations=generations
        )

    def expand(self, pcoll: beam.PCollection) -> dict[str, beam.PCollection]:
        """Applies the transform."""
        read = pcoll | "Read" >> beam.ParDo(self._do_fn).with_outputs(
            REPORTS, DEAD_LETTERS, main=BLOCKS
        )
        for tag, kind in ((BLOCKS, Block), (REPORTS, Report), (DEAD_LETTERS, DeadLetter)):
            # Without it the coder of a side output would be Beam's pickling fallback.
            read[tag].element_type = kind
        return {tag: read[tag] for tag in (BLOCKS, REPORTS, DEAD_LETTERS)}


class _Read(beam.DoFn, RestrictionProvider):
    """The splittable DoFn; it is its own restriction provider.

    Beam calls the provider's methods on a copy that never saw `setup`, so clients, threads and
    memories are made on first use.
    """

    bounded: bool

    def __init__(
        self,
        access: AwsAccess,
        pacing: Pacing,
        clock: Clock,
        connect: Connect,
        *,
        generations: Generations | None = None,
    ) -> None:
        self._generations = generations
        self._access = access
        self._pacing = pacing
        self._clock = clock
        self._connect = connect
        # Travels with the pickled DoFn, so that all its copies in a process share their readers.
        self._job = uuid.uuid4().hex

    def initial_restriction(self, element: StreamSource) -> Frontier:
        """The stored positions, or an empty frontier; no call of the service."""
        return element.first_restriction()

    def create_tracker(self, restriction: Frontier) -> FrontierTracker:
        """A tracker that stands at the restriction."""
        return FrontierTracker(restriction, bounded=self.bounded)

    def restriction_coder(self) -> FrontierCoder:
        """Versioned JSON."""
        return FrontierCoder()

    def restriction_size(self, element: StreamSource, restriction: Frontier) -> int:
        """A number that grows with the shards; no call of the service, never negative."""
        return 0 if restriction.closed else 1 + len(restriction.shards)

    def truncate(self, element: StreamSource, restriction: Frontier) -> None:
        """Nothing is read after a drain has begun; positions are then lost: update instead."""
        return

    def setup(self) -> None:
        """Takes part in what the job's readers share in this process."""
        hold(self._job)

    def teardown(self) -> None:
        """Leaves it; the last one ends the threads."""
        release(self._job)

    def _read(self, element: StreamSource, tracker: Any, estimator: Any) -> Iterator[Any]:
        given = element.generation
        turns = turns_of(self._job, self._pacing.threads)
        frontier: Frontier = tracker.current_restriction()
        element = self._raised(element, frontier, fresh=False)
        key = _key(element)
        # A bounded run that is tried again after a failure must not believe what the first one saw.
        memory = None if self.bounded else turns.take(key, len(frontier.live))
        if self._generations and (memory is None or memory.left != frontier.counts):
            # New here, or back at a checkpoint: a cache may know less than this reader did.
            element = self._raised(element, frontier, fresh=True)
            memory = memory if _key(element) == key else None
            key = _key(element)
        if memory is None:
            memory = self._new_memory(element, frontier, turns)
        if self._generations and element.generation > max(frontier.generation, given):
            tracker.try_claim(
                Moved(frontier, dataclasses.replace(frontier, generation=element.generation))
            )
        pacing = self._pacing
        if not self.bounded:
            pacing = pacing.shared(turns.readers, turns.shards)
        reader = SliceReader(element, tracker, memory, pacing, self._clock, bounded=self.bounded)
        for output in reader.read():
            yield _tagged(output, estimator)
        if self.bounded:
            # The driver learns from the report, once the round is committed.
            return
        figures().see(reader.seen())
        if not tracker.current_restriction().closed:
            # Everything is emitted by now, so the watermark may move.
            advance(estimator, reader.watermark_us())
            memory.left = tracker.current_restriction().counts
            delay = reader.resume_delay()
            tracker.defer_remainder(Duration(seconds=delay) if delay else None)
        turns.give(key, memory, reader.frontier, pacing, self._clock)

    def _raised(self, element: StreamSource, frontier: Frontier, *, fresh: bool) -> StreamSource:
        """The element with the table's generation of now."""
        if self._generations is None:
            return element
        return raised(element, frontier, self._generations.known(element.table.name, fresh=fresh))

    def _new_memory(self, element: StreamSource, frontier: Frontier, turns: Turns) -> ReaderMemory:
        parser = PageParser(element.table, element.generation, element.stream_arn)
        client = self._connect(self._access)
        requests = Requests(element.stream_arn, client, parser, self._clock, turns.pool)
        return ReaderMemory(requests, frontier.swept_us)


def _key(source: StreamSource) -> ReaderKey:
    return source.stream_arn, source.reader, source.readers, source.generation


class _ReadToTip(_Read):
    """Catch-up: bounded."""

    bounded = True

    def process(
        self,
        element: StreamSource,
        tracker: Any = _TRACKER,
        estimator: Any = _ESTIMATOR,
    ) -> Iterator[Any]:
        """Reads one reader's shards to the tip."""
        yield from self._read(element, tracker, estimator)


class _ReadForever(_Read):
    """Continuous: unbounded."""

    bounded = False

    @beam.DoFn.unbounded_per_element()
    def process(
        self,
        element: StreamSource,
        tracker: Any = _TRACKER,
        estimator: Any = _ESTIMATOR,
    ) -> Iterator[Any]:
        """Reads one slice of one reader's shards."""
        yield from self._read(element, tracker, estimator)


def _tagged(output: Output, estimator: Any) -> Any:
    if isinstance(output, Block):
        return TimestampedValue(output, not_before(estimator, oldest_event_us(output)))
    tag = REPORTS if isinstance(output, Report) else DEAD_LETTERS
    return TaggedOutput(tag, TimestampedValue(output, not_before(estimator, 0)))
