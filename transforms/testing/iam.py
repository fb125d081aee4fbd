# SPDX-License-Identifier: Apache-2.0
"""Identity policies: who may do what, once a test says so.

An access key without policies may do everything, as long as nobody sets any. Rules as IAM has them:
what nothing allows is denied, an explicit Deny wins, `*` and `?` are wildcards, names of actions
are compared without case and resources with it. A wildcard goes across the colons of an ARN too.
Of conditions, those of strings (`StringEquals`, `StringLike`, each also with `IfExists`) on the
keys `s3:prefix`, `kms:ViaService` and `sts:ExternalId` are evaluated; a key that the request does
not have fails its condition, so a policy that allows listings of a prefix only does not show that
an object is missing. Policies with other elements are refused, so that a test never passes because
of one that was passed over.
"""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.message import Message
from typing import Any

__all__ = ["CONTEXT_KEYS", "Iam", "Permission", "key_of_caller"]

_CREDENTIAL = re.compile(r"Credential=([^/,\s]+)/")
_ELEMENTS = {"Sid", "Effect", "Action", "NotAction", "Resource", "NotResource", "Condition"}
_OPERATORS = {"StringEquals", "StringLike"}
_IF_EXISTS = "IfExists"
CONTEXT_KEYS = {"s3:prefix", "kms:viaservice", "sts:externalid"}
"""Keys that conditions may name, in small letters: IAM compares them without case."""


@dataclass(frozen=True, order=True)
class Permission:
    """An action on a resource, such as `dynamodb:GetRecords` on a stream's ARN.

    Attributes:
        action: The action.
        resource: ARN of the resource.
        context: What conditions look at: pairs of a key, in small letters, and its value.
    """

    action: str
    resource: str
    context: tuple[tuple[str, str], ...] = ()


class Iam:
    """The identity policies of one simulated account; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._statements: dict[str, tuple[_Statement, ...]] = {}
        self._used: dict[str, set[Permission]] = {}

    def set_policies(self, access_key: str, policies: Sequence[Mapping[str, Any]] | None) -> None:
        """Replaces the policies of an access key, and forgets what it used.

        Args:
            access_key: The access key id that requests are signed with.
            policies: Policy documents; an empty list allows nothing, None everything.

        Raises:
            ValueError: A policy is malformed, or has elements that are not evaluated here.
        """
        statements = None if policies is None else tuple(_statements(policies))
        with self._lock:
            self._used.pop(access_key, None)
            if statements is None:
                self._statements.pop(access_key, None)
            else:
                self._statements[access_key] = statements

    def denial(self, access_key: str, permission: Permission, *, asked: bool = False) -> str:
        """Why the key may not do it; empty if it may.

        Args:
            access_key: The access key id of the request.
            permission: What the request needs.
            asked: Somebody only asks: it does not count as used.
        """
        if not self._statements:
            return ""
        with self._lock:
            statements = self._statements.get(access_key)
            if statements is not None and not asked:
                self._used.setdefault(access_key, set()).add(permission)
        if statements is None:
            return ""
        matching = [each for each in statements if each.covers(permission)]
        if not all(each.allows for each in matching):
            return "with an explicit deny in an identity-based policy"
        return (
            ""
            if matching
            else f"because no identity-based policy allows the {permission.action} action"
        )

    def used(self, access_key: str) -> list[Permission]:
        """What the key has requested since its policies were set, allowed or not; sorted."""
        with self._lock:
            return sorted(self._used.get(access_key, ()))


def key_of_caller(headers: Message[str, str]) -> str:
    """The access key id in a request's signature; empty if it is not signed."""
    match = _CREDENTIAL.search(headers.get("Authorization") or "")
    return match[1] if match else ""


@dataclass(frozen=True)
class _Condition:
    like: bool
    if_exists: bool
    key: str
    values: tuple[str, ...]

    def holds(self, context: Mapping[str, str]) -> bool:
        found = context.get(self.key)
        if found is None:
            return self.if_exists
        if self.like:
            return any(_matches(each, found) for each in self.values)
        return found in self.values


@dataclass(frozen=True)
class _Statement:
    allows: bool
    actions: tuple[str, ...]
    but_actions: bool
    resources: tuple[str, ...]
    but_resources: bool
    conditions: tuple[_Condition, ...]

    def covers(self, permission: Permission) -> bool:
        action, resource = permission.action.lower(), permission.resource
        named = any(_matches(each.lower(), action) for each in self.actions)
        there = any(_matches(each, resource) for each in self.resources)
        context = dict(permission.context)
        return (
            named != self.but_actions
            and there != self.but_resources
            and all(each.holds(context) for each in self.conditions)
        )


def _statements(policies: Sequence[Mapping[str, Any]]) -> list[_Statement]:
    found = []
    for policy in policies:
        given = policy.get("Statement")
        for each in [given] if isinstance(given, Mapping) else given or ():
            found.append(_statement(each))
    return found


def _statement(given: Mapping[str, Any]) -> _Statement:
    unknown = set(given) - _ELEMENTS
    if unknown:
        raise ValueError(f"not evaluated by the simulator: {', '.join(sorted(unknown))} in {given}")
    if given.get("Effect") not in ("Allow", "Deny"):
        raise ValueError(f"Effect is Allow or Deny, found {given.get('Effect')!r} in {given}")
    for name in ("Action", "Resource"):
        if (name in given) == (f"Not{name}" in given):
            raise ValueError(f"a statement has either {name} or Not{name}, found {given}")
    return _Statement(
        allows=given["Effect"] == "Allow",
        actions=_texts(given.get("Action", given.get("NotAction"))),
        but_actions="NotAction" in given,
        resources=_texts(given.get("Resource", given.get("NotResource"))),
        but_resources="NotResource" in given,
        conditions=tuple(_conditions(given)),
    )


def _conditions(given: Mapping[str, Any]) -> Iterator[_Condition]:
    for operator, tests in given.get("Condition", {}).items():
        plain = operator.removesuffix(_IF_EXISTS)
        for key, value in tests.items():
            values = _texts(value)
            # `${` begins a variable, such as the name of the user.
            variables = any("${" in each for each in values)
            if plain not in _OPERATORS or key.lower() not in CONTEXT_KEYS or variables:
                raise ValueError(f"not evaluated by the simulator: {operator} {key} in {given}")
            yield _Condition(
                plain == "StringLike", operator.endswith(_IF_EXISTS), key.lower(), values
            )


def _texts(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _matches(pattern: str, text: str) -> bool:
    return _expression(pattern).fullmatch(text) is not None


@functools.lru_cache(maxsize=1024)
def _expression(pattern: str) -> re.Pattern[str]:
    escaped = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    return re.compile(escaped, re.DOTALL)
