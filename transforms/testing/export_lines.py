# SPDX-License-Identifier: Apache-2.0
"""The lines of an export's data files: items and net changes, as DynamoDB JSON or Ion text.

Attribute order is the service's: arbitrary (here: seeded) in full exports, alphabetical in the
images of incremental ones; set members have no order in either. Values are not touched.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dynabeam.transforms.errors import ConfigurationError
from dynabeam.transforms.testing.export_layout import ExportFormat, View
from dynabeam.transforms.testing.ion_text import ion_number, ion_struct

__all__ = ["HASH_SPACE", "Item", "NetChange", "change_line", "full_line", "hash_position"]

Item = Mapping[str, Mapping[str, Any]]
"""One item as DynamoDB JSON: attribute name to tagged value; binary as base64 text."""

HASH_SPACE = 1 << 128


@dataclass(frozen=True)
class NetChange:
    """What an incremental export says about one key: its first and last state in the window.

    Args:
        keys: The primary key's attributes.
        write_micros: Time of the last write in the window, microseconds since the epoch.
        old_image: The item before the window; None if there was none.
        new_image: The item at the window's end; None if it was deleted.

    Raises:
        ConfigurationError: Both images are missing: such a key is not exported.
    """

    keys: Item
    write_micros: int
    old_image: Item | None = None
    new_image: Item | None = None

    def __post_init__(self) -> None:
        if self.old_image is None and self.new_image is None:
            raise ConfigurationError(
                "A net change needs an old or a new image",
                where=f"key {dict(self.keys)!r}",
                hint="Leave out keys that were created and deleted inside the window",
            )


def hash_position(item: Item, hash_key: str | None) -> int:
    """Returns where an item lies in the table's hash space, `0 <= position < HASH_SPACE`.

    Items with equal partition keys lie at the same place; numbers are compared by value. Without
    `hash_key` the whole item is hashed.

    Raises:
        ConfigurationError: The item has no attribute of that name.
    """
    if hash_key is None:
        text = json.dumps(item, sort_keys=True)
    elif hash_key not in item:
        raise ConfigurationError(
            "An item lacks the partition key", expected=hash_key, found=sorted(item)
        )
    else:
        ((tag, content),) = item[hash_key].items()
        text = f"{tag}:{ion_number(content) if tag == 'N' else content}"
    return int.from_bytes(hashlib.md5(text.encode(), usedforsecurity=False).digest(), "big")


def full_line(item: Item, export_format: ExportFormat, rng: random.Random) -> bytes:
    """Writes the line of a full export, with its newline."""
    shuffled = _shuffled_item(item, rng)
    if export_format == "ION":
        return f"$ion_1_0 {{Item:{ion_struct(shuffled)}}}\n".encode()
    return _json_line({"Item": shuffled})


def change_line(
    change: NetChange,
    view: View,
    export_format: ExportFormat,
    rng: random.Random,
    *,
    ion_record_wrapper: bool = False,
) -> bytes:
    """Writes the line of an incremental export, with its newline; absent images are absent."""
    images = dict(_images(change, view, rng))
    if export_format != "ION":
        stamp = {"WriteTimestampMicros": {"N": str(change.write_micros)}}
        return _json_line({"Metadata": stamp, **images})
    fields = [f"Metadata:{{WriteTimestampMicros:{ion_number(str(change.write_micros))}}}"]
    fields += [f"{name}:{ion_struct(item)}" for name, item in images.items()]
    record = "{" + ",".join(fields) + "}"
    return f"$ion_1_0 {'{Record:' + record + '}' if ion_record_wrapper else record}\n".encode()


def _images(change: NetChange, view: View, rng: random.Random) -> Iterator[tuple[str, Item]]:
    yield "Keys", _sorted_item(change.keys, rng)
    if change.old_image is not None and view == "NEW_AND_OLD_IMAGES":
        yield "OldImage", _sorted_item(change.old_image, rng)
    if change.new_image is not None:
        yield "NewImage", _sorted_item(change.new_image, rng)


def _json_line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _shuffled_item(item: Item, rng: random.Random) -> Item:
    """Full exports keep no order of attributes, nor inside maps, nor of set members."""
    return {name: _reordered(item[name], rng, _shuffled_item) for name in _sample(item, rng)}


def _sorted_item(item: Item, rng: random.Random) -> Item:
    """Incremental images are in alphabetical order; sets have none there either."""
    return {name: _reordered(item[name], rng, _sorted_item) for name in sorted(item)}


def _sample(names: Iterable[str], rng: random.Random) -> Sequence[str]:
    # Sorted first: the seed alone decides, not the order in which a test built its item.
    ordered = sorted(names)
    return rng.sample(ordered, len(ordered))


def _reordered(
    value: Mapping[str, Any], rng: random.Random, order: Callable[[Item, random.Random], Item]
) -> Mapping[str, Any]:
    ((tag, content),) = value.items()
    if tag == "M":
        return {tag: order(content, rng)}
    if tag == "L":
        return {tag: [_reordered(member, rng, order) for member in content]}
    if tag in {"SS", "NS", "BS"}:
        return {tag: _sample(content, rng)}
    return value
