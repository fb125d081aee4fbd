# SPDX-License-Identifier: Apache-2.0
"""All that a continuous run needs, real or simulated, and the proof of what it did.

A simulator in a process of its own, a PostgreSQL server, a folder for the changelog and the state
directory, and the command line that ties them together.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import gzip
import json
import pathlib
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

import boto3
import psycopg

from dynabeam.transforms.dead_letters.store import DeadLetterStore
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.sinks.registry import open_sink
from dynabeam.transforms.testing.remote import RemoteSimulator
from dynabeam.transforms.values.key_schema import KeyAttribute, KeySchema
from dynabeam.transforms.values.keys import encode_key
from dynabeam.transforms.values.plain_json import same_item
from tests.runners.processes import Process, wait_until
from tests.runners.simulator_process import CREDENTIALS, REGION, SimulatorProcess
from tests.runners.steady_work import KEYS, key_of
from tests.sinks.postgres_server import PostgresServer
from tests.sinks.targets import Target, postgresql_rows, published

__all__ = ["Changelog", "ContinuousWorld"]

BUCKET = "exports"
_MIRROR = Target("postgresql://SERVER")
_CHANGELOG = Target("file:///FOLDER/out")
_OLD = "old"
_OLD_ITEMS = range(10_000, 10_300)
_TRIM_AGE = timedelta(seconds=300)


@dataclasses.dataclass(frozen=True)
class Changelog:
    """What the changelog holds, compared with the streams.

    Attributes:
        missing: Versions that no file holds.
        repeats: Rows beyond one a version.
        snapshot_rows: Rows that come from exports.
    """

    missing: list[str]
    repeats: int
    snapshot_rows: int


class ContinuousWorld:
    """A context manager.

    Each table has some items from before all that its stream still holds: only a snapshot has them.

    Args:
        folder: For everything that is written.
        tables: Number of tables.
        shards: Open shards of each at the start.
        export_seconds: What an export takes.
        changelog: Write a changelog too.
        behind: How long ago the tables were made, seconds; a stream that is too young covers no
            export.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        *,
        tables: int = 3,
        shards: int = 2,
        export_seconds: float = 20.0,
        changelog: bool = True,
        behind: int = 600,
    ) -> None:
        self.folder = folder
        self.tables = {f"table{n}": KEYS[n % len(KEYS)] for n in range(tables)}
        self._changelog = changelog
        self._trimmed: set[tuple[str, str]] = set()
        self._files_read: dict[str, list[tuple[str, str, str]]] = {}
        options = [f"--behind={behind}", f"--export_seconds={export_seconds}"]
        folder.mkdir(parents=True, exist_ok=True)
        self._simulator = SimulatorProcess(folder / "simulator.log", 1, shards, options)
        self._stack = contextlib.ExitStack()
        self.sim: RemoteSimulator
        self.postgres: PostgresServer

    def __enter__(self) -> ContinuousWorld:
        with contextlib.ExitStack() as stack:
            self.postgres = stack.enter_context(PostgresServer())
            self.sim = stack.enter_context(self._simulator)
            for name in self.tables:
                self.create(name)
            self.sim.create_bucket(BUCKET)
            self.prepare()
            self._catch_up()
            for name in self.tables:
                self._trimmed |= self._versions(name)
                self.sim.trim(name, before=self.sim.now() - _TRIM_AGE)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def prepare(self) -> None:
        """What happens in the time that has passed since the tables were made."""

    def client(self) -> Any:
        """A DynamoDB client."""
        return boto3.client(
            "dynamodb",
            region_name=REGION,
            endpoint_url=self.sim.endpoint_url,
            aws_access_key_id="simulated",
            aws_secret_access_key="simulated",
        )

    def create(self, name: str) -> None:
        """Creates a table with point-in-time recovery."""
        schema = self.tables.setdefault(name, KEYS[0])
        self.sim.create_table(name, schema)
        items = [key_of(schema, number) | {_OLD: {"BOOL": True}} for number in _OLD_ITEMS]
        self.sim.put_many(name, items)
        self.client().update_continuous_backups(
            TableName=name, PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": True}
        )

    @property
    def variables(self) -> dict[str, str]:
        """Environment of everything that replicates."""
        return dict(CREDENTIALS)

    @property
    def program(self) -> list[str]:
        """What `dynabeam` is."""
        return [sys.executable, "-m", "dynabeam.pipelines.command_line"]

    def options(self, *names: str) -> list[str]:
        """Options of `dynabeam replicate` for all tables or the named ones."""
        return [
            f"--tables={','.join(names or self.tables)}",
            f"--region={REGION}",
            f"--endpoint_url={self.sim.endpoint_url}",
            f"--s3_export_bucket={BUCKET}",
            f"--state_dir={self.folder / 'state'}",
            *(f"--sink={each}" for each in self.sinks),
        ]

    @property
    def sinks(self) -> list[str]:
        """URIs of the sinks."""
        changelog = [f"file:///{self.folder / 'out'}"] if self._changelog else []
        return [self.postgres.uri(), *changelog]

    def command(
        self, *options: str, command: str = "replicate", names: Sequence[str] = ()
    ) -> list[str]:
        """The command line."""
        return [*self.program, command, *self.options(*names), *options]

    def run(self, *options: str, command: str = "replicate", names: Sequence[str] = ()) -> str:
        """Runs a command to its end; returns what it said.

        Raises:
            AssertionError: It failed.
        """
        log = self.folder / f"{command}.log"
        words = self.command(*options, command=command, names=names)
        process = Process(command, words, log, self.variables)
        code = process.wait(180)
        assert code == 0, log.read_text()
        return log.read_text()

    def status(self, *options: str) -> dict[str, Any]:
        """What `dynabeam status` says, asked beside whatever runs.

        Raises:
            AssertionError: It failed, or its exit code is not that of what it says.
        """
        log = self.folder / "status.log"
        words = [*self.program, "status", "--json"]
        words += [f"--state_dir={self.folder / 'state'}", *options]
        code = Process("status", words, log, self.variables).wait(60)
        lines = log.read_text().splitlines()
        assert lines, f"it said nothing and ended with {code}"
        assert lines[-1].startswith("{"), log.read_text()
        document: dict[str, Any] = json.loads(lines[-1])
        assert code == (0 if document["healthy"] else 1), document["reasons"]
        return document

    # The proof.

    def wait_for_mirror(self, seconds: float, *needed: Process, names: Sequence[str] = ()) -> None:
        """Waits until every mirror, or the named ones, equals its table, which must be at rest."""
        wait_until(lambda: not self.differences(names), "mirror = table", seconds, needed)

    def differences(self, names: Sequence[str] = ()) -> list[str]:
        """Where mirrors differ from their tables."""
        found = []
        for name in names or self.tables:
            table = self._table(name)
            truth = {encode_key(item, table.keys): item for item in self.sim.items(name)}
            held = self._held(table)
            found += [f"{name} lacks {key!r}" for key in truth.keys() - held.keys()]
            found += [f"{name} has, though deleted, {key!r}" for key in held.keys() - truth.keys()]
            found += [
                f"{name}, {key!r}: {held[key]}, should be {item}"
                for key, item in truth.items()
                if key in held and not same_item(held[key], item)
            ]
        return found

    def rows_with(self, name: str, attribute: str) -> int:
        """How many live rows of a mirror have a boolean attribute that is true."""
        query = f'SELECT count(*) FROM dynabeam."{name}" WHERE "{attribute}"'
        try:
            with self.postgres.connect() as connection:
                row = connection.execute(query).fetchone()
        except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn):
            return 0
        assert row is not None
        return int(row[0])

    def wait_for_snapshots(self, seconds: float, *needed: Process, names: Sequence[str]) -> None:
        """Waits until mirrors have the items that only snapshots have."""

        def loaded() -> bool:
            return all(self.rows_with(name, _OLD) == len(_OLD_ITEMS) for name in names)

        wait_until(loaded, f"snapshots of {names}", seconds, needed)

    def wait_for_changelog(self, seconds: float, *needed: Process) -> Changelog:
        """Waits until the files hold every version of the streams, which must be at rest.

        Raises:
            TimeoutError: They do not; the text says what is missing.
        """
        wanted = self._wanted()
        try:
            wait_until(
                lambda: not self._compare(wanted).missing, "complete changelog", seconds, needed
            )
        except TimeoutError as error:
            missing = self._compare(wanted).missing
            raise TimeoutError(
                f"{len(missing)} changes are lost, such as {missing[:20]}"
            ) from error
        return self._compare(wanted)

    def changelog(self) -> Changelog:
        """What the files hold now."""
        return self._compare(self._wanted())

    def changes_of(self, name: str) -> int:
        """How many changes a table's stream has held since the start."""
        return len(self._versions(name) - self._trimmed)

    def missing_sequences(self) -> dict[str, set[int]]:
        """Table → sequence numbers that no row of the changelog has, whatever its generation."""
        rows = [row for path in self._published() for row in self._rows(path)]
        found = {(name, int(version[9:])) for name, version, source in rows if source == "stream"}
        wanted = {(name, int(version[9:])) for name, version in self._wanted()}
        missing: dict[str, set[int]] = {name: set() for name in self.tables}
        for name, sequence in wanted - found:
            missing[name].add(sequence)
        return missing

    def _compare(self, wanted: set[tuple[str, str]]) -> Changelog:
        rows = [row for path in self._published() for row in self._rows(path)]
        found = collections.Counter(row[:2] for row in rows if row[2] == "stream")
        assert not found.keys() - wanted, "versions that never were"
        missing = sorted(f"{name} {version}" for name, version in wanted - found.keys())
        repeats = sum(times - 1 for times in found.values())
        return Changelog(missing, repeats, sum(row[2] != "stream" for row in rows))

    def _wanted(self) -> set[tuple[str, str]]:
        """All that streams have held since the start."""
        return {each for name in self.tables for each in self._versions(name)} - self._trimmed

    def _versions(self, name: str) -> set[tuple[str, str]]:
        return {
            (name, f"{1:08d}.{int(record['dynamodb']['SequenceNumber']):040d}")
            for record in self.sim.records(name)
        }

    def _published(self) -> list[pathlib.Path]:
        return list(published(_CHANGELOG, open_sink(self.sinks[1])).values())

    def _rows(self, path: pathlib.Path) -> list[tuple[str, str, str]]:
        """Table, version and source of each row; a file is read once, because it never changes."""
        known = self._files_read.get(str(path))
        if known is None:
            content = path.read_bytes()
            content = gzip.decompress(content) if path.suffix == ".gz" else content
            rows = [json.loads(line) for line in content.splitlines()]
            known = [(row["table"], row["version"], row["source"]) for row in rows]
            self._files_read[str(path)] = known
        return known

    def dead_letters(self) -> list[Any]:
        """All dead letters below the state directory."""
        return list(DeadLetterStore(str(self.folder / "state")).read())

    def _held(self, table: Table) -> dict[bytes, Any]:
        sink = open_sink(self.sinks[0])
        return dict(postgresql_rows(_MIRROR, sink, table, self.postgres))

    def _table(self, name: str) -> Table:
        attributes = [KeyAttribute(*part.split(":")) for part in self.tables[name].split(",")]
        return Table(name, KeySchema(*attributes))

    def _catch_up(self) -> None:
        """Brings the simulator's clock to the present."""
        self.sim.advance(datetime.now(timezone.utc) - self.sim.now())
