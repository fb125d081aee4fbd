# SPDX-License-Identifier: Apache-2.0
"""`dynabeam templates spec|metadata`: the files that make an image a Flex Template of Dataflow.

    dynabeam templates spec --image=REGISTRY/dynabeam:VERSION > dynabeam.json
    gcloud storage cp dynabeam.json gs://BUCKET/templates/dynabeam.json

`metadata` prints what `gcloud dataflow flex-template build --metadata-file=…` wants. Options are
called as they are there. Both print JSON; nothing is written or asked.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from dynabeam.pipelines.options.arguments import parse_all
from dynabeam.pipelines.templates.appearance import TEMPLATES
from dynabeam.pipelines.templates.metadata import template_metadata
from dynabeam.pipelines.templates.spec import container_spec
from dynabeam.transforms.errors import ConfigurationError

__all__ = ["main"]

_FIELDS = {
    "service_account_email": "serviceAccountEmail",
    "worker_machine_type": "machineType",
    "network": "network",
    "subnetwork": "subnetwork",
    "staging_location": "stagingLocation",
    "temp_location": "tempLocation",
}
_NUMBERS = {"num_workers": "numWorkers", "max_workers": "maxWorkers"}


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    given = parse_all(_parser(), arguments)
    document: dict[str, Any]
    if given.document == "metadata":
        document = template_metadata(given.template)
    elif not given.image:
        raise ConfigurationError(
            "a template is an image, and none is named",
            where="--image",
            hint="Give --image=REGISTRY/PROJECT/REPOSITORY/dynabeam:TAG",
        )
    else:
        document = container_spec(given.template, given.image, _environment(given))
    json.dump(document, sys.stdout, indent=2)
    sys.stdout.write("\n")
    return 0


def _environment(given: argparse.Namespace) -> dict[str, Any]:
    """The defaults of a launch that are given."""
    found: dict[str, Any] = {}
    for option, field in _FIELDS.items():
        if value := getattr(given, option):
            found[field] = value
    for option, field in _NUMBERS.items():
        if value := getattr(given, option):
            if not value.isascii() or not value.isdigit() or int(value) < 1:
                raise ConfigurationError(
                    "not a number of workers", where=f"--{option}", found=value, hint="Write e.g. 2"
                )
            found[field] = int(value)
    if given.disable_public_ips:
        found["ipConfiguration"] = "WORKER_IP_PRIVATE"
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dynabeam templates",
        description="Print the files that make an image a Flex Template of Dataflow.",
        epilog="Everything but --image and --template is a default that a launch may override.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("document", choices=["spec", "metadata"], help="the spec file, or the metadata in it alone")
    add("--template", choices=TEMPLATES, default="continuous", help="which of the two")
    add("--image", default="", help="the image, e.g. REGISTRY/PROJECT/REPOSITORY/dynabeam:TAG")
    add("--service_account_email", default="", help="account that launcher and workers run as")
    add("--worker_machine_type", default="", help="e.g. n2-standard-2")
    add("--num_workers", default="", help="workers to begin with")
    add("--max_workers", default="", help="workers at most")
    add("--network", default="", help="network of the workers")
    add("--subnetwork", default="", help="subnetwork of the workers")
    add("--disable_public_ips", action="store_true", help="workers have private addresses only")
    add("--staging_location", default="", help="gs:// folder for what a launch writes")
    add("--temp_location", default="", help="gs:// folder for temporary files")
    return parser


if __name__ == "__main__":
    from dynabeam.pipelines.command_line import main as command_line

    sys.exit(command_line(["templates", *sys.argv[1:]]))
