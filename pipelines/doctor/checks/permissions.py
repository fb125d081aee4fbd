# SPDX-License-Identifier: Apache-2.0
"""Every permission of the catalogue, tried one by one: which are granted, and which are not."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import Any

from dynabeam.pipelines.doctor.checks.attempt import Outcome, unknown
from dynabeam.pipelines.doctor.checks.dynamodb_permissions import DYNAMODB_ATTEMPTS
from dynabeam.pipelines.doctor.checks.examination import Examination
from dynabeam.pipelines.doctor.checks.finding import Finding
from dynabeam.pipelines.doctor.checks.policy_simulation import simulated
from dynabeam.pipelines.doctor.checks.s3_permissions import S3Attempts
from dynabeam.transforms.aws.permissions import Condition, Permission, condition_block

__all__ = ["permission_findings"]

_ORDER = {each: at for at, each in enumerate((*DYNAMODB_ATTEMPTS, *S3Attempts.ORDER))}


@dataclasses.dataclass(frozen=True)
class _Required:
    """One action on one resource, of a permission."""

    action: str
    resource: str
    permission: Permission


def permission_findings(
    examination: Examination, permissions: Sequence[Permission]
) -> Iterator[Finding]:
    """One finding for each action on each resource; the first purpose is named.

    Args:
        examination: What was asked so far.
        permissions: What is needed; those of other identities than ours are left out.
    """
    options = examination.options
    s3 = S3Attempts(
        writes=examination.probe_writes, owner=options.bucket_owner, owned=options.bucket
    )
    for required in _required(permissions):
        yield _finding(required, _outcome(examination, s3, required))
    yield from s3.leftovers()


def _required(permissions: Sequence[Permission]) -> list[_Required]:
    found: dict[tuple[str, str, str, tuple[Condition, ...]], _Required] = {}
    for each in permissions:
        if each.identity not in ("source", "bucket"):
            continue
        for action in each.actions:
            for resource in each.resources:
                required = _Required(action, resource, each)
                found.setdefault((action, resource, each.identity, each.conditions), required)
    # What has to be tried before other things comes first; else the catalogue's order.
    return sorted(found.values(), key=lambda required: _ORDER.get(required.action, -1))


def _outcome(examination: Examination, s3: S3Attempts, required: _Required) -> Outcome:
    action, resource = required.action, required.resource
    if action in DYNAMODB_ATTEMPTS:
        outcome = DYNAMODB_ATTEMPTS[action](examination, resource)
    elif action in S3Attempts.ORDER:
        outcome = s3.attempt(
            examination.s3(required.permission.identity),
            action,
            resource,
            required.permission.conditions,
        )
    else:
        outcome = unknown("there is no harmless call that would show it")
    if outcome.kind != "unknown":
        return outcome
    looked_up = simulated(
        examination.iam(),
        examination.identity().arn,
        action,
        resource,
        required.permission.conditions,
    )
    if looked_up.kind != "unknown":
        return looked_up
    return unknown(f"{outcome.text}; {looked_up.text}")


def _finding(required: _Required, outcome: Outcome) -> Finding:
    action, resource, permission = required.action, required.resource, required.permission
    subject = f"{action} on {resource}"
    statement: dict[str, Any] = {"Effect": "Allow", "Action": action, "Resource": resource}
    if permission.conditions:
        statement["Condition"] = condition_block(permission.conditions)
    found = Finding(
        "permission",
        subject,
        "ok",
        outcome.text,
        why=f"it is needed to {permission.purpose}",
        hint="Add this statement to the policy of the identity that runs it, or print the whole "
        f"policy with 'dynabeam setup': {json.dumps(statement)}",
        action=action,
        resource=resource,
    )
    if outcome.kind == "allowed":
        return dataclasses.replace(found, why="", hint="")
    if outcome.kind == "denied":
        if permission.optional:
            return dataclasses.replace(found, status="warning")
        return dataclasses.replace(found, status="failure")
    return dataclasses.replace(
        found,
        status="warning",
        text=f"not seen: {outcome.text}",
        hint=f"See that the policy has it: {json.dumps(statement)}",
    )
