# SPDX-License-Identifier: Apache-2.0
"""The error that a simulated service answers with instead of a result."""

from __future__ import annotations

__all__ = ["ApiError"]


class ApiError(Exception):
    """An error answer of the simulated API.

    Args:
        code: The AWS error code, such as `ValidationException`.
        message: The text of the answer.
        status: The HTTP status. DynamoDB answers client errors with 400, its own with 500.
    """

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status
