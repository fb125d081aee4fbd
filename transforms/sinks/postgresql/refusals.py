# SPDX-License-Identifier: Apache-2.0
"""Which errors of PostgreSQL are about a row and not about the database, and what may become of it.

By SQLSTATE (https://www.postgresql.org/docs/current/errcodes-appendix.html):

| class | what | severity |
|---|---|---|
| 22 | data exception: a text, number or JSON that its type cannot hold | severe |
| 23, 44, P0 | a constraint, a view's check or a trigger of somebody's refuses it | retry |
| 54 | beyond a limit of the program: too large a row, too deep a document | severe |

An image that is no JSON object in UTF-8 cannot be laid out: severe too.
"""

from __future__ import annotations

import dataclasses

import psycopg

from dynabeam.transforms.errors import SinkError
from dynabeam.transforms.model.dead_letter import Severity

__all__ = ["Refusal", "refusal_of"]

_BY_CLASS: dict[str, Severity] = {
    "22": "severe",
    "23": "retry",
    "44": "retry",
    "54": "severe",
    "P0": "retry",
}


@dataclasses.dataclass(frozen=True)
class Refusal:
    """What an error says of the rows that were to be written.

    Attributes:
        error: Its class, with the SQLSTATE if there is one.
        severity: Whether the row may succeed later as it is.
    """

    error: str
    severity: Severity


def refusal_of(error: Exception) -> Refusal | None:
    """What is wrong with the rows; None if the error is about something else."""
    if not isinstance(error, SinkError):
        return Refusal(type(error).__name__, "severe")
    cause = error.__cause__
    if not isinstance(cause, psycopg.Error):
        return None
    if cause.sqlstate is None:
        # The client itself could not write the value.
        if type(cause) is psycopg.DataError:
            return Refusal("DataError", "severe")
        return None
    severity = _BY_CLASS.get(cause.sqlstate[:2])
    if severity is None:
        return None
    return Refusal(f"{type(cause).__name__} {cause.sqlstate}", severity)
