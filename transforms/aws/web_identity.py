# SPDX-License-Identifier: Apache-2.0
"""Credentials of a role that AWS gives for another provider's token, without any key.

Google's metadata server says who a machine runs as; AWS knows Google by itself, so that a role
needs no more than a trust policy. The token is asked for anew at each renewal, ten to fifteen
minutes before a session ends, by whatever thread signs a request then. Neither is stored: what
travels are the role and the audience.

A token in a file (EKS, GitHub, any OIDC provider) is boto3's own matter, by
AWS_WEB_IDENTITY_TOKEN_FILE and AWS_ROLE_ARN. Of these only the errors are said here.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

from botocore.credentials import (
    AssumeRoleWithWebIdentityCredentialFetcher,
    DeferredRefreshableCredentials,
)
from botocore.exceptions import BotoCoreError, ClientError

from dynabeam.transforms.aws.errors import AwsErrorKind, classify, error_code
from dynabeam.transforms.errors import AwsAccessError, CredentialsError
from dynabeam.transforms.google.metadata import claims_of, identity_token

__all__ = [
    "DEFAULT_AUDIENCE",
    "FILE_METHOD",
    "NO_WEB_IDENTITY",
    "PROVIDERS",
    "WebIdentity",
    "check_token_file",
    "web_identity_credentials",
]

PROVIDERS = ("google",)
DEFAULT_AUDIENCE = "sts.amazonaws.com"
FILE_METHOD = "assume-role-with-web-identity"
"""How botocore calls credentials that it has from a token in a file."""

_OPTION = "--aws_web_identity"
_SESSION_NAME = "dynabeam"
_REFUSED = frozenset({"AccessDenied", "IDPRejectedClaim", "InvalidIdentityToken"})
_EXPIRED = "ExpiredTokenException"


@dataclasses.dataclass(frozen=True)
class WebIdentity:
    """Who this process is to AWS, by another provider's word; picklable, free of secrets.

    Attributes:
        provider: `google`: the metadata server of the machine; empty for none.
        role_arn: The role whose trust policy names the provider's account.
        audience: The audience that tokens are asked for.
    """

    provider: str = ""
    role_arn: str = ""
    audience: str = DEFAULT_AUDIENCE

    def __bool__(self) -> bool:
        return bool(self.provider)


NO_WEB_IDENTITY = WebIdentity()


def web_identity_credentials(
    identity: WebIdentity, make_client: Callable[..., Any]
) -> DeferredRefreshableCredentials:
    """Credentials of the identity's role, fetched when first used and renewed by themselves.

    Args:
        identity: Who we are.
        make_client: Makes the STS client, as `Session.create_client`.
    """
    last = {"token": ""}

    def token() -> str:
        last["token"] = identity_token(identity.audience, option=f"{_OPTION}={identity.provider}")
        return last["token"]

    fetcher = AssumeRoleWithWebIdentityCredentialFetcher(
        make_client, token, identity.role_arn, extra_args={"RoleSessionName": _SESSION_NAME}
    )

    def fetch() -> Mapping[str, Any]:
        try:
            try:
                return _fetched(fetcher)
            except ClientError as error:
                # The server keeps tokens, and may have given one in its last seconds.
                if error_code(error) != _EXPIRED:
                    raise
                return _fetched(fetcher)
        except (BotoCoreError, ClientError) as error:
            _refuse(error, identity, last["token"])
            raise
        finally:
            last["token"] = ""

    return DeferredRefreshableCredentials(refresh_using=fetch, method="web-identity")


def _fetched(fetcher: Any) -> Mapping[str, Any]:
    found: Mapping[str, Any] = fetcher.fetch_credentials()
    return found


def _refuse(error: Exception, identity: WebIdentity, token: str) -> None:
    """Says what the token claims and the role has to trust; what may pass returns.

    `accounts.google.com:aud` is the token's `azp`, `:oaud` its `aud` (IAM's condition keys).
    """
    code = error_code(error)
    if code == _EXPIRED:
        raise CredentialsError(
            f"AWS holds a token for expired that Google has just given: {error}",
            where=identity.role_arn,
            hint="Check this machine's clock and GCE_METADATA_HOST",
        ) from error
    if code in _REFUSED or classify(error) is AwsErrorKind.FORBIDDEN:
        claims = claims_of(token)
        raise AwsAccessError(
            f"AWS refused sts:AssumeRoleWithWebIdentity: {error}",
            where=identity.role_arn,
            expected=(
                "a trust policy for accounts.google.com with"
                f" sub={claims.get('sub')} aud={claims.get('azp', claims.get('aud'))}"
                f" oaud={claims.get('aud')}"
            ),
            hint=(
                f"The token is of {claims.get('email', 'this service account')}: let the role "
                "trust it as `dynabeam setup` prints, or give --aws_audience the audience that the "
                "role trusts"
            ),
        ) from error
    if code == "ValidationError":
        raise AwsAccessError(
            f"AWS refused sts:AssumeRoleWithWebIdentity: {error}",
            where=identity.role_arn,
            hint="Check --aws_web_identity_role_arn",
        ) from error


def check_token_file(environment: Mapping[str, str] | None = None) -> None:
    """Checks that the file with a token that boto3 was told of can be read.

    Raises:
        CredentialsError: It cannot: boto3 itself would say no more than that a file is missing, at
            the first request.
    """
    given = os.environ if environment is None else environment
    path = given.get("AWS_WEB_IDENTITY_TOKEN_FILE", "")
    if not path:
        return
    try:
        with open(path, encoding="utf-8") as file:
            empty = not file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CredentialsError(
            f"the file with the token cannot be read: {getattr(error, 'strerror', 'no text')}",
            where=f"AWS_WEB_IDENTITY_TOKEN_FILE={path}",
            hint="Mount the token where workers run (on EKS: the pod's service account with its "
            "role's annotation), or unset the variable",
        ) from None
    if empty:
        raise CredentialsError(
            "the file with the token is empty",
            where=f"AWS_WEB_IDENTITY_TOKEN_FILE={path}",
            hint="See that the provider writes its token there, and renews it",
        )
