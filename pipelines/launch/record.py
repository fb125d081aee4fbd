# SPDX-License-Identifier: Apache-2.0
"""What was launched last for a state directory: `launch.json` in it.

`dynabeam launch status`, `drain`, `cancel`, `scale` and `savepoint` read there which job they mean,
and `launch flink --resume` how it was launched. The record holds no secrets: a command line names
them by reference.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Literal

from dynabeam.pipelines.options.google_cloud import job_name
from dynabeam.transforms.errors import ConfigurationError, StateError
from dynabeam.transforms.runtime.clock import now_us
from dynabeam.transforms.runtime.stored_format import DocumentFormat, canonical, typed_fields
from dynabeam.transforms.storage import conditional_writes, filesystem

__all__ = ["LaunchRecord", "checked_job_name", "new_record", "read_record", "write_record"]

_FORMAT = DocumentFormat(
    what="the record of the last launch",
    required=("runner", "job_id", "job_name", "launched_us"),
    hint="Name the job by --job_id, and remove the file",
)
_TRIES = 5
_JOB_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_LONGEST_NAME = 63


@dataclasses.dataclass(frozen=True, kw_only=True)
class LaunchRecord:
    """A launched job, and what one has to know to speak to it.

    Attributes:
        runner: Where it runs.
        job_id: Its id there.
        job_name: Its name.
        launched_us: When, microseconds since 1970.
        project: Dataflow: Google's project.
        region: Dataflow: Google's region.
        endpoint: Dataflow: another address than Google's, for tests.
        template: Dataflow: the template's specification.
        staging: Dataflow: the staging location, where the launcher's log lies.
        rest: Flink: its REST interface.
        savepoint: Flink: the newest savepoint that was taken by a command.
        arguments: Flink: the options that it was launched with.
    """

    runner: Literal["dataflow", "flink"]
    job_id: str
    job_name: str
    launched_us: int
    project: str = ""
    region: str = ""
    endpoint: str = ""
    template: str = ""
    staging: str = ""
    rest: str = ""
    savepoint: str = ""
    arguments: tuple[str, ...] = ()

    def to_json(self) -> bytes:
        """The record as JSON."""
        return canonical(_FORMAT.dump(dataclasses.asdict(self)))

    @classmethod
    def from_json(cls, path: str, content: bytes) -> LaunchRecord:
        """Reads what `to_json` wrote.

        Raises:
            StateError: It is damaged, or of a newer version.
        """
        with _FORMAT.load(content, where=path) as fields:
            return typed_fields(cls, fields)


def read_record(state_dir: str) -> LaunchRecord | None:
    """What was launched last for a state directory; None if nothing was.

    Raises:
        StateError: It cannot be read.
    """
    path = _path(state_dir)
    found = conditional_writes.read_with_tag(path)
    return None if found is None else LaunchRecord.from_json(path, found.content)


def write_record(state_dir: str, record: LaunchRecord) -> None:
    """Makes a launch the last one of a state directory.

    Raises:
        StateError: It cannot be written.
    """
    path, content = _path(state_dir), record.to_json()
    for _ in range(_TRIES):
        found = conditional_writes.read_with_tag(path)
        if found is not None and found.content == content:
            return
        if found is None:
            written = conditional_writes.put_if_absent(path, content)
        else:
            written = conditional_writes.put_if_match(path, content, found.tag)
        if written is not None:
            return
    raise StateError(
        "others write the record of the last launch again and again",
        where=path,
        hint="See who else launches for this state directory",
    )


def new_record(
    runner: Literal["dataflow", "flink"], job_id: str, name: str, **known: Any
) -> LaunchRecord:
    """The record of a launch that happens now."""
    return LaunchRecord(runner=runner, job_id=job_id, job_name=name, launched_us=now_us(), **known)


def checked_job_name(given: str, name: str) -> str:
    """The job's name: that which was given, or the replication's behind `dynabeam-`.

    Raises:
        ConfigurationError: Dataflow would not take it.
    """
    found = given or job_name(name)
    if not _JOB_NAME.fullmatch(found) or len(found) > _LONGEST_NAME:
        raise ConfigurationError(
            "not a name for a job",
            where="--job_name" if given else "--name",
            found=found,
            hint=f"Lower-case letters, digits and hyphens, at most {_LONGEST_NAME}; it begins with "
            "a letter and does not end with a hyphen",
        )
    return found


def _path(state_dir: str) -> str:
    return filesystem.join(state_dir, "launch.json")
