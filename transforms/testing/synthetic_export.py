# SPDX-License-Identifier: Apache-2.0
"""Large synthetic exports, written quickly: typed items from byte templates.

An item has a hash key ``customer`` (S), a range key ``order_no`` (N) and attributes of the common
types; two attribute orders take turns. Items are not encoded one by one: values are formatted into
ready-made JSON. Memory holds one compressed data file.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone

from dynabeam.transforms.errors import ConfigurationError
from dynabeam.transforms.testing.export_layout import seeded
from dynabeam.transforms.testing.export_writer import (
    ROWS_PER_FILE,
    WrittenExport,
    folder_put,
    write_full_export,
)

__all__ = ["main", "synthetic_lines", "write_synthetic_export"]

DEFAULT_ITEM_BYTES = 300
ORDERS_PER_CUSTOMER = 8
MAX_ITEMS = ORDERS_PER_CUSTOMER << 32

_ACCOUNT = "111122223333"
_TABLE_ID = "00000000-1111-2222-3333-444444444444"

_KEYS_FIRST = (
    b'{"Item":{"customer":{"S":"c%08x"},"order_no":{"N":"%d"},"amount":{"N":"%d.%02d"},'
    b'"paid":{"BOOL":%s},"status":{"S":"%s"},"tags":{"SS":["web","%s"]},'
    b'"address":{"M":{"city":{"S":"Li\xc3\xa8ge"},"zip":{"S":"%05d"}}},'
    b'"coupon":{"NULL":true},"note":{"S":"%s"}}}\n'
)
_KEYS_LAST = (
    b'{"Item":{"amount":{"N":"-%d.%02d"},"paid":{"BOOL":%s},"tags":{"SS":["%s","web"]},'
    b'"photo":{"B":"aGVsbG8="},"address":{"M":{"zip":{"S":"%05d"},"city":{"S":"Gen\xc3\xa8ve"}}},'
    b'"note":{"S":"%s"},"order_no":{"N":"%d"},"status":{"S":"%s"},"customer":{"S":"c%08x"}}}\n'
)
_STATUSES = (b"new", b"packed", b"shipped", b"returned")
_TAGS = (b"gift", b"express", b"b2b")
_TRUTH = (b"true", b"false")

# Notes are slices of one random text, which deflates about as well as prose.
_NOTE_LETTERS = "etaoinshrdlu     "
_NOTE_POOL = 1 << 16
_BYTES_BESIDE_NOTE = 263


def synthetic_lines(
    count: int, *, item_bytes: int = DEFAULT_ITEM_BYTES, seed: int = 0
) -> Iterator[bytes]:
    """Yields the data lines of `count` items with distinct keys, each with its newline.

    Args:
        count: Number of items, at most `MAX_ITEMS`.
        item_bytes: About how long a line is; never much below 264 bytes.
        seed: Decides the content.

    Raises:
        ConfigurationError: More items were asked than there are distinct keys.
    """
    if not 0 <= count <= MAX_ITEMS:
        raise ConfigurationError("Number of items out of range", found=count, expected=MAX_ITEMS)
    rng = seeded(seed)
    length = max(1, item_bytes - _BYTES_BESIDE_NOTE)
    pool = "".join(rng.choices(_NOTE_LETTERS, k=_NOTE_POOL + length)).encode()
    salt = rng.getrandbits(32)
    for number in range(count):
        # An odd factor permutes the 32-bit numbers: customers are distinct and in no order.
        customer = (number // ORDERS_PER_CUSTOMER * 0x9E3779B1 + salt) & 0xFFFFFFFF
        order = number % ORDERS_PER_CUSTOMER + 1
        mixed = customer ^ (number * 0x85EBCA6B & 0xFFFFFFFF)
        at = mixed & 0xFFFF
        note = pool[at : at + length]
        status = _STATUSES[mixed & 3]
        paid = _TRUTH[mixed >> 2 & 1]
        amount, postcode, tag = mixed >> 12, mixed % 100_000, _TAGS[mixed % 3]
        cents = mixed % 10 * 10 + mixed % 9 + 1  # the service writes no trailing zeros
        if number & 1:
            yield _KEYS_LAST % (
                amount, cents, paid, tag, postcode, note, order, status, customer,
            )  # fmt: skip
        else:
            yield _KEYS_FIRST % (
                customer, order, amount, cents, paid, status, tag, postcode, note,
            )  # fmt: skip


def write_synthetic_export(
    folder: str,
    *,
    items: int,
    table: str = "synthetic",
    item_bytes: int = DEFAULT_ITEM_BYTES,
    rows_per_file: int = ROWS_PER_FILE,
    seed: int = 0,
    export_time: datetime | None = None,
) -> WrittenExport:
    """Writes a full export of synthetic items below a local folder.

    Args:
        folder: Stands for the bucket.
        items: Number of items.
        table: Name of the table; the key schema is ``customer`` (S), ``order_no`` (N).
        item_bytes: About how long a data line is.
        rows_per_file: Items per data file.
        seed: Decides content and names.
        export_time: Default now.
    """
    return write_full_export(
        folder_put(folder),
        table_arn=f"arn:aws:dynamodb:eu-west-1:{_ACCOUNT}:table/{table}",
        table_id=_TABLE_ID,
        lines=synthetic_lines(items, item_bytes=item_bytes, seed=seed),
        export_time=export_time or datetime.now(timezone.utc),
        bucket="synthetic-exports",
        rows_per_file=rows_per_file,
        seed=seed,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes a synthetic export and prints where it lies, its size and the speed."""
    parser = argparse.ArgumentParser(description="Write a synthetic DynamoDB export to a folder.")
    parser.add_argument("--items", type=int, required=True, help="number of items")
    parser.add_argument("--out", required=True, help="folder that stands for the bucket")
    parser.add_argument("--table", default="synthetic", help="name of the table")
    parser.add_argument("--item_bytes", type=int, default=DEFAULT_ITEM_BYTES)
    parser.add_argument("--rows_per_file", type=int, default=ROWS_PER_FILE)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    began = time.perf_counter()
    written = write_synthetic_export(
        options.out,
        items=options.items,
        table=options.table,
        item_bytes=options.item_bytes,
        rows_per_file=options.rows_per_file,
        seed=options.seed,
    )
    seconds = time.perf_counter() - began
    sys.stdout.write(
        f"{written.item_count:,} items, {written.billed_size_bytes:,} bytes before compression, "
        f"{len(written.data_keys)} data files, {seconds:.1f} s "
        f"({written.item_count / seconds:,.0f} items/s)\n"
        f"{options.out}/{written.manifest_summary_key}\n"
    )
