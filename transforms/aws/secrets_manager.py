# SPDX-License-Identifier: Apache-2.0
"""Secrets of AWS Secrets Manager: `arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME[#KEY]`.

They are asked for as who the process is: by its web identity if it has one, else by boto3's chain,
never as the role for tables or buckets. What that needs is what S3 is told by the pipeline's
options, which every worker has.
"""

from __future__ import annotations

import json
import re

from botocore.exceptions import BotoCoreError, ClientError

from dynabeam.transforms.aws.beam_s3 import own_access
from dynabeam.transforms.aws.errors import explained
from dynabeam.transforms.aws.session import client
from dynabeam.transforms.errors import ConfigurationError

__all__ = ["check", "value_of"]

_ARN = re.compile(
    r"(arn:aws[a-z-]*:secretsmanager:([a-z0-9-]+):[0-9]{12}:secret:[\w/+=.@-]+)(?:#(.+))?"
)


def check(name: str, *, where: str) -> None:
    """Checks the form of a name.

    Raises:
        ConfigurationError: It cannot be the ARN of a secret, with or without a key.
    """
    if _ARN.fullmatch(name) is None:
        raise ConfigurationError(
            "not the ARN of a secret",
            where=where,
            expected="arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME[#JSON_KEY]",
        )


def value_of(name: str, *, where: str) -> str:
    """The text of a secret's present version, or what its JSON has below a key.

    Args:
        name: The ARN, with `#` and a key if it is JSON, as AWS's own rotation makes it.
        where: Option and reference, for errors.

    Raises:
        ConfigurationError: It cannot be had; the error does not show what it holds.
        CredentialsError: There are no credentials.
    """
    check(name, where=where)
    match = _ARN.fullmatch(name)
    assert match is not None
    arn, region, key = match.groups()
    try:
        found = client(own_access(region), "secretsmanager").get_secret_value(SecretId=arn)
    except (BotoCoreError, ClientError) as error:
        told = explained(error) if isinstance(error, BotoCoreError) else None
        raise ConfigurationError(
            f"AWS Secrets Manager does not give the secret: {error}",
            where=where,
            hint=(told.hint if told else "")
            or "Check the ARN, and allow secretsmanager:GetSecretValue on it (and kms:Decrypt on a "
            "key of your own) to what the workers run as",
        ) from error
    if "SecretString" not in found:
        raise ConfigurationError("the secret is bytes, and text is needed", where=where)
    text = str(found["SecretString"])
    return text if key is None else _below(text, key, where)


def _below(text: str, key: str, where: str) -> str:
    try:
        found = json.loads(text)
    except ValueError:
        # Not the cause: it holds the secret.
        raise ConfigurationError(
            "the secret is no JSON, so it has no keys", where=where, hint=f"Leave #{key} out"
        ) from None
    value = found.get(key) if isinstance(found, dict) else None
    if not isinstance(value, str):
        raise ConfigurationError(
            "the secret's JSON has no text below that key", where=where, expected=key
        )
    return value
