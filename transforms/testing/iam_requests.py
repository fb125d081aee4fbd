# SPDX-License-Identifier: Apache-2.0
"""Which permissions a request needs, by the Service Authorization Reference of DynamoDB and S3.

Actions that have no type of resource there (`ListTables`, `ListExports`, `ListStreams`) are asked
for on `*`, so only a statement for all resources allows them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from email.message import Message
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote

from dynabeam.transforms.testing.api_error import ApiError
from dynabeam.transforms.testing.disturbance import resource_of
from dynabeam.transforms.testing.iam import Permission
from dynabeam.transforms.testing.s3_errors import s3_action

if TYPE_CHECKING:
    from dynabeam.transforms.testing.simulator import Simulator

__all__ = [
    "EXPORT_WRITES",
    "dynamodb_permissions",
    "hide_absence",
    "refuse_denied",
    "s3_permissions",
]

EXPORT_WRITES = ("s3:AbortMultipartUpload", "s3:PutObject", "s3:PutObjectAcl")
"""What AWS's documentation wants the caller of ExportTableToPointInTime to have on the bucket."""

_ON_EVERYTHING = frozenset(
    {
        "DescribeEndpoints",
        "DescribeLimits",
        "ListBackups",
        "ListExports",
        "ListGlobalTables",
        "ListImports",
        "ListStreams",
        "ListTables",
    }
)
_S3_PERMISSIONS = {"HeadBucket": "ListBucket", "ListBuckets": "ListAllMyBuckets"}


def dynamodb_permissions(
    simulator: Simulator, action: str, body: Mapping[str, Any]
) -> list[Permission]:
    """The permissions that a request to DynamoDB, its streams, tags or keys needs."""
    if action == "GetResources":
        return [Permission("tag:GetResources", "*")]
    if action == "DescribeKey":
        return [Permission("kms:DescribeKey", str(body["KeyId"]))]
    if action == "GetSecretValue":
        return [Permission("secretsmanager:GetSecretValue", str(body["SecretId"]))]
    name = f"dynamodb:{action}"
    if action in _ON_EVERYTHING:
        return [Permission(name, "*")]
    return [Permission(name, resource_of(simulator, each)) for each in _parts(body)]


def s3_permissions(
    method: str, target: str, headers: Message[str, str], body: bytes
) -> list[Permission]:
    """The permissions that a request to S3 needs.

    Args:
        method: The HTTP method.
        target: Path and query as they came.
        headers: The request's headers: a copy names its source there.
        body: The request's body: a deletion of several objects names them there.
    """
    action = s3_action(method, target)
    path, _, query = target.partition("?")
    place = unquote(path.lstrip("/"))
    if "/" not in place.rstrip("/"):
        place = place.rstrip("/")
    if action == "ListBuckets":
        return [Permission("s3:ListAllMyBuckets", "*")]
    if "delete" in parse_qs(query, keep_blank_values=True):
        keys = body.decode().split("<Key>")[1:]
        return [_permission("DeleteObject", f"{place}/{each.split('</Key>')[0]}") for each in keys]
    if action == "ListBucket":
        asked = parse_qs(query, keep_blank_values=True)
        context = tuple(("s3:prefix", each) for each in asked.get("prefix", ())[:1])
        return [dataclasses.replace(_permission(action, place), context=context)]
    permissions = [_permission(_S3_PERMISSIONS.get(action, action), place)]
    if action == "PutObject" and headers.get("If-Match"):
        # The answer would reveal what is there.
        permissions.append(_permission("GetObject", place))
    source = headers.get("x-amz-copy-source")
    if source:
        permissions.append(_permission("GetObject", unquote(source.split("?")[0].lstrip("/"))))
    return permissions


def refuse_denied(simulator: Simulator, access_key: str, permissions: list[Permission]) -> None:
    """Answers as AWS does if the caller lacks one of the permissions.

    Raises:
        ApiError: `AccessDeniedException`, or S3's `AccessDenied`, which names the first of them.
    """
    for permission in permissions:
        why = simulator.iam.denial(access_key, permission)
        if not why:
            continue
        text = (
            f"User: {simulator.user_arn} is not authorized to perform: {permission.action} "
            f"on resource: {permission.resource} {why}"
        )
        if permission.action.startswith("s3:"):
            raise ApiError("AccessDenied", text, 403)
        raise ApiError("AccessDeniedException", text)


def hide_absence(simulator: Simulator, access_key: str, permissions: list[Permission]) -> None:
    """Answers for an object that is not there, as S3 does to those who may not list the bucket.

    Such a request has no `s3:prefix`: who may list some prefixes only is answered so too.

    Raises:
        ApiError: `AccessDenied`, which names `s3:ListBucket`.
    """
    bucket = permissions[0].resource.split("/", 1)[0]
    why = simulator.iam.denial(access_key, Permission("s3:ListBucket", bucket), asked=True)
    if why:
        text = (
            f"User: {simulator.user_arn} is not authorized to perform: s3:ListBucket "
            f'on resource: "{bucket}" {why}'
        )
        raise ApiError("AccessDenied", text, 403)


def _permission(action: str, place: str) -> Permission:
    return Permission(f"s3:{action}", f"arn:aws:s3:::{place}")


def _parts(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The request as one part per table: batches and transactions name several."""
    if "RequestItems" in body:
        return [{"TableName": each} for each in body["RequestItems"]]
    if "TransactItems" in body:
        inner = [part for each in body["TransactItems"] for part in each.values()]
        return [{"TableName": each["TableName"]} for each in inner]
    return [dict(body)]
