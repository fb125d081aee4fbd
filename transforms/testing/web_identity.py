# SPDX-License-Identifier: Apache-2.0
"""AssumeRoleWithWebIdentity: tokens of other providers, and the trust policies that take them.

A token's claims are compared with the policy as IAM does it: of Google's, `:aud` is the claim `azp`
and `:oaud` is `aud`; of another OIDC provider, named by its ARN, `:aud` is `aud`. The signature is
not looked at, the time is: tokens end by the real clock.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from typing import Any

from dynabeam.transforms.testing.api_error import ApiError

__all__ = ["check_trust", "refuse_untrusted"]

_ACTION = "sts:AssumeRoleWithWebIdentity"
_GOOGLE = "accounts.google.com"
_PROVIDER = ":oidc-provider/"


def check_trust(policy: Mapping[str, Any]) -> None:
    """Refuses a trust policy that has elements which would be passed over.

    Raises:
        ValueError: It has.
    """
    for statement in policy["Statement"]:
        other = set(statement) - {"Sid", "Effect", "Action", "Principal", "Condition"}
        operators = set(statement.get("Condition", {})) - {"StringEquals"}
        if other or operators or statement["Effect"] != "Allow":
            raise ValueError(f"not simulated: {statement}")
        if set(statement["Principal"]) != {"Federated"} or statement["Action"] != _ACTION:
            raise ValueError(f"not a trust in another provider: {statement}")


def refuse_untrusted(policy: Mapping[str, Any] | None, token: str) -> str:
    """Answers as STS does if a role does not trust a token.

    Args:
        policy: The role's trust policy; None if there is no such role, or it trusts nobody else.
        token: The token.

    Returns:
        The token's subject.

    Raises:
        ApiError: It does not.
    """
    claims = _claims(token)
    if time.time() >= claims["exp"]:
        raise ApiError("ExpiredTokenException", "Token expired: it is past its expiration date")
    issuer = str(claims["iss"]).removeprefix("https://")
    context = {f"{issuer}:sub": claims["sub"], f"{issuer}:aud": claims["aud"]}
    if issuer == _GOOGLE:
        context[f"{issuer}:aud"] = claims.get("azp", claims["aud"])
        context[f"{issuer}:oaud"] = claims["aud"]
    for statement in policy["Statement"] if policy is not None else ():
        trusted = statement["Principal"]["Federated"].rpartition(_PROVIDER)[2]
        asked = statement.get("Condition", {}).get("StringEquals", {})
        if trusted == issuer and all(
            context.get(key) in ([value] if isinstance(value, str) else value)
            for key, value in asked.items()
        ):
            return str(claims["sub"])
    raise ApiError("AccessDenied", f"Not authorized to perform {_ACTION}", 403)


def _claims(token: str) -> dict[str, Any]:
    try:
        payload = token.split(".")[1]
        found = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return {**found, "exp": float(found["exp"]), "iss": found["iss"], "sub": found["sub"]}
    except (ValueError, LookupError, TypeError) as error:
        text = "The ID Token provided is not a valid JWT. (You may see this error if you sent an "
        raise ApiError("InvalidIdentityToken", text + "Access Token)") from error
