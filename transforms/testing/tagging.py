# SPDX-License-Identifier: Apache-2.0
"""The one call of the Resource Groups Tagging API that is simulated: GetResources, of tables.

Tags are set as DynamoDB sets them: with CreateTable and TagResource, which moto keeps.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dynabeam.transforms.testing.api_error import ApiError

if TYPE_CHECKING:
    from dynabeam.transforms.testing.simulator import Simulator

__all__ = ["tagging"]

_MOST = 100


def tagging(simulator: Simulator, action: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Answers a call.

    Raises:
        ApiError: It is none that is simulated, or an argument is out of its range.
    """
    if action != "GetResources":
        raise ApiError("UnknownOperationException", f"{action} is not simulated")
    size = body.get("ResourcesPerPage", _MOST)
    if not 1 <= size <= _MOST:
        raise ApiError("InvalidParameterException", f"ResourcesPerPage must be 1 to 100: {size}")
    found = []
    if body.get("ResourceTypeFilters", ["dynamodb:table"]) != ["dynamodb:table"]:
        raise ApiError("InvalidParameterException", "only dynamodb:table is simulated")
    for table in sorted(simulator.live_tables(), key=lambda each: each.name):
        tags = _tags(simulator, table.arn)
        if tags and all(_has(tags, each) for each in body.get("TagFilters", [])):
            listed = [{"Key": key, "Value": value} for key, value in tags.items()]
            found.append({"ResourceARN": table.arn, "Tags": listed})
    start = int(body.get("PaginationToken") or 0)
    end = start + size
    return {
        "ResourceTagMappingList": found[start:end],
        "PaginationToken": str(end) if end < len(found) else "",
    }


def _tags(simulator: Simulator, arn: str) -> dict[str, str]:
    _, answer = simulator.call("DynamoDB_20120810", "ListTagsOfResource", {"ResourceArn": arn})
    return {each["Key"]: each["Value"] for each in json.loads(answer).get("Tags", [])}


def _has(tags: Mapping[str, str], wanted: Mapping[str, Any]) -> bool:
    values = wanted.get("Values", [])
    return wanted["Key"] in tags and (not values or tags[wanted["Key"]] in values)
