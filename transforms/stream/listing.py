# SPDX-License-Identifier: Apache-2.0
"""A whole listing of a stream's shards, for who asks once and has no reader's memory.

The account has ten DescribeStream calls a second for all its readers, so a single call is throttled
easily. As a reader does, who asks here waits and asks again, within the same bounds.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import TypeVar

from dynabeam.transforms.aws.errors import AwsErrorKind, classify
from dynabeam.transforms.aws.streams import ShardInfo, StreamsClient
from dynabeam.transforms.errors import StreamError
from dynabeam.transforms.stream.pacing import Pacing

__all__ = ["Listed", "list_shards", "patiently"]

_PACING = Pacing()

Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class Listed:
    """What a listing showed.

    Attributes:
        status: The stream's status, e.g. `ENABLED`.
        shards: Its shards, closed ones too.
        created_us: When the stream was switched on, microseconds since 1970, 0 if not told.
    """

    status: str
    shards: tuple[ShardInfo, ...]
    created_us: int

    @property
    def open(self) -> tuple[ShardInfo, ...]:
        """The shards that get new records."""
        return tuple(each for each in self.shards if not each.closed)


def list_shards(
    client: StreamsClient,
    stream_arn: str,
    *,
    most_open: int = 0,
    pacing: Pacing = _PACING,
    sleep: Callable[[float], None] = time.sleep,
) -> Listed:
    """Lists the shards of a stream, page by page; throttled and unanswered calls are repeated.

    Args:
        client: The streams client.
        stream_arn: The stream.
        most_open: Stop after so many open shards; 0 for the whole listing.
        pacing: How often and after which pauses a call is repeated.
        sleep: Waits so many seconds.

    Raises:
        StreamError: The service did not answer, or throttled, too often in a row.
        AwsAccessError: If `dynamodb:DescribeStream` is not allowed.
        CredentialsError: If the credentials are not accepted.
    """
    shards: list[ShardInfo] = []
    after, created_us = "", 0
    while True:
        page = patiently(
            lambda after=after: client.describe(stream_arn, after=after),  # type: ignore[misc]
            "DescribeStream",
            f"stream {stream_arn}",
            pacing=pacing,
            sleep=sleep,
        )
        shards += page.shards
        created_us = page.created_us or created_us
        after = page.next_after
        enough = 0 < most_open <= sum(not each.closed for each in shards)
        if not after or enough:
            return Listed(page.status, tuple(shards), created_us)


def patiently(
    call: Callable[[], Result],
    action: str,
    where: str,
    *,
    pacing: Pacing = _PACING,
    sleep: Callable[[float], None] = time.sleep,
) -> Result:
    """Makes a call of the streams client, again while it is throttled or not answered.

    Args:
        call: The call.
        action: Its name, for the text of an error.
        where: What it is about, for the same.
        pacing: How often and after which pauses a call is repeated.
        sleep: Waits so many seconds.

    Raises:
        StreamError: It failed too often in a row.
        Exception: Whatever else the call raises.
    """
    throttles = failures = 0
    while True:
        try:
            return call()
        except Exception as error:
            kind = classify(error)
            if kind is AwsErrorKind.THROTTLED:
                throttles += 1
            elif kind is AwsErrorKind.UNREACHABLE or type(error) is StreamError:
                failures += 1
            else:
                raise
            if throttles > pacing.throttles or failures > pacing.retries:
                raise StreamError(
                    f"{action} failed {throttles + failures} times in a row: {error}",
                    where=where,
                    hint="Let fewer readers share the account's call rates, or check the network "
                    "and the service's health; then run again",
                ) from error
            sleep(pacing.after_failures(throttles or failures))
