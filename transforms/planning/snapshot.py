# SPDX-License-Identifier: Apache-2.0
"""The estimates of a snapshot: what is exported, what it costs, how long reading it takes."""

from __future__ import annotations

import math

from dynabeam.transforms.planning.estimates import GIB, Estimate
from dynabeam.transforms.planning.facts import Reading, TableFacts
from dynabeam.transforms.planning.prices import Prices
from dynabeam.transforms.planning.throughput import Speeds

__all__ = ["snapshot_estimates"]

_PARTITION_BYTES = 10 * GIB
_MANIFESTS = 5
"""`_started`, two manifests and their checksums."""
_KEY_BYTES = 30
_VERSION_BYTES = 49
"""As `transforms.reconcile.reconcile` states: per remembered key, before compression."""


def snapshot_estimates(
    table: TableFacts, reading: Reading, prices: Prices, speeds: Speeds
) -> list[Estimate]:
    """The estimates of one table's snapshot; none if there is to be none."""
    if not reading.snapshot:
        return []
    gb = table.size_bytes / GIB
    files = max(1, math.ceil(table.size_bytes / _PARTITION_BYTES))
    objects = files + _MANIFESTS
    seconds = table.items / speeds.snapshot_rows
    return [
        Estimate(
            "snapshot_bytes",
            "snapshot size",
            table.size_bytes,
            "bytes",
            "TableSizeBytes",
            {"TableSizeBytes": table.size_bytes, "ItemCount": table.items},
            "as DescribeTable says, up to six hours old",
        ),
        Estimate(
            "export_price",
            "export",
            gb * prices.export_gb,
            "USD",
            "gb * export_gb",
            {"gb": gb, "export_gb": prices.export_gb},
            "once; uses no read capacity of the table",
        ),
        Estimate(
            "export_files",
            "data files, at least",
            files,
            "count",
            "max(1, ceil(TableSizeBytes / partition_bytes))",
            {"TableSizeBytes": table.size_bytes, "partition_bytes": _PARTITION_BYTES},
            "one or more per partition; partitions made for throughput come on top",
        ),
        Estimate(
            "export_requests_price",
            "S3 requests",
            objects * prices.s3_put / 1000 + 2 * objects * prices.s3_get / 1000,
            "USD",
            "objects * s3_put / 1000 + 2 * objects * s3_get / 1000",
            {"objects": objects, "s3_put": prices.s3_put, "s3_get": prices.s3_get},
            "once; large files are written and read in parts, each a request",
        ),
        Estimate(
            "export_storage_price",
            "S3 storage, at most",
            gb * prices.s3_gb_month,
            "USD per month",
            "gb * s3_gb_month",
            {"gb": gb, "s3_gb_month": prices.s3_gb_month},
            "until you delete it; files are gzip, so it will be a fraction",
        ),
        Estimate(
            "recovery_price",
            "point-in-time recovery",
            gb * prices.recovery_gb_month,
            "USD per month",
            "gb * recovery_gb_month",
            {"gb": gb, "recovery_gb_month": prices.recovery_gb_month},
            "an export needs it; you pay it already if it is on",
        ),
        Estimate(
            "snapshot_seconds",
            "reading it",
            seconds,
            "seconds",
            "ItemCount / rows_per_second",
            {"ItemCount": table.items, "rows_per_second": speeds.snapshot_rows},
            f"limit: {speeds.limit}. AWS promises no time for the export: small ones took 4 to 12 "
            "minutes",
        ),
        _state(table, seconds),
    ]


def _state(table: TableFacts, seconds: float) -> Estimate:
    """Keys that the stream changes while the snapshot is pending, all of them new ones."""
    export_seconds = 720
    keys: float = table.items
    rate = None if table.rate is None else table.rate.changes
    if rate is not None:
        keys = min(keys, rate * (table.stream_age + export_seconds + seconds))
    return Estimate(
        "state_bytes",
        "state, at most",
        keys * (_KEY_BYTES + _VERSION_BYTES),
        "bytes",
        "min(ItemCount, changes * (stream_age + export_seconds + snapshot_seconds)) * "
        "(key_bytes + version_bytes)",
        {
            "ItemCount": table.items,
            "changes": rate,
            "stream_age": table.stream_age,
            "export_seconds": export_seconds,
            "snapshot_seconds": seconds,
            "key_bytes": _KEY_BYTES,
            "version_bytes": _VERSION_BYTES,
        },
        "keys that change while the snapshot is pending, before compression; dropped after it",
    )
