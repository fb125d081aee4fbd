# SPDX-License-Identifier: Apache-2.0
"""`dynabeam launch flink`: a continuous run handed to a Flink cluster, which it does not stay with.

Everything that Flink can be asked is asked first: that it answers, has room, runs no job of the
name, and that a savepoint is there. Only then is anything written to the state directory.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from typing import TextIO
from urllib.parse import urlsplit

from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import FlinkRunnerOptions, PipelineOptions

from dynabeam.pipelines.launch.flink_submission import deployment_of, submit, withdraw
from dynabeam.pipelines.launch.record import (
    LaunchRecord,
    checked_job_name,
    new_record,
    read_record,
    write_record,
)
from dynabeam.pipelines.launch.waiting import say, wait_until_flink_runs
from dynabeam.pipelines.launch.which_job import state_directory
from dynabeam.pipelines.options.arguments import parse_known
from dynabeam.pipelines.options.replicate import ReplicateOptions, duration, parse_replicate
from dynabeam.pipelines.options.runners import continuous_runner, option, runner_name
from dynabeam.pipelines.options.web_identity import add_web_identity_options
from dynabeam.transforms.aws.beam_s3 import s3_arguments
from dynabeam.transforms.errors import ConfigurationError
from dynabeam.transforms.flink.job import OVER, jobs_named
from dynabeam.transforms.flink.operations import FlinkCluster, read_cluster, state_of
from dynabeam.transforms.flink.rest import FlinkRest
from dynabeam.transforms.sinks.registry import check_capabilities, check_place, open_sink
from dynabeam.transforms.storage import filesystem

__all__ = [
    "FlinkLaunch",
    "beam_arguments",
    "check_parallelism",
    "main",
    "plan",
    "replaced",
    "start",
]

_WAIT = "1m"
_POOL = "localhost:50000"
"""Where the worker pool of the image listens: beside each TaskManager."""
_IN_JAR = "dynabeam.pipelines.launch.uber_jar.FlinkRunner"
_POLL = 0.5
_SLOTS_SECONDS = 15.0
_LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


@dataclasses.dataclass(frozen=True)
class FlinkLaunch:
    """One launch.

    Attributes:
        rest: The JobManager.
        job_name: The job's name.
        state_dir: The state directory.
        given: The options that were given, as they are recorded.
        words: All words of `replicate`.
        savepoint: The savepoint to go on from; empty for none.
        seconds: How long to wait until it runs.
    """

    rest: FlinkRest
    job_name: str
    state_dir: str
    given: tuple[str, ...]
    words: tuple[str, ...]
    savepoint: str
    seconds: float


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    given, words = parse_known(_parser(), arguments)
    savepoint = given.savepoint_path
    if given.resume:
        record = _resumed(words)
        words = replaced(record.arguments, words)
        savepoint = savepoint or record.savepoint
        given.flink_rest = given.flink_rest or record.rest
        given.job_name = given.job_name or record.job_name
        if not savepoint:
            raise ConfigurationError(
                "no savepoint of the last launch is known",
                where="--resume",
                hint="Give --savepoint_path: a savepoint, or a retained checkpoint; or leave "
                "--resume out to begin at the stored positions",
            )
    launch = plan(
        words,
        rest=given.flink_rest,
        job_name=given.job_name,
        savepoint=savepoint,
        seconds=duration("--wait", given.wait),
    )
    if given.dry_run:
        sys.stdout.write(f"{json.dumps(_described(launch), indent=2)}\n")
        return 0
    start(launch, sys.stdout, sys.stderr)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dynabeam launch flink",
        description="Launch a continuous run on a Flink cluster, and leave it to that.",
        epilog="Every other option is one of 'dynabeam replicate', or one of Beam's.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--flink_rest", default="", help="its REST interface, e.g. http://jobmanager:8081")
    add("--job_name", default="", help="name of the job; by default dynabeam-<name>")
    add("--savepoint_path", default="", help="savepoint or checkpoint to go on from")
    add("--resume", action="store_true", help="from its savepoint, with the options of last time")
    add("--wait", default=_WAIT, help=f"until it runs, at most so long: {_WAIT}")
    add("--dry_run", action="store_true", help="print what would be done, do nothing")
    return parser


def plan(
    words: Sequence[str], *, rest: str, job_name: str, savepoint: str, seconds: float
) -> FlinkLaunch:
    """Looks at the options; nobody is asked yet.

    Args:
        words: Options of `replicate` and of Beam.
        rest: Address of Flink's REST interface; empty to take that of `--flink_master`.
        job_name: The job's name; empty for that of the replication.
        savepoint: Where to go on from; empty for the stored positions.
        seconds: How long to wait until the job runs.

    Raises:
        ConfigurationError: They cannot work.
    """
    words = [each for each in words if each not in ("--detach", "--mode=continuous")]
    _check_runner(words)
    options = parse_replicate([*words, "--mode=continuous"])
    beam = options.beam_arguments
    jobmanager = FlinkRest(rest or _rest_of(option(beam, "flink_master")))
    if options.access is not None:
        FileSystems.set_options(PipelineOptions([*beam, *s3_arguments(options.access)]))
    name = checked_job_name(job_name, options.name)
    more = [
        "--mode=continuous",
        "--detach",
        f"--job_name={name}",
        *_connection(beam, jobmanager),
        *([f"--savepoint_path={savepoint}"] if savepoint else []),
    ]
    _check_sinks(options, [*beam, *more])
    return FlinkLaunch(
        rest=jobmanager,
        job_name=name,
        state_dir=options.state_dir,
        given=tuple(words),
        words=(*words, *more),
        savepoint=savepoint,
        seconds=seconds,
    )


def start(launch: FlinkLaunch, out: TextIO, progress: TextIO) -> str:
    """Launches; returns the job's id.

    Raises:
        DynabeamError: Something is in the way: nothing was written then. Or the job did not come to
            run: if it has ended, no deployment is left behind.
    """
    say(f"Asking Flink at {launch.rest.url}", progress)
    cluster = read_cluster(launch.rest)
    _refuse_second(launch)
    words = [*launch.words, *_version(launch, cluster)]
    check_parallelism(_settled(launch, cluster), beam_arguments(launch))
    _check_savepoint(launch, progress)
    before = deployment_of(launch.state_dir)
    say("Checking tables and sinks, building the graph", progress)
    try:
        job = submit(words, launch.rest, launch.job_name, progress)
    except BaseException:
        if not jobs_named(launch.rest, launch.job_name):
            _withdraw(launch, before, progress)
        raise
    record = new_record(
        "flink",
        job,
        launch.job_name,
        rest=launch.rest.url,
        savepoint=launch.savepoint,
        arguments=launch.given,
    )
    _tell(launch, job, out)
    try:
        wait_until_flink_runs(launch.rest, job, launch.seconds, progress)
    except BaseException:
        if state_of(launch.rest, job) in OVER:
            _withdraw(launch, before, progress)
        else:
            write_record(launch.state_dir, record)
        raise
    write_record(launch.state_dir, record)
    out.write(f"{launch.job_name} runs\n")
    return job


def _settled(launch: FlinkLaunch, cluster: FlinkCluster) -> FlinkCluster:
    """The cluster, once slots are free; as it is if they are not within seconds.

    Those of a job that has just ended are given back a moment later.
    """
    wanted = int(option(beam_arguments(launch), "parallelism"))
    until = time.monotonic() + _SLOTS_SECONDS
    while cluster.free_slots < wanted <= cluster.slots and time.monotonic() < until:
        time.sleep(_POLL)
        cluster = read_cluster(launch.rest)
    return cluster


def beam_arguments(launch: FlinkLaunch) -> Sequence[str]:
    """All options of Beam of a launch, with those that are set for its runner."""
    return continuous_runner(launch.words).arguments


def check_parallelism(cluster: FlinkCluster, arguments: Sequence[str], freed: int = 0) -> None:
    """Checks that a job of this parallelism fits.

    Args:
        cluster: Where.
        arguments: Options of Beam.
        freed: Slots that will be free by then.

    Raises:
        ConfigurationError: It does not.
    """
    wanted, most = (int(option(arguments, each)) for each in ("parallelism", "max_parallelism"))
    if not 1 <= wanted <= most:
        raise ConfigurationError(
            "state is divided into fewer parts than that, for good",
            where="--parallelism",
            expected=f"1 to {most}",
            found=wanted,
            hint="--max_parallelism is fixed by the first start",
        )
    free = cluster.free_slots + freed
    if wanted > free and not cluster.grows:
        raise ConfigurationError(
            "Flink has fewer free slots than that",
            where="--parallelism",
            expected=f"at most {free}",
            found=wanted,
            hint="Start more TaskManagers, cancel another job, or give a lower --parallelism",
        )


def _resumed(words: Sequence[str]) -> LaunchRecord:
    """The record of the last launch for the state directory that the words name."""
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    for name in ("state_dir", "region", "endpoint_url"):
        parser.add_argument(f"--{name}", default="")
    parser.add_argument("--aws_region", dest="region")
    parser.add_argument("--name", default="dynabeam")
    add_web_identity_options(parser)
    given, _ = parse_known(parser, words)
    given.aws_region = given.region
    path = state_directory(given)
    record = read_record(path)
    if record is None or record.runner != "flink":
        raise ConfigurationError(
            "nothing was launched on Flink for this state directory",
            where=f"--state_dir={path}",
            hint="Give the options of 'dynabeam replicate' and --savepoint_path instead of "
            "--resume",
        )
    return record


def replaced(arguments: Sequence[str], words: Sequence[str]) -> list[str]:
    """Options, with others in place of those of the same names."""
    given = {each.partition("=")[0] for each in words}
    return [*(each for each in arguments if each.partition("=")[0] not in given), *words]


def _rest_of(master: str) -> str:
    if not master or master.startswith("["):
        raise ConfigurationError(
            "Flink's address is missing",
            where="--flink_rest",
            hint="Give that of its web page, e.g. http://jobmanager:8081",
        )
    return master if "://" in master else f"http://{master}"


def _check_runner(words: Sequence[str]) -> None:
    """Refuses another runner than Flink's, before its options are read as that one's."""
    runner = runner_name(words)
    if runner not in ("", "FlinkRunner", "PortableRunner"):
        raise ConfigurationError(
            "not Flink's runner", where="--runner", found=runner, hint="Leave it out"
        )


def _connection(beam: Sequence[str], rest: FlinkRest) -> list[str]:
    """What Beam has to be told to reach this Flink, and where Python runs.

    Raises:
        ConfigurationError: The options name workers that would end with this command.
    """
    runner, endpoint = runner_name(beam), option(beam, "job_endpoint")
    environment = option(beam, "environment_type").upper()
    if environment == "LOOPBACK":
        raise ConfigurationError(
            "these workers are threads of this command, which ends",
            where="--environment_type",
            found=environment,
            hint=f"Give EXTERNAL with --environment_config={_POOL}: the worker pool of the image",
        )
    words = []
    if endpoint:
        words += [] if runner else ["--runner=PortableRunner"]
    else:
        # Beam's job server is a Java program; without Java the graph goes to Flink in a jar.
        in_jar = "--flink_submit_uber_jar" in beam or not _has_java()
        words += [f"--runner={_IN_JAR}"] if in_jar else ["--runner=FlinkRunner"]
        words += [] if option(beam, "flink_master") else [f"--flink_master={rest.address}"]
    if not environment:
        words += ["--environment_type=EXTERNAL", f"--environment_config={_POOL}"]
    return words


def _has_java() -> bool:
    return bool(shutil.which("java") or os.environ.get("JAVA_HOME"))


def _check_sinks(options: ReplicateOptions, arguments: Sequence[str]) -> None:
    facts = continuous_runner(arguments).facts
    check_capabilities([open_sink(each) for each in options.sinks], facts)
    check_place(options.state_dir, facts, "--state_dir")


def _version(launch: FlinkLaunch, cluster: FlinkCluster) -> list[str]:
    """The version of Flink that Beam's job server has to be made for.

    Raises:
        ConfigurationError: Beam has none for it.
    """
    if option(launch.words, "job_endpoint") or option(launch.words, "flink_version"):
        return []
    known = FlinkRunnerOptions.PUBLISHED_FLINK_VERSIONS
    if cluster.version not in known:
        raise ConfigurationError(
            "Beam has no job server for this version of Flink",
            where=launch.rest.where,
            expected=" | ".join(known),
            found=cluster.version,
            hint="Run one of these versions",
        )
    return [f"--flink_version={cluster.version}"]


def _refuse_second(launch: FlinkLaunch) -> None:
    running = jobs_named(launch.rest, launch.job_name)
    if running:
        job = next(iter(running))
        raise ConfigurationError(
            "a job of this name has not ended",
            where=f"--job_name={launch.job_name}",
            found=f"{job}, {running[job]}",
            hint=f"End it with 'dynabeam launch savepoint --stop {launch.rest.where} "
            f"--job_id={job}', or give another --name and --state_dir",
        )


def _check_savepoint(launch: FlinkLaunch, progress: TextIO) -> None:
    """Looks whether the savepoint is there, where this machine can see it.

    Raises:
        ConfigurationError: It is not.
    """
    path = launch.savepoint
    if not path:
        return
    scheme, near = urlsplit(path).scheme, urlsplit(launch.rest.url).hostname in _LOCAL_HOSTS
    if scheme in ("", "file"):
        path = path.removeprefix("file://").removeprefix("file:")
        visible = near
    else:
        visible = scheme in ("s3", "gs")
    if not visible:
        say(f"  {launch.savepoint} cannot be seen from here; Flink will look", progress)
        return
    if not filesystem.exists(filesystem.join(path, "_metadata")):
        raise ConfigurationError(
            "there is no savepoint",
            where=f"--savepoint_path={launch.savepoint}",
            expected="a folder with the file _metadata",
            hint="Give another savepoint or retained checkpoint; or none and --take_over, to begin "
            "at the stored positions",
        )


def _withdraw(launch: FlinkLaunch, before: str, progress: TextIO) -> None:
    if withdraw(launch.state_dir, before, "nobody: Flink did not run its job"):
        say("The deployment that was begun for the job is withdrawn", progress)


def _described(launch: FlinkLaunch) -> dict[str, object]:
    return {
        "flink_rest": launch.rest.url,
        "job_name": launch.job_name,
        "savepoint": launch.savepoint,
        "command": ["dynabeam", "replicate", *launch.words],
    }


def _tell(launch: FlinkLaunch, job: str, out: TextIO) -> None:
    where = f"--state_dir={shlex.quote(launch.state_dir)}"
    out.write(
        f"Launched {launch.job_name}: job {job}\n"
        f"  page    {launch.rest.url}/#/job/running/{job}/overview\n"
        "Next:\n"
        f"  dynabeam launch status {where}\n"
        f"  dynabeam launch savepoint --stop {where}\n"
        f"  dynabeam launch scale --parallelism=N {where}\n"
        f"  dynabeam status {launch.rest.where} {where}\n"
    )
    out.flush()
