# SPDX-License-Identifier: Apache-2.0
"""Items for benchmarks: the usual types, in arbitrary order of attributes, from a fixed seed."""

from __future__ import annotations

import base64
import json
import random
import sys
import time
from collections.abc import Callable
from typing import Any

NAMES = ["Ada Lovelace", 'Grace "Amazing" Hopper', "Zoë Ångström", "Linus"]


def images_of(count: int, size: int) -> list[bytes]:
    """Return `count` images of about `size` bytes, with key attributes `pk` (S) and `sk` (N)."""
    rng = random.Random(1)
    return [_image(rng, number, size) for number in range(count)]


def _image(rng: random.Random, number: int, size: int) -> bytes:
    cents = rng.randrange(10**8) * 10 + 1  # no zeros at the end: the service writes none
    item: dict[str, Any] = {
        "pk": {"S": f"user-{number:09d}"},
        "sk": {"N": str(rng.randrange(10**12))},
        "name": {"S": rng.choice(NAMES)},
        "email": {"S": f"u{number}@example.com"},
        "balance": {"N": f"{cents // 1000}.{cents % 1000:03d}"},
        "active": {"BOOL": number % 2 == 0},
        "created": {"S": "2024-01-02T03:04:05.678Z"},
    }
    if number % 3 == 0:
        item["tags"] = {"SS": ["a", "b", "c"]}
    if number % 10 == 0:
        item["deleted_at"] = {"NULL": True}
    if size > 500:
        item["blob"] = {"B": base64.b64encode(rng.randbytes(48)).decode()}
        item["scores"] = {"NS": ["1", "2", "3.5"]}
        geo = {"L": [{"N": "52.1"}, {"N": "4.3"}]}
        item["address"] = {"M": {"street": {"S": "1 Main Street"}, "geo": geo}}
    item["notes"] = {"S": ""}
    missing = size - len(json.dumps(item, separators=(",", ":"), ensure_ascii=False).encode())
    item["notes"]["S"] = ("lorem ipsum dolor sit amet " * (size // 20))[: max(missing, 0)]
    names = list(item)
    rng.shuffle(names)
    shuffled = {name: item[name] for name in names}
    return json.dumps(shuffled, separators=(",", ":"), ensure_ascii=False).encode()


def best_seconds(run: Callable[[], Any], rounds: int = 5) -> float:
    """Return the shortest of several runs, in seconds of this process's own processor time."""
    taken = []
    for _ in range(rounds):
        start = time.process_time()
        run()
        taken.append(time.process_time() - start)
    return min(taken)


def report(head: str, rates: dict[str, float], rival: str) -> None:
    """Write rates in items a second, and as multiples of the rival's."""
    sys.stdout.write(f"{head}\n")
    for name, rate in rates.items():
        ratio = rate / rates[rival]
        sys.stdout.write(f"  {name:36} {rate / 1e3:8.0f} k items/s {ratio:8.1f} x\n")
