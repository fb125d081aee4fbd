# SPDX-License-Identifier: Apache-2.0
"""Finds the error that was meant for a person inside what a runner raises.

Runners send a worker's exception home as text inside a RuntimeError with a long traceback. The
errors of `transforms.errors` are single lines there, so their class and text can be extracted.
"""

from __future__ import annotations

import re

from dynabeam.transforms import errors
from dynabeam.transforms.aws.errors import explained, explained_text
from dynabeam.transforms.errors import DynabeamError

__all__ = ["kind_of", "meant_for_people"]

_LINE = re.compile(r"transforms\.errors\.(\w+): (.*)")
_BOTOCORE = re.compile(r"^botocore\.exceptions\.(\w+): (.*)", re.MULTILINE)
_WHILE_RUNNING = re.compile(r"\s*\[while running [^\]]*\].*$")


def meant_for_people(problem: BaseException) -> DynabeamError | None:
    """The `DynabeamError` that caused a failure, None if there is none."""
    if isinstance(problem, DynabeamError):
        return _without_step(problem)
    found = [match for match in _LINE.finditer(str(problem)) if hasattr(errors, match[1])]
    if found:
        kind, text = found[-1].groups()
        error: DynabeamError = getattr(errors, kind)(
            _WHILE_RUNNING.sub("", text).rstrip(". \\n'\"")
        )
        return error
    behind = problem.__cause__ or problem.__context__
    meant = meant_for_people(behind) if behind is not None and not explained(problem) else None
    return meant or explained(problem) or _told_by_worker(str(problem))


def _told_by_worker(text: str) -> DynabeamError | None:
    """An error of botocore at the end of a worker's traceback."""
    lines = list(_BOTOCORE.finditer(text))
    return explained_text(lines[-1][1], lines[-1][2]) if lines else None


def kind_of(error: DynabeamError) -> str:
    """The name of the error's class, or of the public one that it is a kind of."""
    return next(each.__name__ for each in type(error).__mro__ if each.__module__ == errors.__name__)


def _without_step(error: DynabeamError) -> DynabeamError:
    """The error without the name of the graph's step, which the in-process runner appends."""
    text = _WHILE_RUNNING.sub("", str(error))
    return error if text == str(error) else type(error)(text)
