# SPDX-License-Identifier: Apache-2.0
"""Secrets Manager: GetSecretValue of a secret's present version. Nothing is rotated by itself."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from dynabeam.transforms.testing.api_error import ApiError

__all__ = ["secret_values"]


def secret_values(
    secrets: Mapping[str, str | bytes], action: str, body: Mapping[str, Any]
) -> dict[str, Any]:
    """Answers a call.

    Args:
        secrets: Text or bytes by ARN.
        action: The operation.
        body: The request's JSON object.

    Raises:
        ApiError: There is no such secret, or the operation is not simulated.
    """
    if action != "GetSecretValue":
        raise ApiError("UnknownOperationException", f"{action} is not simulated")
    arn = body["SecretId"]
    if arn not in secrets:
        text = "Secrets Manager can't find the specified secret."
        raise ApiError("ResourceNotFoundException", text)
    value = secrets[arn]
    name = arn.rpartition(":secret:")[2]
    found: dict[str, Any] = {"ARN": arn, "Name": name, "VersionStages": ["AWSCURRENT"]}
    if isinstance(value, bytes):
        return {**found, "SecretBinary": base64.b64encode(value).decode()}
    return {**found, "SecretString": value}
