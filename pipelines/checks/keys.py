# SPDX-License-Identifier: Apache-2.0
"""Customer managed keys of tables: a key that is off makes the table and its stream unreadable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from botocore.exceptions import BotoCoreError, ClientError

from pipelines.checks.finding import Finding, failure, ok, warning
from transforms.aws.session import AwsAccess, client

__all__ = ["key_findings"]


def key_findings(access: AwsAccess, key_arns: Sequence[str]) -> Iterator[Finding]:
    """Whether each KMS key can be used, as far as we may see it."""
    for arn in key_arns:
        try:
            key = client(access, "kms").describe_key(KeyId=arn)["KeyMetadata"]
        except (BotoCoreError, ClientError) as error:
            yield warning(
                "key",
                arn,
                f"its state cannot be seen: {error}",
                why="a key that is off makes the table unreadable",
                mend=f"Look at it with: aws kms describe-key --key-id {arn}",
            )
            continue
        if key["KeyState"] == "Enabled":
            yield ok("key", arn, "enabled")
            continue
        yield failure(
            "key",
            arn,
            f"the key is {key['KeyState']}",
            why="the table, its stream and its exports cannot be read without it",
            mend=f"Turn it on: aws kms enable-key --key-id {arn}",
        )
