# SPDX-License-Identifier: Apache-2.0
"""The default encryption of the bucket for exports: with a KMS key, it takes permissions on it.

A run does not need to see it, so no policy of `dynabeam setup` allows that
(`s3:GetEncryptionConfiguration`): where it is not seen, the finding says what to look for.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from dynabeam.pipelines.doctor.checks.examination import Examination
from dynabeam.pipelines.doctor.checks.finding import Finding, ok, warning
from dynabeam.transforms.aws.errors import AwsErrorKind, classify, error_code

__all__ = ["BucketEncryption", "bucket_encryption"]

_CHECK = "encryption"
_NONE = "ServerSideEncryptionConfigurationNotFoundError"
_KEY_ID = re.compile(r"[0-9a-f-]{36}|mrk-[0-9a-f]{32}")
_WHY = (
    "if a KMS key encrypts it, who requests exports needs kms:GenerateDataKey and kms:Decrypt on "
    "the key, and who reads them kms:Decrypt; without them exports fail minutes later"
)
_PRINT = "dynabeam setup --kms_key=ARN prints the statements for identity and key"


@dataclasses.dataclass(frozen=True)
class BucketEncryption:
    """What was seen.

    Attributes:
        finding: The line; None if there is no bucket, which its own check reports.
        key_arn: The KMS key that exports are written and read with; empty if there is none, none
            that takes permissions, or none that is known.
    """

    finding: Finding | None
    key_arn: str = ""


def bucket_encryption(examination: Examination) -> BucketEncryption:
    """Checks the bucket for exports."""
    bucket, owner = examination.options.bucket, examination.options.bucket_owner
    arguments = {"Bucket": bucket}
    if owner:
        arguments["ExpectedBucketOwner"] = owner
    try:
        answer = examination.s3("bucket").get_bucket_encryption(**arguments)
    except (BotoCoreError, ClientError) as error:
        return _of_error(bucket, error)
    rules = answer["ServerSideEncryptionConfiguration"]["Rules"]
    given: dict[str, Any] = rules[0].get("ApplyServerSideEncryptionByDefault", {}) if rules else {}
    if not str(given.get("SSEAlgorithm", "")).startswith("aws:kms"):
        return BucketEncryption(ok(_CHECK, bucket, "without a KMS key"))
    return _of_key(examination, str(given.get("KMSMasterKeyID") or ""))


def _of_error(bucket: str, error: BotoCoreError | ClientError) -> BucketEncryption:
    if error_code(error) == _NONE:
        return BucketEncryption(ok(_CHECK, bucket, "without a KMS key"))
    kind = classify(error)
    if kind is AwsErrorKind.GONE:
        return BucketEncryption(None)
    hidden = "s3:GetEncryptionConfiguration is not allowed, which a run does not need"
    why_not = hidden if kind is AwsErrorKind.FORBIDDEN else str(error)
    return BucketEncryption(
        warning(
            _CHECK,
            bucket,
            f"not seen: {why_not}",
            why=_WHY,
            hint=f"Check it: aws s3api get-bucket-encryption --bucket {bucket}. If there is a key, "
            f"{_PRINT}",
        )
    )


def _of_key(examination: Examination, key: str) -> BucketEncryption:
    bucket, owner = examination.options.bucket, examination.options.bucket_owner
    who = examination.identity()
    abroad = bool(owner) and owner != who.account
    if key.startswith("arn:") and ":key/" in key:
        text = f"SSE-KMS with {key}, see the permissions on it"
        return BucketEncryption(ok(_CHECK, bucket, text), key)
    if abroad:
        # What is no ARN of a key is looked for in the account of whoever writes or reads.
        return BucketEncryption(
            warning(
                _CHECK,
                bucket,
                f"SSE-KMS with {key or 'the key aws/s3'}, which means a key of each account's own",
                why="what is written with a key of one account may be unreadable to the other",
                hint="Let the bucket's owner name a key by its ARN: aws s3api "
                f"put-bucket-encryption --bucket {bucket}; then {_PRINT}",
            )
        )
    if not key or key.endswith("alias/aws/s3"):
        text = "SSE-KMS with AWS's own key aws/s3, which takes no permissions within the account"
        return BucketEncryption(ok(_CHECK, bucket, text))
    if _KEY_ID.fullmatch(key):
        arn = f"arn:{examination.partition}:kms:{who.region}:{who.account}:key/{key}"
        return BucketEncryption(
            ok(_CHECK, bucket, f"SSE-KMS with {arn}, see the permissions on it"), arn
        )
    return BucketEncryption(
        warning(
            _CHECK,
            bucket,
            f"SSE-KMS with {key}, and policies take the key's own ARN",
            why=_WHY,
            hint=f"Find it: aws kms describe-key --key-id {key}; then {_PRINT}",
        )
    )
