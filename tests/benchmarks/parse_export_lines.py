# SPDX-License-Identifier: Apache-2.0
"""How fast export lines are cut: `python -m tests.benchmarks.parse_export_lines [--items N]`.

One thread, one process; each line is the best of several rounds. The rival is `json.loads` of each
line, without even the key. Inflating is not included.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

from dynabeam.transforms.testing.ion_text import ion_struct
from dynabeam.transforms.values.ion_text import ion_lines_to_json
from dynabeam.transforms.values.key_schema import KeyAttribute, KeySchema
from dynabeam.transforms.values.keys import bucket_numbers, key_columns
from dynabeam.transforms.values.lines import parse_full_lines, parse_incremental_lines
from tests.benchmarks.items import best_seconds, images_of, report

SCHEMA = KeySchema(KeyAttribute("pk", "S"), KeyAttribute("sk", "N"))
RIVAL = "json.loads of each line"
STAMP = b'{"Metadata":{"WriteTimestampMicros":{"N":"1768386096366933"}},"Keys":'


def candidates(images: list[bytes]) -> dict[str, tuple[int, Callable[[], Any]]]:
    """All ways to read lines, by name, with how many lines each reads."""
    count = len(images)
    full = b"".join(b'{"Item":' + image + b"}\n" for image in images)
    spaced = b"".join(b'{"Item": ' + image + b"}\n" for image in images)
    changes = b"".join(
        STAMP + image + b',"OldImage":' + image + b',"NewImage":' + image + b"}\n"
        for image in images
    )
    few = [f"$ion_1_0 {{Item:{ion_struct(json.loads(image))}}}\n" for image in images[::20]]
    ion = "".join(few).encode()
    keys = parse_full_lines(full, SCHEMA).keys
    return {
        RIVAL: (count, lambda: [json.loads(line) for line in full.splitlines()]),
        "parse_full_lines": (count, lambda: parse_full_lines(full, SCHEMA)),
        "parse_full_lines, other spelling": (count, lambda: parse_full_lines(spaced, SCHEMA)),
        "parse_incremental_lines": (count, lambda: parse_incremental_lines(changes, SCHEMA)),
        "ion_lines_to_json": (len(few), lambda: ion_lines_to_json(ion)),
        "bucket_numbers": (count, lambda: bucket_numbers(keys, 64)),
        "key_columns": (count, lambda: key_columns(keys, SCHEMA)),
    }


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=30_000)
    items = parser.parse_args().items
    for size in (300, 650):
        runs = candidates(images_of(items, size))
        rates = {name: lines / best_seconds(run) for name, (lines, run) in runs.items()}
        report(f"{size} bytes an item", rates, RIVAL)


if __name__ == "__main__":
    main()
