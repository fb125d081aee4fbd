# SPDX-License-Identifier: Apache-2.0
"""What it means if S3 refuses an object: a right, a key, an archive, or that it is not there."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any

from apache_beam.io.aws.clients.s3.messages import S3ClientError
from botocore.exceptions import ClientError

from dynabeam.transforms.aws.beam_s3 import s3_io
from dynabeam.transforms.aws.errors import statement_to_add
from dynabeam.transforms.errors import AwsAccessError, DynabeamError

__all__ = [
    "CHECK_PATH",
    "ELSEWHERE",
    "LISTING_HINT",
    "is_known_missing",
    "is_missing",
    "read_error",
    "refusal",
    "refuse_forbidden",
    "withheld",
    "write_error",
]

CHECK_PATH = "Check that the path is right and that this identity may read it"
"""The hint of a file that cannot be had, if no better one is known."""
ELSEWHERE = "Give another place, or the permission to write this one"
"""The hint of a place that cannot be written."""
LISTING_HINT = (
    ", and s3:ListBucket on the bucket: without it S3 does not say that an object is missing"
)
_KMS_ACTION = re.compile(r"not authorized to perform: (kms:\w+)(?: on resource: (arn:[^\s\"]+))?")


def is_missing(path: str, client: Any = None) -> bool:
    """After S3 has refused to show an object: whether it is known not to be there.

    Who may not list the bucket gets 403 for an object that is missing. HeadObject and GetObject
    have no `s3:prefix`, so a policy that allows listings of one prefix does not count for them;
    a listing with the object's key as its prefix does.

    Args:
        path: The object.
        client: A boto3 client for S3; None for the usual one.

    Raises:
        ClientError: The listing fails, and not for want of the right.
    """
    bucket, _, key = path.removeprefix("s3://").partition("/")
    try:
        s3 = s3_io().client.client if client is None else client
        answer = s3.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1)
    except ClientError as problem:
        status = problem.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if status == HTTPStatus.FORBIDDEN:
            return False
        raise
    # Keys come in order: one that only begins so comes later.
    return all(each["Key"] != key for each in answer.get("Contents", ()))


def is_known_missing(path: str) -> bool:
    """The same; False also if the listing fails for any cause."""
    try:
        return is_missing(path)
    except ClientError:
        # The first refusal is shown as it is: it names the object and the permission.
        return False


def write_error(problem: Exception, path: str, error: type[DynabeamError]) -> DynabeamError:
    """What a failed writing means.

    Raises:
        AwsAccessError: S3 refused it for want of a right.
    """
    held = withheld(str(problem), path, error)
    if held is not None:
        return held
    refuse_forbidden(problem, path, "s3:PutObject")
    return error(f"the file cannot be written: {problem}", where=path, hint=ELSEWHERE)


def read_error(problem: Exception, path: str, error: type[DynabeamError]) -> DynabeamError:
    """What a failed reading means; without a hint if it may pass by itself.

    Raises:
        AwsAccessError: S3 refused it for want of a right.
    """
    if not isinstance(problem, S3ClientError):
        hint = CHECK_PATH if isinstance(problem, FileNotFoundError) else ""
        return error(f"the file cannot be read: {problem}", where=path, hint=hint)
    text = str(problem.message or problem)
    held = withheld(text, path, error)
    if held is not None:
        return held
    if problem.code == HTTPStatus.FORBIDDEN and is_known_missing(path):
        return error("the file does not exist", where=path, hint=CHECK_PATH)
    refuse_forbidden(problem, path)
    hint = CHECK_PATH if problem.code in (HTTPStatus.NOT_FOUND, HTTPStatus.BAD_REQUEST) else ""
    return error(f"the file cannot be read: {text}", where=path, hint=hint)


def withheld(text: str, path: str, error: type[DynabeamError]) -> DynabeamError | None:
    """What S3's answer means if it keeps an object back for another cause than a right.

    Args:
        text: The answer.
        path: The object.
        error: The kind of error.

    Returns:
        The error; None if it is another one.
    """
    if "InvalidObjectState" in text:
        bucket, _, key = path.removeprefix("s3://").partition("/")
        return error(
            "the object is archived: its storage class (Glacier) gives nothing out before it is "
            "restored",
            where=path,
            hint=f"Restore the object: aws s3api restore-object --bucket {bucket} --key {key} "
            "--restore-request Days=7 (and all others of its folder), wait until that is done, "
            "then run again",
        )
    if "KMS." in text:
        return error(
            f"the key that encrypts the object cannot be used: {text}",
            where=path,
            hint="Turn the KMS key on again, or take a place that needs none",
        )
    return None


def refuse_forbidden(
    problem: Exception, path: str, action: str = "s3:GetObject", *, also: str = ""
) -> None:
    """A missing right is nothing that is wrong with the file.

    Args:
        problem: What S3 or the filesystem said.
        path: What it was about.
        action: The right that it takes.
        also: More that the hint has to say.

    Raises:
        AwsAccessError: S3 refused the action.
    """
    if isinstance(problem, S3ClientError) and problem.code == HTTPStatus.FORBIDDEN:
        text = str(problem.message or problem)
        raise refusal(text, path, action, also=also) from problem


def refusal(text: str, path: str, action: str, *, also: str = "") -> AwsAccessError:
    """The right that is missing, after S3 has answered 403.

    Args:
        text: The answer.
        path: What it was about.
        action: The right that it takes.
        also: More that the hint has to say if it is this right.
    """
    place = path.removeprefix("s3://")
    if action == "s3:ListBucket":
        place = place.partition("/")[0]
    resource = f"arn:aws:s3:::{place}"
    refused = _KMS_ACTION.search(text)
    if refused is not None:
        # Not the object is refused, but the key that encrypts it.
        action, resource = refused[1], refused[2] or "the ARN of the key"
    elif "ciphertext refers to" in text:
        action, resource = "kms:Decrypt", "the ARN of the key that encrypts it"
    if action.startswith("kms:"):
        also = ", and allow the same in the key's own policy if it is another account's"
    hint = statement_to_add(action, resource) + also
    return AwsAccessError(f"AWS refused {action}: {text}", where=path, hint=hint)
