# SPDX-License-Identifier: Apache-2.0
"""Where an export is: what `--export` may be, and the way from there to its summary manifest.

A location is one of

* an export ARN (`arn:aws:dynamodb:…:table/T/export/…`), which needs AWS;
* the path of a `manifest-summary.json`, of an export's folder, or of any folder above it, on any
  filesystem that Beam reaches (`s3://…`, `gs://…`, a local path), which does not;
* `newest:<seconds>`: the newest complete full export of the table younger than that.

Only names are looked at here; `transforms.export.manifest` reads and verifies.
"""

from __future__ import annotations

import os
import re

from apache_beam.io.filesystem import BeamIOError

from dynabeam.transforms.errors import ConfigurationError, ExportError
from dynabeam.transforms.storage import filesystem

__all__ = ["SUMMARY_NAME", "find_summary", "is_export_arn", "newest_age_us", "table_arn_of_export"]

SUMMARY_NAME = "manifest-summary.json"
_NEWEST = "newest:"
_EXPORT_ARN = re.compile(r"^(arn:[^:]+:dynamodb:[^:]*:[^:]*:table/[^/]+)/export/[^/]+$")
_SHOWN = 20


def is_export_arn(text: str) -> bool:
    """True if the text has the form of an export's ARN."""
    return _EXPORT_ARN.match(text) is not None


def table_arn_of_export(export_arn: str) -> str:
    """The ARN of the table that an export's ARN names; empty if it is no such ARN."""
    match = _EXPORT_ARN.match(export_arn)
    return match[1] if match else ""


def newest_age_us(reuse: str) -> int:
    """The age in microseconds of `newest:<seconds>`; 0 if the text is not of that kind.

    Raises:
        ConfigurationError: What follows `newest:` is not a positive whole number.
    """
    if not reuse.startswith(_NEWEST):
        return 0
    seconds = reuse.removeprefix(_NEWEST)
    if not (seconds.isascii() and seconds.isdigit() and int(seconds)):
        raise ConfigurationError(
            "the age of the newest export must be a positive number of seconds",
            where="--export",
            found=reuse,
            hint="Write it like newest:86400",
        )
    return int(seconds) * 1_000_000


def find_summary(location: str) -> str:
    """Finds the one summary manifest at or below a location.

    Below a folder of an object store this lists all keys under it, 1,000 per request, as object
    stores cannot search; give the export's own folder if there are very many.

    Args:
        location: Path of a `manifest-summary.json` or of a folder; not an ARN.

    Returns:
        The path of the `manifest-summary.json`.

    Raises:
        ExportError: There is none, or there are several: then they are listed.
        AwsAccessError: S3 refuses to show or to list it.
    """
    plain = location.removeprefix("file://")
    if filesystem.is_local(plain):
        plain = os.path.abspath(os.path.expanduser(plain))
    if plain.rpartition("/")[2] == SUMMARY_NAME:
        return plain
    try:
        direct = filesystem.join(plain, SUMMARY_NAME)
        if filesystem.exists(direct):
            return direct
        found = [
            path for path in filesystem.list_files(plain) if path.rpartition("/")[2] == SUMMARY_NAME
        ]
    except (BeamIOError, OSError, ValueError) as problem:
        raise ExportError(
            f"the location cannot be listed: {problem}",
            where=location,
            hint="Check that the path is right and that this identity may list and read it",
        ) from problem
    return _the_one(location, found)


def _the_one(location: str, found: list[str]) -> str:
    if not found:
        raise ExportError(
            f"no {SUMMARY_NAME} is there or in any folder below it; an export that is still in "
            "progress has none yet",
            where=location,
            hint="Give the path of an export's folder (…/AWSDynamoDB/<export id>) or of a folder "
            "above it",
        )
    if len(found) > 1:
        listed = ", ".join(found[:_SHOWN]) + (", …" if len(found) > _SHOWN else "")
        raise ExportError(
            f"there are {len(found)} exports below: {listed}",
            where=location,
            hint="Give the path of one of them",
        )
    return found[0]
