# SPDX-License-Identifier: Apache-2.0
"""Jobs of Dataflow: found, read, drained, cancelled, and told how many workers they may have."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timezone
from typing import Any

from google.api_core import exceptions as api
from google.cloud.dataflow_v1beta3 import (
    GetJobMetricsRequest,
    GetJobRequest,
    Job,
    JobMessageImportance,
    JobState,
    JobType,
    JobView,
    ListJobMessagesRequest,
    ListJobsRequest,
    RuntimeUpdatableParams,
    UpdateJobRequest,
)
from google.protobuf.field_mask_pb2 import FieldMask

from dynabeam.transforms.dataflow.answers import answers_told
from dynabeam.transforms.dataflow.service import SECONDS, DataflowService
from dynabeam.transforms.errors import ConfigurationError

__all__ = [
    "ALIVE",
    "OVER",
    "DataflowJob",
    "DataflowMessage",
    "cancel",
    "drain",
    "find_active",
    "job_to_update",
    "read_counters",
    "read_errors",
    "read_job",
    "scale",
]

OVER = ("DONE", "FAILED", "CANCELLED", "UPDATED", "DRAINED", "STOPPED")
"""States in which a job has ended."""
ALIVE = ("RUNNING", "DRAINING")
"""States in which workers are at work."""

_PREFIX = "JOB_STATE_"
_STAGING = ("staging_location", "stagingLocation")
_NAMESPACE = "dynabeam"


@dataclasses.dataclass(frozen=True)
class DataflowJob:
    """A job.

    Attributes:
        id: Its id.
        name: Its name.
        state: Dataflow's word without the prefix, such as `RUNNING`.
        since: When it came to this state; None if that is not known.
        created: When it was created; None if that is not known.
        streaming: It is a streaming job; None while only its launcher is there.
        replaced_by: Id of the job that has replaced it; empty if none has.
        workers: The fewest and the most workers that it was told in flight; 0 for not told.
        staging: Where the launcher was told to put its files; empty if the job does not say.
        sdk: Name and version of its SDK; empty before workers have told.
    """

    id: str
    name: str
    state: str
    since: datetime | None
    created: datetime | None
    streaming: bool | None
    replaced_by: str
    workers: tuple[int, int]
    staging: str
    sdk: str


@dataclasses.dataclass(frozen=True)
class DataflowMessage:
    """What a job says.

    Attributes:
        at: When.
        text: What.
    """

    at: datetime
    text: str


def find_active(service: DataflowService, name: str) -> DataflowJob | None:
    """The job of a name that has not ended; None if there is none.

    Raises:
        DataflowError: Dataflow refuses, or there are several.
    """
    with answers_told(service.subject(job_name=name)):
        request = ListJobsRequest(
            project_id=service.project,
            location=service.region,
            name=name,
            filter=ListJobsRequest.Filter.ACTIVE,
        )
        # The filter by name is newer than some endpoints.
        found = [
            each
            for each in service.jobs.list_jobs(request, timeout=SECONDS, retry=None)
            if each.name == name and _state(each) not in OVER
        ]
    if len(found) > 1:
        raise ConfigurationError(
            "several jobs of this name have not ended",
            where=f"--job_name={name}",
            found=", ".join(f"{each.id} ({_state(each)})" for each in found),
            hint="Name one with --job_id",
        )
    return _job(found[0]) if found else None


def job_to_update(service: DataflowService, name: str) -> DataflowJob:
    """The running job that an update takes the place of.

    Beam's own search for it never ends if there is none (2.77).

    Raises:
        ConfigurationError: There is none, or it does not run.
        DataflowError: Dataflow refuses.
    """
    found = find_active(service, name)
    if found is None:
        raise ConfigurationError(
            "no job of this name runs, so there is none to update",
            where=f"--job_name={name}",
            found=f"{service.project}, {service.region}",
            hint="Check --job_name and --dataflow_region, or leave --update out",
        )
    if found.state != "RUNNING":
        raise ConfigurationError(
            "only a running job can be updated",
            where=f"--job_name={name}",
            found=f"{found.id}, {found.state}",
            hint="Wait until it runs, or until it has ended and leave --update out",
        )
    return found


def read_job(service: DataflowService, job: str) -> DataflowJob:
    """Asks about one job.

    Raises:
        DataflowError: There is none of this id.
    """
    with answers_told(service.subject(job_id=job)):
        request = GetJobRequest(
            project_id=service.project,
            location=service.region,
            job_id=job,
            view=JobView.JOB_VIEW_ALL,
        )
        return _job(service.jobs.get_job(request, timeout=SECONDS, retry=None))


def read_errors(service: DataflowService, job: str, most: int) -> list[DataflowMessage]:
    """The newest error messages of a job, the oldest of them first."""
    with answers_told(service.subject(job_id=job)):
        request = ListJobMessagesRequest(
            project_id=service.project,
            location=service.region,
            job_id=job,
            minimum_importance=JobMessageImportance.JOB_MESSAGE_ERROR,
        )
        pager = service.messages.list_job_messages(request, timeout=SECONDS, retry=None)
        found = [
            DataflowMessage(_time(each.time) or datetime.now(timezone.utc), each.message_text)
            for each in pager
        ]
    return sorted(found, key=lambda each: each.at)[-most:]


def read_counters(service: DataflowService, job: str) -> dict[str, int]:
    """Dynabeam's own counters in a job, summed over its steps: name → value.

    Empty before the first workers have told something.
    """
    with answers_told(service.subject(job_id=job)):
        request = GetJobMetricsRequest(
            project_id=service.project, location=service.region, job_id=job
        )
        try:
            answer = service.metrics.get_job_metrics(request, timeout=SECONDS, retry=None)
        except api.NotFound:
            # A launcher has none.
            return {}
    sums: dict[str, int] = {}
    for each in answer.metrics:
        context = dict(each.name.context)
        if not context.get("namespace", "").startswith(_NAMESPACE) or "tentative" in context:
            continue
        value = _number(each.scalar)
        if value is not None:
            sums[each.name.name] = sums.get(each.name.name, 0) + value
    return sums


def drain(service: DataflowService, job: str) -> None:
    """Asks a job to read nothing more, to finish what it has, and to end."""
    _request_state(service, job, JobState.JOB_STATE_DRAINING)


def cancel(service: DataflowService, job: str) -> None:
    """Asks a job to end at once."""
    _request_state(service, job, JobState.JOB_STATE_CANCELLED)


def scale(service: DataflowService, job: str, *, fewest: int, most: int) -> None:
    """Tells a running streaming job how many workers it may have.

    Args:
        service: Where it runs.
        job: Its id.
        fewest: At least so many; 0 to leave that as it is.
        most: At most so many; 0 to leave that as it is.
    """
    given = {"min_num_workers": fewest, "max_num_workers": most}
    given = {name: value for name, value in given.items() if value}
    paths = [f"runtime_updatable_params.{name}" for name in given]
    _update(
        service,
        job,
        Job(runtime_updatable_params=RuntimeUpdatableParams(**given)),
        mask=FieldMask(paths=paths),
    )


def _request_state(service: DataflowService, job: str, state: JobState) -> None:
    _update(service, job, Job(requested_state=state))


def _update(service: DataflowService, job: str, change: Job, mask: FieldMask | None = None) -> None:
    request = UpdateJobRequest(
        project_id=service.project, location=service.region, job_id=job, job=change
    )
    if mask is not None:
        request.update_mask = mask
    with answers_told(service.subject(job_id=job)):
        service.jobs.update_job(request, timeout=SECONDS, retry=None)


def _job(found: Job) -> DataflowJob:
    sdk = found.job_metadata.sdk_version
    limits = found.runtime_updatable_params
    return DataflowJob(
        id=found.id,
        name=found.name,
        state=_state(found),
        since=_time(found.current_state_time),
        created=_time(found.create_time),
        streaming=_STREAMING.get(found.type_),
        replaced_by=found.replaced_by_job_id,
        workers=(limits.min_num_workers, limits.max_num_workers),
        staging=_staging(found),
        sdk=f"{sdk.version_display_name} {sdk.version}".strip(),
    )


_STREAMING = {JobType.JOB_TYPE_STREAMING: True, JobType.JOB_TYPE_BATCH: False}


def _state(job: Job) -> str:
    # A state that this client does not know yet comes as a bare number.
    name = getattr(job.current_state, "name", f"{_PREFIX}{int(job.current_state)}")
    return str(name).removeprefix(_PREFIX)


def _time(found: Any) -> datetime | None:
    """A moment of the client's own kind of datetime; None for one that was not given."""
    if not found:
        return None
    return datetime.fromtimestamp(found.timestamp(), timezone.utc)


def _staging(job: Job) -> str:
    options: Any = job.environment.sdk_pipeline_options
    options = options.get("options", options) if options else {}
    found = (options[name] for name in _STAGING if name in options)
    return str(next(found, ""))


def _number(scalar: Any) -> int | None:
    """A counter's value: a JSON number, or a large one as text."""
    if isinstance(scalar, bool) or not isinstance(scalar, int | float | str):
        return None
    return int(scalar)
