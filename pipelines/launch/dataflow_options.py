# SPDX-License-Identifier: Apache-2.0
"""The options of `dynabeam launch dataflow`, and the launch that they ask for."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynabeam.pipelines.launch.record import checked_job_name
from dynabeam.pipelines.launch.which_job import add_dataflow_options
from dynabeam.pipelines.options.arguments import is_given
from dynabeam.pipelines.templates.parameters import parameters_of
from dynabeam.transforms.errors import ConfigurationError

if TYPE_CHECKING:
    from dynabeam.transforms.dataflow.launch import Launch, Workers

__all__ = ["dataflow_parser", "launch_of"]

_MODES = ("exactly_once", "at_least_once")
_ALGORITHMS = ("THROUGHPUT_BASED", "NONE")


def dataflow_parser() -> argparse.ArgumentParser:
    """The parser of all that is not a parameter of the template."""
    parser = argparse.ArgumentParser(
        prog="dynabeam launch dataflow",
        description="Launch a Flex Template on Google Cloud Dataflow.",
        epilog="Every other option is one of 'dynabeam replicate', and becomes a parameter of the "
        "template. --region is Google's here, AWS's is --aws_region.",
        allow_abbrev=False,
    )
    add_dataflow_options(parser)
    add = parser.add_argument
    add("--template", default="", help="specification: gs://BUCKET/spec.json, or a local file")
    add("--name", default="dynabeam", help="name of the replication")
    add("--job_name", default="", help="name of the job; by default dynabeam-<name>")
    _add_workers(parser)
    add("--launch_option", action="append", default=[], help="NAME=VALUE of the launch itself")
    add("--update", action="store_true", help="replace the running job of this name")
    add("--transform_name_mapping", default="", help='{"OLD": "NEW"}, "" for a step that is gone')
    add("--validate_only", action="store_true", help="let Dataflow check it, launch nothing")
    add("--dry_run", action="store_true", help="print what would be sent, send nothing")
    add("--wait", nargs="?", const="15m", default="", help="until it runs, at most so long: 15m")
    return parser


def _add_workers(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--staging_location", default="", help="gs:// folder of job file and launcher's log")
    add("--temp_location", default="", help="gs:// folder of temporary files")
    add("--service_account_email", default="", help="account that the workers run as")
    add("--sdk_container_image", default="", help="the workers' image; by default the template's")
    add("--machine_type", default="", help="of the workers, e.g. n2-standard-2")
    add("--launcher_machine_type", default="", help="of the machine that builds the graph")
    add("--num_workers", type=int, default=0, help="workers at first")
    add("--max_num_workers", type=int, default=0, help="workers at most")
    add("--autoscaling_algorithm", choices=_ALGORITHMS, default="")
    add("--disk_size_gb", type=int, default=0, help="of each worker")
    add("--worker_region", default="", help="Compute Engine region, if not that of the job")
    add("--worker_zone", "--zone", default="", help="Compute Engine zone")
    add("--network", default="", help="network of the workers")
    add("--subnetwork", default="", help="their subnetwork")
    add("--no_use_public_ips", action="store_true", help="workers without public addresses")
    add("--dataflow_kms_key", default="", help="key that the job's data are encrypted with")
    add("--labels", action="append", default=[], help="KEY=VALUE; repeatable")
    add("--experiments", action="append", default=[], help="of Dataflow; repeatable")
    add("--dataflow_service_options", action="append", default=[], help="repeatable")
    add("--streaming_mode", choices=_MODES, default="", help="exactly_once is Dataflow's default")
    add("--additional_pipeline_options", action="append", default=[], help="NAME=VALUE, for Beam")


def launch_of(given: argparse.Namespace, replicate: Sequence[str]) -> Launch:
    """The launch that is asked for; nobody is asked yet.

    Args:
        given: The parsed options.
        replicate: The other words, a command line of `replicate`.

    Raises:
        ConfigurationError: A value cannot work, or something is missing.
    """
    from dynabeam.transforms.dataflow.launch import Launch  # noqa: PLC0415 - an extra

    job_name = checked_job_name(given.job_name, given.name)
    template = _template(given.template)
    renamed = _renamed(given.transform_name_mapping)
    if renamed and not given.update:
        raise ConfigurationError(
            "only an update renames steps",
            where="--transform_name_mapping",
            hint="Give --update with it",
        )
    rounds = is_given(replicate, "--mode") and "--mode=catch_up" in replicate
    if rounds and given.update:
        raise ConfigurationError(
            "a job of rounds ends by itself and cannot be updated",
            where="--update",
            hint="Leave it out",
        )
    parameters = parameters_of(replicate, "rounds" if rounds else "continuous")
    return Launch(
        job_name=job_name,
        template=template,
        parameters=parameters,
        workers=_workers(given),
        options=_pairs("--launch_option", given.launch_option),
        update=given.update,
        renamed=renamed,
        validate_only=given.validate_only,
    )


def _template(given: str) -> str | Mapping[str, Any]:
    from dynabeam.transforms.dataflow.buckets import parse_gs, parse_spec  # noqa: PLC0415

    if not given:
        raise ConfigurationError(
            "the template is not named",
            where="--template",
            hint="Give the gs:// path of its specification, which 'dynabeam templates spec' prints",
        )
    if given.startswith("gs://"):
        if not parse_gs(given, where="--template")[1]:
            raise ConfigurationError(
                "a bucket, and no file in it",
                where="--template",
                found=given,
                hint="Write gs://BUCKET/FOLDER/spec.json",
            )
        return given
    try:
        content = Path(given).read_bytes()
    except OSError as problem:
        raise ConfigurationError(
            f"the specification cannot be read: {problem.strerror}",
            where=f"--template={given}",
            hint="Give a gs:// path, or a file of this machine",
        ) from problem
    return parse_spec(content, where=f"--template={given}")


def _renamed(given: str) -> dict[str, str]:
    if not given:
        return {}
    try:
        found = json.loads(given)
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(each, str) for each in found.values()):
        raise ConfigurationError(
            "not a mapping of the names of steps",
            where="--transform_name_mapping",
            found=given,
            hint='Write JSON: {"Write1_file": "Write2_file", "Write0_gs": ""}',
        )
    return found


def _workers(given: argparse.Namespace) -> Workers:
    from dynabeam.transforms.dataflow.buckets import parse_gs  # noqa: PLC0415 - an extra
    from dynabeam.transforms.dataflow.launch import Workers  # noqa: PLC0415 - an extra

    for name in ("staging_location", "temp_location"):
        if getattr(given, name):
            parse_gs(getattr(given, name), where=f"--{name}")
    for name in ("num_workers", "max_num_workers", "disk_size_gb"):
        if getattr(given, name) < 0:
            raise ConfigurationError("not a number of them", where=f"--{name}")
    if given.max_num_workers and given.num_workers > given.max_num_workers:
        raise ConfigurationError(
            "more workers at first than at most",
            where="--num_workers, --max_num_workers",
            found=f"{given.num_workers} > {given.max_num_workers}",
        )
    algorithm = given.autoscaling_algorithm
    return Workers(
        staging_location=given.staging_location,
        temp_location=given.temp_location,
        service_account=given.service_account_email,
        machine_type=given.machine_type,
        launcher_machine_type=given.launcher_machine_type,
        workers=given.num_workers,
        max_workers=given.max_num_workers,
        autoscaling=algorithm != "NONE" if algorithm else None,
        disk_gb=given.disk_size_gb,
        region=given.worker_region,
        zone=given.worker_zone,
        network=given.network,
        subnetwork=given.subnetwork,
        public_ips=False if given.no_use_public_ips else None,
        image=given.sdk_container_image,
        kms_key=given.dataflow_kms_key,
        labels=_pairs("--labels", given.labels),
        experiments=[*given.experiments, *given.dataflow_service_options],
        streaming_mode=given.streaming_mode,
        pipeline_options=given.additional_pipeline_options,
    )


def _pairs(option: str, given: Sequence[str]) -> dict[str, str]:
    found = {}
    for each in given:
        key, equals, value = each.partition("=")
        if not key or not equals:
            raise ConfigurationError(
                "not a pair", where=option, found=each, hint=f"Write {option}=KEY=VALUE"
            )
        found[key] = value
    return found
