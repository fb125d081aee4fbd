# SPDX-License-Identifier: Apache-2.0
"""The one catalogue of the permissions that each feature needs, by what the code really calls.

Every statement of a policy that `dynabeam setup` prints, and every permission that `dynabeam
doctor` tries, comes from here. A permission is needed if a boto3 call of `transforms.aws`, or a
call of Beam's S3 client below `transforms.storage.filesystem`, uses it:

* HeadObject and GetObject need `s3:GetObject`; ListObjectsV2 needs `s3:ListBucket`, and so does the
  answer that an object does not exist (without it S3 answers 403 instead of 404). So a folder that
  is looked into needs it, and the files of an export, which its manifest names, do not. It is bound
  to the folder by a condition on `s3:prefix`, which HeadObject and GetObject do not carry: after a
  403 of theirs the object is listed (`transforms.storage.s3_answers.is_missing`).
* A multipart upload needs `s3:PutObject`; a copy that too, and `s3:GetObject` of the source.
* DynamoDB writes an export with the permissions of whoever requests it: `s3:AbortMultipartUpload`,
  `s3:PutObject` and `s3:PutObjectAcl` on the bucket's objects, and the use of the keys (DynamoDB
  developer guide, "Requesting a table export in DynamoDB").
* Keys are used by S3 and DynamoDB for the caller, so the use is bound to these by `kms:ViaService`
  (KMS developer guide, "AWS KMS condition keys"); DescribeKey is called by `dynabeam doctor` too.
* ListTables, ListStreams, ListExports and the tagging API's GetResources are not bound to a
  resource (service authorization reference).

STS's GetCallerIdentity needs no permission.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterable, Iterator
from typing import Literal

import botocore.session
from botocore.exceptions import UnknownRegionError

from dynabeam.transforms.errors import ConfigurationError

__all__ = [
    "Condition",
    "Features",
    "Identity",
    "Permission",
    "S3Folder",
    "condition_block",
    "partition_of",
    "permissions",
    "table_arn",
    "via_services",
]

Identity = Literal["source", "bucket", "operator", "worker"]
"""Who needs a permission: `source` reads tables and requests exports, `bucket` uses S3, `operator`
runs `dynabeam setup --apply`, `worker` is what the workers run as and assumes the others' roles."""

Condition = tuple[str, str, tuple[str, ...]]
"""Operator, key and values of a condition, such as `StringLike`, `s3:prefix`, `("state/*",)`."""

EXPORT_WRITE_ACTIONS = ("s3:AbortMultipartUpload", "s3:PutObject", "s3:PutObjectAcl")
_DEFAULT_PARTITION = "aws"
_BRACKETS = re.compile(r"\[[^\]]+\]")


@dataclasses.dataclass(frozen=True)
class Permission:
    """What one purpose needs.

    Attributes:
        sid: Stable name for the statement of a policy: letters, and a number if there are several.
        actions: IAM actions, sorted.
        resources: ARNs, with the wildcards of IAM.
        purpose: What it is for, as half a sentence.
        identity: Who needs it.
        optional: True if a run works without it, and knows less.
        conditions: What the requests have in common: operator, key and values of IAM's conditions.
    """

    sid: str
    actions: tuple[str, ...]
    resources: tuple[str, ...]
    purpose: str
    identity: Identity = "source"
    optional: bool = False
    conditions: tuple[Condition, ...] = ()


@dataclasses.dataclass(frozen=True)
class S3Folder:
    """A bucket, and a prefix inside it without slashes at its ends; empty for all of the bucket."""

    bucket: str
    prefix: str = ""

    @classmethod
    def of(cls, uri: str) -> S3Folder:
        """Reads `s3://bucket/prefix`, options after a `?` left out.

        Raises:
            ConfigurationError: It is no such URI.
        """
        scheme, _, rest = uri.partition("?")[0].partition("://")
        bucket, _, prefix = rest.partition("/")
        if scheme != "s3" or not bucket:
            raise ConfigurationError("not a place in S3", found=uri, expected="s3://bucket/prefix")
        return cls(bucket, prefix.strip("/"))

    def objects_arn(self, partition: str) -> str:
        """The ARN of everything in it."""
        inner = f"{self.prefix}/*" if self.prefix else "*"
        return f"arn:{partition}:s3:::{self.bucket}/{inner}"

    def bucket_arn(self, partition: str) -> str:
        """The ARN of its bucket."""
        return f"arn:{partition}:s3:::{self.bucket}"


def condition_block(conditions: Iterable[Condition]) -> dict[str, dict[str, str | list[str]]]:
    """The conditions as a statement has them."""
    found: dict[str, dict[str, str | list[str]]] = {}
    for operator, key, values in conditions:
        plain = values[0] if len(values) == 1 else list(values)
        found.setdefault(operator, {})[key] = plain
    return found


def via_services(key_arns: Iterable[str], services: Iterable[str]) -> tuple[Condition, ...]:
    """That keys are used by way of services of their own regions only.

    Args:
        key_arns: ARNs of the keys.
        services: Such as `s3` and `dynamodb`.
    """
    # arn:PARTITION:kms:REGION:ACCOUNT:key/ID
    places = dict.fromkeys(tuple(arn.split(":")[1:4:2]) for arn in key_arns)
    hosts = tuple(
        f"{service}.{region}.{_dns_suffix(partition)}"
        for partition, region in places
        for service in services
    )
    return (("StringEquals", "kms:ViaService", hosts),) if hosts else ()


def _listing(
    sid: str, folders: Iterable[S3Folder], partition: str, purpose: str
) -> Iterator[Permission]:
    """Permissions to list folders: one per bucket, so that none has the prefixes of another."""
    by_bucket: dict[str, list[S3Folder]] = {}
    for folder in folders:
        by_bucket.setdefault(folder.bucket, []).append(folder)
    for number, there in enumerate(by_bucket.values(), 1):
        prefixes = tuple(dict.fromkeys(f"{each.prefix}/*" for each in there))
        whole = not all(each.prefix for each in there)
        yield Permission(
            sid if len(by_bucket) == 1 else f"{sid}{number}",
            ("s3:ListBucket",),
            (there[0].bucket_arn(partition),),
            purpose,
            "bucket",
            conditions=() if whole else (("StringLike", "s3:prefix", prefixes),),
        )


@dataclasses.dataclass(frozen=True)
class Features:
    """What is asked of AWS.

    Attributes:
        tables: ARNs of the tables, with wildcards for globs.
        partition: `aws`, `aws-cn`, `aws-us-gov`, …
        describe_tables: Tables are described: always, unless only existing exports are read.
        streams: Streams are read.
        request_exports: Exports are requested.
        see_recovery: Before that, point-in-time recovery is checked to be on.
        newest_export: The newest export is looked for before one is requested.
        describe_exports: Exports given by ARN are read.
        export_target: Where requested exports are written; needed if `request_exports`.
        exports: Where exports lie that are read.
        search_exports: An export is given by a folder that is searched for its manifest.
        bucket_key: ARN of the KMS key that encrypts the objects of exports, or empty.
        table_keys: ARNs of customer managed KMS keys that encrypt tables.
        state: The state directory, if it is in S3.
        changelogs: Changelog sinks in S3.
        globs: Tables are chosen by pattern.
        tags: Tables are chosen by tag.
        apply: Streams and point-in-time recovery are turned on.
        source_role: Role that is assumed for DynamoDB, or empty.
        bucket_role: Role that is assumed for S3, or empty.
        secrets: ARNs of secrets that options refer to.
    """

    tables: tuple[str, ...] = ()
    partition: str = _DEFAULT_PARTITION
    describe_tables: bool = True
    streams: bool = True
    request_exports: bool = True
    see_recovery: bool = True
    newest_export: bool = False
    describe_exports: bool = False
    export_target: S3Folder | None = None
    exports: tuple[S3Folder, ...] = ()
    search_exports: bool = False
    bucket_key: str = ""
    table_keys: tuple[str, ...] = ()
    state: S3Folder | None = None
    changelogs: tuple[S3Folder, ...] = ()
    globs: bool = False
    tags: bool = False
    apply: bool = False
    source_role: str = ""
    bucket_role: str = ""
    secrets: tuple[str, ...] = ()


@functools.cache
def partition_of(region: str) -> str:
    """The partition of a region, e.g. `aws-cn`; `aws` for one that the SDK does not know."""
    try:
        return str(botocore.session.get_session().get_partition_for_region(region))
    except UnknownRegionError:
        return _DEFAULT_PARTITION


@functools.cache
def _dns_suffix(partition: str) -> str:
    found = botocore.session.get_session().get_component("data_loader").load_data("partitions")
    suffixes = {each["id"]: each["outputs"]["dnsSuffix"] for each in found["partitions"]}
    return str(suffixes.get(partition, suffixes[_DEFAULT_PARTITION]))


def table_arn(name: str, *, region: str, account: str, partition: str = "") -> str:
    """The ARN of a table; of a glob, the IAM pattern that covers it (`[ab]` becomes `?`)."""
    pattern = _BRACKETS.sub("?", name)
    place = f"{partition or partition_of(region)}:dynamodb:{region}:{account}"
    return f"arn:{place}:table/{pattern}"


def permissions(features: Features) -> tuple[Permission, ...]:
    """All permissions that the features need, one entry per purpose, without empty ones.

    Raises:
        ConfigurationError: Exports are requested, and there is no bucket for them.
    """
    if features.request_exports and features.export_target is None:
        raise ConfigurationError(
            "exports are requested, but there is no bucket for them",
            where="--s3_export_bucket",
            hint="Give --s3_export_bucket, --export, or --snapshot=never for the stream alone",
        )
    found = [
        *_of_tables(features),
        *_of_exports(features),
        *_of_keys(features),
        *_of_folders(features),
        *_of_roles(features),
        Permission(
            "ReadTheSecrets",
            ("secretsmanager:GetSecretValue",),
            features.secrets,
            "resolve references to secrets",
            "worker",
        ),
    ]
    if features.apply:
        found += _of_operator(features)
    return tuple(each for each in found if each.resources)


def _of_tables(features: Features) -> Iterator[Permission]:
    tables = features.tables
    if features.describe_tables:
        yield Permission(
            "DescribeTheTable", ("dynamodb:DescribeTable",), tables, "learn key, stream and size"
        )
    if features.globs or features.tags:
        yield Permission("ListTables", ("dynamodb:ListTables",), ("*",), "find tables by pattern")
    if features.tags:
        yield Permission("ReadTheTags", ("tag:GetResources",), ("*",), "find tables by tag")
    if features.streams:
        yield Permission(
            "ReadTheStream",
            ("dynamodb:DescribeStream", "dynamodb:GetRecords", "dynamodb:GetShardIterator"),
            _below(tables, "stream/*"),
            "read the changes",
        )
        yield Permission(
            "FindEarlierStreams",
            ("dynamodb:ListStreams",),
            ("*",),
            "read to their end streams that were turned on and off again while nothing ran",
            optional=True,
        )


def _of_exports(features: Features) -> Iterator[Permission]:
    tables, partition = features.tables, features.partition
    exports = _below(tables, "export/*")
    target = features.export_target
    if features.newest_export:
        yield Permission(
            "FindTheNewestExport", ("dynamodb:ListExports",), ("*",), "find exports to use again"
        )
    if features.request_exports:
        assert target is not None
        if features.see_recovery:
            yield Permission(
                "SeeTheRecoveryWindow",
                ("dynamodb:DescribeContinuousBackups",),
                tables,
                "see that point-in-time recovery is on",
            )
        yield Permission(
            "ExportTheTable", ("dynamodb:ExportTableToPointInTime",), tables, "request exports"
        )
        yield Permission(
            "WriteTheExport",
            EXPORT_WRITE_ACTIONS,
            (target.objects_arn(partition),),
            "let DynamoDB write exports with the permissions of their requester",
        )
    followed = features.request_exports or features.newest_export or features.describe_exports
    if followed or features.exports:
        yield Permission(
            "FollowTheExport",
            ("dynamodb:DescribeExport",),
            exports,
            "see when exports are complete, where they lie and that no filter cut them",
            optional=not followed,
        )
    places = features.exports + ((target,) if target and features.request_exports else ())
    yield Permission(
        "ReadTheExport",
        ("s3:GetObject",),
        _unique(place.objects_arn(partition) for place in places),
        "read exports",
        "bucket",
    )
    if features.search_exports:
        purpose = "find an export's manifest in a folder"
        yield from _listing("SearchForTheExport", features.exports, partition, purpose)


def _of_keys(features: Features) -> Iterator[Permission]:
    # CDK grants readers of tables and streams the same two (aws-dynamodb/lib/perms.ts).
    purpose = "read tables that a customer managed key encrypts"
    yield Permission(
        "UseTheTablesKey",
        ("kms:Decrypt",),
        features.table_keys,
        purpose,
        conditions=via_services(features.table_keys, ("dynamodb",)),
    )
    yield Permission("SeeTheTablesKey", ("kms:DescribeKey",), features.table_keys, purpose)
    key = (features.bucket_key,) if features.bucket_key else ()
    # S3 user guide, "Multipart upload and permissions": an upload of several parts is decrypted
    # too. Who writes may therefore read.
    write = ("kms:Decrypt", "kms:GenerateDataKey")
    if features.request_exports:
        via = via_services(key, ("s3", "dynamodb"))
        purpose = "write exports to an encrypted bucket"
        yield Permission("UseTheKey", write, key, purpose, conditions=via)
        if features.bucket_role == features.source_role:
            return
    yield Permission(
        "UseTheKeyToRead",
        ("kms:Decrypt",),
        key,
        "read exports of an encrypted bucket",
        "bucket",
        conditions=via_services(key, ("s3",)),
    )


def _of_folders(features: Features) -> Iterator[Permission]:
    partition = features.partition
    use = ("s3:DeleteObject", "s3:GetObject", "s3:PutObject")
    kinds = (
        ("KeepTheState", "LookIntoTheState", (features.state,), "the state directory"),
        ("WriteTheChangelog", "LookIntoTheChangelog", features.changelogs, "changelogs"),
    )
    for keep, look, folders, what in kinds:
        there = [folder for folder in folders if folder is not None]
        objects = _unique(folder.objects_arn(partition) for folder in there)
        yield Permission(keep, use, objects, f"keep files of {what}", "bucket")
        yield from _listing(look, there, partition, f"list files of {what}")


def _of_roles(features: Features) -> Iterator[Permission]:
    roles = _unique(each for each in (features.source_role, features.bucket_role) if each)
    yield Permission("AssumeTheRoles", ("sts:AssumeRole",), roles, "become the roles", "worker")


def _of_operator(features: Features) -> list[Permission]:
    tables = features.tables
    see = ("dynamodb:DescribeContinuousBackups", "dynamodb:DescribeTable")
    found = [Permission("LookAtTheTable", see, tables, "see what is on", "operator")]
    if features.globs or features.tags:
        found.append(
            Permission(
                "ListTables", ("dynamodb:ListTables",), ("*",), "find tables by pattern", "operator"
            )
        )
    if features.streams:
        found.append(
            Permission(
                "TurnOnTheStream", ("dynamodb:UpdateTable",), tables, "turn on streams", "operator"
            )
        )
    if features.request_exports:
        found.append(
            Permission(
                "TurnOnRecovery",
                ("dynamodb:UpdateContinuousBackups",),
                tables,
                "turn on point-in-time recovery",
                "operator",
            )
        )
    return found


def _below(tables: tuple[str, ...], what: str) -> tuple[str, ...]:
    return tuple(f"{table}/{what}" for table in tables)


def _unique(texts: Iterator[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts))
