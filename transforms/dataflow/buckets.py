# SPDX-License-Identifier: Apache-2.0
"""What a launch needs in Cloud Storage, looked at before it: buckets and the template's spec."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from google.api_core import exceptions as api

from dynabeam.transforms.dataflow.answers import answers_told
from dynabeam.transforms.dataflow.service import SECONDS, DataflowService
from dynabeam.transforms.errors import ConfigurationError

__all__ = ["check_bucket", "check_parameters", "parse_gs", "parse_spec", "read_spec"]

_GS = re.compile(r"gs://([a-z0-9][a-z0-9._-]{1,220}[a-z0-9])(?:/(.*))?")


def parse_gs(path: str, *, where: str) -> tuple[str, str]:
    """Bucket and object of a `gs://` path.

    Raises:
        ConfigurationError: It is none; the error names the option.
    """
    found = _GS.fullmatch(path)
    if found is None:
        raise ConfigurationError(
            "not a place in Cloud Storage",
            where=where,
            found=path,
            hint="Write gs://BUCKET/FOLDER",
        )
    return found[1], found[2] or ""


def check_bucket(service: DataflowService, path: str, *, where: str) -> bool:
    """Looks whether the bucket of a path is there.

    Args:
        service: Who is asked.
        path: A `gs://` path.
        where: The option that names it.

    Returns:
        False if that is not known, because this caller may not look.

    Raises:
        ConfigurationError: There is no such bucket, or Cloud Storage does not answer.
    """
    bucket, _ = parse_gs(path, where=where)
    with answers_told(service.subject(staging=path)):
        try:
            service.storage.get_bucket(bucket, timeout=SECONDS, retry=None)
        except (api.Forbidden, api.Unauthorized):
            return False
        except api.NotFound as problem:
            raise ConfigurationError(
                "there is no such bucket",
                where=where,
                found=path,
                hint=f"gcloud storage buckets create gs://{bucket} --location={service.region}",
            ) from problem
    return True


def read_spec(service: DataflowService, path: str) -> dict[str, Any] | None:
    """The specification of a Flex Template.

    Args:
        service: Who is asked.
        path: Its `gs://` path.

    Returns:
        Its JSON; None if this caller may not read it, but the service perhaps may.

    Raises:
        ConfigurationError: There is none, or it is no specification.
    """
    where = f"--template={path}"
    bucket, name = parse_gs(path, where="--template")
    with answers_told(service.subject(template=path)):
        try:
            content = (
                service.storage.bucket(bucket)
                .blob(name)
                .download_as_bytes(timeout=SECONDS, retry=None)
            )
        except (api.Forbidden, api.Unauthorized):
            return None
        except api.NotFound as problem:
            raise ConfigurationError(
                "there is no template's specification",
                where=where,
                hint="Upload what 'dynabeam templates spec' prints",
            ) from problem
    return parse_spec(content, where=where)


def parse_spec(content: bytes, *, where: str) -> dict[str, Any]:
    """The JSON of a specification.

    Raises:
        ConfigurationError: It is none.
    """
    try:
        found = json.loads(content)
        named = bool(found["image"]) and isinstance(found.get("metadata", {}), dict)
    except (ValueError, KeyError, TypeError, AttributeError):
        named = False
    if not named:
        raise ConfigurationError(
            "not the specification of a Flex Template: it names no image",
            where=where,
            expected='{"image": …, "sdkInfo": …, "metadata": …}',
            hint="Upload what 'dynabeam templates spec' prints",
        )
    return dict(found)


def check_parameters(spec: Mapping[str, Any], given: Mapping[str, str], *, where: str) -> None:
    """Compares parameters with what a template takes, as the service does before it launches.

    A template that was built by another version may know other ones.

    Raises:
        ConfigurationError: It does not know one, one does not match, or one is missing.
    """
    known = {each["name"]: each for each in spec.get("metadata", {}).get("parameters", ())}
    if not known:
        return
    for name, value in given.items():
        if name not in known:
            raise ConfigurationError(
                "the template has no such parameter",
                where=f"--{name}",
                found=value,
                hint=f"{where} was built by another version of Dynabeam, or is the template for "
                "another mode. Build and upload it again",
            )
        for regex in known[name].get("regexes", ()):
            if not re.fullmatch(regex, value):
                raise ConfigurationError(
                    f"not a value for the parameter '{known[name].get('label', name)}'",
                    where=f"--{name}",
                    expected=regex,
                    found=value,
                    hint=str(known[name].get("helpText", "Check its value")),
                )
    missing = [
        name for name, each in known.items() if not each.get("isOptional") and name not in given
    ]
    if missing:
        raise ConfigurationError(
            "the template needs another parameter",
            where=f"--{missing[0]}",
            hint=str(known[missing[0]].get("helpText", "Give it")),
        )
