# SPDX-License-Identifier: Apache-2.0
"""AWS's prices of a replication; each can be overridden.

The defaults are those of us-east-1 in November 2026, in US dollars; other regions cost up to half
as much again. Sources: https://aws.amazon.com/dynamodb/pricing/ and https://aws.amazon.com/s3/pricing/
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from dynabeam.transforms.errors import ConfigurationError

__all__ = ["Prices", "parse_prices"]


@dataclasses.dataclass(frozen=True)
class Prices:
    """Prices in US dollars, without taxes and discounts.

    Attributes:
        as_of: When these were AWS's prices.
        region: Where.
        export_gb: Export to S3, per GB of the table. It uses no read capacity.
        stream_requests: GetRecords, per 100,000 calls.
        stream_free: GetRecords calls a month that are free, per account and region.
        s3_put: S3 PUT, per 1,000.
        s3_get: S3 GET and HEAD, per 1,000.
        s3_gb_month: S3 Standard, per GB and month.
        recovery_gb_month: Point-in-time recovery, per GB of the table and month.
    """

    as_of: str = "2026-11"
    region: str = "us-east-1"
    export_gb: float = 0.10
    stream_requests: float = 0.02
    stream_free: float = 2_500_000
    s3_put: float = 0.005
    s3_get: float = 0.0004
    s3_gb_month: float = 0.023
    recovery_gb_month: float = 0.20


def parse_prices(texts: Sequence[str]) -> Prices:
    """Prices with those that are given as `name=number` in place of the defaults.

    Raises:
        ConfigurationError: There is no such price, or it is no number.
    """
    known = {each.name for each in dataclasses.fields(Prices)} - {"as_of", "region"}
    given: dict[str, float] = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            given[name] = float(value)
        except ValueError:
            given[name] = math.nan
        if name not in known or not 0 <= given[name] < math.inf:
            raise ConfigurationError(
                "not a price",
                where="--price",
                expected=" | ".join(f"{each}=NUMBER" for each in sorted(known)),
                found=text,
            )
    if not given:
        return Prices()
    return dataclasses.replace(Prices(), as_of="as given", region="as given", **given)
