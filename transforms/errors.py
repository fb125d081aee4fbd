# SPDX-License-Identifier: Apache-2.0
"""Every error that Dynabeam raises on purpose.

One flat family, so that a caller can catch `DynabeamError` or exactly one kind. An error is written
for the person who has to act: it names *what* went wrong, *where* (option, file, record, table),
*both values* where two disagree, and the *hint*.
"""

from __future__ import annotations

from typing import Any

from dynabeam.transforms.printable import one_line, printable_lines

__all__ = [
    "AwsAccessError",
    "AwsUnreachableError",
    "ConfigurationError",
    "CredentialsError",
    "DynabeamError",
    "ExportError",
    "ExportIntegrityError",
    "GapError",
    "SinkError",
    "StateError",
    "StateInUseError",
    "StreamError",
    "TableError",
    "ValueDecodeError",
]

_ABSENT = object()


class DynabeamError(Exception):
    """Base of all errors raised on purpose.

    Args:
        what: One sentence that says what is wrong.
        where: The option, file, record, table or shard at fault.
        expected: The value that was requested or promised, if two values disagree.
        found: The value that was found instead.
        hint: What the user can do about it, in the imperative.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str = "",
        expected: Any = _ABSENT,
        found: Any = _ABSENT,
        hint: str = "",
    ) -> None:
        # What others wrote may be part of each: a line of theirs must not pass for one of ours.
        what, where, hint = one_line(what), one_line(where), printable_lines(hint)
        self.what = what
        self.where = where
        self.hint = hint
        parts = [what.rstrip(".")]
        if where:
            parts[0] = f"{where}: {parts[0]}"
        if expected is not _ABSENT:
            parts.append(f"expected {expected!r}")
        if found is not _ABSENT:
            parts.append(f"found {found!r}")
        text = "; ".join(parts) + "."
        if hint:
            text = f"{text} {hint.rstrip('.')}."
        self._text = text
        super().__init__(text)

    def __str__(self) -> str:
        return self._text

    def __reduce__(self) -> Any:
        # Keyword-only arguments would be lost by the default reduction when a worker process
        # sends the error home.
        return (_restore, (type(self), self._text, self.what, self.where, self.hint))


def _restore(
    kind: type[DynabeamError], text: str, what: str, where: str, hint: str
) -> DynabeamError:
    error = kind.__new__(kind)
    error.what, error.where, error.hint, error._text = what, where, hint, text
    error.args = (text,)
    return error


class ConfigurationError(DynabeamError):
    """An option has a value that cannot work."""


class AwsUnreachableError(DynabeamError):
    """AWS, or the endpoint that was given for it, does not answer."""


class CredentialsError(DynabeamError):
    """No usable AWS credentials were found."""


class AwsAccessError(DynabeamError):
    """AWS refused a call: a permission is missing, for the named action and resource."""


class TableError(DynabeamError):
    """A table does not exist or lacks what replication needs (stream, view type, recovery)."""


class StreamError(DynabeamError):
    """The stream answered in a way that the reader may not pass over."""


class ExportError(DynabeamError):
    """An export cannot be requested, found or used as asked."""


class ExportIntegrityError(ExportError):
    """An export's file, checksum, count or manifest is not what it says it is."""


class GapError(DynabeamError):
    """Changes are lost to the stream and the table's policy is to stop."""


class SinkError(DynabeamError):
    """A sink cannot be opened, cannot do what was asked, or refused a write."""


class StateError(DynabeamError):
    """The state directory cannot be read or written, or belongs to something else."""


class StateInUseError(StateError):
    """Another run holds the state directory."""


class ValueDecodeError(DynabeamError):
    """A value, record or line is not what DynamoDB writes."""
