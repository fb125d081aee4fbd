# SPDX-License-Identifier: Apache-2.0
"""Dead letters: records that cannot be handled, kept with their raw bytes.

A malformed line or record, or a row that a sink refuses for what is in it, stops nothing and is
never lost: it leaves the graph on a side output as a `DeadLetter` with its place, the reason, its
bytes, and all that is needed to put it back (`transforms.dead_letters.replay`).

| severity | what it says | which |
|---|---|---|
| `retry` | may succeed as it is, later | a row that a rule of the sink's owner refuses |
| `severe` | needs other data or another version of the software | malformed JSON, a missing key |

Reading is a pure function of the bytes and the key schema, so what cannot be read is `severe`; of
what a sink refuses, the sink decides by its error's class.

Stored form: a line of JSON with a format number. Format 0, without that number, has only the first
five fields.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal

import apache_beam as beam

from dynabeam.transforms.runtime.json_coder import JsonCoder
from dynabeam.transforms.runtime.stored_format import (
    canonical,
    check_format,
    damage_told,
    parse_object,
    typed_fields,
)

__all__ = ["DeadLetter", "DeadLetterCoder", "Severity"]

FORMAT = 1

Severity = Literal["retry", "severe"]


@dataclasses.dataclass(frozen=True)
class DeadLetter:
    """One record that could not be handled.

    Attributes:
        table: Name of the table.
        stage: `export`, `stream` or `sink`.
        place: Its source: file and line number, or stream, shard and sequence number; for a
            row that a sink refused, the sink too.
        reason: What is wrong with it.
        raw: Its bytes, exactly as read; of a row that a sink refused,
        `transforms.model.row_payload`.
        error: Class of the error, e.g. `ValueDecodeError`, or `CheckViolation 23514`.
        severity: Whether it may succeed later as it is.
        origin: What identifies it: `stream_arn`, `shard_id`, `sequence`; or `export_arn`,
            `file`, `line`; or `sink`, `key`, `version`.
        context: What is needed to read it again: the table with its key schema, the generation,
            and of an export its time, format, type and view. Empty in old letters.
        attempts: How often it was tried.
        first_us: When it was found first, microseconds since 1970 (UTC); 0 if not known.
        last_us: When it was found last.
    """

    table: str
    stage: str
    place: str
    reason: str
    raw: bytes
    error: str = ""
    severity: Severity = "severe"
    origin: Mapping[str, str] = dataclasses.field(default_factory=dict)
    context: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    attempts: int = 1
    first_us: int = 0
    last_us: int = 0

    @cached_property
    def id(self) -> str:
        """32 hex digits; the same whenever the same record is found, whatever the error is then."""
        where = dict(self.origin) or {"place": self.place}
        subject = [self.table, self.stage, where]
        # A row's key and version, which are in the origin, say all; how it is written may change.
        raw = b"" if self.stage == "sink" else self.raw
        return hashlib.sha256(canonical(subject) + b"\n" + raw).hexdigest()[:32]

    def again(self, before: DeadLetter | None) -> DeadLetter:
        """This letter, as the one that was stored before has become.

        The same attempt reported twice, as after a crash, counts once.

        Args:
            before: What is stored under the same id, None for nothing.
        """
        if before is None or before.last_us >= self.last_us:
            return before or self
        return dataclasses.replace(
            self, attempts=before.attempts + 1, first_us=before.first_us or self.first_us
        )

    def to_line(self) -> bytes:
        """One line of JSON; `raw` is base64, so that any bytes survive."""
        document: dict[str, Any] = {"format": FORMAT}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            document[field.name] = dict(value) if isinstance(value, Mapping) else value
        document["raw"] = base64.b64encode(self.raw).decode("ascii")
        return canonical(document) + b"\n"

    @classmethod
    def from_line(cls, line: bytes, *, where: str = "") -> DeadLetter:
        """Reads what `to_line` wrote, this version's or format 0's.

        Args:
            line: The line.
            where: The file that holds it, for errors.

        Raises:
            StateError: It is damaged, or of an unknown format.
        """
        with damage_told("a dead letter", where=where, found=line[:200]):
            document = parse_object(line)
            number = document.pop("format", 0)
            check_format({"format": number}, (0, FORMAT), what="a dead letter", where=where)
            raw = base64.b64decode(document["raw"], validate=True)
            return typed_fields(cls, document, raw=raw)


class DeadLetterCoder(JsonCoder[DeadLetter]):
    """Dead letters as the JSON lines in which they are stored."""

    kind = DeadLetter

    def encode(self, value: DeadLetter) -> bytes:
        """Encodes a dead letter."""
        return value.to_line()

    def decode(self, encoded: bytes) -> DeadLetter:
        """Decodes a dead letter.

        Raises:
            StateError: See `DeadLetter.from_line`.
        """
        return DeadLetter.from_line(encoded)


beam.coders.registry.register_coder(DeadLetter, DeadLetterCoder)
