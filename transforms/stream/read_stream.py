# SPDX-License-Identifier: Apache-2.0
"""`ReadStream`: DynamoDB Streams as blocks of changes, by one splittable DoFn.

A reader reads some of the shards of one stream; its position is a frontier of shards. A catch-up
run (`until="tip"`) is bounded, so that what follows needs no triggers; it reads until every shard
was seen at the tip and then reports its positions. A continuous run never ends by itself, and its
positions live in the runner's checkpoints. Its elements are groups of readers that have their
slices in one call of `process` (`transforms.stream.reader_group`).

Promises: parents are read to their end before their children; every record that the stream holds
after the given positions leaves exactly once per successful bundle, which is at least once over
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
from collections.abc import Callable, Generator, Iterator
from typing import Any, Literal

import apache_beam as beam
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.core import RestrictionProvider
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Duration

from dynabeam.transforms.aws.session import AwsAccess
from dynabeam.transforms.aws.streams import StreamsClient, connect
from dynabeam.transforms.errors import GapError
from dynabeam.transforms.model.block import Block
from dynabeam.transforms.model.dead_letter import DeadLetter
from dynabeam.transforms.model.gap_handler import GapHandler
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.runtime.clock import Clock
from dynabeam.transforms.runtime.poll_tracker import advance
from dynabeam.transforms.stream.block_builder import oldest_event_us
from dynabeam.transforms.stream.frontier import Frontier, FrontierCoder
from dynabeam.transforms.stream.pacing import Pacing
from dynabeam.transforms.stream.page_parser import PageParser
from dynabeam.transforms.stream.progress import SeenReader
from dynabeam.transforms.stream.reader import Output, SliceReader
from dynabeam.transforms.stream.reader_cache import (
    ReaderCache,
    ReaderKey,
    cache_of,
    release,
    retain,
)
from dynabeam.transforms.stream.reader_group import (
    FrontierGroup,
    FrontierGroupCoder,
    GroupMember,
    GroupTracker,
    ReaderGroup,
)
from dynabeam.transforms.stream.reader_spec import Generations, ReaderSpec, with_latest_generation
from dynabeam.transforms.stream.scheduler import ShardScheduler
from dynabeam.transforms.stream.shard_requests import RequestPool
from dynabeam.transforms.stream.tracker import FrontierTracker, Moved
from dynabeam.transforms.stream.watermark import (
    GroupWatermarks,
    StreamWatermarks,
    clamp_to_watermark,
)

__all__ = ["BLOCKS", "DEAD_LETTERS", "REPORTS", "ReadStream", "Until"]

BLOCKS = "blocks"
REPORTS = "reports"
DEAD_LETTERS = "dead_letters"

_TRACKER = beam.DoFn.RestrictionParam()
_ESTIMATOR = beam.DoFn.WatermarkEstimatorParam(StreamWatermarks())
_GROUP_ESTIMATOR = beam.DoFn.WatermarkEstimatorParam(GroupWatermarks())

Until = Literal["tip", "forever"]
Connect = Callable[[AwsAccess], StreamsClient]


class ReadStream(beam.PTransform):
    """`PCollection[ReaderSpec]`, to be read forever also `PCollection[ReaderGroup]`, to changes.

    They should be reshuffled, so that they spread over workers. Sources that are read forever
    without a group have their slices alone.

    Args:
        access: Where and as whom AWS is called.
        until: `tip`: read what is there when each shard is first seen idle, then end (a bounded
            collection). `forever`: never end (unbounded).
        pacing: Limits and times.
        clock: The clocks.
        connect: Makes the streams client on a worker.
        generations: Continuous: where readers learn that a table's generation went up.
        gap_handler: Continuous: what gaps do, whatever the specs say; None for what they say.
        observe: Continuous: called on the worker with where a reader is, after each slice.

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
        gap_handler: GapHandler | None = None,
        observe: Callable[[SeenReader], None] | None = None,
    ) -> None:
        super().__init__()
        if until not in ("tip", "forever"):
            raise ValueError(f"until must be 'tip' or 'forever', not {until!r}")
        made = _ReadToTip if until == "tip" else _ReadForever
        self._do_fn = made(
            access,
            pacing or Pacing(),
            clock or Clock(),
            connect,
            generations=generations,
            gap_handler=gap_handler,
            observe=observe,
        )

    def expand(self, pcoll: beam.PCollection) -> dict[str, beam.PCollection]:
        """Applies the transform."""
        if isinstance(self._do_fn, _ReadForever) and pcoll.element_type is not ReaderGroup:
            pcoll = pcoll | "Alone" >> beam.Map(_alone).with_output_types(ReaderGroup)
        read = pcoll | "Read" >> beam.ParDo(self._do_fn).with_outputs(
            REPORTS, DEAD_LETTERS, main=BLOCKS
        )
        for tag, kind in ((BLOCKS, Block), (REPORTS, Report), (DEAD_LETTERS, DeadLetter)):
            # Without it the coder of a side output would be Beam's pickling fallback.
            read[tag].element_type = kind
        return {tag: read[tag] for tag in (BLOCKS, REPORTS, DEAD_LETTERS)}


class _Read(beam.DoFn, RestrictionProvider):
    """What both modes share: a splittable DoFn that is its own restriction provider.

    Beam calls the provider's methods on a copy that never saw `setup`, so clients, threads and
    schedulers are made on first use.
    """

    def __init__(
        self,
        access: AwsAccess,
        pacing: Pacing,
        clock: Clock,
        connect: Connect,
        *,
        generations: Generations | None = None,
        gap_handler: GapHandler | None = None,
        observe: Callable[[SeenReader], None] | None = None,
    ) -> None:
        self._generations = generations
        self._gap_handler = gap_handler
        self._observe = observe
        self._access = access
        self._pacing = pacing
        self._clock = clock
        self._connect = connect
        # Travels with the pickled DoFn, so that all its copies in a process share their readers.
        self._job = uuid.uuid4().hex

    def setup(self) -> None:
        """Takes part in what the job's readers share in this process."""
        retain(self._job)

    def teardown(self) -> None:
        """Leaves it; the last one ends the threads."""
        release(self._job)

    def truncate(self, element: object, restriction: object) -> None:
        """Nothing is read after a drain has begun; positions are then lost: update instead."""
        return

    def _cache(self) -> ReaderCache:
        return cache_of(self._job, self._pacing.threads)

    def _new_scheduler(self, spec: ReaderSpec, frontier: Frontier) -> ShardScheduler:
        parser = PageParser(spec.table, spec.generation, spec.stream_arn)
        client = self._connect(self._access)
        pool = self._cache().pool
        requests = RequestPool(spec.stream_arn, client, parser, self._clock, pool)
        return ShardScheduler(requests, frontier.swept_us)


class _ReadToTip(_Read):
    """Catch-up: bounded."""

    def initial_restriction(self, element: ReaderSpec) -> Frontier:
        """The stored positions, or an empty frontier; no call of the service."""
        return element.first_restriction()

    def create_tracker(self, restriction: Frontier) -> FrontierTracker:
        """A tracker at the restriction."""
        return FrontierTracker(restriction, bounded=True)

    def restriction_coder(self) -> FrontierCoder:
        """Versioned JSON."""
        return FrontierCoder()

    def restriction_size(self, element: ReaderSpec, restriction: Frontier) -> int:
        """A number that grows with the shards; no call of the service, never negative."""
        return _size(restriction)

    def process(
        self,
        element: ReaderSpec,
        tracker: Any = _TRACKER,
        estimator: Any = _ESTIMATOR,
    ) -> Iterator[Any]:
        """Reads one reader's shards to the tip.

        The driver learns from the report at its end, once the round is committed.
        """
        # A run that is tried again after a failure must not believe what the first one saw.
        scheduler = self._new_scheduler(element, tracker.current_restriction())
        reader = SliceReader(element, tracker, scheduler, self._pacing, self._clock, bounded=True)
        for output in reader.read():
            yield _tagged(output, estimator)


class _ReadForever(_Read):
    """Continuous: unbounded."""

    def initial_restriction(self, element: ReaderGroup) -> FrontierGroup:
        """The stored positions, or empty frontiers; no call of the service."""
        return FrontierGroup(tuple(each.first_restriction() for each in element.sources))

    def create_tracker(self, restriction: FrontierGroup) -> GroupTracker:
        """A tracker at the restriction."""
        return GroupTracker(restriction)

    def restriction_coder(self) -> FrontierGroupCoder:
        """Versioned JSON."""
        return FrontierGroupCoder()

    def restriction_size(self, element: ReaderGroup, restriction: FrontierGroup) -> int:
        """A number that grows with the shards; no call of the service, never negative."""
        return sum(map(_size, restriction.frontiers))

    @beam.DoFn.unbounded_per_element()
    def process(
        self,
        element: ReaderGroup,
        tracker: Any = _TRACKER,
        estimator: Any = _GROUP_ESTIMATOR,
    ) -> Iterator[Any]:
        """Reads one slice of each reader's shards."""
        watermarks, delays = [], []
        for place, spec in enumerate(element.sources):
            member = GroupMember(tracker, place)
            if member.current_restriction().closed:
                continue
            reader = yield from self._read(spec, member, estimator, together=len(element.sources))
            if not member.current_restriction().closed:
                watermarks.append(reader.watermark_us())
                delays.append(reader.resume_delay())
        if not tracker.current_restriction().closed:
            # Everything is emitted by now, so the watermark may move.
            advance(estimator, min(watermarks))
            delay = min(delays)
            tracker.defer_remainder(Duration(seconds=delay) if delay else None)

    def _read(
        self, spec: ReaderSpec, member: GroupMember, estimator: Any, together: int
    ) -> Generator[Any, None, SliceReader]:
        """Reads one slice of one reader's shards.

        Args:
            spec: The reader.
            member: Its view of the tracker.
            estimator: The group's watermark.
            together: How many readers have their slices in one call.
        """
        given = spec.generation
        if self._gap_handler is not None:
            policy = self._gap_handler.policy_for(spec.table.name)
            spec = dataclasses.replace(spec, gap_policy=policy)
        cache = self._cache()
        frontier = member.current_restriction()
        spec = self._with_generation(spec, frontier, fresh=False)
        key = _key(spec)
        scheduler = cache.acquire(key, len(frontier.live), together)
        if self._generations and (scheduler is None or scheduler.left != frontier.counts):
            # New here, or back at a checkpoint: a cache may know less than this reader did.
            spec = self._with_generation(spec, frontier, fresh=True)
            scheduler = scheduler if _key(spec) == key else None
            key = _key(spec)
        if scheduler is None:
            scheduler = self._new_scheduler(spec, frontier)
        if self._generations and spec.generation > max(frontier.generation, given):
            raised = dataclasses.replace(frontier, generation=spec.generation)
            member.try_claim(Moved(frontier, raised))
        pacing = cache.shared(self._pacing)
        reader = SliceReader(spec, member, scheduler, pacing, self._clock, bounded=False)
        try:
            for output in reader.read():
                yield _tagged(output, estimator)
        except GapError as error:
            if self._gap_handler is not None:
                self._gap_handler.on_fatal(spec.table.name, error)
            raise
        if self._observe is not None:
            self._observe(reader.seen())
        standing = member.current_restriction()
        if not standing.closed:
            scheduler.left = standing.counts
        cache.park(key, scheduler, reader.frontier)
        return reader

    def _with_generation(self, spec: ReaderSpec, frontier: Frontier, *, fresh: bool) -> ReaderSpec:
        """The spec with the table's generation of now."""
        if self._generations is None:
            return spec
        latest = self._generations.lookup(spec.table.name, fresh=fresh)
        return with_latest_generation(spec, frontier, latest)


def _alone(spec: ReaderSpec) -> ReaderGroup:
    return ReaderGroup((spec,))


def _key(spec: ReaderSpec) -> ReaderKey:
    return spec.stream_arn, spec.reader, spec.readers, spec.generation


def _size(frontier: Frontier) -> int:
    return 0 if frontier.closed else 1 + len(frontier.shards)


def _tagged(output: Output, estimator: Any) -> Any:
    if isinstance(output, Block):
        return TimestampedValue(output, clamp_to_watermark(estimator, oldest_event_us(output)))
    tag = REPORTS if isinstance(output, Report) else DEAD_LETTERS
    return TaggedOutput(tag, TimestampedValue(output, clamp_to_watermark(estimator, 0)))
