# SPDX-License-Identifier: Apache-2.0
"""Names of S3's operations, the form of its errors, and the digests that moto does not check."""

from __future__ import annotations

import base64
import hashlib
from email.message import Message
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

from dynabeam.transforms.testing.api_error import ApiError

__all__ = ["check_digest", "s3_action", "s3_error"]


def s3_action(method: str, target: str) -> str:
    """The name of the operation of a request, as permissions and faults name it."""
    path, _, query = target.partition("?")
    asked = parse_qs(query, keep_blank_values=True)
    bucket, _, key = path.lstrip("/").partition("/")
    if not bucket:
        return "ListBuckets"
    if not key and method == "GET" and "location" in asked:
        return "GetBucketLocation"
    if not key and method in ("GET", "PUT") and "encryption" in asked:
        return f"{method.title()}EncryptionConfiguration"
    if not key:
        plain = {"GET": "ListBucket", "PUT": "CreateBucket", "DELETE": "DeleteBucket"}
        return plain.get(method, "DeleteObject" if "delete" in asked else "HeadBucket")
    if method in ("GET", "HEAD"):
        return "ListMultipartUploadParts" if "uploadId" in asked else "GetObject"
    if method == "DELETE":
        return "AbortMultipartUpload" if "uploadId" in asked else "DeleteObject"
    return "PutObjectAcl" if "acl" in asked else "PutObject"


def check_digest(headers: Message[str, str], body: bytes) -> None:
    """Compares a request's body with its `Content-MD5`, which moto does not look at.

    Raises:
        ApiError: `BadDigest`.
    """
    sent = headers.get("Content-MD5")
    found = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
    if sent is not None and sent != found:
        text = "The Content-MD5 you specified did not match what we received."
        raise ApiError("BadDigest", text, 400)


def s3_error(error: ApiError) -> tuple[int, dict[str, str], bytes]:
    """HTTP status, headers and body of an error answer of S3."""
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{escape(error.code)}</Code><Message>{escape(error.message)}</Message>"
        "<RequestId>SIMULATED</RequestId></Error>"
    )
    return error.status, {"Content-Type": "application/xml"}, body.encode()
