# SPDX-License-Identifier: Apache-2.0
"""How each permission in S3 is tried: on an object that does not exist, or on a small one.

Without `--probe_writes` nothing is ever written: a PutObject is sent with a checksum that is not
that of its body, which S3 refuses after it has checked permissions (error `BadDigest`). A deletion
has no such harmless form, as it leaves a marker in a bucket with versions.
"""

from __future__ import annotations

import dataclasses
import functools
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from dynabeam.pipelines.doctor.checks.attempt import Outcome, attempt, unknown
from dynabeam.pipelines.doctor.checks.finding import Finding, warning
from dynabeam.transforms.aws.permissions import Condition

__all__ = ["S3Attempts"]

_EMPTY_MD5 = "1B2M2Y8AsgTpgAmY7PhCfg=="
_BODY = b"dynabeam doctor was here"
_WITHOUT_WRITES = "it cannot be tried without writing an object: give --probe_writes"


@dataclasses.dataclass(frozen=True)
class _Object:
    bucket: str
    key: str


class S3Attempts:
    """Tries permissions on the folders of buckets.

    Args:
        writes: Whether small objects may be written.
        owner: Account that the bucket for exports has to belong to, or empty.
        owned: Name of that bucket.
    """

    def __init__(self, *, writes: bool, owner: str = "", owned: str = "") -> None:
        self._writes = writes
        self._owner = owner
        self._owned = owned
        self._name = f"dynabeam-doctor-{uuid.uuid4().hex[:12]}"
        self._written: dict[_Object, Any] = {}

    ORDER = (
        "s3:ListBucket",
        "s3:AbortMultipartUpload",
        "s3:PutObject",
        "s3:PutObjectAcl",
        "s3:GetObject",
        "s3:DeleteObject",
    )
    """Actions that can be tried, in the order in which they have to be."""

    def attempt(
        self, s3: Any, action: str, resource: str, conditions: Sequence[Condition] = ()
    ) -> Outcome:
        """Tries an action on a bucket's ARN, or on a folder's ARN with `/*` at its end.

        Args:
            s3: A client of the identity that needs the permission.
            action: The action.
            resource: The ARN.
            conditions: The prefixes that have to be allowed, if not all.
        """
        place = resource.split(":::", 1)[1]
        bucket, _, inner = place.partition("/")
        target = _Object(bucket, inner.removesuffix("*") + self._name)
        common = {"Bucket": bucket}
        if self._owner and bucket == self._owned:
            common["ExpectedBucketOwner"] = self._owner
        if action == "s3:ListBucket":
            wanted = [
                each for _, key, values in conditions if key == "s3:prefix" for each in values
            ]
            return self._list(s3, common, [each.removesuffix("*") for each in wanted] or [""])
        given = {**common, "Key": target.key}
        if action == "s3:PutObject":
            return self._put(s3, target, given)
        if action == "s3:PutObjectAcl":
            return attempt(
                action,
                lambda: s3.put_object_acl(**given, ACL="bucket-owner-full-control"),
                proving={"NoSuchKey", "AccessControlListNotSupported"},
                hiding={"s3:ListBucket"},
            )
        if action == "s3:AbortMultipartUpload":
            return attempt(
                action,
                lambda: s3.abort_multipart_upload(**given, UploadId="dynabeam-doctor"),
                proving={"NoSuchUpload"},
            )
        if action == "s3:GetObject":
            return attempt(
                action,
                lambda: s3.get_object(**given),
                proving={"NoSuchKey"},
                hiding={"s3:ListBucket"},
            )
        if target not in self._written:
            return unknown(_WITHOUT_WRITES)
        outcome = attempt(action, lambda: s3.delete_object(**given))
        if outcome.kind == "allowed":
            del self._written[target]
        return outcome

    def leftovers(self) -> Iterator[Finding]:
        """Deletes what was written and not deleted so far, and names what stays."""
        for target, s3 in self._written.items():
            try:
                s3.delete_object(Bucket=target.bucket, Key=target.key)
            except (BotoCoreError, ClientError):
                uri = f"s3://{target.bucket}/{target.key}"
                yield warning(
                    "probe",
                    uri,
                    f"the object of {len(_BODY)} bytes that --probe_writes wrote is still there",
                    why="the permission to delete it is not needed for a run, and not granted",
                    hint=f"aws s3 rm {uri}",
                )

    def _list(self, s3: Any, common: dict[str, str], prefixes: Sequence[str]) -> Outcome:
        outcome = unknown("nothing to list")
        for prefix in prefixes:
            asked = {**common, "Prefix": prefix, "MaxKeys": 1}
            outcome = attempt("s3:ListBucket", functools.partial(s3.list_objects_v2, **asked))
            if outcome.kind != "allowed":
                break
        return outcome

    def _put(self, s3: Any, target: _Object, given: dict[str, str]) -> Outcome:
        if not self._writes:
            return attempt(
                "s3:PutObject",
                lambda: s3.put_object(**given, Body=_BODY, ContentMD5=_EMPTY_MD5),
                proving={"BadDigest"},
            )
        outcome = attempt("s3:PutObject", lambda: s3.put_object(**given, Body=_BODY))
        if outcome.kind == "allowed":
            self._written[target] = s3
        return outcome
