# SPDX-License-Identifier: Apache-2.0
"""`dynabeam audit`: proves that a mirror equals its tables, or shows where it does not.

Exit code: 0 equal, 1 differences, 2 could not be done. Nothing is written to mirror, state
directory or tables; without `--export` a new export is requested.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
import traceback
import uuid
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from apache_beam.io.filesystems import FileSystems

from dynabeam.pipelines.audit.options import AuditOptions, parse_audit
from dynabeam.pipelines.audit.passes import AuditPasses, TableInput, in_passes
from dynabeam.pipelines.audit.report import print_result
from dynabeam.pipelines.continuous.deployments import absorb, current
from dynabeam.pipelines.failures import kind_of, meant_for_people
from dynabeam.pipelines.preflight import check_tables
from dynabeam.pipelines.rounds.run import beam_options
from dynabeam.transforms.audit.html_page import html_page
from dynabeam.transforms.audit.mirror_reader import MirrorReader, open_reader
from dynabeam.transforms.audit.result import AuditResult
from dynabeam.transforms.audit.verdict import AHEAD_US, CommonPoint, StoredPositions
from dynabeam.transforms.errors import ConfigurationError, SinkError
from dynabeam.transforms.export.acquire import Acquisition, acquire
from dynabeam.transforms.export.distinct import repeated_error
from dynabeam.transforms.export.manifest import ExportManifest
from dynabeam.transforms.printable import printable_lines
from dynabeam.transforms.runtime.clock import now_us
from dynabeam.transforms.secrets import masked
from dynabeam.transforms.state.coverage import FUZZ_US
from dynabeam.transforms.state.merge_reports import check_coverage
from dynabeam.transforms.state.state_directory import State, StateDirectory
from dynabeam.transforms.state.table_reading import snapshot_requests, stream_sources

__all__ = ["audit", "main"]

_POLL_SECONDS = 10.0
EQUAL, DIFFERENT, NOT_DONE = 0, 1, 2


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    try:
        options = parse_audit(arguments)
        result = audit(options)
        print_result(result, options, sys.stdout)
        _write(options, result)
    except Exception as problem:  # noqa: BLE001 - code 1 says that the mirror differs
        error = meant_for_people(problem)
        if error is None:
            sys.stderr.write(printable_lines(masked(traceback.format_exc())))
        text = str(error or problem)
        kind = kind_of(error) if error is not None else type(problem).__name__
        line = f"dynabeam: the audit could not be done: {kind}: {masked(text)}\n"
        sys.stderr.write(printable_lines(line))
        return NOT_DONE
    return EQUAL if result.is_equal else DIFFERENT


def audit(options: AuditOptions) -> AuditResult:
    """Compares and returns what was found.

    Raises:
        DynabeamError: It cannot be done.
    """
    began, clock = now_us(), time.monotonic()
    FileSystems.set_options(beam_options(options.source))
    reader = open_reader(options.source.sinks[0])
    work = _Audit(options, reader)
    inputs = work.inputs()
    passes = AuditPasses(options, reader)
    results, open_buckets = passes.first(inputs)
    for chosen in in_passes(inputs, open_buckets, results):
        passes.by_item(work.again(chosen), results)
    for each in inputs:
        found = results[each.table]
        again = sum(bucket.again for bucket in found.buckets)
        if again:
            # Rows that replace one another cannot be compared with anything.
            lines = found.items + again
            raise repeated_error(each.shape.table, work.location(each), lines, found.items)
        found.how = work.how(each)
        found.warnings = [
            *work.sink_warnings(each.table),
            *work.warnings[each.table],
            *_unreadable(passes, each.table),
        ]
        if options.hide_values:
            results[each.table] = found.without_values()
    return AuditResult(
        sink=reader.sink.name,
        began=_time(began),
        seconds=time.monotonic() - clock,
        passes=passes.count,
        tables=[results[name] for name in sorted(results)],
    )


class _Audit:
    """What the tables are audited from."""

    def __init__(self, options: AuditOptions, reader: MirrorReader) -> None:
        self._options = options
        self._reader = reader
        self._directory = StateDirectory(options.source.state_dir)
        self._fresh = State(uuid.uuid4().hex, 0, "", {})
        self._stored = self._read_stored()
        self._manifests: dict[str, ExportManifest] = {}
        self.warnings: dict[str, list[str]] = {}

    def inputs(self) -> list[TableInput]:
        """All tables, checked, each with its complete export."""
        source = self._options.source
        names = check_tables(source, self._fresh)
        for name in names:
            known, stored = self._fresh.tables[name], self._stored.tables.get(name)
            self.warnings[name] = []
            if stored is not None:
                generation = stored.generation
                snapshot = dataclasses.replace(known.snapshot, generation=generation)
                self._fresh.tables[name] = dataclasses.replace(
                    known, generation=generation, snapshot=snapshot
                )
        self._get_exports(names)
        return [self._input(name) for name in names]

    def again(self, inputs: Sequence[TableInput]) -> list[TableInput]:
        """The same tables at a later common point."""
        self._stored = self._read_stored()
        return [dataclasses.replace(self._input(each.table), focus=each.focus) for each in inputs]

    def location(self, given: TableInput) -> str:
        """Where the export of a table lies."""
        return self._manifests[given.table].location

    def how(self, given: TableInput) -> dict[str, str]:
        """How a table was compared, for people."""
        manifest = self._manifests[given.table]
        stored = self._stored.tables.get(given.table)
        found = {
            "export": manifest.export_arn or self._fresh.tables[given.table].snapshot.reuse,
            "export's time": _time(manifest.export_time_us),
            "stream": "not read: compared with the export alone",
        }
        if given.sources:
            first = given.sources[0]
            found["stream"] = first.stream_arn
            found["read from, up to"] = f"{first.start}, {_time(first.started_us)}"
        found["stored positions"] = (
            f"{self._options.source.state_dir}, round {self._stored.number}"
            if stored is not None
            else "none found: what lags is counted as a difference"
        )
        return found

    def sink_warnings(self, table: str) -> list[str]:
        """What the state directory knows of the sink, if that explains differences."""
        known = self._stored.sinks
        if known is None or not self._stored.tables:
            return []
        sink = known.get(self._reader.sink.place)
        if sink is None:
            return ["the state directory does not know this sink: nothing keeps it up"]
        if sink.state == "loading" and table not in sink.loading:
            return []
        return [f"the sink is {sink.describe()}"] if sink.is_told else []

    def _read_stored(self) -> State:
        """The pipeline's positions: read before the mirror is, so the mirror holds what they say.

        Not locked: the document is replaced in one step, and nothing is written here.
        """
        state = self._directory.load()
        if state.deployment:
            absorb(current(self._directory, state), state)
        return state

    def _get_exports(self, names: Sequence[str]) -> None:
        """Requests what is missing and waits until every export is complete."""
        source = self._options.source
        how = Acquisition(access=source.access, verify=source.verify)
        waiting, arns, told = list(names), dict.fromkeys(names, ""), False
        while True:
            for name in list(waiting):
                known = self._fresh.tables[name]
                (request,) = snapshot_requests(known, source, self._fresh.state_id)
                polled = acquire(request, arns[name], how, now_us=now_us())
                arns[name] = polled.export_arn
                if polled.manifest is not None:
                    self._take(name, polled.manifest)
                    self.warnings[name] += [*polled.warnings, *polled.manifest.warnings]
                    waiting.remove(name)
            if not waiting:
                return
            if not told:
                sys.stderr.write(f"Waiting for the export of {', '.join(waiting)}\n")
                told = True
            time.sleep(_POLL_SECONDS)

    def _take(self, name: str, manifest: ExportManifest) -> None:
        known = self._fresh.tables[name]
        gap = check_coverage(known, manifest)
        if gap is not None:
            raise ConfigurationError(
                "the stream does not reach back to the export",
                where=f"table {name}",
                expected=f"changes since {_time(manifest.export_time_us - FUZZ_US)}",
                found=f"changes since {_time(gap.to_us)}",
                hint="Compare with a newer export, or give --snapshot=only",
            )
        snapshot = dataclasses.replace(known.snapshot, manifest=manifest)
        self._fresh.tables[name] = dataclasses.replace(known, snapshot=snapshot)
        self._manifests[name] = manifest

    def _input(self, name: str) -> TableInput:
        source, known = self._options.source, self._fresh.tables[name]
        started = now_us()
        shape = self._reader.describe(known.table)
        if shape is None:
            raise SinkError(
                "the mirror does not hold this table",
                where=f"--sink={self._reader.sink.name}",
                found=name,
                hint="Name the tables that are replicated to it",
            )
        (request,) = snapshot_requests(known, source, self._fresh.state_id)
        sources = stream_sources(known, source, 0, started)
        read_until = started if sources else self._manifests[name].export_time_us
        margin = AHEAD_US if sources else FUZZ_US
        return TableInput(
            shape, request, _unbounded(sources), CommonPoint(read_until - margin, self._at(name))
        )

    def _at(self, name: str) -> StoredPositions:
        stored = self._stored.tables.get(name)
        if stored is None:
            return StoredPositions()
        return StoredPositions(stored.frontiers, not stored.snapshot.is_open)


def _unbounded(sources: Sequence[Any]) -> list[Any]:
    """Read to the tip, however much that is."""
    return [dataclasses.replace(each, max_bytes=0, snapshot_until_us=0) for each in sources]


def _unreadable(passes: AuditPasses, table: str) -> list[str]:
    count = passes.unreadable.get(table, 0)
    if not count:
        return []
    return [f"{count:,} lines or records of the table could not be read and were not compared"]


def _write(options: AuditOptions, result: AuditResult) -> None:
    for path, content in (
        (options.json, json.dumps(result.to_json(), indent=2, ensure_ascii=False) + "\n"),
        (options.report, html_page(result)),
    ):
        if not path:
            continue
        try:
            os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
            with open(path, "w", encoding="utf-8") as file:
                file.write(content)
        except OSError as problem:
            raise ConfigurationError(
                f"the report cannot be written: {problem.strerror}", where=path
            ) from problem


def _time(us: int) -> str:
    moment = datetime.fromtimestamp(us // 1_000_000, timezone.utc)
    return moment.isoformat().replace("+00:00", "Z")


if __name__ == "__main__":
    from dynabeam.pipelines.command_line import main as command_line

    sys.exit(command_line(["audit", *sys.argv[1:]]))
