# SPDX-License-Identifier: Apache-2.0
"""Logs as lines of text or of JSON, with secrets masked.

A line of JSON has `time` (RFC 3339, UTC), `level`, `logger`, `message`, `table` and `shard` where
they are known, and `error` with the traceback where there is one. In a worker process the records
go to the runner as before: with `json` the message of its own log is such a line.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime, timezone
from typing import Any, Literal, TextIO, TypeAlias

from dynabeam.transforms.errors import DynabeamError
from dynabeam.transforms.printable import printable_lines
from dynabeam.transforms.secrets import masked

__all__ = ["FORMATS", "LEVELS", "LogFormat", "set_up_logs", "set_up_worker_logs", "writes_json"]

LogFormat: TypeAlias = Literal["", "text", "json"]

FORMATS = ("text", "json")
LEVELS = ("debug", "info", "warning", "error")

_CONTEXT = ("table", "shard")
_OWN = ("dynabeam",)


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Formats it, secrets masked."""
        document: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(
                timespec="milliseconds"
            ),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": masked(record.getMessage()),
        }
        for name in (*_CONTEXT, "fields"):
            value = getattr(record, name, None)
            if isinstance(value, dict):
                document.update(value)
            elif value:
                document[name] = value
        if record.exc_info:
            document["error"] = masked(self.formatException(record.exc_info))
        # The escapes of JSON for what is not printable: such a log is looked at in terminals too.
        text = json.dumps(document, ensure_ascii=False, default=str)
        return text if text.isprintable() else json.dumps(document, default=str)


class TextFormatter(logging.Formatter):
    """A record as people read it."""

    def __init__(self) -> None:
        super().__init__("%(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Formats it, secrets masked, with table and shard where they are known."""
        known = [f"{each} {getattr(record, each)}" for each in _CONTEXT if _has(record, each)]
        text = super().format(record)
        return printable_lines(masked(f"{text} ({', '.join(known)})" if known else text))


class _MaskingFilter(logging.Filter):
    """Masks the parts of a record that a runner's handler takes without any formatter."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        hidden = masked(message)
        if hidden != message:
            record.msg, record.args = hidden, ()
        if record.exc_info:
            trace = logging.Formatter().formatException(record.exc_info)
            if masked(trace) != trace:
                # The handler formats a traceback by itself, so it must not get one.
                record.msg = f"{record.getMessage()}\n{masked(trace)}"
                record.args, record.exc_info, record.exc_text = (), None, None
        return True


class _WithoutOwnErrors(logging.Filter):
    """Leaves out the traceback that Beam logs of an error that the command itself ends with."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return not (record.name.startswith("apache_beam.") and isinstance(error, DynabeamError))


def set_up_logs(log_format: str, level: str, stream: TextIO | None = None) -> None:
    """Sets up the log of this process; may be done again.

    Args:
        log_format: `text` or `json`.
        level: Lowest level of Dynabeam's own records; others' are logged from `error` on unless it
            is `debug`.
        stream: Where to; None for stderr.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_formatter(log_format))
    if level != "debug":
        handler.addFilter(_WithoutOwnErrors())
    root = logging.getLogger()
    for each in list(root.handlers):
        if type(each) is logging.StreamHandler:
            root.removeHandler(each)
    root.addHandler(handler)
    root.setLevel(logging.DEBUG if level == "debug" else logging.ERROR)
    _set_own_level(level)


def set_up_worker_logs(log_format: str, level: str) -> None:
    """Sets up the handlers that the runner has put into a worker process; may be done again."""
    for handler in logging.getLogger().handlers:
        if not any(isinstance(each, _MaskingFilter) for each in handler.filters):
            handler.addFilter(_MaskingFilter())
        if log_format == "json" and not isinstance(handler.formatter, JsonFormatter):
            handler.setFormatter(JsonFormatter())
    if level:
        _set_own_level(level)


def writes_json() -> bool:
    """Whether this process logs JSON, so that nothing else may be written to stderr."""
    # Others' handlers may have its formatter too: in this process a worker may have set them up.
    own = [each for each in logging.getLogger().handlers if type(each) is logging.StreamHandler]
    return any(isinstance(each.formatter, JsonFormatter) for each in own)


def _formatter(log_format: str) -> logging.Formatter:
    return JsonFormatter() if log_format == "json" else TextFormatter()


def _set_own_level(level: str) -> None:
    for name in _OWN:
        logging.getLogger(name).setLevel(level.upper())


def _has(record: logging.LogRecord, name: str) -> bool:
    return bool(getattr(record, name, None))
