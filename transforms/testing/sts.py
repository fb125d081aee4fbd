# SPDX-License-Identifier: Apache-2.0
"""STS: who calls, and sessions of roles that run out.

    sim.sts.add_role("arn:aws:iam::444455556666:role/reader", external_id="x", policies=[...])

A session's credentials end by the real clock, as that is the one which clients renew them by. After
that, or with another token, their requests are answered with the service's own error.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from email.message import Message
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

from dynabeam.transforms.testing.api_error import ApiError
from dynabeam.transforms.testing.iam import Permission, key_of_caller
from dynabeam.transforms.testing.iam_requests import refuse_denied
from dynabeam.transforms.testing.web_identity import check_trust, refuse_untrusted

if TYPE_CHECKING:
    from dynabeam.transforms.testing.simulator import Simulator

__all__ = ["Sts", "is_sts"]

SESSION_SECONDS = 3600
_NAMESPACE = "https://sts.amazonaws.com/doc/2011-06-15/"
_ACTIONS = (
    b"Action=GetCallerIdentity",
    b"Action=AssumeRole&",
    b"Action=AssumeRoleWithWebIdentity&",
)


def is_sts(body: bytes) -> bool:
    """Whether the form of a POST is a call of STS."""
    return any(action in body for action in _ACTIONS)


@dataclasses.dataclass(frozen=True)
class _Role:
    external_id: str
    policies: Sequence[Mapping[str, Any]] | None
    trust: Mapping[str, Any] | None


@dataclasses.dataclass(frozen=True)
class _Session:
    role_arn: str
    name: str
    token: str
    ends: float

    @property
    def arn(self) -> str:
        partition, account = self.role_arn.split(":")[1], self.role_arn.split(":")[4]
        # AWS leaves the role's path out.
        role = self.role_arn.rpartition("/")[2]
        return f"arn:{partition}:sts::{account}:assumed-role/{role}/{self.name}"


class Sts:
    """Roles and their sessions; safe to use from several threads.

    Args:
        simulator: Its user, policies and counts.

    Attributes:
        session_seconds: How long sessions that begin from now on last.
    """

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self.session_seconds: float = SESSION_SECONDS
        self._lock = threading.Lock()
        self._roles: dict[str, _Role] = {}
        self._sessions: dict[str, _Session] = {}

    def add_role(
        self,
        arn: str,
        *,
        external_id: str = "",
        policies: Sequence[Mapping[str, Any]] | None = None,
        trust: Mapping[str, Any] | None = None,
    ) -> None:
        """Adds or replaces a role that anybody may assume who knows its external id.

        Args:
            arn: Its ARN.
            external_id: What has to be given, if anything.
            policies: What its later sessions may do; None for everything.
            trust: A trust policy that names another provider: then its tokens are taken and nobody
                else may assume the role.

        Raises:
            ValueError: The trust policy has elements that are not simulated.
        """
        if trust is not None:
            check_trust(trust)
        with self._lock:
            self._roles[arn] = _Role(external_id, policies, trust)

    def keys_of(self, role_arn: str) -> list[str]:
        """The access keys of the role's sessions so far, oldest first."""
        with self._lock:
            return [key for key, each in self._sessions.items() if each.role_arn == role_arn]

    def check(self, headers: Message[str, str], expired: str) -> None:
        """Refuses a request whose session has ended, or whose token is another's.

        Args:
            headers: The request's headers.
            expired: The service's code for sessions that have ended.

        Raises:
            ApiError: It is refused.
        """
        with self._lock:
            session = self._sessions.get(key_of_caller(headers))
        if session is None:
            return
        if headers.get("X-Amz-Security-Token") != session.token:
            raise ApiError("UnrecognizedClientException", "The security token is invalid.", 400)
        if time.time() >= session.ends:
            raise ApiError(expired, "The security token included in the request is expired", 400)

    def answer(self, headers: Message[str, str], body: bytes) -> tuple[int, bytes]:
        """Answers a call: HTTP status and XML."""
        form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        action = form["Action"]
        self._simulator.stats.count_call(action)
        try:
            if action == "AssumeRoleWithWebIdentity":
                # It is not signed: the token says who asks.
                result = self._assume_by_token(form)
            else:
                self.check(headers, "ExpiredToken")
                caller = key_of_caller(headers)
                result = self._assume(caller, form) if action == "AssumeRole" else self._who(caller)
        except ApiError as error:
            return error.status, _error(error)
        answer = (
            f'<{action}Response xmlns="{_NAMESPACE}"><{action}Result>{result}</{action}Result>'
            f"</{action}Response>"
        )
        return 200, answer.encode()

    def _who(self, access_key: str) -> str:
        with self._lock:
            session = self._sessions.get(access_key)
        arn = session.arn if session else self._simulator.user_arn
        return (
            f"<Arn>{escape(arn)}</Arn><UserId>SIMULATED</UserId>"
            f"<Account>{arn.split(':')[4]}</Account>"
        )

    def _assume(self, caller: str, form: Mapping[str, str]) -> str:
        arn = form["RoleArn"]
        refused = ApiError(
            "AccessDenied",
            f"User: {self._simulator.user_arn} is not authorized to perform: sts:AssumeRole on"
            f" resource: {arn}",
            403,
        )
        given = form.get("ExternalId")
        context = (("sts:externalid", given),) if given is not None else ()
        try:
            refuse_denied(self._simulator, caller, [Permission("sts:AssumeRole", arn, context)])
        except ApiError as error:
            raise refused from error
        with self._lock:
            role = self._roles.get(arn)
        given_id = form.get("ExternalId", "")
        if role is None or role.trust is not None or role.external_id not in ("", given_id):
            raise refused
        return self._begun(role, form)

    def _assume_by_token(self, form: Mapping[str, str]) -> str:
        with self._lock:
            role = self._roles.get(form["RoleArn"])
        subject = refuse_untrusted(role.trust if role else None, form["WebIdentityToken"])
        assert role is not None
        whose = f"<SubjectFromWebIdentityToken>{escape(subject)}</SubjectFromWebIdentityToken>"
        return self._begun(role, form) + whose

    def _begun(self, role: _Role, form: Mapping[str, str]) -> str:
        """A new session of a role, as it is answered."""
        ends = time.time() + self.session_seconds
        with self._lock:
            number = len(self._sessions) + 1
            key = f"ASIA{number:016d}"
            session = _Session(form["RoleArn"], form["RoleSessionName"], f"token-{number}", ends)
            self._sessions[key] = session
        self._simulator.set_policies(key, role.policies)
        moment = datetime.fromtimestamp(ends, timezone.utc).isoformat().replace("+00:00", "Z")
        return (
            f"<Credentials><AccessKeyId>{key}</AccessKeyId><SecretAccessKey>simulated"
            f"</SecretAccessKey><SessionToken>{session.token}</SessionToken><Expiration>{moment}"
            f"</Expiration></Credentials><AssumedRoleUser><Arn>{escape(session.arn)}</Arn>"
            "<AssumedRoleId>SIMULATED</AssumedRoleId></AssumedRoleUser>"
        )


def _error(error: ApiError) -> bytes:
    return (
        f'<ErrorResponse xmlns="{_NAMESPACE}"><Error><Type>Sender</Type><Code>{error.code}</Code>'
        f"<Message>{escape(error.message)}</Message></Error></ErrorResponse>"
    ).encode()
