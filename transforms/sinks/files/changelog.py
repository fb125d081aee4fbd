# SPDX-License-Identifier: Apache-2.0
"""A changelog in files: `file:///out?format=parquet`, `s3://bucket/prefix`, `gs://bucket/prefix`.

Delivery promise: every change that the graph delivers in a successful round is in exactly one
published file, once per delivery. A round appears after it is committed, file by file, each file
whole; a round that failed leaves nothing outside `_staging`; a round that is run again replaces its
files. A change that the source delivers twice (two rounds after a crash, a snapshot row beside its
stream record) is there twice, with its version: **the newest row of a key has the highest
`_version`**, byte by byte.

```sql
SELECT * FROM 'out/orders/*/*.parquet'
QUALIFY row_number() OVER (PARTITION BY id ORDER BY _version DESC) = 1 AND _op <> 'd'
```

(`_op` is `version`'s neighbour `op` in JSON lines.) A healed or repeated snapshot has a higher
generation, the first part of the version. What a repair sweeps from mirrors gets a `d` row of that
generation here (`Sink.append_swept`), in the folder of the round that ended the repair.

How a round is written: each bundle stages its own files, so the rows cross no shuffle and any
number of workers write; the list of closed files goes through one grouped element, which writes the
attempt's commit list. A bundle that is retried leaves a file that no list names, and that is
removed with the attempt. See `transforms.sinks.files.staging` for what happens after the commit.

A continuous run has no rounds: each file appears whole, within `HELD_SECONDS` of its changes, and
stays. A failure of the runner makes changes come again that are in a file already, so a change can
then be there twice, with one `_version`; no change is ever missing. See
`transforms.sinks.files.continuous_files`. One folder can be written in both ways, one after the
other.

Options: `format` jsonl | parquet; `compression` none | gzip (jsonl), zstd | snappy | none
(parquet); `max_file_bytes`, default 256 MiB, and 32 MiB of changes at most in a continuous run;
`writers`, files that a continuous run gathers per table at a time, default 4; for Parquet also
`layout` unpacked | packed, `numbers` decimal(38,18) | decimal(p,s) | text, `nested` dynamodb |
plain.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import os
import sys
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import apache_beam as beam
import pyarrow as pa
from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystems import FileSystems
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from dynabeam.transforms.errors import ConfigurationError, DynabeamError, SinkError
from dynabeam.transforms.model.block import SCHEMA, Block, BlockHeader
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.model.version import constant_versions
from dynabeam.transforms.runtime.clock import now_us
from dynabeam.transforms.sinks.base import Capabilities, Round, Sink, SinkPosition, Sweep
from dynabeam.transforms.sinks.files.change_parquet import METADATA, ParquetWriter
from dynabeam.transforms.sinks.files.change_writer import ChangeWriter, LineWriter
from dynabeam.transforms.sinks.files.columns import ChangelogColumns
from dynabeam.transforms.sinks.files.continuous_files import (
    GATHER_BYTES,
    ContinuousFiles,
    WriteContinuously,
)
from dynabeam.transforms.sinks.files.staging import Marker, RoundFiles, StagedFile, table_folder
from dynabeam.transforms.sinks.files.sweep import CHANGE_FILES, swept_keys
from dynabeam.transforms.sinks.membership import Lack
from dynabeam.transforms.sinks.row_layout import LAYOUT_OPTIONS, row_options
from dynabeam.transforms.sinks.uri import SinkUri, refuse_home, uri_of_path
from dynabeam.transforms.storage import filesystem

__all__ = ["DEFAULT_MAX_FILE_BYTES", "DEFAULT_WRITERS", "FileChangelog"]

DEFAULT_MAX_FILE_BYTES = 256 << 20
DEFAULT_WRITERS = 4

_COMPRESSIONS = {"jsonl": ("none", "gzip"), "parquet": ("zstd", "snappy", "none")}
_REFUSED = "refused"
_OPTIONS = frozenset({"format", "compression", "max_file_bytes", "writers", *LAYOUT_OPTIONS})


class FileChangelog(Sink):
    """Every change, appended once per committed round or as it comes, as JSON lines or Parquet.

    Raises:
        ConfigurationError: If the URI names no folder or an option is wrong.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(kind="changelog", continuous=True)
    elsewhere = "another folder"

    def __init__(self, uri: SinkUri) -> None:
        super().__init__(uri)
        uri.refuse_unknown(_OPTIONS)
        self._root = _root(uri)
        self._format = uri.choice("format", "jsonl", tuple(_COMPRESSIONS))
        allowed = _COMPRESSIONS[self._format]
        self._compression = uri.choice("compression", allowed[0], allowed)
        self._max_file_bytes = uri.positive("max_file_bytes", DEFAULT_MAX_FILE_BYTES)
        self._writers = uri.positive("writers", DEFAULT_WRITERS)
        if self._format == "jsonl":
            _refuse_layout(uri)
        self._row_options = row_options(uri)
        self._files = RoundFiles(self._root)

    @property
    def place(self) -> str:
        """The folder: an absolute local path, or the object store's URL."""
        return os.path.realpath(self._root) if filesystem.is_local(self._root) else self._root

    @property
    def resolved(self) -> str:
        """The folder."""
        return self.place

    def position(self, committed: Round) -> SinkPosition | None:
        """The last round that has files, as the marker says, or is staged and committed."""
        with _reached(self._root, self.name):
            files = self._files
            marker = files.read_marker()
            if marker is None:
                return None
            number = marker.round
            if committed.number > number and files.is_staged(committed):
                number = committed.number
        return SinkPosition(marker.state_id, number)

    def examine(self, tables: Sequence[Table], committed: Round, *, joins: bool = False) -> str:
        """Reads the folder's marker; permissions to write an object store are not tried."""
        with _reached(self._root, self.name):
            marker = self._examined(tables, committed, joins=joins)
        if marker is None:
            return "the folder is new"
        return "a changelog"

    def check(self, tables: Sequence[Table], committed: Round, *, joins: bool = False) -> None:
        """Checks that the folder can be written and belongs to the state directory.

        Raises:
            SinkError: If it cannot be written, if it belongs to another state directory, or if it
                has no marker although rounds are committed and it does not join.
        """
        with _reached(self._root, self.name):
            marker = self._examined(tables, committed, joins=joins)
            if marker is None:
                marker = Marker(committed.state_id, committed.number)
            elif joins and marker.round < committed.number:
                # Of a round above, files are set aside first: `recover` does that.
                marker = dataclasses.replace(marker, round=committed.number)
            # Written each time: it also proves that the folder can be written.
            self.files().write_marker(marker)

    def set_back(self, committed: Round) -> str:
        """Sets the files of later rounds aside, below `_staging`: readers do not see them there."""
        with _reached(self._root, self.name):
            return self.files().set_aside_rounds_after(committed.number)

    def tell_lacks(self, lacks: Sequence[Lack], whole_from: int, whole_from_us: int) -> None:
        """Writes them into the marker, beside the tables' folders."""
        with _reached(self._root, self.name):
            marker = self.files().read_marker()
            if marker is not None:
                told = dataclasses.replace(
                    marker,
                    lacks=tuple(lacks),
                    whole_from=whole_from,
                    whole_from_us=whole_from_us,
                )
                if told != marker:
                    self.files().write_marker(told)

    def refuse_old_meaning(self, committed: Round) -> None:
        """Up to version 0.1 three slashes began a relative path: its files are in another place."""
        text = self.uri.text
        if not text.lower().startswith("file:///") or text.lower().startswith("file:////"):
            return
        old = os.path.abspath(self.uri.path.lstrip("/"))
        if old == self._root:
            return
        marker = RoundFiles(old).read_marker()
        if marker is not None and marker.state_id == committed.state_id:
            relative = uri_of_path(os.path.relpath(old))
            raise SinkError(
                "the changelog is where an earlier version took this URI to be: three slashes now "
                "begin an absolute path, as everywhere else",
                where=f"--sink={self.name}",
                expected=self._root,
                found=old,
                hint=f"Write --sink={relative} to stay there, or move the folder to {self._root}",
            )

    def _examined(self, tables: Sequence[Table], committed: Round, *, joins: bool) -> Marker | None:
        """The marker, after everything that is refused was looked at."""
        _check_filesystem(self._root, self.name)
        files = self.files()
        if filesystem.is_local(self._root):
            _check_local(self._root, self.name)
        else:
            filesystem.check_bucket(self._root, SinkError)
        marker = files.read_marker()
        if marker is None and not joins:
            self.refuse_old_meaning(committed)
        if marker is None and committed.number > 0 and not joins:
            raise SinkError(
                f"the folder is not known, but the state directory says round {committed.number}",
                where=f"--sink={self.name}",
                expected=f"the marker of state directory {committed.state_id}",
                found="none",
                hint="Give the folder that this state directory wrote to, or start both afresh",
            )
        if marker is not None:
            self.refuse_other_owner(marker.state_id, committed.state_id)
        else:
            _refuse_occupied(files, tables, self.name)
        return marker

    def recover(self, committed: Round) -> None:
        """Publishes what the committed round still has staged; removes all that does not count.

        Published files of a round above the committed one are removed too: that round is run again.
        Whoever wants to keep them calls `set_back` before.
        """
        files = self._files
        if committed.number > 0:
            files.publish(committed)
        files.discard_other_attempts(committed.attempt if committed.number else "")
        files.remove_rounds_after(committed.number)

    def write(self, current: Round) -> beam.PTransform[Any, Any]:
        """Stages the changes; an empty round writes nothing."""
        return _StageChanges(self, current)

    def write_continuously(self, state_id: str) -> beam.PTransform[Any, Any]:
        """Writes whole files as changes come, see `transforms.sinks.files.continuous_files`."""
        files = ContinuousFiles(self.files(), self.name, state_id, self.one_file_writer)
        return WriteContinuously(files, self._writers, min(self._max_file_bytes, GATHER_BYTES))

    def check_staged(self, current: Round, reports: Sequence[Report]) -> None:
        """Compares the commit list with the rows that the workers say they have staged.

        Raises:
            SinkError: The list is not there, or names other rows: they are on another disk.
        """
        told = sum(
            each.fields["written"]
            for each in reports
            if each.kind == "sink" and each.fields["sink"] == self.name
        )
        listed = self.files().listed_rows(current)
        if told != (listed or 0):
            raise SinkError(
                "what the workers have staged is not in the folder",
                where=f"--sink={self.name}",
                expected=f"{told} rows",
                found="no commit list" if listed is None else f"{listed} rows",
                hint="Name a folder that every worker sees, then run again: the round is repeated",
            )

    def publish(self, current: Round) -> None:
        """Moves the staged files of a committed round to their final places."""
        self._files.publish(current)

    def append_deletes(self, table: Table, sweep: Sweep, committed: Round | None) -> int:
        """Appends deletes of what a repair swept, see `Sink.append_swept`.

        What is to be swept is found in the files themselves. A file of deletes is named by its
        keys and appears whole; a key whose delete is there is not found again. So whenever the
        process dies, each delete ends up there once.
        """
        files = self.files()
        folder = filesystem.join(files.root, table_folder(table.name))
        paths = [each for each in filesystem.list_files(folder) if each.endswith(CHANGE_FILES)]
        appended = 0
        for keys in swept_keys(paths, table, sweep):
            rows = _deletes(keys, sweep.generation)
            header = BlockHeader(table, 0, 1, sweep.generation, "export", {"reason": "swept"})
            self._publish_swept(Block(header, rows), committed)
            appended += len(keys)
        return appended

    def _publish_swept(self, block: Block, committed: Round | None) -> None:
        files, name = self.files(), block.header.table.name
        attempt = f"swept-{uuid.uuid4().hex}"
        staging = (
            files.continuous_staging_folder()
            if committed is None
            else files.staging_folder(attempt)
        )
        writer = self.one_file_writer(staging)
        writer.add(block)
        (staged,) = writer.finish()
        extension = os.path.basename(staged.path).partition(".")[2]
        digest = hashlib.blake2b(digest_size=16)
        for key in block.rows.column("key"):
            digest.update(key.as_buffer())
        part = f"part-swept-{block.header.generation}-{digest.hexdigest()}.{extension}"
        if committed is None:
            today = datetime.datetime.fromtimestamp(now_us() // 1_000_000, datetime.timezone.utc)
            target = files.continuous_path(name, today.date(), part)
        else:
            files.claim_round(committed)
            target = files.swept_path(name, committed, part)
        filesystem.move(staged.path, target, SinkError)
        if committed is not None:
            files.clear_attempt(attempt)

    def stage(self, blocks: Iterable[Block], current: Round) -> list[Report]:
        """Stages blocks without a graph, as one bundle.

        Args:
            blocks: In any order; taken one at a time.
            current: The round.

        Returns:
            One report of kind `sink` per table, one of kind `refused` per row left out.

        Raises:
            SinkError: If a file cannot be written.
        """
        writer = self.writer(self.files().staging_folder(current.attempt))
        for block in blocks:
            if block.rows.num_rows:
                writer.add(block)
        files = writer.finish()
        return [*(self.commit_list(files, current) if files else []), *writer.refused]

    def commit_list(self, files: Sequence[StagedFile], current: Round) -> list[Report]:
        """Writes the commit list of an attempt and reports what is in it."""
        self.files().write_list(current, files)
        rows: dict[str, int] = {}
        for file in files:
            rows[file.table] = rows.get(file.table, 0) + file.rows
        return [
            Report("sink", table, {"sink": self.name, "rows": count, "written": count, "stale": 0})
            for table, count in sorted(rows.items())
        ]

    def writer(self, folder: str) -> ChangeWriter:
        """A writer of this changelog's format into a staging folder."""
        return self._writer(folder, self._max_file_bytes)

    def one_file_writer(self, folder: str) -> ChangeWriter:
        """A writer that puts all blocks of a table into one file, however large."""
        return self._writer(folder, sys.maxsize, sys.maxsize)

    def _writer(
        self, folder: str, max_file_bytes: int, piece_bytes: int | None = None
    ) -> ChangeWriter:
        if self._format == "jsonl":
            gzip = self._compression == "gzip"
            return LineWriter(folder, max_file_bytes, gzip=gzip, place=self.place)
        options, compression = self._row_options, self._compression
        return ParquetWriter(
            folder,
            max_file_bytes,
            options,
            compression,
            piece_bytes=piece_bytes,
            place=self.place,
            columns_of=self._columns_of,
        )

    def _columns_of(self, table: Table) -> ChangelogColumns:
        return ChangelogColumns(
            self._files.table_path(table.name),
            table,
            self._row_options,
            numbers_asked=any(name == "numbers" for name, _ in self.uri.options),
            reserved=(*METADATA, self._files.partition),
        )

    def files(self) -> RoundFiles:
        """The files of this changelog."""
        return self._files


def _deletes(keys: pa.Array, generation: int) -> pa.RecordBatch:
    """Rows that say of keys that the table does not have them any more."""
    count = len(keys)
    nothing = pa.nulls(count, pa.binary())
    time_type = SCHEMA.field("event_time").type
    columns = [
        keys,
        constant_versions(generation, count),
        pa.repeat(pa.scalar("d"), count),
        pa.repeat(pa.scalar(now_us(), pa.int64()).cast(time_type), count),
        nothing,
        nothing,
        pa.repeat(pa.scalar(False), count),
        nothing,
    ]
    return pa.record_batch(columns, schema=SCHEMA)


class _StageChanges(beam.PTransform):
    def __init__(self, sink: FileChangelog, current: Round) -> None:
        super().__init__()
        self._sink = sink
        self._round = current

    def expand(self, blocks: Any) -> Any:
        """Bundles stage files; one grouped element writes the commit list."""
        staged = blocks | "StageFiles" >> beam.ParDo(
            _StageFn(self._sink, self._round)
        ).with_output_types(tuple[str, str], refused=Report).with_outputs(_REFUSED, main="files")
        listed = (
            staged["files"]
            | "ListFiles" >> beam.GroupByKey()
            | "WriteCommitList"
            >> beam.ParDo(_CommitListFn(self._sink, self._round)).with_output_types(Report)
        )
        return (listed, staged[_REFUSED]) | "Reports" >> beam.Flatten()


class _StageFn(beam.DoFn):
    """Writes the blocks of a bundle to files of its own."""

    def __init__(self, sink: FileChangelog, current: Round) -> None:
        self._sink = sink
        self._round = current
        self._writer: ChangeWriter | None = None

    def start_bundle(self) -> None:
        """Starts anew: what a failed bundle of this worker wrote does not count."""
        folder = self._sink.files().staging_folder(self._round.attempt)
        self._abandon()
        self._writer = self._sink.writer(folder)

    def teardown(self) -> None:
        """Lets go of the files of a bundle that failed elsewhere: no list will name them."""
        self._abandon()

    def process(self, element: Block) -> None:
        """Stages one block."""
        assert self._writer is not None
        if element.rows.num_rows:
            self._writer.add(element)

    def finish_bundle(self) -> Iterator[Any]:
        """Closes the files and names them."""
        assert self._writer is not None
        window = GlobalWindow()
        writer, self._writer = self._writer, None
        for file in writer.finish():
            yield WindowedValue(("", file.to_json()), window.max_timestamp(), [window])
        none = {"sink": self._sink.name, "rows": 0, "written": 0, "stale": 0}
        unfit = [
            Report("sink", table, {**none, "unfit_numbers": count})
            for table, count in writer.unfit_numbers.items()
        ]
        for report in (*writer.refused, *unfit):
            whole = WindowedValue(report, window.max_timestamp(), [window])
            yield beam.pvalue.TaggedOutput(_REFUSED, whole)

    def _abandon(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.finish()


class _CommitListFn(beam.DoFn):
    def __init__(self, sink: FileChangelog, current: Round) -> None:
        self._sink = sink
        self._round = current

    def process(self, element: tuple[str, Iterable[str]]) -> Iterator[Report]:
        """Writes the commit list of the attempt."""
        files = [StagedFile.from_json(text) for text in element[1]]
        yield from self._sink.commit_list(files, self._round)


def _root(uri: SinkUri) -> str:
    if uri.scheme == "file":
        if uri.authority or not uri.path.strip("/"):
            raise ConfigurationError(
                "the URI names no folder of this machine",
                where=f"--sink={uri.text}",
                hint="Write file:///folder (absolute) or file:folder (relative)",
            )
        refuse_home(uri)
        # Absolute, because a worker may run in another folder.
        return os.path.abspath(uri.path)
    if not uri.authority:
        raise ConfigurationError(
            "the URI names no bucket",
            where=f"--sink={uri.text}",
            hint=f"Write {uri.scheme}://bucket/prefix",
        )
    return f"{uri.scheme}://{uri.authority}/{uri.path}".rstrip("/")


def _refuse_layout(uri: SinkUri) -> None:
    for name, _ in uri.options:
        if name in LAYOUT_OPTIONS:
            raise ConfigurationError(
                f"{name} is an option of format=parquet only",
                where=f"--sink={uri.text}",
                hint="JSON lines hold each image as the service sent it",
            )


@contextlib.contextmanager
def _reached(root: str, name: str) -> Iterator[None]:
    """What a filesystem says that is no error for people becomes one, which names the sink."""
    try:
        yield
    except DynabeamError:
        raise
    except (BeamIOError, OSError) as error:
        raise SinkError(
            f"the folder cannot be read: {error}",
            where=f"--sink={name}",
            found=root,
            hint="Check bucket, path, region and the permissions of this identity",
        ) from error


def _check_local(root: str, name: str) -> None:
    """Checks whether a folder of this machine can be written, or else made."""
    there = filesystem.nearest_existing(root)
    what = ""
    if not os.path.isdir(there):
        what = "a file is in the way"
    elif not os.access(there, os.W_OK | os.X_OK):
        what = "the permission is missing"
    if what:
        raise SinkError(
            f"the folder cannot be written: {what}",
            where=f"--sink={name}, {root}",
            found=there,
            hint="Give another place, or the permission to write this one",
        )


def _check_filesystem(root: str, name: str) -> None:
    try:
        FileSystems.get_filesystem(root)
    except ValueError as error:
        package = "dynabeam[dataflow]" if root.startswith("gs://") else "dynabeam"
        raise SinkError(
            "Beam has no filesystem for this scheme here",
            where=f"--sink={name}",
            hint=f"pip install '{package}'",
        ) from error


def _refuse_occupied(files: RoundFiles, tables: Sequence[Table], name: str) -> None:
    """A new changelog may share its folder with other files, but not a table's folder."""
    occupied = files.occupied([table.name for table in tables])
    if occupied:
        raise SinkError(
            "the folder has no marker, but holds files where a table's would go",
            where=f"--sink={name}",
            found=occupied,
            hint="Give an empty folder, or put the marker file back",
        )
