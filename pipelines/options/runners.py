# SPDX-License-Identifier: Apache-2.0
"""Options that each runner gets beyond the user's own, and what it cannot do.

A continuous run on Flink without these options loses work or waits: checkpoints are off by default,
a small bundle is never flushed while checkpoints run, and every block waits in each stage for the
bundle timer of a second. Each can be overridden on the command line; the start of a run
says what was set.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from dynabeam.pipelines.options.arguments import option
from dynabeam.pipelines.options.google_cloud import DATAFLOW, check_dataflow, job_name
from dynabeam.transforms.errors import ConfigurationError
from dynabeam.transforms.sinks.registry import RunnerFacts

__all__ = [
    "ContinuousRunner",
    "check_rounds",
    "continuous_runner",
    "option",
    "round_runner",
    "runner_name",
]

_LOCAL_HOSTS = ("", "localhost", "127.0.0.1", "::1", "[local]", "[auto]", "[collection]")
_EXPERIMENTS = "experiments"
"""An option that is a list: what is given adds to what is set here, and takes nothing away."""
_FLINK = {
    # No recovery at all without them.
    "checkpointing_interval": "10000",
    "externalized_checkpoints_enabled": "",
    "retain_externalized_checkpoints_on_cancellation": "",
    # Else the output of an open bundle is kept in the checkpoint instead of passed on.
    "finish_bundle_before_checkpointing": "",
    # A bundle costs as much as many blocks: with one block each, two cores were busy with nothing
    # else at 500 changes a second (median 14 s instead of 1 s).
    "max_bundle_size": "1000",
    # What ends nearly every bundle, and that of a reader that resumes in any case.
    "max_bundle_time_mills": "100",
    # Both are fixed by the first start: state is split into so many key groups.
    "parallelism": "2",
    "max_parallelism": "128",
    # Without it a worker reads each state cell from Flink again for each bundle.
    "max_cache_memory_usage_mb": "100",
}
_PINNED: Mapping[str, Mapping[str, str]] = {
    "FlinkRunner": _FLINK,
    "PortableRunner": {**_FLINK, "environment_type": "LOOPBACK"},
    "PrismRunner": {
        "environment_type": "LOOPBACK",
        # Prism splits any bundle that is slow, also one of keyed state: then a key is worked on in
        # two bundles at once, and what one of them wrote is lost (Beam issue 35771, seen in 2.77).
        _EXPERIMENTS: "prism_disable_sdf_split",
    },
    DATAFLOW: {},
}
_IN_PROCESS = ("DirectRunner", "FnApiRunner", "BundleBasedDirectRunner", "SwitchingDirectRunner")
_KNOWN = (*_PINNED, *_IN_PROCESS)
_DOCKER = "DOCKER"
_ENVIRONMENTS = {"PortableRunner": _DOCKER}
"""Where workers are if nothing is said, by Beam's own defaults; elsewhere they are beside the job.

(Beam starts workers of a FlinkRunner that it has started itself, and of Prism, by LOOPBACK.)
"""


@dataclasses.dataclass(frozen=True)
class ContinuousRunner:
    """The runner of a continuous run.

    Attributes:
        facts: What sinks have to know of it.
        arguments: All arguments for Beam.
        pinned: Those that were set here, to be shown.
        savepoint: The savepoint or checkpoint that the run is resumed from; empty for none.
        updates: The run takes the place of the running job of its name, with the job's state.
        dry_run: The graph is built, and nothing is started.
        job_file: Where the job is written down instead of being started; empty for nowhere.
    """

    facts: RunnerFacts
    arguments: Sequence[str]
    pinned: Sequence[str]
    savepoint: str
    updates: bool = False
    dry_run: bool = False
    job_file: str = ""

    @property
    def resumes(self) -> bool:
        """Whether the job begins with the state that an earlier one left in the runner."""
        return bool(self.savepoint) or self.updates

    @property
    def is_dataflow(self) -> bool:
        """Whether it is Google Cloud Dataflow."""
        return self.facts.runner == DATAFLOW

    @property
    def is_flink(self) -> bool:
        """Whether it is Flink; behind a job endpoint there is hardly anything else."""
        return _PINNED.get(self.facts.runner, {}).items() >= _FLINK.items()


def continuous_runner(arguments: Sequence[str], name: str = "") -> ContinuousRunner:
    """The runner that Beam's arguments name, with what it needs set.

    Args:
        arguments: What Beam is told.
        name: The replication's name, after which the job is named; empty to leave that to Beam.

    Raises:
        ConfigurationError: If there is none, it cannot run for ever, or it is told something that
            cannot work.
    """
    runner = runner_name(arguments)
    if not runner:
        raise ConfigurationError(
            "a continuous run needs a runner that streams",
            where="--runner",
            expected=" | ".join(_PINNED),
            hint="Name one, or use --mode=catch_up --every=2s, which runs in this process",
        )
    if runner in _IN_PROCESS:
        raise ConfigurationError(
            "the in-process runner hands nothing on before its input ends, which is never",
            where="--runner",
            expected=" | ".join(_PINNED),
            found=runner,
            hint="Use --mode=catch_up --every=2s with it",
        )
    if runner == DATAFLOW:
        check_dataflow(arguments)
    elif _is_on(arguments, "update"):
        raise ConfigurationError(
            f"{runner} does not update a running job",
            where="--update",
            hint="Stop it behind a savepoint, and give --savepoint_path=SAVEPOINT",
        )
    environment = option(arguments, "environment_type") or _PINNED.get(runner, {}).get(
        "environment_type", ""
    )
    set_here = {"streaming": "", **({"job_name": job_name(name)} if name else {})}
    given = {each.split("=", 1)[0].removeprefix("--") for each in arguments} - {_EXPERIMENTS}
    pinned = [
        f"--{name}={value}" if value else f"--{name}"
        for name, value in {**set_here, **_PINNED.get(runner, {})}.items()
        if name not in given
    ]
    return ContinuousRunner(
        facts=RunnerFacts(
            runner,
            continuous=True,
            shares_disk=_shares_disk(runner, arguments, environment),
        ),
        arguments=[*arguments, *pinned],
        pinned=pinned,
        savepoint=option(arguments, "savepoint_path"),
        updates=_is_on(arguments, "update"),
        dry_run=_is_on(arguments, "dry_run"),
        job_file=option(arguments, "template_location"),
    )


def _is_on(arguments: Sequence[str], name: str) -> bool:
    """Whether a flag is given, or a value that means yes."""
    return f"--{name}" in arguments or option(arguments, name).lower() in ("true", "1")


def runner_name(arguments: Sequence[str]) -> str:
    """The name of the runner's class, however it is spelt; empty if none is named.

    Beam takes `dataflow`, `DataflowRunner` and `apache_beam.runners.dataflow.DataflowRunner`, in
    any case, for the same.
    """
    given = option(arguments, "runner").rpartition(".")[2]
    known = {each.lower(): each for each in _KNOWN}
    return known.get(given.lower(), known.get(f"{given.lower()}runner", given)) if given else ""


def round_runner(arguments: Sequence[str]) -> RunnerFacts:
    """What sinks and state have to know of the runner that catch-up rounds run on."""
    runner = runner_name(arguments)
    if not runner or runner in _IN_PROCESS:
        return RunnerFacts("the in-process runner", continuous=False, shares_disk=True)
    environment = option(arguments, "environment_type") or _ENVIRONMENTS.get(runner, "")
    shares = runner in _PINNED and _shares_disk(runner, arguments, environment)
    return RunnerFacts(runner, continuous=False, shares_disk=shares)


def check_rounds(facts: RunnerFacts) -> None:
    """Refuses rounds on a runner whose workers are elsewhere.

    A round ends in this process: it reads the reports of its job, publishes, and begins the next.

    Args:
        facts: What the rounds are to run on.

    Raises:
        ConfigurationError: Its workers do not see what this process sees.
    """
    if not facts.shares_disk:
        raise ConfigurationError(
            f"rounds run in this process or beside it, and the workers of {facts.runner} are "
            "elsewhere",
            where="--runner",
            found=facts.runner,
            hint="Leave --runner out, or use --mode=continuous with it",
        )


def _shares_disk(runner: str, arguments: Sequence[str], environment: str) -> bool:
    """A cluster on this machine sees its disk; of any other that is not known."""
    if runner == "DataflowRunner" or environment.upper() == _DOCKER:
        return False
    for name in ("flink_master", "job_endpoint"):
        place = option(arguments, name)
        host = place if place in _LOCAL_HOSTS else urlsplit(f"//{place}").hostname
        if host not in _LOCAL_HOSTS:
            return False
    return True
