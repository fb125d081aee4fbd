# SPDX-License-Identifier: Apache-2.0
"""Snapshot branch and stream branch of many tables, reconciled: the reading half of every graph.

```
SnapshotRequest ─► EnsureExport ─► ReadExportFiles ─┐ blocks
FileSlice ───────────────────────► ReadExportFiles ─┤
                                                    ├─► Reconcile ─► blocks
ReaderSpec ─► SpreadReaders ─► ReadStream ────────┘
```

Tables are data: the graph has the same shape for one and for hundreds. The stream never waits for
the snapshot. Which elements come in, and whether they go on coming, is the caller's business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import apache_beam as beam

from dynabeam.transforms.aws.session import AwsAccess
from dynabeam.transforms.export.acquire import Acquisition
from dynabeam.transforms.export.ensure_export import EnsureExport
from dynabeam.transforms.export.manifest import Verify
from dynabeam.transforms.export.read_files import ReadExportFiles
from dynabeam.transforms.model.block import Block
from dynabeam.transforms.model.dead_letter import DeadLetter
from dynabeam.transforms.model.gap import GapPolicy
from dynabeam.transforms.model.gap_handler import GapHandler
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.reconcile.reconcile import Reconcile
from dynabeam.transforms.reconcile.verify_chain import VerifyChain
from dynabeam.transforms.stream.read_stream import ReadStream, Until
from dynabeam.transforms.stream.reader_spec import Generations
from dynabeam.transforms.telemetry.process_metrics import see_reader

__all__ = ["ReadTables", "TablesRead"]


class TablesRead(NamedTuple):
    """What `ReadTables` gives.

    Attributes:
        blocks: `PCollection[Block]`: every stream change, and the snapshot rows that are not
            superseded by one.
        reports: `PCollection[Report]`: positions, exports, files, gaps, counts.
        dead_letters: `PCollection[DeadLetter]`: records that could not be handled, raw.
    """

    blocks: beam.PCollection[Block]
    reports: beam.PCollection[Report]
    dead_letters: beam.PCollection[DeadLetter]


class ReadTables(beam.PTransform):
    """`{"requests": PCollection[SnapshotRequest], "sources": PCollection[ReaderSpec]}` → blocks.

    Either may be left out. In the place of requests there may be `slices`, a
    `PCollection[FileSlice]` of exports that the caller has got hold of. Sources that are read
    forever may come in groups (`transforms.stream.reader_group`). The output is a `TablesRead`.

    At least once: a bundle that is tried again delivers again, under the same versions.

    Args:
        access: Where and as whom AWS is called; None if exports are read without AWS.
        until: `tip`: read what is there, look for each export once, and end. `forever`: never end,
            and wait for exports.
        verify: What checksums and counts that do not agree are: an error, or a warning.
        chain_policy: Look for changes that the stream lost without a word (`VerifyChain`), with the
            policy of each table; None not to look. A savepoint is bound to whether it is given.
        generations: Where readers that never end learn that a table's generation went up.
        gap_handler: What gaps do in a run that never ends, whatever the sources say.
        export_to: Bucket, prefix and bucket owner of new exports, whatever the requests say.
    """

    def __init__(
        self,
        access: AwsAccess | None,
        *,
        until: Until = "tip",
        verify: Verify = "strict",
        chain_policy: Callable[[str], GapPolicy] | None = None,
        generations: Generations | None = None,
        gap_handler: GapHandler | None = None,
        export_to: tuple[str, str, str] = ("", "", ""),
    ) -> None:
        super().__init__()
        self._export_to = export_to
        self._chain_policy = chain_policy
        self._generations = generations
        self._gap_handler = gap_handler
        self._access = access
        self._until: Until = until
        self._verify: Verify = verify

    def expand(self, elements: Mapping[str, Any]) -> TablesRead:
        """Adds the branches that there are elements for."""
        branches = [
            elements[name] | branch
            for name, branch in (
                ("requests", "Snapshot" >> _Snapshot(self)),
                ("slices", "Slices" >> _Slices(self)),
                ("sources", "Stream" >> _Stream(self)),
            )
            if name in elements
        ]
        blocks = tuple(each.blocks for each in branches) | "Blocks" >> beam.Flatten()
        blocks.element_type = Block
        reconciled = blocks | "Reconcile" >> Reconcile()
        told = [*(each.reports for each in branches), reconciled.reports]
        if self._chain_policy is not None:
            verify = VerifyChain(self._chain_policy, gap_handler=self._gap_handler)
            told.append(blocks | "VerifyChain" >> verify)
        reports = told | "Reports" >> beam.Flatten()
        reports.element_type = Report
        letters = tuple(each.dead_letters for each in branches) | "DeadLetters" >> beam.Flatten()
        letters.element_type = DeadLetter
        return TablesRead(reconciled.blocks, reports, letters)

    @property
    def access(self) -> AwsAccess | None:
        """Where and as whom AWS is called."""
        return self._access

    @property
    def export_to(self) -> tuple[str, str, str]:
        """Bucket, prefix and bucket owner of new exports."""
        return self._export_to

    @property
    def until(self) -> Until:
        """When the reading ends."""
        return self._until

    @property
    def generations(self) -> Generations | None:
        """Where readers learn of generations."""
        return self._generations

    @property
    def gap_handler(self) -> GapHandler | None:
        """What gaps do."""
        return self._gap_handler

    @property
    def verify(self) -> Verify:
        """What a mismatch is."""
        return self._verify


class _Snapshot(beam.PTransform):
    def __init__(self, how: ReadTables) -> None:
        super().__init__()
        self._how = how

    def expand(self, requests: Any) -> TablesRead:
        bucket, prefix, owner = self._how.export_to
        how = Acquisition(
            access=self._how.access,
            verify=self._how.verify,
            bucket=bucket,
            prefix=prefix,
            bucket_owner=owner,
        )
        ensured = requests | "EnsureExport" >> EnsureExport(how, wait=self._how.until == "forever")
        rows = ensured.slices | "ReadExportFiles" >> ReadExportFiles(verify=self._how.verify)
        reports = (ensured.reports, rows.reports) | "Reports" >> beam.Flatten()
        reports.element_type = Report
        return TablesRead(rows.blocks, reports, rows.dead_letters)


class _Slices(beam.PTransform):
    def __init__(self, how: ReadTables) -> None:
        super().__init__()
        self._how = how

    def expand(self, slices: Any) -> TablesRead:
        rows = slices | "ReadExportFiles" >> ReadExportFiles(verify=self._how.verify)
        return TablesRead(rows.blocks, rows.reports, rows.dead_letters)


class _Stream(beam.PTransform):
    def __init__(self, how: ReadTables) -> None:
        super().__init__()
        self._how = how

    def expand(self, sources: Any) -> TablesRead:
        if self._how.access is None:
            raise ValueError("a stream cannot be read without AWS")
        spread = sources | "SpreadReaders" >> beam.Reshuffle()
        read = spread | "ReadStream" >> ReadStream(
            self._how.access,
            until=self._how.until,
            generations=self._how.generations,
            gap_handler=self._how.gap_handler,
            observe=see_reader,
        )
        return TablesRead(read["blocks"], read["reports"], read["dead_letters"])
