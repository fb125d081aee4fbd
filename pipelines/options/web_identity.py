# SPDX-License-Identifier: Apache-2.0
"""The options that say who this process is to AWS without any key of AWS."""

from __future__ import annotations

import argparse
import re

from dynabeam.transforms.aws.web_identity import (
    DEFAULT_AUDIENCE,
    NO_WEB_IDENTITY,
    PROVIDERS,
    WebIdentity,
)
from dynabeam.transforms.errors import ConfigurationError

__all__ = ["ROLE_ARN", "add_web_identity_options", "web_identity_of"]

ROLE_ARN = re.compile(r"arn:[a-z-]+:iam::[0-9]{12}:role/[\w+=,.@/-]+")
_PROVIDER = "--aws_web_identity"
_ROLE = "--aws_web_identity_role_arn"
_AUDIENCE = "--aws_audience"
_MOST_CHARACTERS = 255


def add_web_identity_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that `web_identity_of` reads."""
    add = parser.add_argument
    add(
        _PROVIDER,
        default="",
        help="google: use AWS as this machine's Google service account, without keys",
    )
    add(_ROLE, default="", help="role that trusts the service account; other roles by --role_arn")
    add(_AUDIENCE, default="", help=f"audience that it trusts; by default {DEFAULT_AUDIENCE}")


def web_identity_of(given: argparse.Namespace) -> WebIdentity:
    """The web identity that the options name; a false one if there is none.

    Raises:
        ConfigurationError: An option is missing, or has a value that cannot work.
    """
    provider, arn = given.aws_web_identity, given.aws_web_identity_role_arn
    audience = given.aws_audience
    if not provider:
        for option, value in ((_ROLE, arn), (_AUDIENCE, audience)):
            if value:
                raise ConfigurationError(
                    "it goes with a web identity",
                    where=option,
                    hint=f"Give {_PROVIDER}=google too. A token in a file is boto3's own: set "
                    "AWS_WEB_IDENTITY_TOKEN_FILE and AWS_ROLE_ARN instead",
                )
        return NO_WEB_IDENTITY
    if provider not in PROVIDERS:
        raise ConfigurationError(
            "no such provider",
            where=_PROVIDER,
            expected=" | ".join(PROVIDERS),
            found=provider,
            hint="Another provider's token is taken from a file: set AWS_WEB_IDENTITY_TOKEN_FILE "
            "and AWS_ROLE_ARN, without this option",
        )
    if not arn:
        raise ConfigurationError(
            "a web identity needs the role that trusts it",
            where=_ROLE,
            hint=f"Give {_ROLE}=arn:aws:iam::ACCOUNT:role/NAME; --role_arn and --s3_role_arn are "
            "further roles, assumed from it",
        )
    if not ROLE_ARN.fullmatch(arn):
        raise ConfigurationError(
            "not the ARN of a role",
            where=_ROLE,
            expected="arn:aws:iam::ACCOUNT:role/NAME",
            found=arn,
        )
    if len(audience) > _MOST_CHARACTERS or not audience.isprintable() or " " in audience:
        raise ConfigurationError(
            "not an audience",
            where=_AUDIENCE,
            expected="a word or URL as in the role's trust policy",
            found=audience,
        )
    if getattr(given, "access_key_id", ""):
        raise ConfigurationError(
            "a web identity stands in place of keys",
            where=f"{_PROVIDER}, --access_key_id",
            hint="Give one of them",
        )
    return WebIdentity(provider, arn, audience or DEFAULT_AUDIENCE)
