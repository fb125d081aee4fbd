# SPDX-License-Identifier: Apache-2.0
"""What an AWS error means for the caller: one classification for every service.

The names of error codes are those of botocore's service models (DynamoDB, DynamoDB Streams, S3,
STS) plus the generic ones of the AWS query and JSON protocols. Whatever is not listed is `UNKNOWN`,
and callers fail on it: an error is never guessed to be harmless.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Callable

from botocore import exceptions as botocore_errors

from dynabeam.transforms.errors import (
    AwsAccessError,
    AwsUnreachableError,
    ConfigurationError,
    CredentialsError,
    DynabeamError,
)

__all__ = [
    "AwsErrorKind",
    "classify",
    "error_code",
    "explained",
    "explained_text",
    "raise_access_error",
    "statement_to_add",
]


class AwsErrorKind(enum.Enum):
    """What an error asks of the caller."""

    THROTTLED = "throttled"
    """Too many calls: wait, then ask again."""
    EXPIRED_ITERATOR = "expired_iterator"
    """A shard iterator is older than 15 minutes: take a new one."""
    TRIMMED = "trimmed"
    """The position is older than what the stream still holds: changes are lost."""
    GONE = "gone"
    """The table, stream, shard, export, bucket or object does not exist."""
    FORBIDDEN = "forbidden"
    """The identity lacks the permission for this action and resource."""
    CREDENTIALS = "credentials"
    """There is no identity: credentials are missing, wrong or expired."""
    UNREACHABLE = "unreachable"
    """No answer, or a fault of the service: ask again within bounds."""
    UNKNOWN = "unknown"
    """None of these: fail."""


_KINDS: dict[AwsErrorKind, frozenset[str]] = {
    AwsErrorKind.THROTTLED: frozenset(
        {
            "BandwidthLimitExceeded",
            "LimitExceededException",
            "PriorRequestNotComplete",
            "ProvisionedThroughputExceededException",
            "RequestLimitExceeded",
            "RequestThrottled",
            "RequestThrottledException",
            "SlowDown",
            "Throttling",
            "ThrottledException",
            "ThrottlingException",
            "TooManyRequestsException",
        }
    ),
    AwsErrorKind.EXPIRED_ITERATOR: frozenset({"ExpiredIteratorException"}),
    AwsErrorKind.TRIMMED: frozenset({"TrimmedDataAccessException"}),
    AwsErrorKind.GONE: frozenset(
        {
            "ExportNotFoundException",
            "NoSuchBucket",
            "NoSuchKey",
            "ResourceNotFoundException",
            "TableNotFoundException",
        }
    ),
    AwsErrorKind.FORBIDDEN: frozenset(
        {
            "AccessDenied",
            "AccessDeniedException",
            "AccountProblem",
            "AllAccessDisabled",
            "AuthorizationError",
            "UnauthorizedOperation",
        }
    ),
    AwsErrorKind.CREDENTIALS: frozenset(
        {
            "ExpiredToken",
            "ExpiredTokenException",
            "IncompleteSignature",
            "IncompleteSignatureException",
            "InvalidAccessKeyId",
            "InvalidClientTokenId",
            "InvalidIdentityToken",
            "InvalidSignatureException",
            "InvalidToken",
            "MissingAuthenticationToken",
            "MissingAuthenticationTokenException",
            "RequestExpired",
            "RequestTimeTooSkewed",
            "SignatureDoesNotMatch",
            "TokenRefreshRequired",
            "UnrecognizedClientException",
        }
    ),
    AwsErrorKind.UNREACHABLE: frozenset(
        {
            "InternalError",
            "InternalFailure",
            "InternalServerError",
            "RequestTimeout",
            "RequestTimeoutException",
            "ServiceUnavailable",
            "ServiceUnavailableException",
        }
    ),
}
_BY_CODE = {code: kind for kind, codes in _KINDS.items() for code in codes}

_BY_TOKEN = "AssumeRoleWithWebIdentity"  # noqa: S105 - an action's name
_ON_RESOURCE = re.compile(r"on resource: \"?(arn:[^\s\"]+)")

_CHECK_IDENTITY = (
    "Check AWS_PROFILE, the AWS_* environment variables, the role of this machine and its clock; "
    "renew an expired session"
)
_NO_CREDENTIALS = (
    botocore_errors.CredentialRetrievalError,
    botocore_errors.NoCredentialsError,
    botocore_errors.PartialCredentialsError,
    botocore_errors.SSOError,
    botocore_errors.TokenRetrievalError,
)
_NO_ANSWER_OF_AWS = (
    botocore_errors.ChecksumError,
    botocore_errors.ConnectionError,
    botocore_errors.HTTPClientError,
    botocore_errors.IncompleteReadError,
)
_NO_ANSWER = (*_NO_ANSWER_OF_AWS, ConnectionError, TimeoutError)


def error_code(error: BaseException) -> str:
    """The service's error code, e.g. `ThrottlingException`; empty if the service did not answer."""
    if isinstance(error, botocore_errors.ClientError):
        return str(error.response.get("Error", {}).get("Code", ""))
    return ""


def classify(error: BaseException) -> AwsErrorKind:
    """Says what an error of boto3 or botocore means.

    Args:
        error: Any exception raised by a client's call, or while making a client.

    Returns:
        `UNKNOWN` for whatever is not an error of AWS or not a known one.
    """
    if isinstance(error, _NO_CREDENTIALS):
        return AwsErrorKind.CREDENTIALS
    if isinstance(error, _NO_ANSWER):
        return AwsErrorKind.UNREACHABLE
    if not isinstance(error, botocore_errors.ClientError):
        return AwsErrorKind.UNKNOWN
    known = _BY_CODE.get(error_code(error))
    if known is not None:
        return known
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return _by_status(int(status or 0), error_code(error))


def _by_status(status: int, code: str) -> AwsErrorKind:
    # S3 answers HEAD requests without a body: the status is then the code.
    if not status and code.isdigit():
        status = int(code)
    if status >= 500:
        return AwsErrorKind.UNREACHABLE
    by_status = {
        401: AwsErrorKind.FORBIDDEN,
        403: AwsErrorKind.FORBIDDEN,
        404: AwsErrorKind.GONE,
        429: AwsErrorKind.THROTTLED,
    }
    # 404 with a code of its own is another matter than "does not exist": it stays unknown.
    if status == 404 and code not in ("404", "NotFound", ""):
        return AwsErrorKind.UNKNOWN
    return by_status.get(status, AwsErrorKind.UNKNOWN)


def raise_access_error(
    error: BaseException, action: str, resource: str, *, where: str = ""
) -> None:
    """Raises the typed error if a call failed for want of permissions or credentials; else returns.

    Args:
        error: What the call raised; it becomes the cause.
        action: The IAM action, e.g. `dynamodb:GetRecords`.
        resource: ARN of what the call was about, or its name: then AWS's answer gives the ARN.
        where: What it was about, in words, if the resource is none for people.

    Raises:
        AwsAccessError: The identity may not do it; the text holds the policy statement to add.
        CredentialsError: Credentials are missing, wrong or expired.
    """
    kind = classify(error)
    if getattr(error, "operation_name", "") == _BY_TOKEN:
        _refuse_token(error, kind)
    if kind is AwsErrorKind.FORBIDDEN:
        raise AwsAccessError(
            f"AWS refused {action}: {error}",
            where=where or resource,
            hint=statement_to_add(action, _policy_resource(error, resource)),
        ) from error
    if kind is AwsErrorKind.CREDENTIALS:
        raise CredentialsError(
            f"AWS did not accept the credentials for {action}: {error}",
            where=where or resource,
            hint=_CHECK_IDENTITY,
        ) from error


def _refuse_token(error: BaseException, kind: AwsErrorKind) -> None:
    """Names what boto3 has its token from; what may pass, like a throttle, returns."""
    if kind not in (AwsErrorKind.FORBIDDEN, AwsErrorKind.CREDENTIALS):
        return
    refused = AwsAccessError if kind is AwsErrorKind.FORBIDDEN else CredentialsError
    raise refused(
        f"AWS refused sts:{_BY_TOKEN}: {error}",
        where="AWS_WEB_IDENTITY_TOKEN_FILE, AWS_ROLE_ARN",
        hint="Check that the role's trust policy names the token's provider, subject and audience, "
        "and that the provider renews the file",
    ) from error


def explained(error: BaseException) -> DynabeamError | None:
    """What an error of botocore says to the person who started the command.

    Args:
        error: Any exception.

    Returns:
        An error that names the setting and what to do; None if it is none of botocore's.
    """
    for kinds, make in _EXPLAINED:
        if isinstance(error, kinds):
            return make(str(error).strip())
    if isinstance(error, botocore_errors.ClientError):
        return AwsAccessError(f"AWS refused a call: {error}", hint="See what AWS says of this code")
    if isinstance(error, botocore_errors.BotoCoreError):
        return ConfigurationError(
            f"boto3 cannot continue: {error}", hint="Check the settings of AWS"
        )
    return None


def explained_text(kind: str, text: str) -> DynabeamError | None:
    """The same for an error that a worker sent home as text: its class's name, and what it says."""
    found = getattr(botocore_errors, kind, None)
    if not (isinstance(found, type) and issubclass(found, Exception)):
        return None
    error = found.__new__(found)
    error.args = (text,)
    return explained(error)


def _no_profile(text: str) -> DynabeamError:
    return CredentialsError(
        f"{text}", where="AWS_PROFILE", hint="Name a profile of ~/.aws, or unset AWS_PROFILE"
    )


def _bad_settings(text: str) -> DynabeamError:
    return ConfigurationError(
        f"the settings of AWS cannot be read: {text}",
        where="~/.aws/config, AWS_CONFIG_FILE",
        hint="Fix that file, or name another",
    )


def _bad_region(text: str) -> DynabeamError:
    return ConfigurationError(text, where="--region", hint="Give a region such as eu-west-1")


def _no_identity(text: str) -> DynabeamError:
    return CredentialsError(f"no AWS credentials can be had: {text}", hint=_CHECK_IDENTITY)


def _no_proxy(text: str) -> DynabeamError:
    return AwsUnreachableError(
        f"the proxy does not answer: {text}",
        where="HTTPS_PROXY, HTTP_PROXY",
        hint="Check these variables, or name hosts that need no proxy in NO_PROXY",
    )


def _untrusted(text: str) -> DynabeamError:
    return AwsUnreachableError(
        f"the endpoint's certificate is not accepted: {text}",
        hint="Check the endpoint; for an authority of your own set AWS_CA_BUNDLE",
    )


def _unreachable(text: str) -> DynabeamError:
    return AwsUnreachableError(
        f"no answer from AWS: {text}",
        hint="Check --region and --endpoint_url, and that this machine reaches that host",
    )


_EXPLAINED: tuple[tuple[tuple[type[BaseException], ...], Callable[[str], DynabeamError]], ...] = (
    ((botocore_errors.ProfileNotFound,), _no_profile),
    ((botocore_errors.ConfigParseError, botocore_errors.ConfigNotFound), _bad_settings),
    (
        (
            botocore_errors.InvalidRegionError,
            botocore_errors.NoRegionError,
            botocore_errors.UnknownRegionError,
        ),
        _bad_region,
    ),
    (_NO_CREDENTIALS, _no_identity),
    ((botocore_errors.ProxyConnectionError, botocore_errors.InvalidProxiesConfigError), _no_proxy),
    ((botocore_errors.SSLError,), _untrusted),
    (_NO_ANSWER_OF_AWS, _unreachable),
)
"""From the particular to the general: the first that fits speaks."""


def statement_to_add(action: str, resource: str) -> str:
    """The hint for a missing permission.

    Args:
        action: The IAM action.
        resource: What a policy has to name.
    """
    statement = json.dumps({"Effect": "Allow", "Action": action, "Resource": resource})
    return f"Add this statement to the policy of the identity that runs it: {statement}"


def _policy_resource(error: BaseException, resource: str) -> str:
    """What a policy has to name: a name alone would make a statement that IAM refuses."""
    named = _ON_RESOURCE.search(str(error))
    if resource == "*" or resource.startswith("arn:") or named is None:
        return resource
    return named[1]
