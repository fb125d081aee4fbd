# SPDX-License-Identifier: Apache-2.0
"""The digest of an item: equal items have equal digests, however they are written.

The order of attributes, of sets and the spelling of numbers (`1e3` is `1000.0`) do not matter; the
order of lists does, and NULL differs from absent.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from dynabeam.transforms.errors import ValueDecodeError
from dynabeam.transforms.runtime.stored_format import canonical
from dynabeam.transforms.values.numbers import normalise_number

__all__ = ["DIGEST_BYTES", "item_digest"]

DIGEST_BYTES = 16


def item_digest(image: bytes) -> bytes:
    """The digest of an item's raw DynamoDB JSON, 16 bytes of BLAKE2b.

    What is not DynamoDB JSON has the digest of its bytes: it is for others to complain about.
    """
    try:
        item = json.loads(image)
        text = canonical({name: _canonical(value) for name, value in item.items()})
    except (ValueError, TypeError, AttributeError, ValueDecodeError):
        text = image
    return hashlib.blake2b(text, digest_size=DIGEST_BYTES).digest()


def _canonical(value: dict[str, Any]) -> Any:
    ((tag, content),) = value.items()
    if tag == "N":
        return {tag: normalise_number(content)}
    if tag == "NS":
        return {tag: sorted(map(normalise_number, content))}
    if tag in ("SS", "BS"):
        return {tag: sorted(content)}
    if tag == "L":
        return {tag: [_canonical(each) for each in content]}
    if tag == "M":
        return {tag: {name: _canonical(each) for name, each in content.items()}}
    return value
