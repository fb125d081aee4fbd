# SPDX-License-Identifier: Apache-2.0
"""The options that say where a state directory is, of commands that only look into it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from dynabeam.pipelines.options.aws import checked_endpoint, checked_region
from dynabeam.pipelines.options.web_identity import add_web_identity_options, web_identity_of
from dynabeam.transforms.aws.beam_s3 import s3_arguments
from dynabeam.transforms.aws.session import AwsAccess
from dynabeam.transforms.sinks.uri import local_path
from dynabeam.transforms.state.state_directory import StateDirectory

__all__ = ["add_state_options", "named_state_directory", "state_path"]


def add_state_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that `named_state_directory` reads."""
    add = parser.add_argument
    add("--name", default="dynabeam", help="name of the replication")
    add("--state_dir", default="", help="its state directory; by default .dynabeam/<name>")
    add("--region", default="", help="AWS region, for a state directory in S3")
    add("--endpoint_url", default="", help="another endpoint than AWS's, for S3")
    add_web_identity_options(parser)


def named_state_directory(
    given: argparse.Namespace, beam_arguments: Sequence[str] = ()
) -> StateDirectory:
    """The state directory that the options name; sets up the filesystems that it may be on.

    Args:
        given: The options, parsed.
        beam_arguments: Further options for Beam.
    """
    access = AwsAccess(
        region=checked_region(given.region),
        endpoint_url=checked_endpoint(given.endpoint_url),
        web_identity=web_identity_of(given),
    )
    FileSystems.set_options(PipelineOptions([*beam_arguments, *s3_arguments(access)]))
    return StateDirectory(state_path(given.state_dir, given.name))


def state_path(given: str, name: str) -> str:
    """The folder that was given, by path or `file:` URI, or that of a replication of this name.

    Raises:
        ConfigurationError: A `file:` URI names no folder of this machine.
    """
    return local_path(given) or os.path.join(".dynabeam", name)
