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

from botocore import exceptions as botocore_errors

from transforms.errors import AwsAccessError, CredentialsError

__all__ = ["AwsErrorKind", "classify", "error_code", "raise_access_error", "statement_to_add"]


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
    """The identity lacks a right for this action and resource."""
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

_ON_RESOURCE = re.compile(r"on resource: \"?(arn:[^\s\"]+)")

_NO_CREDENTIALS = (
    botocore_errors.CredentialRetrievalError,
    botocore_errors.NoCredentialsError,
    botocore_errors.PartialCredentialsError,
    botocore_errors.SSOError,
    botocore_errors.TokenRetrievalError,
)
_NO_ANSWER = (
    botocore_errors.ChecksumError,
    botocore_errors.ConnectionError,
    botocore_errors.HTTPClientError,
    botocore_errors.IncompleteReadError,
    ConnectionError,
    TimeoutError,
)


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
    """Raises the typed error if a call failed for want of rights or credentials; else returns.

    Args:
        error: What the call raised; it becomes the cause.
        action: The IAM action, e.g. `dynamodb:GetRecords`.
        resource: ARN of what the call was about, or its name: then AWS's answer tells the ARN.
        where: What it was about, in words, if the resource is none for people.

    Raises:
        AwsAccessError: The identity may not do it; the text holds the policy statement to add.
        CredentialsError: Credentials are missing, wrong or expired.
    """
    kind = classify(error)
    if kind is AwsErrorKind.FORBIDDEN:
        raise AwsAccessError(
            f"AWS refused {action}: {error}",
            where=where or resource,
            mend=statement_to_add(action, _policy_resource(error, resource)),
        ) from error
    if kind is AwsErrorKind.CREDENTIALS:
        raise CredentialsError(
            f"AWS did not accept the credentials for {action}: {error}",
            where=where or resource,
            mend=(
                "Check AWS_PROFILE, the AWS_* environment variables, the role of this machine "
                "and its clock; renew an expired session"
            ),
        ) from error


def statement_to_add(action: str, resource: str) -> str:
    """The mend of a missing right.

    Args:
        action: The IAM action.
        resource: What a policy has to name.
    """
    statement = json.dumps({"Effect": "Allow", "Action": action, "Resource": resource})
    return f"Add this statement to the policy of the identity that runs it: {statement}"


def _policy_resource(error: BaseException, resource: str) -> str:
    """What a policy has to name: a name alone would make a statement that IAM refuses."""
    told = _ON_RESOURCE.search(str(error))
    if resource == "*" or resource.startswith("arn:") or told is None:
        return resource
    return told[1]
