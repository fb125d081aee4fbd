# SPDX-License-Identifier: Apache-2.0
"""Credentials of a role that is assumed, and assumed again before they run out.

Sessions of a role last an hour, runs last days: botocore's refreshable credentials ask STS for the
next session ten to fifteen minutes before the present one ends, on whatever thread signs a request
then. Nothing of a session is stored or pickled; every process assumes the role for itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from botocore.credentials import AssumeRoleCredentialFetcher, DeferredRefreshableCredentials
from botocore.exceptions import BotoCoreError, ClientError

from dynabeam.transforms.aws.errors import AwsErrorKind, classify
from dynabeam.transforms.errors import AwsAccessError, CredentialsError
from dynabeam.transforms.secrets import resolve_secrets

__all__ = ["NO_ROLE", "Role", "refreshing_credentials"]

_SESSION_NAME = "dynabeam"


@dataclasses.dataclass(frozen=True)
class Role:
    """A role to assume.

    Attributes:
        arn: The role's ARN; empty for none.
        external_id: What the role's trust policy requires, or empty; `${env:NAME}`, `${file:PATH}`
            and `${secret:…}` are looked up where the role is assumed. Not shown.
    """

    arn: str = ""
    external_id: str = dataclasses.field(default="", repr=False)

    def __bool__(self) -> bool:
        return bool(self.arn)


NO_ROLE = Role()


def refreshing_credentials(
    role: Role, own_credentials: Any, make_client: Callable[..., Any]
) -> DeferredRefreshableCredentials:
    """Credentials of a role, fetched when first used and renewed by themselves.

    Args:
        role: The role.
        own_credentials: botocore credentials that may assume it.
        make_client: Makes the STS client, as `Session.create_client`.

    Raises:
        ConfigurationError: The external id's reference leads nowhere.
    """
    more = {"RoleSessionName": _SESSION_NAME}
    if role.external_id:
        more["ExternalId"] = resolve_secrets(role.external_id, option="--external_id")
    fetcher = AssumeRoleCredentialFetcher(make_client, own_credentials, role.arn, extra_args=more)

    def fetch() -> Mapping[str, Any]:
        try:
            found: Mapping[str, Any] = fetcher.fetch_credentials()
        except (BotoCoreError, ClientError) as error:
            _refuse(error, role)
            raise
        return found

    return DeferredRefreshableCredentials(refresh_using=fetch, method="assume-role")


def _refuse(error: Exception, role: Role) -> None:
    """Names the role that cannot be assumed; what may pass, like a throttle, returns."""
    kind = classify(error)
    if kind is AwsErrorKind.FORBIDDEN:
        raise AwsAccessError(
            f"AWS refused sts:AssumeRole: {error}",
            where=role.arn,
            hint=(
                "Let the policy of this machine's identity allow sts:AssumeRole on the role, and "
                "the role's trust policy name that identity and the external id; `dynabeam setup` "
                "prints both"
            ),
        ) from error
    if kind is AwsErrorKind.CREDENTIALS:
        raise CredentialsError(
            f"AWS did not accept the credentials that are to assume the role: {error}",
            where=role.arn,
            hint="Check AWS_PROFILE, the AWS_* environment variables, or this machine's own role",
        ) from error
