# SPDX-License-Identifier: Apache-2.0
"""IAM's answer, if a permission cannot be tried and `iam:SimulatePrincipalPolicy` is allowed.

It knows the policies of the identity, with its boundary and those of the organisation, but not what
a bucket's, a key's or a table's own policy allows on top.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from dynabeam.pipelines.doctor.checks.attempt import Outcome, allowed, unknown
from dynabeam.transforms.aws.permissions import Condition

__all__ = ["principal_of", "simulated"]

_OTHER_POLICIES = {"s3:": "bucket", "kms:": "key"}
"""What has a policy that may allow what the identity's policies do not speak of."""

_SESSION = re.compile(r"(arn:[\w-]+):sts::([0-9]+):assumed-role/([^/]+)/.*")


def principal_of(arn: str) -> str:
    """The user or role whose policies count: of a session the role, as far as its ARN says."""
    return _SESSION.sub(r"\1:iam::\2:role/\3", arn)


def simulated(
    iam: Any,
    identity_arn: str,
    action: str,
    resource: str,
    conditions: Sequence[Condition] = (),
) -> Outcome:
    """Asks IAM.

    Args:
        iam: A client for `iam`.
        identity_arn: As STS says it.
        action: The IAM action.
        resource: Its resource.
        conditions: What requests have in common: each is simulated with the first of its values.
    """
    context = [
        {
            "ContextKeyName": key,
            "ContextKeyValues": [values[0].replace("*", "")],
            "ContextKeyType": "string",
        }
        for _, key, values in conditions
    ]
    try:
        answer = iam.simulate_principal_policy(
            PolicySourceArn=principal_of(identity_arn),
            ActionNames=[action],
            ResourceArns=[resource],
            ContextEntries=context,
        )
    except (BotoCoreError, ClientError) as error:
        return unknown(f"nor be looked up: {error}")
    decision = answer["EvaluationResults"][0]["EvalDecision"]
    if decision == "allowed":
        return allowed("by simulation of the identity's policies")
    for service, other in _OTHER_POLICIES.items():
        if decision == "implicitDeny" and action.startswith(service):
            return unknown(f"the identity's policies do not allow it; the {other}'s policy may")
    return Outcome("denied", f"by simulation of the identity's policies: {decision}")
