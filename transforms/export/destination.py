# SPDX-License-Identifier: Apache-2.0
"""Where new exports go: bucket, prefix and owner, looked at before anything is paid for.

A request for an export is accepted whatever the bucket is: only minutes later the export fails, or
lies where nobody looks for it. So names are checked by S3's rules, and the bucket is tried as
DynamoDB will use it, with the permissions of whoever requests exports: an upload is begun at the
prefix, and aborted at once, which leaves nothing.

Sources: S3 user guide, "General purpose bucket naming rules"; DynamoDB developer guide, "Requesting
a table export" (the permissions that it takes, another region's or account's bucket).
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from typing import NoReturn

from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

from dynabeam.transforms.aws.errors import AwsErrorKind, classify, error_code, raise_access_error
from dynabeam.transforms.aws.session import AwsAccess, client
from dynabeam.transforms.errors import ConfigurationError

__all__ = ["Destination", "parse_destination", "try_destination"]

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_OWNER = re.compile(r"[0-9]{12}")
_LONGEST_PREFIX = 512
_PROBE = "dynabeam-can-this-be-written"


@dataclasses.dataclass(frozen=True)
class Destination:
    """Where new exports go.

    Attributes:
        bucket: S3 bucket; empty for none.
        prefix: Prefix inside it, without a slash at its ends; empty for none.
        owner: Account of the bucket; empty if it is the tables'.
    """

    bucket: str = ""
    prefix: str = ""
    owner: str = ""


def parse_destination(bucket: str, prefix: str, owner: str) -> Destination:
    """Reads what `--s3_export_bucket`, `--s3_export_prefix` and `--s3_export_bucket_owner` say.

    `s3://bucket/prefix` is taken for both, and slashes at the ends of a prefix go: with one in
    front DynamoDB writes to a folder without a name.

    Raises:
        ConfigurationError: One is none.
    """
    given, bucket, prefix = bucket, bucket.strip(), prefix.strip()
    if bucket.startswith("arn:"):
        bucket = bucket.rpartition(":")[2]
    if "://" in bucket:
        scheme, _, bucket = bucket.partition("://")
        if scheme.lower() not in ("s3", "s3a", "s3n"):
            _refuse(given, "exports are written to S3 alone")
    bucket, _, inside = bucket.partition("/")
    inside, prefix = inside.strip("/"), prefix.strip("/")
    if inside and prefix and inside != prefix:
        raise ConfigurationError(
            "the bucket comes with a prefix, and another prefix is given",
            where="--s3_export_bucket, --s3_export_prefix",
            found=(given, prefix),
            hint="Give the prefix once",
        )
    prefix = prefix or inside
    if not bucket:
        if prefix or given:
            _refuse(given, "a prefix is given, and no bucket")
        return Destination(owner=_owner(owner))
    _check_bucket(bucket, given)
    _check_prefix(prefix)
    return Destination(bucket, prefix, _owner(owner))


def try_destination(access: AwsAccess, to: Destination) -> None:
    """Tries whether exports can be written, with the permissions of whoever requests them.

    What S3 does not reveal (an outage, permissions on a bucket that only show later) stops nothing:
    the export itself will show it.

    Raises:
        ConfigurationError: There is no such bucket, or it is another account's.
        AwsAccessError: The identity may not write there.
        CredentialsError: There are no usable credentials.
    """
    # DynamoDB writes as whoever asks it to, not as the role that reads the bucket.
    s3 = client(dataclasses.replace(access, bucket_role=access.role), "s3")
    key = "/".join(each for each in (to.prefix, "AWSDynamoDB", _PROBE) if each)
    place = {"Bucket": to.bucket, "Key": key}
    if to.owner:
        place["ExpectedBucketOwner"] = to.owner
    arn = f"arn:aws:s3:::{to.bucket}/{to.prefix + '/' if to.prefix else ''}AWSDynamoDB/*"
    try:
        upload = s3.create_multipart_upload(**place)["UploadId"]
    except (BotoCoreError, ClientError) as problem:
        _tell(problem, "s3:PutObject", arn, to)
        return
    try:
        s3.abort_multipart_upload(**place, UploadId=upload)
    except (BotoCoreError, ClientError) as problem:
        _tell(problem, "s3:AbortMultipartUpload", arn, to)


def _tell(problem: Exception, action: str, arn: str, to: Destination) -> None:
    """Raises what a failed try means for exports; returns if it means nothing for sure."""
    code, where = error_code(problem), f"--s3_export_bucket={to.bucket}"
    if code in ("NoSuchBucket", "404") or classify(problem) is AwsErrorKind.GONE:
        raise ConfigurationError(
            "there is no such bucket for exports",
            where=where,
            hint=f"Check the name, or make it: aws s3 mb s3://{to.bucket}",
        ) from problem
    if isinstance(problem, ParamValidationError):
        _refuse(to.bucket, str(problem))
    if to.owner and code in ("AccessDenied", "403"):
        raise_access_error(problem, action, arn, where=f"{where}, owner {to.owner}")
    raise_access_error(problem, action, arn, where=where)


def _check_bucket(bucket: str, given: str) -> None:
    if bucket != bucket.lower():
        _refuse(given, "bucket names have no capital letters", f"Did you mean {bucket.lower()}?")
    fits = _BUCKET.fullmatch(bucket) and ".." not in bucket
    if not fits or _is_address(bucket) or bucket.startswith("xn--"):
        _refuse(
            given,
            "bucket names have 3 to 63 lower-case letters, digits, dots and hyphens, with a letter "
            "or digit at both ends",
        )


def _check_prefix(prefix: str) -> None:
    wrong = ""
    if len(prefix.encode()) > _LONGEST_PREFIX:
        wrong = f"it is longer than {_LONGEST_PREFIX} bytes"
    elif "://" in prefix:
        wrong = "it is a folder inside the bucket, not a URL"
    elif any(part in ("", ".", "..") for part in prefix.split("/")) and prefix:
        wrong = "a folder in it has no name of its own"
    elif any(ord(char) < 32 or char == "\x7f" for char in prefix):
        wrong = "it has a control character"
    if wrong:
        raise ConfigurationError(
            f"this is no prefix: {wrong}",
            where="--s3_export_prefix",
            found=prefix[:80],
            hint="Write it like exports/daily",
        )


def _owner(owner: str) -> str:
    plain = owner.strip().replace("-", "")
    if plain and not _OWNER.fullmatch(plain):
        raise ConfigurationError(
            "this is no account id",
            where="--s3_export_bucket_owner",
            expected="12 digits",
            found=owner,
            hint="Give the id of the account that owns the bucket",
        )
    return plain


def _is_address(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True


def _refuse(given: str, why: str, hint: str = "") -> NoReturn:
    raise ConfigurationError(
        f"this is no bucket: {why}",
        where="--s3_export_bucket",
        found=given,
        hint=hint or "Give the name alone, like my-exports",
    )
