# SPDX-License-Identifier: Apache-2.0
"""IAM's SimulatePrincipalPolicy: what the caller's policies would say to given actions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

from dynabeam.transforms.testing.api_error import ApiError
from dynabeam.transforms.testing.iam import Permission
from dynabeam.transforms.testing.iam_requests import refuse_denied

if TYPE_CHECKING:
    from dynabeam.transforms.testing.simulator import Simulator

__all__ = ["simulate_principal_policy"]

_NAMESPACE = "https://iam.amazonaws.com/doc/2010-05-08/"


def simulate_principal_policy(
    simulator: Simulator, access_key: str, body: bytes
) -> tuple[int, bytes]:
    """Answers the call for the caller's own policies; the one user that there is has them.

    Args:
        simulator: Its policies and its user.
        access_key: Whose policies are meant; the permission to ask is checked too.
        body: The form that was sent.

    Returns:
        HTTP status and XML.
    """
    form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
    principal = form.get("PolicySourceArn", "")
    try:
        refuse_denied(simulator, access_key, [Permission("iam:SimulatePrincipalPolicy", principal)])
    except ApiError as error:
        # IAM speaks the query protocol, in which this is its code.
        return 403, _error("AccessDenied", error.message)
    if principal != simulator.user_arn:
        return 404, _error("NoSuchEntity", f"The entity {principal} cannot be found.")
    context = tuple(_context(form))
    results = "".join(
        _result(simulator, access_key, Permission(action, resource, context))
        for action in _members(form, "ActionNames")
        for resource in _members(form, "ResourceArns") or ["*"]
    )
    answer = (
        f'<SimulatePrincipalPolicyResponse xmlns="{_NAMESPACE}"><SimulatePrincipalPolicyResult>'
        f"<IsTruncated>false</IsTruncated><EvaluationResults>{results}</EvaluationResults>"
        "</SimulatePrincipalPolicyResult></SimulatePrincipalPolicyResponse>"
    )
    return 200, answer.encode()


def _result(simulator: Simulator, access_key: str, permission: Permission) -> str:
    why = simulator.iam.denial(access_key, permission, asked=True)
    decision = "allowed"
    if why:
        decision = "explicitDeny" if "explicit deny" in why else "implicitDeny"
    return (
        f"<member><EvalActionName>{escape(permission.action)}</EvalActionName>"
        f"<EvalResourceName>{escape(permission.resource)}</EvalResourceName>"
        f"<EvalDecision>{decision}</EvalDecision></member>"
    )


def _members(form: dict[str, str], name: str) -> list[str]:
    found: list[str] = []
    while (value := form.get(f"{name}.member.{len(found) + 1}")) is not None:
        found.append(value)
    return found


def _context(form: dict[str, str]) -> Iterator[tuple[str, str]]:
    number = 1
    while (key := form.get(f"ContextEntries.member.{number}.ContextKeyName")) is not None:
        values = _members(form, f"ContextEntries.member.{number}.ContextKeyValues")
        yield key.lower(), values[0]
        number += 1


def _error(code: str, message: str) -> bytes:
    return (
        f'<ErrorResponse xmlns="{_NAMESPACE}"><Error><Type>Sender</Type><Code>{code}</Code>'
        f"<Message>{escape(message)}</Message></Error></ErrorResponse>"
    ).encode()
