# SPDX-License-Identifier: Apache-2.0
"""Dead letters: records that cannot be handled, kept with their raw bytes.

A malformed line or record stops nothing and is never lost: it leaves the graph on a side output as
a `DeadLetter` with its place, the reason and its bytes.
"""

from __future__ import annotations

import base64
import dataclasses
import json

import apache_beam as beam

__all__ = ["DeadLetter", "DeadLetterCoder"]


@dataclasses.dataclass(frozen=True)
class DeadLetter:
    """One record that could not be handled.

    Attributes:
        table: Name of the table.
        stage: `export` or `stream`.
        place: Where it stood: file and line number, or stream, shard and sequence number.
        reason: What is wrong with it.
        raw: Its bytes, exactly as read.
    """

    table: str
    stage: str
    place: str
    reason: str
    raw: bytes

    def to_line(self) -> bytes:
        """One line of JSON; `raw` is base64, so that any bytes survive."""
        document = dataclasses.asdict(self)
        document["raw"] = base64.b64encode(self.raw).decode("ascii")
        return json.dumps(document, separators=(",", ":"), sort_keys=True).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> DeadLetter:
        """Reads what `to_line` wrote."""
        document = json.loads(line)
        document["raw"] = base64.b64decode(document["raw"])
        return cls(**document)


class DeadLetterCoder(beam.coders.Coder):
    """Dead letters as the JSON lines in which they are stored."""

    def encode(self, value: DeadLetter) -> bytes:
        """Encodes a dead letter."""
        return value.to_line()

    def decode(self, encoded: bytes) -> DeadLetter:
        """Decodes a dead letter."""
        return DeadLetter.from_line(encoded)

    def is_deterministic(self) -> bool:
        """Equal dead letters have equal bytes."""
        return True

    def to_type_hint(self) -> type[DeadLetter]:
        """The type that this coder carries."""
        return DeadLetter


beam.coders.registry.register_coder(DeadLetter, DeadLetterCoder)
