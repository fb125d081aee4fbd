# SPDX-License-Identifier: Apache-2.0
"""A short look at a stream: how many changes came lately, how large, how evenly spread.

A few shards are read from some minutes ago, a few pages each; every page is a paid call.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

from dynabeam.transforms.aws.streams import StreamsClient
from dynabeam.transforms.planning.facts import StreamRate
from dynabeam.transforms.stream.shard_listing import call_with_retries

__all__ = ["sample_stream"]

MOST_SHARDS = 20
MOST_PAGES = 5
_MICROS = 1_000_000


def sample_stream(
    client: StreamsClient, stream_arn: str, open_shards: Sequence[str], seconds: float, now_us: int
) -> StreamRate | None:
    """Measures a stream's rate; None if it has no open shard.

    Args:
        client: The streams client.
        stream_arn: The stream.
        open_shards: Ids of all its open shards; evenly spread ones are sampled.
        seconds: How far back to look.
        now_us: The present, microseconds since 1970.

    Raises:
        StreamError: The service throttled, or did not answer, too often in a row.
        AwsAccessError: Permission to read the stream is missing.
    """
    if not open_shards:
        return None
    step = max(1, len(open_shards) // MOST_SHARDS)
    chosen = list(open_shards)[::step][:MOST_SHARDS]
    since_us = now_us - int(seconds * _MICROS)
    found = [_shard(client, stream_arn, each, since_us, now_us) for each in chosen]
    scale = len(open_shards) / len(chosen)
    total = sum(each.rate for each in found)
    records = sum(each.records for each in found)
    return StreamRate(
        changes=total * scale,
        record_bytes=sum(each.size for each in found) / records if records else 0.0,
        busiest_share=max(each.rate for each in found) / (total * scale) if total else 0.0,
        active_shards=min(len(open_shards), round(sum(e.records > 0 for e in found) * scale)),
        sampled_shards=len(chosen),
        seconds=seconds,
        calls=sum(each.calls for each in found),
    )


@dataclasses.dataclass(frozen=True)
class _ShardSample:
    records: int
    size: int
    rate: float
    calls: int


def _shard(
    client: StreamsClient, stream_arn: str, shard_id: str, since_us: int, now_us: int
) -> _ShardSample:
    where = f"shard {shard_id}, stream {stream_arn}"
    iterator = call_with_retries(
        lambda: client.shard_iterator(stream_arn, shard_id, at_us=since_us),
        "GetShardIterator",
        where,
    )
    records = size = calls = 0
    newest_us = since_us
    ended = False
    while iterator and calls < MOST_PAGES and not ended:
        body = call_with_retries(
            lambda iterator=iterator: client.get_records(stream_arn, iterator),  # type: ignore[misc]
            "GetRecords",
            where,
        )
        page = json.loads(body)
        calls += 1
        for record in page.get("Records", ()):
            inner = record["dynamodb"]
            records += 1
            size += int(inner.get("SizeBytes", 0))
            newest_us = int(float(inner["ApproximateCreationDateTime"]) * _MICROS)
        ended = newest_us >= now_us - 2 * _MICROS
        iterator = page.get("NextShardIterator") or ""
    # Broken off in the middle of many changes, only the time up to the last one counts.
    cut = records > 0 and not ended and calls == MOST_PAGES and newest_us > since_us
    until_us = newest_us if cut else now_us
    return _ShardSample(records, size, records / max(1.0, (until_us - since_us) / _MICROS), calls)
