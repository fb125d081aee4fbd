# SPDX-License-Identifier: Apache-2.0
"""How fast pages of stream records become columns, against boto3 in the same run.

    python -m tests.benchmarks.parse_stream_pages [--records=1000] [--seconds=2]

The rival is what most programs do: botocore's parse of the answer, then boto3's TypeDeserializer on
keys and images of each record. Both sides get the same bytes. The careful way of our parser, which
a page with an unknown field takes, is measured too.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable

import boto3
from boto3.dynamodb.types import TypeDeserializer
from botocore.parsers import create_parser

from dynabeam.transforms.stream.page_parser import PageParser
from tests.stream.scripted import ARN, TABLE, record


def page(records: int, *, odd: bool = False) -> bytes:
    """The body of a GetRecords answer: orders of about 600 bytes, a third each of i, u and d."""
    found = []
    for number in range(records):
        name = ("INSERT", "MODIFY", "REMOVE")[number % 3]
        each = record(10**21 + number, key=f"order-{number}", time=1.7e9 + number // 50, name=name)
        item = {
            "id": {"S": f"order-{number}"},
            "customer": {"S": f"customer-{number % 97}"},
            "total": {"N": f"{number}.99"},
            "paid": {"BOOL": number % 2 == 0},
            "tags": {"SS": ["new", "web"]},
            "address": {"M": {"city": {"S": "Dublin"}, "lines": {"L": [{"S": "1 Main St"}]}}},
            "note": {"S": "x" * 300},
        }
        for image in ("NewImage", "OldImage"):
            if image in each["dynamodb"]:
                each["dynamodb"][image] = item
        found.append(each)
    if odd:
        found[0]["dynamodb"]["FieldOfTheFuture"] = 1
    answer = {"Records": found, "NextShardIterator": "x" * 200}
    return json.dumps(answer, separators=(",", ":")).encode()


def rival() -> Callable[[bytes], int]:
    """botocore's parser, then the TypeDeserializer."""
    client = boto3.client(
        "dynamodbstreams", region_name="eu-west-1", aws_access_key_id="x", aws_secret_access_key="x"
    )
    shape = client.meta.service_model.operation_model("GetRecords").output_shape
    parser = create_parser("json")
    deserialize = TypeDeserializer().deserialize

    def run(body: bytes) -> int:
        answer = parser.parse({"status_code": 200, "headers": {}, "body": body}, shape)
        for each in answer["Records"]:
            for part in ("Keys", "NewImage", "OldImage"):
                for value in each["dynamodb"].get(part, {}).values():
                    deserialize(value)
        return len(answer["Records"])

    return run


def records_a_second(run: Callable[[bytes], int], body: bytes, seconds: float) -> float:
    """Records a second, over at least so many seconds."""
    run(body)
    began, done = time.perf_counter(), 0
    while (passed := time.perf_counter() - began) < seconds:
        done += run(body)
    return done / passed


def main() -> None:
    """Measures and prints a table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--records", type=int, default=1000)
    options.add_argument("--seconds", type=float, default=2.0)
    chosen = options.parse_args()
    plain, odd = page(chosen.records), page(chosen.records, odd=True)
    parser = PageParser(TABLE, 1, ARN)

    def ours(body: bytes) -> int:
        return parser.parse(body, "shard").records

    theirs = records_a_second(rival(), plain, chosen.seconds)
    lines = [f"| way | records/s | ratio |\n|---|---:|---:|\n| boto3 | {theirs:,.0f} | 1 |"]
    for name, body in (("columns", plain), ("columns, a field is new", odd)):
        speed = records_a_second(ours, body, chosen.seconds)
        lines.append(f"| {name} | {speed:,.0f} | {speed / theirs:,.0f} |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
