# SPDX-License-Identifier: Apache-2.0
"""`WriteToMirror` and `WriteToChangelog`: the sinks, for pipelines of one's own.

```python
read = p | ReadFromDynamoDB(["orders"], region="eu-west-1")
written = read.blocks | WriteToMirror("postgresql://replicator@db/analytics?sslmode=verify-full")
_ = written.dead_letters | ...  # rows that the sink refused, with their raw bytes
```

`dynabeam replicate` does more: it keeps positions between runs, publishes a changelog's round as a
whole, brings new sinks up, and repairs what a stream lost.

The sink is checked, and what is missing is created, on the workers: by each of them before its
first bundle. Only a sink with a single writer is checked once for all, and lets blocks through when
that is done: it is a side input of theirs. Others are not written like that, because with a side
input runners hold endless blocks back until the watermark has passed them (Prism: half a minute).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import apache_beam as beam
from apache_beam.options.pipeline_options import PortableOptions
from apache_beam.transforms.window import GlobalWindows

from dynabeam.transforms.errors import ConfigurationError
from dynabeam.transforms.model.block import Block
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.sinks.base import Round, Sink
from dynabeam.transforms.sinks.refused import SinkOutput, SplitRefused
from dynabeam.transforms.sinks.registry import RunnerFacts, check_place, open_sink

__all__ = ["WriteToChangelog", "WriteToMirror"]

_ON_THIS_MACHINE = frozenset(
    {
        "BundleBasedDirectRunner",
        "DirectRunner",
        "FnApiRunner",
        "PrismRunner",
        "SwitchingDirectRunner",
    }
)
_OWNER = "pipeline"


class _WriteBlocks(beam.PTransform):
    """What both have in common."""

    kind: ClassVar[Literal["mirror", "changelog"]]
    other: ClassVar[str]

    def __init__(self, uri: str, *, owner: str = _OWNER) -> None:
        super().__init__()
        if not owner:
            raise ConfigurationError("the sink needs an owner", where="owner", found=owner)
        self._sink = open_sink(uri)
        self._owner = owner
        if self._sink.capabilities.kind != self.kind:
            raise ConfigurationError(
                f"this sink is a {self._sink.capabilities.kind}",
                where=self._sink.name,
                expected=f"a {self.kind}",
                hint=f"Write it with {self.other}",
            )

    def display_data(self) -> dict[str, Any]:
        """What the runner shows of it; a URI has no secret, only references."""
        return {"sink": self._sink.name, "owner": self._owner}

    def expand(self, blocks: beam.PCollection[Block]) -> SinkOutput:
        """Checks the sink, then writes.

        Raises:
            ConfigurationError: The sink cannot be written without end, and the blocks have none; or
                it is on this machine's disk, and the runner's workers may be elsewhere.
        """
        sink, pipeline = self._sink, blocks.pipeline
        facts = RunnerFacts(
            type(pipeline.runner).__name__,
            continuous=not blocks.is_bounded,
            shares_disk=_shares_disk(pipeline),
        )
        check_place(sink.place, facts, sink.name)
        if facts.continuous and not sink.capabilities.continuous:
            raise ConfigurationError(
                "this sink is written as a whole, when all blocks are there, and these never end",
                where=sink.name,
                hint=(
                    "Write to postgresql://, end the reading with with_stream(until='caught_up'), "
                    "or use dynabeam replicate --every=2s, which writes in rounds"
                ),
            )
        in_one_window = blocks | "InGlobalWindow" >> beam.WindowInto(GlobalWindows())
        write = self._write if sink.capabilities.continuous else self._write_at_once
        written: SinkOutput = write(in_one_window) | "Refused" >> SplitRefused()
        return written

    def _write(self, blocks: beam.PCollection[Block]) -> beam.PCollection[Report]:
        check = beam.ParDo(_CheckFn(self._sink, self._owner)).with_output_types(Block)
        return blocks | "Check" >> check | "Write" >> self._sink.write_continuously(self._owner)

    def _write_at_once(self, blocks: beam.PCollection[Block]) -> beam.PCollection[Report]:
        once = beam.Create([self._owner], reshuffle=False).with_output_types(str)
        check = beam.Map(_check, self._sink).with_output_types(str)
        checked = beam.pvalue.AsSingleton(blocks.pipeline | "Once" >> once | "Check" >> check)
        # Every run is the first round after none: the mirror's version guard does the rest.
        current = Round(self._owner, 1, uuid.uuid4().hex)
        passed = blocks | "Checked" >> beam.Map(_pass, checked).with_output_types(Block)
        return passed | "Write" >> self._sink.write(current)


class WriteToMirror(_WriteBlocks):
    """`PCollection[Block]` into a mirror: one row per key, the one with the highest version.

    Delivery promise: what was written once stays; repeats, other orders and rows that arrive late
    change nothing, because the mirror applies a row only if its version is higher than the one that
    it holds for the key. So a bundle that is retried, and a pipeline that is run again, are safe,
    and after a run with snapshot and stream the mirror equals the table as of what was read.

    * `postgresql://…`: each bundle is durable and visible when it ends; with or without an end.
    * `duckdb:///…`: all blocks are committed in one transaction, when the last is there, by one
      call; the blocks must have an end. The file has one writer, on the machine of the worker.

    Args:
        uri: The mirror, as for `dynabeam replicate --sink`.
        owner: Who writes it. A mirror belongs to its first owner, and refuses others: that of
            `dynabeam replicate` is its state directory. Pipelines of one owner may write different
            tables of one PostgreSQL mirror at a time.

    Gives a `SinkOutput`: `reports` of what was written, `dead_letters` of rows that the mirror
    refused for what is in them.

    Raises:
        ConfigurationError: The URI is wrong, or not of a mirror.
        SinkError: The packages that it needs are not installed.
    """

    kind = "mirror"
    other = "WriteToChangelog"


class WriteToChangelog(_WriteBlocks):
    """`PCollection[Block]` into a changelog: a row for each change, in files.

    Delivery promise: every change is in a file, at least once. A file appears whole, under its
    final name, and never changes: with an end when the last block is there or the file is full,
    without one at most `HELD_SECONDS` of event time after its changes. What a runner delivers again
    after a failure, or a pipeline that is run again, may be there twice with one `_version`: one
    row per key and `_version` is the truth, and the newest row of a key has the highest `_version`.

    Args:
        uri: The folder, as for `dynabeam replicate --sink`.
        owner: Who writes it. A changelog belongs to its first owner, and refuses others. Pipelines
            of one owner may write it at a time. What one that was killed left unfinished stays in
            `_staging`, which readers pass over.

    Gives a `SinkOutput`: `reports`, one for each file and table, and `dead_letters` of rows that
    the format cannot hold.

    Raises:
        ConfigurationError: The URI is wrong, or not of a changelog.
        SinkError: The packages that it needs are not installed.
    """

    kind = "changelog"
    other = "WriteToMirror"


class _CheckFn(beam.DoFn):
    """Lets blocks through to a sink that was checked before the first bundle of their stage."""

    def __init__(self, sink: Sink, owner: str) -> None:
        self._sink = sink
        self._owner = owner

    def setup(self) -> None:
        """Checks the sink. A runner sets all steps of a stage up before it begins a bundle."""
        _check(self._owner, self._sink)

    def process(self, block: Block) -> Iterator[Block]:
        """Lets a block through."""
        yield block


def _check(owner: str, sink: Sink) -> str:
    sink.check([], Round(owner, 0, ""))
    return owner


def _pass(block: Block, owner: str) -> Block:
    del owner  # that it is there says that the sink was checked
    return block


def _shares_disk(pipeline: beam.Pipeline) -> bool:
    """Whether workers see this machine's disk; of a cluster that is not known."""
    environment = pipeline.options.view_as(PortableOptions).environment_type or ""
    if environment.upper() == "LOOPBACK":
        return True
    on_this_machine = type(pipeline.runner).__name__ in _ON_THIS_MACHINE
    return on_this_machine and environment.upper() != "DOCKER"
