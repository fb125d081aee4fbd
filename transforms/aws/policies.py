# SPDX-License-Identifier: Apache-2.0
"""Policy documents: what to attach where so that the permissions of the catalogue hold.

Identity policies go to roles and users; the policy of a bucket or a key in another account names
the principals that its own account does not know, and a role's trust policy those that may assume
it. AWS evaluates the permissions to write an export for whoever requests it, so the bucket's policy
names the identity that reads the tables for writing, and the one that uses S3 for reading.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from dynabeam.transforms.aws.permissions import (
    EXPORT_WRITE_ACTIONS,
    Features,
    Permission,
    condition_block,
    permissions,
    via_services,
)
from dynabeam.transforms.aws.roles import Role
from dynabeam.transforms.secrets import references_shown

__all__ = [
    "Federated",
    "Policy",
    "Principals",
    "account_of",
    "identity_policies",
    "needs_principal",
    "principal_of",
    "resource_policies",
]

POLICY_CHARACTERS = 6144
"""Most characters of a managed policy, white space not counted (IAM and STS quotas)."""

_VERSION = "2012-10-17"
_RESOURCE_CHARACTERS = 5500


@dataclasses.dataclass(frozen=True)
class Policy:
    """One policy document.

    Attributes:
        name: Short name, letters, digits and dashes.
        kind: What it is attached to.
        target: ARN of that, or words for it.
        purpose: One sentence for people.
        statements: Its statements.
    """

    name: str
    kind: Literal["identity", "bucket", "key", "trust"]
    target: str
    purpose: str
    statements: tuple[Mapping[str, Any], ...]

    @property
    def document(self) -> dict[str, Any]:
        """The policy as AWS takes it."""
        return {"Version": _VERSION, "Statement": [dict(each) for each in self.statements]}


@dataclasses.dataclass(frozen=True)
class Federated:
    """An account of Google's that a role trusts.

    Attributes:
        subject: Its unique id, 21 digits.
        audience: The audience of its tokens.
    """

    subject: str
    audience: str


@dataclasses.dataclass(frozen=True)
class Principals:
    """Who does what.

    Attributes:
        own: ARN of what the workers run as; empty if it is not known.
        source: Role that is assumed for tables.
        bucket: Role that is assumed for S3.
        federated: Whose tokens the role of the workers takes; None if they have another identity.
    """

    own: str
    source: Role
    bucket: Role
    federated: Federated | None = None

    @property
    def reader_of_tables(self) -> str:
        """ARN of who reads tables and requests exports; empty if it is not known."""
        return self.source.arn or self.own

    @property
    def user_of_buckets(self) -> str:
        """ARN of who uses S3; empty if it is not known."""
        return self.bucket.arn or self.own


def principal_of(caller_arn: str) -> str:
    """The ARN that policies name for a caller of GetCallerIdentity.

    A session of a role (`arn:aws:sts::…:assumed-role/NAME/SESSION`) becomes the role. STS leaves
    the role's path out, so for a role with a path the caller has to give the ARN. Empty stays so.
    """
    if not caller_arn:
        return ""
    parts = caller_arn.split(":", 5)
    kind, _, rest = parts[5].partition("/")
    if parts[2] == "sts" and kind == "assumed-role":
        return f"arn:{parts[1]}:iam::{parts[4]}:role/{rest.partition('/')[0]}"
    return caller_arn


def account_of(arn: str) -> str:
    """The account in an ARN; empty if there is none."""
    parts = arn.split(":")
    return parts[4] if len(parts) > 4 else ""


def identity_policies(features: Features, principals: Principals) -> list[Policy]:
    """A policy for each identity; several if one would be longer than AWS allows."""
    found: list[Policy] = []
    by_target: dict[tuple[str, str], list[Permission]] = {}
    targets = {
        "source": principals.source.arn,
        "bucket": principals.bucket.arn,
        "operator": principals.source.arn,
        "worker": "",
    }
    for each in permissions(features):
        kind = "operator" if each.identity == "operator" else "run"
        by_target.setdefault((kind, targets[each.identity]), []).append(each)
    for (kind, target), wanted in by_target.items():
        name = _name(kind, target, principals)
        purpose = (
            "What `dynabeam setup --apply` needs." if kind == "operator" else "What runs need."
        )
        packed = list(_packed([_statement(part) for each in wanted for part in _parts(each)]))
        for number, statements in enumerate(packed, 1):
            found.append(
                Policy(
                    name if len(packed) == 1 else f"{name}-{number}",
                    "identity",
                    target or principals.own or "the identity that runs Dynabeam",
                    purpose,
                    statements,
                )
            )
    return found


def resource_policies(
    features: Features, principals: Principals, *, bucket_owner: str
) -> list[Policy]:
    """What buckets, keys and roles have to allow by themselves.

    Args:
        features: What is asked of AWS.
        principals: Who does it.
        bucket_owner: Account of the bucket for exports; empty if it is the tables' own.
    """
    found: list[Policy] = []
    target = features.export_target
    if features.request_exports and target is not None and bucket_owner:
        statements = _bucket_statements(features, principals, bucket_owner)
        if statements:
            purpose = "The bucket is another account's: its owner puts this policy on it."
            found.append(Policy("dynabeam-bucket", "bucket", target.bucket, purpose, statements))
    if features.bucket_key:
        found.append(_key_policy(features, principals))
    for name, role in (("tables", principals.source), ("buckets", principals.bucket)):
        # One role for both is trusted once.
        if role and not (name == "buckets" and role == principals.source):
            found.append(_trust_policy(name, role, principals))
    if principals.federated is not None:
        found.append(_google_trust(principals.own, principals.federated))
    return found


def needs_principal(features: Features, principals: Principals, bucket_owner: str) -> bool:
    """True if some policy names who the workers run as, and that is not known."""
    roles = bool(principals.source or principals.bucket)
    both = bool(principals.source and principals.bucket)
    named = bool(bucket_owner or features.bucket_key) and not both
    return not principals.own and (roles or named)


def _bucket_statements(
    features: Features, principals: Principals, owner: str
) -> tuple[Mapping[str, Any], ...]:
    assert features.export_target is not None
    objects = features.export_target.objects_arn(features.partition)
    found = []
    if account_of(principals.reader_of_tables) != owner:
        found.append(
            _allow(
                "LetTheExportBeWritten", principals.reader_of_tables, EXPORT_WRITE_ACTIONS, objects
            )
        )
    if account_of(principals.user_of_buckets) != owner:
        found.append(
            _allow("LetTheExportBeRead", principals.user_of_buckets, ("s3:GetObject",), objects)
        )
    return tuple(found)


def _key_policy(features: Features, principals: Principals) -> Policy:
    statements = []
    if features.request_exports:
        actions = ("kms:Decrypt", "kms:GenerateDataKey")
        statements.append(_allow("LetTheKeyBeUsed", principals.reader_of_tables, actions, "*"))
    if not features.request_exports or principals.user_of_buckets != principals.reader_of_tables:
        statements.append(
            _allow("LetTheKeyDecrypt", principals.user_of_buckets, ("kms:Decrypt",), "*")
        )
    # In a key's policy `*` is the key itself; nobody is to decrypt with it but by these services.
    for each in statements:
        writes = "kms:GenerateDataKey" in each["Action"]
        via = via_services((features.bucket_key,), ("s3", "dynamodb") if writes else ("s3",))
        each["Condition"] = condition_block(via)
    purpose = (
        "Add this to the key's policy if the key is another account's, or its policy does not "
        "leave the matter to IAM as the default one does."
    )
    return Policy("dynabeam-key", "key", features.bucket_key, purpose, tuple(statements))


def _trust_policy(name: str, role: Role, principals: Principals) -> Policy:
    statement = _allow("LetTheRoleBeAssumed", principals.own, ("sts:AssumeRole",), "")
    del statement["Resource"]
    purpose = "The role's trust policy: who may assume it."
    if role.external_id:
        # Who gave it by reference does not want to see it; `${` is a variable to IAM.
        shown = references_shown(role.external_id)
        statement["Condition"] = {"StringEquals": {"sts:ExternalId": shown}}
        if shown != role.external_id:
            purpose += f" Replace {shown} with the external id."
    return Policy(f"dynabeam-trust-{name}", "trust", role.arn, purpose, (statement,))


def _google_trust(role_arn: str, account: Federated) -> Policy:
    """Google is built into AWS: no provider has to be made. `aud` is the token's claim `azp`."""
    statement = {
        "Sid": "LetGoogleSayWhoItIs",
        "Effect": "Allow",
        "Principal": {"Federated": "accounts.google.com"},
        "Action": "sts:AssumeRoleWithWebIdentity",
        "Condition": {
            "StringEquals": {
                "accounts.google.com:sub": account.subject,
                "accounts.google.com:aud": account.subject,
                "accounts.google.com:oaud": account.audience,
            }
        },
    }
    purpose = "The role's trust policy: the Google service account may assume it, nobody else."
    if not account.subject.isdigit():
        purpose += f" Put the account's unique id where {account.subject} stands."
    return Policy("dynabeam-trust-google", "trust", role_arn, purpose, (statement,))


def _allow(sid: str, principal: str, actions: Sequence[str], resource: str) -> dict[str, Any]:
    return {
        "Sid": sid,
        "Effect": "Allow",
        "Principal": {"AWS": principal},
        "Action": _plain(actions),
        "Resource": resource,
    }


def _statement(permission: Permission) -> dict[str, Any]:
    statement: dict[str, Any] = {
        "Sid": permission.sid,
        "Effect": "Allow",
        "Action": _plain(permission.actions),
        "Resource": _plain(permission.resources),
    }
    if permission.conditions:
        statement["Condition"] = condition_block(permission.conditions)
    return statement


def _plain(values: Sequence[str]) -> str | list[str]:
    return values[0] if len(values) == 1 else list(values)


def _name(kind: str, target: str, principals: Principals) -> str:
    if kind == "operator":
        return "dynabeam-setup"
    if not (principals.source or principals.bucket):
        return "dynabeam"
    if principals.source == principals.bucket:
        return "dynabeam" if target else "dynabeam-worker"
    if not target:
        return "dynabeam-worker"
    return "dynabeam-tables" if target == principals.source.arn else "dynabeam-buckets"


def _parts(permission: Permission) -> Iterable[Permission]:
    """The permission, in parts if its resources are too long for one document."""
    groups: list[list[str]] = [[]]
    size = 0
    for resource in permission.resources:
        if groups[-1] and size + len(resource) > _RESOURCE_CHARACTERS:
            groups.append([])
            size = 0
        groups[-1].append(resource)
        size += len(resource) + 3
    if len(groups) == 1:
        return [permission]
    return [
        dataclasses.replace(permission, sid=f"{permission.sid}{number}", resources=tuple(group))
        for number, group in enumerate(groups, 1)
    ]


def _packed(statements: Sequence[Mapping[str, Any]]) -> Iterable[tuple[Mapping[str, Any], ...]]:
    """Statements in as few documents as their length allows, in order."""
    frame = len(json.dumps({"Version": _VERSION, "Statement": []}, separators=(",", ":")))
    here: list[Mapping[str, Any]] = []
    size = frame
    for each in statements:
        length = len(json.dumps(each, separators=(",", ":"))) + 1
        if here and size + length > POLICY_CHARACTERS:
            yield tuple(here)
            here, size = [], frame
        here.append(each)
        size += length
    if here:
        yield tuple(here)
