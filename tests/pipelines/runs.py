# SPDX-License-Identifier: Apache-2.0
"""What the tests of `dynabeam replicate` share: a world, runs on it, what they left."""

import dataclasses
import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

import duckdb

from dynabeam.pipelines.command_line import main
from dynabeam.transforms.dead_letters.store import DeadLetterStore
from dynabeam.transforms.testing.clock import SimClock
from dynabeam.transforms.testing.export_writer import folder_put, write_full_export
from dynabeam.transforms.testing.simulator import Simulator

EXPORT_TIME = datetime(2024, 5, 14, 12, tzinfo=timezone.utc)
ORDERS_ARN = "arn:aws:dynamodb:eu-west-1:111122223333:table/orders"
TABLE_ID = "11991185-e7ab-4da5-8bab-03f0db0b7bfd"


def orders(count, start=0):
    """Items of the table `orders`."""
    return [{"id": {"S": f"o{n}"}, "total": {"N": str(n)}} for n in range(start, start + count)]


@dataclasses.dataclass
class Ended:
    """How a run ended."""

    code: int
    out: str
    err: str

    @property
    def error_lines(self):
        """The lines of the error; what else a run says on stderr begins otherwise."""
        return [line for line in self.err.splitlines() if line.startswith("dynabeam: ")]


class Place:
    """A folder with state, mirror and changelog, and the runs on it."""

    def __init__(self, folder, capsys, options=()):
        self.folder = Path(folder)
        self.capsys = capsys
        self.options = list(options)
        self.state_dir = self.folder / "state"
        self.mirror = self.folder / "mirror.duckdb"
        self.changelog = self.folder / "changelog"
        self.sinks = [f"--sink=duckdb:///{self.mirror}", f"--sink=file:///{self.changelog}"]

    def run(self, *options, sinks=None, state_dir=None):
        """Runs `dynabeam replicate`."""
        self.capsys.readouterr()
        code = main(
            [
                "replicate",
                *self.options,
                *options,
                *(self.sinks if sinks is None else sinks),
                f"--state_dir={state_dir or self.state_dir}",
            ]
        )
        return Ended(code, *self.capsys.readouterr())

    def rows(self, table="orders", columns="id"):
        """Rows of the mirror, sorted."""
        with duckdb.connect(str(self.mirror), read_only=True) as connection:
            return connection.execute(f'SELECT {columns} FROM "{table}" ORDER BY 1').fetchall()

    def published(self):
        """Files of the changelog that readers can see."""
        return [
            each
            for each in self.changelog.rglob("*")
            if each.is_file()
            and not any(
                # The folder's own marker, and what is staged: readers pass over both.
                part.startswith("_")
                for part in each.relative_to(self.changelog).parts
            )
        ]

    def committed(self):
        """The position document; None before the first round, when it has an identity only."""
        path = self.state_dir / "state.json"
        document = json.loads(path.read_text()) if path.exists() else {"round": 0}
        return document if document["round"] else None

    def dead_letters(self):
        """All open dead letters of committed rounds."""
        return [json.loads(each.to_line()) for each in DeadLetterStore(str(self.state_dir)).read()]

    def assert_nothing_visible(self):
        """Nothing of a failed first run may be seen by anybody."""
        assert self.committed() is None
        assert self.dead_letters() == []
        assert self.published() == []
        if self.mirror.exists():
            with duckdb.connect(str(self.mirror), read_only=True) as connection:
                shown = connection.execute(
                    "SELECT table_name FROM information_schema.tables WHERE table_schema = 'main'"
                ).fetchall()
                for (table,) in shown:
                    count = connection.execute(f'SELECT count(*) FROM "{table}"').fetchone()
                    assert count == (0,)


class World(Place):
    """A simulated account with the table `orders`, older than the stream's edge, and its runs."""

    def __init__(self, folder, capsys, **table):
        # Streams are read up to a minute before now: what the tests write has to be older.
        self.clock = SimClock(offset=-timedelta(minutes=10))
        self.sim = Simulator(seed=3, clock=self.clock)
        self.sim.create_bucket("exports")
        self.create("orders", **table)
        super().__init__(
            folder,
            capsys,
            [f"--endpoint_url={self.sim.endpoint_url}", f"--aws_region={self.sim.region}"],
        )

    def create(self, name, *, recovery=True, **table):
        """Creates a table, with point-in-time recovery."""
        self.sim.create_table(name, "id:S", **table)
        if recovery:
            self.sim.client("dynamodb").update_continuous_backups(
                TableName=name,
                PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": True},
            )

    def catch_up(self):
        """Brings the simulated clock to the present."""
        self.clock.set(max(self.clock.now(), datetime.now(timezone.utc)))

    def age(self):
        """Makes what was written so far older than the stream's edge."""
        self.clock.advance(timedelta(minutes=2))


class ExportFolder:
    """A full export of `orders` in a local folder, to be damaged."""

    def __init__(self, folder, items=None, **options):
        self.root = Path(folder)
        settings = {
            "table_arn": ORDERS_ARN,
            "table_id": TABLE_ID,
            "export_time": EXPORT_TIME,
            "bucket": "exports",
            "hash_key": "id",
            "files": 2,
            **options,
        }
        content = {} if "lines" in options else {"items": orders(40) if items is None else items}
        write_full_export(folder_put(self.root), **content, **settings)

    @property
    def option(self):
        """The option that names it."""
        return f"--export={self.root}"

    @property
    def summary(self):
        """Path of the summary."""
        return next(self.root.rglob("manifest-summary.json"))

    @property
    def files(self):
        """Path of the list of files."""
        return next(self.root.rglob("manifest-files.json"))

    @property
    def data(self):
        """The largest data file."""
        return max(self.root.rglob("*.json.gz"), key=lambda path: path.stat().st_size)

    def with_items(self):
        """Paths of the data files that hold items, in the manifest's order."""
        entries = [json.loads(line) for line in self.files.read_text().splitlines()]
        return [self.root / each["dataFileS3Key"] for each in entries if each["itemCount"]]

    def change_summary(self, **fields):
        """Changes fields of the summary; its checksum file goes, as somebody would do it."""
        document = json.loads(self.summary.read_text()) | fields
        self.summary.write_text(json.dumps(document))
        self.summary.with_suffix(".md5").unlink(missing_ok=True)
