# SPDX-License-Identifier: Apache-2.0
"""KMS keys of tables and of the bucket for exports: whether they are on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from dynabeam.pipelines.doctor.checks.finding import Finding, failure, ok, warning
from dynabeam.transforms.aws.session import AwsAccess, client

__all__ = ["bucket_key_findings", "table_key_findings"]


def table_key_findings(access: AwsAccess, key_arns: Sequence[str]) -> Iterator[Finding]:
    """Whether each key of a table can be used, as far as we may see it."""
    for arn in key_arns:
        try:
            key = _described(access, arn)
        except (BotoCoreError, ClientError) as error:
            yield warning(
                "key",
                arn,
                f"its state cannot be seen: {error}",
                why="a key that is off makes the table unreadable",
                hint=f"Check it with: aws kms describe-key --key-id {arn}",
            )
            continue
        why = "the table, its stream and its exports cannot be read without it"
        yield _finding(arn, key, why)


def bucket_key_findings(access: AwsAccess, key_arn: str) -> Iterator[Finding]:
    """Whether the key of the bucket for exports can be used.

    Yields:
        Nothing if it cannot be seen: that is a permission which no run needs.
    """
    try:
        key = _described(access, key_arn)
    except (BotoCoreError, ClientError):
        return
    yield _finding(key_arn, key, "an export is accepted, and fails minutes later")


def _described(access: AwsAccess, arn: str) -> Any:
    return client(access, "kms").describe_key(KeyId=arn)["KeyMetadata"]


def _finding(arn: str, key: Any, why: str) -> Finding:
    state = key["KeyState"]
    if state == "Enabled":
        return ok("key", arn, "enabled")
    turn_on = f"Turn it on: aws kms enable-key --key-id {arn}"
    if state == "PendingDeletion":
        turn_on = f"Keep it: aws kms cancel-key-deletion --key-id {arn}; then turn it on: aws kms "
        turn_on += f"enable-key --key-id {arn}"
    return failure("key", arn, f"the key is {state}", why=why, hint=turn_on)
