# SPDX-License-Identifier: Apache-2.0
"""One line of `dynabeam doctor`: what was checked, the result, why that matters, how to fix it."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from dynabeam.transforms.errors import DynabeamError

__all__ = ["Finding", "failure", "of_error", "ok", "warning"]


@dataclasses.dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        check: Which check, such as `stream`; stable.
        subject: What it was about: a table, an ARN, a sink's URI.
        status: `ok`, `warning` (a run may work) or `failure` (it will not).
        text: How it is.
        why: Why that matters, if it is not well.
        hint: What to do, with the command.
        action: The IAM action, of a permission.
        resource: Its resource.
    """

    check: str
    subject: str
    status: Literal["ok", "warning", "failure"]
    text: str
    why: str = ""
    hint: str = ""
    action: str = ""
    resource: str = ""

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; empty parts are empty texts."""
        return dataclasses.asdict(self)


def ok(check: str, subject: str, text: str) -> Finding:
    """Something is well."""
    return Finding(check, subject, "ok", text)


def warning(check: str, subject: str, text: str, *, why: str = "", hint: str = "") -> Finding:
    """Something may be wrong, or costs; a run may work."""
    return Finding(check, subject, "warning", text, why, hint)


def failure(check: str, subject: str, text: str, *, why: str = "", hint: str = "") -> Finding:
    """Something is wrong, and a run will not work."""
    return Finding(check, subject, "failure", text, why, hint)


def of_error(check: str, subject: str, error: DynabeamError, *, why: str = "") -> Finding:
    """The finding of an error that a run would stop with."""
    hint = error.hint.rstrip(".")
    text = str(error).removesuffix(".")
    if subject in error.where:
        text = text.removeprefix(f"{error.where}: ")
    if hint:
        text = text.removesuffix(hint).rstrip().removesuffix(".")
    return Finding(check, subject, "failure", text, why, hint)
