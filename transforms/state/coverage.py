# SPDX-License-Identifier: Apache-2.0
"""Does a stream cover the time behind a snapshot? If not, changes in between are lost: a gap.

An export shows the table at its time, give or take a minute (`transforms.export.ensure_export`); a
stream holds 24 hours, and nothing from before it was switched on.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from dynabeam.transforms.model.gap import Gap, GapKind
from dynabeam.transforms.stream.reader_spec import TRIM_HORIZON

__all__ = ["FUZZ_US", "REQUEST_MARGIN_US", "covered_since_us", "uncovered"]

FUZZ_US = 60_000_000
"""An export's edge is fuzzy by a minute each side."""

REQUEST_MARGIN_US = 5_000_000
"""How much longer than the fuzz to wait before an export is requested."""

_DAY_US = 24 * 3600 * 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def covered_since_us(stream_arn: str, start: str, now_us: int) -> int:
    """From when on the changes of a stream are read, microseconds since 1970.

    Args:
        stream_arn: The stream; its label says when it was switched on.
        start: Where it is begun: `trim_horizon`, `latest` or an RFC 3339 time.
        now_us: The time now.
    """
    if start != TRIM_HORIZON:
        begun = _parse(start)
        return now_us if begun is None else begun
    created = _parse(stream_arn.rpartition("/stream/")[2])
    oldest = now_us - _DAY_US
    return oldest if created is None else max(created, oldest)


def uncovered(table: str, stream_arn: str, since_us: int, export_time_us: int) -> Gap | None:
    """The gap between a snapshot and the oldest change that is read, None if there is none."""
    if since_us <= export_time_us - FUZZ_US:
        return None
    return Gap(
        table=table,
        kind=GapKind.UNCOVERED,
        stream_arn=stream_arn,
        shard_id="",
        last_sequence="",
        from_us=export_time_us - FUZZ_US,
        to_us=since_us,
        detail=(
            f"the export shows the table at {_text(export_time_us)} give or take a "
            f"minute, the stream is read from {_text(since_us)}"
        ),
    )


def _parse(text: str) -> int | None:
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _text(us: int) -> str:
    moment = datetime.fromtimestamp(us // 1_000_000, timezone.utc)
    return moment.isoformat().replace("+00:00", "Z")
