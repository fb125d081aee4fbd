# SPDX-License-Identifier: Apache-2.0
"""What follows in a run that never ends when the stream of a table has ended.

`DiscoverTables` asks at each poll, for each table whose stream is read to its end and in the sinks:

* Another stream of the table is assigned, from its beginning and at a higher generation, and the
  time between the two is reported as a gap; what that does is up to the table's policy.
* No stream, or no table any more, is a finding; nothing of the table is touched.
* Another table of its name is a finding too. Under `resnapshot` it takes the place of the old one:
  its stream is assigned, and the gap has the table loaded from scratch.
"""

from __future__ import annotations

import dataclasses

from botocore.exceptions import BotoCoreError, ClientError

from dynabeam.transforms.aws.dynamodb import TableDescription
from dynabeam.transforms.aws.errors import AwsErrorKind, classify
from dynabeam.transforms.aws.session import AwsAccess
from dynabeam.transforms.continuous.control_folder import Assignment, ControlFolder
from dynabeam.transforms.continuous.discovery import Finding, What
from dynabeam.transforms.continuous.stream_ends import (
    Followed,
    StreamEnd,
    add_followed,
    source_of,
    table_id_of,
)
from dynabeam.transforms.errors import AwsAccessError, DynabeamError, TableError
from dynabeam.transforms.model.gap import Gap, GapKind, GapPolicy
from dynabeam.transforms.model.gap_handler import GapHandler
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.state.coverage import FUZZ_US
from dynabeam.transforms.state.stream_successor import find_sequel, other_key_problem, switch_gap
from dynabeam.transforms.state.table_readiness import readiness_problem
from dynabeam.transforms.stream.reader_spec import TRIM_HORIZON, ReaderSpec

__all__ = ["Follow", "Follower"]

_PASSING = (AwsErrorKind.THROTTLED, AwsErrorKind.UNREACHABLE)


@dataclasses.dataclass(frozen=True)
class Follow:
    """What is to be done after the end of a stream.

    Attributes:
        end: The end.
        finding: What is the matter with the table; None for nothing.
        gap: What was lost; None if nothing follows yet.
        followed: The stream that follows, if any.
        sources: Its readers.
    """

    end: StreamEnd
    finding: Finding | None = None
    gap: Gap | None = None
    followed: Followed | None = None
    sources: tuple[ReaderSpec, ...] = ()

    def carry_out(self, folder: ControlFolder) -> None:
        """Has the run read the stream that follows; repeating it changes nothing.

        Raises:
            StateError: It cannot be written.
        """
        if self.followed is None:
            return
        add_followed(folder, self.end.table, self.followed)
        label = self.followed.arn.rpartition("/")[2].replace(":", "")
        folder.assign_once(f"stream-{self.end.table}-{label}", Assignment(self.sources, ()))


@dataclasses.dataclass(frozen=True)
class Follower:
    """Asks what follows.

    Attributes:
        access: Where and as whom AWS is called.
        gap_handler: What gaps do; None to read on in any case.
    """

    access: AwsAccess
    gap_handler: GapHandler | None = None

    def follow(self, folder: ControlFolder, end: StreamEnd, now_us: int) -> Follow:
        """What is to be done after the end of a stream; does nothing by itself.

        Args:
            folder: The deployment's.
            end: The end.
            now_us: The time, microseconds since 1970.

        Raises:
            GapError: Changes are lost, and the table's policy is `fail`.
            CredentialsError: There are no usable credentials.
            ClientError: AWS answered what is not understood.
        """
        try:
            return self._follow(folder, end, now_us)
        except AwsAccessError as problem:
            return Follow(end, _finding(end, "not_ready", problem))
        except (BotoCoreError, ClientError) as problem:
            # The next poll asks again.
            if classify(problem) not in _PASSING:
                raise
        return Follow(end)

    def _follow(self, folder: ControlFolder, end: StreamEnd, now_us: int) -> Follow:
        table_id = table_id_of(folder, end.table)
        sequel = find_sequel(self.access, end.table, table_id, end.stream_arn)
        found, following = sequel.description, sequel.next_stream
        if found is None:
            gone = TableError(
                "the table was deleted; its rows stay in the sinks as they are",
                where=f"table {end.table}",
            )
            return Follow(end, _finding(end, "deleted", gone))
        if sequel.kind == "recreated":
            return self._recreated(folder, end, found, now_us)
        if following is not None:
            gap = switch_gap(
                end.table,
                end.stream_arn,
                following,
                read_us=end.read_us,
                now_us=now_us,
                generation=end.generation + 1,
            )
            self._judge(gap)
            table = found.table.to_json()
            followed = Followed(following.arn, following.created_us, found.table_id, table)
            return _read(folder, end, followed, gap, now_us)
        problem = readiness_problem(self.access, found, stream=True, export=False)
        return Follow(end, _finding(end, "stream_off", problem))

    def _judge(self, gap: Gap) -> None:
        """Stops the run if its policy for gaps says so."""
        if self.gap_handler is None or self.gap_handler.policy_for(gap.table) is not GapPolicy.FAIL:
            return
        error = gap.error()
        self.gap_handler.on_fatal(gap.table, error)
        raise error

    def _recreated(
        self, folder: ControlFolder, end: StreamEnd, found: TableDescription, now_us: int
    ) -> Follow:
        problem: DynabeamError | None = TableError(
            "the table was deleted, and there is another one of its name, which is not read",
            where=f"table {end.table}",
            hint=(
                f"Take it in the old one's place with --gaps={end.table}:resnapshot (rows of the "
                "old one are removed), or replicate it with a --state_dir and sinks of its own"
            ),
        )
        if (
            self.gap_handler is not None
            and self.gap_handler.policy_for(end.table) is GapPolicy.RESNAPSHOT
        ):
            problem = self._why_not_again(folder, end, found)
        if problem is not None:
            return Follow(end, _finding(end, "recreated", problem))
        gap = Gap(
            table=end.table,
            kind=GapKind.STREAM_CHANGED,
            stream_arn=end.stream_arn,
            shard_id="",
            last_sequence="",
            from_us=0,
            to_us=now_us,
            detail=f"the table was deleted and created again; its stream is now {found.stream_arn}",
            generation=end.generation + 1,
        )
        followed = Followed(
            found.stream_arn, found.created_us, found.table_id, found.table.to_json()
        )
        return _read(folder, end, followed, gap, now_us)

    def _why_not_again(
        self, folder: ControlFolder, end: StreamEnd, found: TableDescription
    ) -> DynabeamError | None:
        problem = other_key_problem(source_of(folder, end.table).table, found)
        return problem or readiness_problem(self.access, found, stream=True, export=True)


def _read(
    folder: ControlFolder, end: StreamEnd, followed: Followed, gap: Gap, now_us: int
) -> Follow:
    source = dataclasses.replace(
        source_of(folder, end.table),
        table=Table.from_json(followed.table),
        stream_arn=followed.arn,
        readers=end.readers,
        generation=gap.generation,
        start=TRIM_HORIZON,
        frontier=None,
        snapshot_until_us=now_us + FUZZ_US,
        started_us=now_us,
    )
    sources = tuple(dataclasses.replace(source, reader=each) for each in range(end.readers))
    return Follow(end, None, gap, followed, sources)


def _finding(end: StreamEnd, what: What, problem: DynabeamError | None) -> Finding | None:
    if problem is None:
        return None
    text = str(problem).replace("\n", " ")
    return Finding(end.table, what, f"{text} Leave it out with --exclude_tables={end.table}")
