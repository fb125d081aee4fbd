# SPDX-License-Identifier: Apache-2.0
"""Elements and restrictions as canonical JSON with a format number: equal ones have equal bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from dynabeam.transforms.errors import ValueDecodeError
from dynabeam.transforms.runtime.stored_format import damage_told, parse_object

__all__ = ["FORMAT", "dump_element", "load_element"]

FORMAT = 1


def dump_element(document: Mapping[str, Any]) -> bytes:
    """Writes the fields of an element."""
    return json.dumps(
        {"format": FORMAT, **document}, separators=(",", ":"), sort_keys=True
    ).encode()


def load_element(encoded: bytes, what: str) -> dict[str, Any]:
    """Reads what `dump_element` wrote.

    Args:
        encoded: The bytes.
        what: What they should be, for people.

    Raises:
        ValueDecodeError: If it is damaged, or the format number is unknown.
    """
    with damage_told(f"a {what}", where=what, error=ValueDecodeError):
        document = parse_object(encoded)
    found = document.pop("format", None)
    if found != FORMAT:
        raise ValueDecodeError(
            f"a {what} of an unknown format",
            where=what,
            expected=FORMAT,
            found=found,
            hint="Upgrade Dynabeam on the workers, or restart from the position document",
        )
    return document
