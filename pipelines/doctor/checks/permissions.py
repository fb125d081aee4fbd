# SPDX-License-Identifier: Apache-2.0
"""Every right of the catalogue, tried one by one: which are there, and exactly which are not."""

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

__all__ = ["rights_findings"]

_ORDER = {each: at for at, each in enumerate((*DYNAMODB_ATTEMPTS, *S3Attempts.ORDER))}


@dataclasses.dataclass(frozen=True)
class _Right:
    action: str
    resource: str
    permission: Permission


def rights_findings(
    examination: Examination, permissions: Sequence[Permission]
) -> Iterator[Finding]:
    """One finding for each action on each resource; the first purpose is named.

    Args:
        examination: What was asked so far.
        permissions: What is needed; rights of other identities than ours are left out.
    """
    options = examination.options
    s3 = S3Attempts(
        writes=examination.probe_writes, owner=options.bucket_owner, owned=options.bucket
    )
    for right in _rights(permissions):
        yield _finding(right, _outcome(examination, s3, right))
    yield from s3.leftovers()


def _rights(permissions: Sequence[Permission]) -> list[_Right]:
    found: dict[tuple[str, str, str, tuple[Condition, ...]], _Right] = {}
    for each in permissions:
        if each.identity not in ("source", "bucket"):
            continue
        for action in each.actions:
            for resource in each.resources:
                right = _Right(action, resource, each)
                found.setdefault((action, resource, each.identity, each.conditions), right)
    # What has to be tried before other things comes first; else the catalogue's order.
    return sorted(found.values(), key=lambda right: _ORDER.get(right.action, -1))


def _outcome(examination: Examination, s3: S3Attempts, right: _Right) -> Outcome:
    action, resource = right.action, right.resource
    if action in DYNAMODB_ATTEMPTS:
        outcome = DYNAMODB_ATTEMPTS[action](examination, resource)
    elif action in S3Attempts.ORDER:
        outcome = s3.attempt(
            examination.s3(right.permission.identity), action, resource, right.permission.conditions
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
        right.permission.conditions,
    )
    if looked_up.kind != "unknown":
        return looked_up
    return unknown(f"{outcome.text}; {looked_up.text}")


def _finding(right: _Right, outcome: Outcome) -> Finding:
    action, resource, permission = right.action, right.resource, right.permission
    subject = f"{action} on {resource}"
    statement: dict[str, Any] = {"Effect": "Allow", "Action": action, "Resource": resource}
    if permission.conditions:
        statement["Condition"] = condition_block(permission.conditions)
    found = Finding(
        "right",
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
