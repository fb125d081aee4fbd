# SPDX-License-Identifier: Apache-2.0
"""Which job a command means, and how it is reached: by options, else by the last launch's record.

Google's clients are imported only for a job of Dataflow's: they are an extra, and take a second.
"""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING

from dynabeam.pipelines.launch.record import LaunchRecord, checked_job_name, read_record
from dynabeam.pipelines.options.web_identity import add_web_identity_options
from dynabeam.transforms.errors import ConfigurationError
from dynabeam.transforms.flink.job import find_job
from dynabeam.transforms.flink.rest import FlinkRest

if TYPE_CHECKING:
    from dynabeam.transforms.dataflow.service import DataflowService

__all__ = [
    "DataflowTarget",
    "FlinkTarget",
    "add_dataflow_options",
    "add_job_options",
    "open_service",
    "state_directory",
    "target",
]


@dataclasses.dataclass(frozen=True)
class DataflowTarget:
    """A job of Dataflow.

    Attributes:
        service: Where it is.
        job_id: Its id.
        job_name: Its name.
        record: How it was launched, if that is known.
    """

    service: DataflowService
    job_id: str
    job_name: str
    record: LaunchRecord | None

    @property
    def options(self) -> str:
        """What names this job on any command line."""
        return dataflow_options(self.service, self.job_id)


@dataclasses.dataclass(frozen=True)
class FlinkTarget:
    """A job of Flink.

    Attributes:
        rest: Its JobManager.
        job_id: Its id.
        record: How it was launched, if that is known.
    """

    rest: FlinkRest
    job_id: str
    record: LaunchRecord | None

    @property
    def options(self) -> str:
        """What names this job on any command line."""
        return f"{self.rest.where} --job_id={self.job_id}"


def dataflow_options(service: DataflowService, job_id: str) -> str:
    """The options that name a job of Dataflow."""
    more = f" --dataflow_endpoint={service.endpoint}" if service.endpoint else ""
    more += " --no_auth" if service.no_auth else ""
    return f"--project={service.project} --dataflow_region={service.region} --job_id={job_id}{more}"


def add_job_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that `target` reads."""
    add = parser.add_argument
    add("--name", default="dynabeam", help="name of the replication")
    add("--state_dir", default="", help="its state directory, which knows what was launched last")
    add("--aws_region", default="", help="AWS region, for a state directory in S3")
    add("--endpoint_url", default="", help="another endpoint than AWS's, for S3")
    add_web_identity_options(parser)
    add("--job_id", default="", help="the job's id, if it is not the one that was launched last")
    add("--job_name", default="", help="the job's name; by default dynabeam-<name>")
    add("--flink_rest", default="", help="Flink: its REST interface, e.g. http://jobmanager:8081")
    add_dataflow_options(parser)


def add_dataflow_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that `open_service` reads."""
    add = parser.add_argument
    add("--project", default="", help="Dataflow: id of Google's project")
    add("--dataflow_region", "--region", default="", help="Dataflow: Google's region")
    add("--dataflow_endpoint", default="", help="Dataflow: another address than Google's")
    add("--no_auth", action="store_true", help="Dataflow: ask without credentials, for a fake")


def target(given: argparse.Namespace) -> DataflowTarget | FlinkTarget:
    """The job that the options mean.

    Raises:
        ConfigurationError: None is named, there is no such job, or its service does not answer.
    """
    by_flink, by_dataflow = bool(given.flink_rest), bool(given.project or given.dataflow_region)
    if by_flink and by_dataflow:
        raise ConfigurationError(
            "a job runs either on Flink or on Dataflow", where="--flink_rest, --project"
        )
    # A job that is named completely needs no state directory, which may not be readable here.
    complete = bool(given.job_id) and (by_flink or by_dataflow) and not given.state_dir
    record = None if complete else read_record(state_directory(given))
    if by_flink or (record is not None and record.runner == "flink" and not by_dataflow):
        return _on_flink(given, record if record and record.runner == "flink" else None)
    if by_dataflow or record is not None:
        return _on_dataflow(given, record if record and record.runner == "dataflow" else None)
    raise ConfigurationError(
        "nothing was launched for this state directory, so no job is known",
        where=f"--state_dir={state_directory(given)}",
        hint="Name the job: --flink_rest=http://JOBMANAGER:8081, or --project and "
        "--dataflow_region; with --job_id or --job_name if there are several",
    )


def _on_flink(given: argparse.Namespace, record: LaunchRecord | None) -> FlinkTarget:
    rest = FlinkRest(given.flink_rest or (record.rest if record else ""))
    if given.job_id:
        job = given.job_id
    elif record is not None and record.rest == rest.url and not given.job_name:
        job = record.job_id
    else:
        job = find_job(rest, checked_job_name(given.job_name, given.name))
    return FlinkTarget(rest, job, record if record and record.job_id == job else None)


def _on_dataflow(given: argparse.Namespace, record: LaunchRecord | None) -> DataflowTarget:
    service = open_service(given, record)
    from dynabeam.transforms.dataflow.jobs import find_active, read_job  # noqa: PLC0415 - an extra

    known = (
        record
        if record
        and (record.project, record.region)
        == (
            service.project,
            service.region,
        )
        else None
    )
    if given.job_id:
        job = read_job(service, given.job_id)
    elif known is not None and not given.job_name:
        job = read_job(service, known.job_id)
    else:
        name = checked_job_name(given.job_name, given.name)
        found = find_active(service, name)
        if found is None:
            raise ConfigurationError(
                "no job of this name runs",
                where=f"--job_name={name}",
                found=f"{service.project}, {service.region}",
                hint="Give --job_id for one that has ended; 'gcloud dataflow jobs list' shows all",
            )
        job = found
    return DataflowTarget(
        service, job.id, job.name, known if known and known.job_id == job.id else None
    )


def open_service(given: argparse.Namespace, record: LaunchRecord | None = None) -> DataflowService:
    """Dataflow as the options, else the record, say where it is.

    Raises:
        ConfigurationError: Project or region cannot be, or Google's clients are not installed.
    """
    try:
        from dynabeam.transforms.dataflow.service import (  # noqa: PLC0415 - an extra
            DataflowService,
            check_project_and_region,
        )
    except ModuleNotFoundError as problem:
        if (problem.name or "").partition(".")[0] != "google":
            raise
        raise ConfigurationError(
            f"Google's clients are not installed: {problem.name}",
            where="dynabeam launch",
            hint="pip install 'dynabeam[dataflow]'",
        ) from problem
    project = given.project or (record.project if record else "")
    region = given.dataflow_region or (record.region if record else "")
    check_project_and_region(project, region)
    endpoint = given.dataflow_endpoint or (record.endpoint if record else "")
    if endpoint and not endpoint.startswith(("http://", "https://")):
        raise ConfigurationError(
            "not the address of a service",
            where="--dataflow_endpoint",
            found=endpoint,
            hint="Write e.g. http://localhost:8765, or leave it out for Google's",
        )
    return DataflowService(project, region, endpoint.rstrip("/"), given.no_auth)


def state_directory(given: argparse.Namespace) -> str:
    """The path of the state directory that the options name; sets up its file system."""
    from dynabeam.pipelines.options.state import named_state_directory  # noqa: PLC0415 - Beam

    # Whoever launches need not be on a machine of Google's, also if the workers are.
    web_identity = {
        each: getattr(given, each, "")
        for each in ("aws_web_identity", "aws_web_identity_role_arn", "aws_audience")
    }
    return named_state_directory(
        argparse.Namespace(
            name=given.name,
            state_dir=given.state_dir,
            region=given.aws_region,
            endpoint_url=given.endpoint_url,
            **web_identity,
        )
    ).path
