# SPDX-License-Identifier: Apache-2.0
"""KMS: DescribeKey, so that a key which is off can be seen. Nothing is encrypted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dynabeam.transforms.testing.api_error import ApiError

__all__ = ["kms"]


def kms(keys: Mapping[str, str], action: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Answers a call.

    Args:
        keys: State by ARN, such as `Enabled` or `Disabled`.
        action: The operation.
        body: The request's JSON object.

    Raises:
        ApiError: There is no such key, or the operation is not simulated.
    """
    if action != "DescribeKey":
        raise ApiError("UnknownOperationException", f"{action} is not simulated")
    arn = body["KeyId"]
    if arn not in keys:
        raise ApiError("NotFoundException", f"Key '{arn}' does not exist")
    key_id = arn.rpartition("/")[2]
    state = keys[arn]
    described = {"KeyId": key_id, "Arn": arn, "KeyState": state, "Enabled": state == "Enabled"}
    return {"KeyMetadata": described}
