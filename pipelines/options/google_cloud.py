# SPDX-License-Identifier: Apache-2.0
"""What Google Cloud Dataflow has to be told, and what it is not to be told, before a job starts.

Regions have the same option in both worlds: `--region` is AWS's, as everywhere in Dynabeam, and
Google's where the runner is Dataflow, because Google's tools (its template launcher, `gcloud`)
always give theirs by this name. `--aws_region` and `--dataflow_region` say which one is meant.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence

from dynabeam.pipelines.options.arguments import option
from dynabeam.transforms.errors import ConfigurationError

__all__ = ["DATAFLOW", "check_dataflow", "job_name", "named_regions"]

DATAFLOW = "DataflowRunner"

_GOOGLE_REGION = re.compile(r"[a-z]+-[a-z]+[0-9]+")
_JOB_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_PACKAGES = ("sdk_container_image", "setup_file", "extra_package", "extra_packages")
"""Any of these brings Dynabeam to the workers."""

_S3_KEYS = ("s3_access_key_id", "s3_secret_access_key", "s3_session_token")
"""Options of Beam's that would be readable in the job's description, for all who may read it."""


def named_regions(given: argparse.Namespace, *, on_dataflow: bool) -> tuple[str, str]:
    """The AWS region and the Dataflow region that the options name; empty where none is.

    Args:
        given: Has `region`, `aws_region` and `dataflow_region`.
        on_dataflow: Whether the runner is Dataflow.

    Raises:
        ConfigurationError: Two options contradict, or a region is one of the other cloud's.
    """
    if on_dataflow:
        aws, google = given.aws_region, _one("--dataflow_region", given.dataflow_region, given)
        if google and not _GOOGLE_REGION.fullmatch(google):
            raise ConfigurationError(
                "not the name of a Google Cloud region",
                where="--dataflow_region" if given.dataflow_region else "--region",
                expected="such as europe-west1",
                found=google,
                hint="With --runner=DataflowRunner, --region is Google's; AWS's is --aws_region",
            )
    else:
        aws, google = _one("--aws_region", given.aws_region, given), ""
        if given.dataflow_region:
            raise ConfigurationError(
                "the run is not on Dataflow",
                where="--dataflow_region",
                found=given.dataflow_region,
                hint="Give --runner=DataflowRunner too, or leave it out",
            )
    if _GOOGLE_REGION.fullmatch(aws):
        raise ConfigurationError(
            "the region is one of Google's, and the tables are at AWS",
            where="--aws_region" if given.aws_region else "--region",
            expected="such as eu-west-1",
            found=aws,
            hint="Google's is --dataflow_region, with --runner=DataflowRunner",
        )
    return aws, google


def _one(option_name: str, value: str, given: argparse.Namespace) -> str:
    """The value of an option that `--region` may stand for."""
    if value and given.region and value != given.region:
        raise ConfigurationError(
            "two regions are named",
            where=f"--region, {option_name}",
            found=[given.region, value],
            hint=f"Give {option_name} alone",
        )
    return str(value or given.region)


def job_name(name: str) -> str:
    """The name of the job of a replication, the same at each start.

    Dataflow updates a job by its name, and has at most one running job of a name.

    Args:
        name: The replication's name; what job names cannot hold becomes a hyphen.
    """
    words = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if not words or words == "dynabeam":
        return "dynabeam"
    return f"dynabeam-{words}"


def check_dataflow(arguments: Sequence[str]) -> None:
    """Refuses what would fail on Dataflow's workers, minutes later, or give a secret away.

    Args:
        arguments: What Beam is told.

    Raises:
        ConfigurationError: The workers would not have Dynabeam, a key would be in the job's
            description, or the job cannot have its name.
    """
    for name in _S3_KEYS:
        if option(arguments, name):
            raise ConfigurationError(
                "the key would be readable in the job's description",
                where=f"--{name}",
                hint=(
                    "Leave it out: let the workers assume a role, see --role_arn and --s3_role_arn"
                ),
            )
    if not any(option(arguments, name) for name in _PACKAGES):
        raise ConfigurationError(
            "Dataflow's workers would not have Dynabeam",
            where="--sdk_container_image",
            expected="an image with Dynabeam, built from this repository's Dockerfile",
            hint=(
                "Give --sdk_container_image=REGISTRY/dynabeam:VERSION, or --setup_file=./setup.py, "
                "which installs everything again on each worker"
            ),
        )
    name = option(arguments, "job_name")
    if name and not _JOB_NAME.fullmatch(name):
        raise ConfigurationError(
            "Dataflow takes no job of this name",
            where="--job_name",
            expected="small letters, digits and hyphens; a letter first, no hyphen last",
            found=name,
            hint="Leave it out: then it follows from --name",
        )
