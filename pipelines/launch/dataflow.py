# SPDX-License-Identifier: Apache-2.0
"""`dynabeam launch dataflow`: one launch of a Flex Template, looked at before it is sent.

What the service would say only minutes later, in a log in a bucket, is found out first: a missing
bucket, a parameter that the template does not take, a job of the name that runs or does not run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TextIO

from dynabeam.pipelines.launch.dataflow_options import dataflow_parser, launch_of
from dynabeam.pipelines.launch.record import new_record, write_record
from dynabeam.pipelines.launch.waiting import console_logs, say, wait_until_running
from dynabeam.pipelines.launch.which_job import dataflow_options, open_service, state_directory
from dynabeam.pipelines.options.arguments import parse_known
from dynabeam.pipelines.options.replicate import duration
from dynabeam.transforms.errors import ConfigurationError, DynabeamError
from dynabeam.transforms.secrets import masked

if TYPE_CHECKING:
    from dynabeam.transforms.dataflow.jobs import DataflowJob
    from dynabeam.transforms.dataflow.launch import Launch
    from dynabeam.transforms.dataflow.service import DataflowService

__all__ = ["main"]


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    given, rest = parse_known(dataflow_parser(), arguments)
    service = open_service(given)
    launch = launch_of(given, rest)
    seconds = duration("--wait", given.wait) if given.wait else 0.0
    if given.dry_run:
        _print_request(launch, service, sys.stdout)
        return 0
    progress = sys.stderr
    _check(launch, service, progress)
    running = _running(launch, service)
    say(f"Sending {launch.job_name} to {service.project}, {service.region}", progress)
    job_id = _send(launch, service, running, progress)
    if launch.validate_only:
        sys.stdout.write("Dataflow would launch it; nothing was launched\n")
        return 0
    given.state_dir = launch.parameters["state_dir"]
    given.aws_region = launch.parameters.get("aws_region", "")
    given.endpoint_url = launch.parameters.get("endpoint_url", "")
    _keep(lambda: state_directory(given), launch, service, job_id, progress)
    _tell(launch, service, job_id, sys.stdout)
    if seconds:
        wait_until_running(service, job_id, launch.workers.staging_location, seconds, progress)
        sys.stdout.write(f"{launch.job_name} runs\n")
    return 0


def _print_request(launch: Launch, service: DataflowService, stream: TextIO) -> None:
    from dynabeam.transforms.dataflow.launch import as_http, request_of  # noqa: PLC0415 - an extra

    document = as_http(request_of(launch, service), service)
    stream.write(f"{json.dumps(document, indent=2, sort_keys=True)}\n")


def _check(launch: Launch, service: DataflowService, stream: TextIO) -> None:
    """Looks at buckets and template.

    Raises:
        ConfigurationError: One is missing, or does not fit the launch.
    """
    from dynabeam.transforms.dataflow.buckets import (  # noqa: PLC0415 - an extra
        check_bucket,
        check_parameters,
        read_spec,
    )

    say("Looking at buckets and template", stream)
    places = {
        "--staging_location": launch.workers.staging_location,
        "--temp_location": launch.workers.temp_location,
    }
    if launch.parameters["state_dir"].startswith("gs://"):
        places["--state_dir"] = launch.parameters["state_dir"]
    for option, path in places.items():
        if path and not check_bucket(service, path, where=option):
            say(f"  {option}: you may not look at {path}; Dataflow will", stream)
    if isinstance(launch.template, str):
        spec, where = read_spec(service, launch.template), f"--template={launch.template}"
    else:
        spec, where = dict(launch.template), "--template"
    if spec is None:
        say(f"  {where}: you may not read it; Dataflow will", stream)
        return
    check_parameters(spec, launch.parameters, where=where)
    mode = launch.workers.streaming_mode
    if mode == "at_least_once" and not spec.get("metadata", {}).get("supportsAtLeastOnce", False):
        raise ConfigurationError(
            "the template does not offer this mode",
            where="--streaming_mode",
            found=mode,
            hint="Leave it out: each change is then processed exactly once",
        )


def _running(launch: Launch, service: DataflowService) -> DataflowJob | None:
    """The job that an update replaces.

    Raises:
        ConfigurationError: There is none to update, or one of the name where none should be.
    """
    from dynabeam.transforms.dataflow.jobs import (  # noqa: PLC0415 - an extra
        find_active,
        job_to_update,
    )

    if launch.update:
        return job_to_update(service, launch.job_name)
    found = find_active(service, launch.job_name)
    if found is not None:
        options = dataflow_options(service, found.id)
        raise ConfigurationError(
            "a job of this name has not ended",
            where=f"--job_name={launch.job_name}",
            found=f"{found.id}, {found.state}",
            hint=f"Give --update to replace it, end it with 'dynabeam launch drain {options}', or "
            "give another --name and --state_dir",
        )
    return None


def _send(
    launch: Launch, service: DataflowService, running: DataflowJob | None, stream: TextIO
) -> str:
    """Sends the launch; returns the job's id.

    An answer that does not come may be that of a launch that was carried out: so it is looked for.
    """
    from dynabeam.transforms.dataflow.answers import DataflowSilentError  # noqa: PLC0415
    from dynabeam.transforms.dataflow.jobs import find_active  # noqa: PLC0415 - an extra
    from dynabeam.transforms.dataflow.launch import launch_template  # noqa: PLC0415

    try:
        return launch_template(launch, service)
    except DataflowSilentError as problem:
        if launch.validate_only:
            raise
        say(f"No answer ({problem.what}); looking whether it was launched", stream)
        found = find_active(service, launch.job_name)
        if found is None or (running is not None and found.id == running.id):
            raise
        return found.id


def _keep(
    state_dir: Callable[[], str],
    launch: Launch,
    service: DataflowService,
    job_id: str,
    stream: TextIO,
) -> None:
    """Writes down what was launched, where the workers keep their state.

    That may be a place which only they can write: the job runs all the same, so it is only told.
    """
    record = new_record(
        "dataflow",
        job_id,
        launch.job_name,
        project=service.project,
        region=service.region,
        endpoint=service.endpoint,
        template=launch.template if isinstance(launch.template, str) else "",
        staging=launch.workers.staging_location,
    )
    try:
        write_record(state_dir(), record)
    except DynabeamError as problem:
        say(masked(f"The launch is not recorded, so name the job by its id: {problem}"), stream)


def _tell(launch: Launch, service: DataflowService, job_id: str, stream: TextIO) -> None:
    options = dataflow_options(service, job_id)
    page = (
        f"https://console.cloud.google.com/dataflow/jobs/{service.region}/{job_id}"
        f"?project={service.project}"
    )
    verb = "Updating" if launch.update else "Launched"
    stream.write(
        f"{verb} {launch.job_name}: job {job_id}\n"
        f"  page    {page}\n"
        f"  log     {console_logs(launch.workers.staging_location, job_id)}\n"
        "Next:\n"
        f"  dynabeam launch status {options}\n"
        f"  dynabeam launch drain {options}\n"
        f"  dynabeam launch scale {options} --max_num_workers=N\n"
        f"  dynabeam status --state_dir={launch.parameters['state_dir']}\n"
    )
    stream.flush()
