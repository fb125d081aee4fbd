# SPDX-License-Identifier: Apache-2.0
"""Beam's S3 reader over one boto3 client per process instead of one per call.

Beam's S3 filesystem makes a new boto3 session and client for every single operation, which costs
about 100 ms each, a hundred times the request itself; an export has thousands of files. boto3
clients are safe to share between threads; what is not is the download stream that Beam's wrapper
keeps, so every caller gets a wrapper of its own. And if S3 is to be used as a role, that client has
the role's credentials, which renew themselves; Beam's own options know only fixed keys.
"""

from __future__ import annotations

import contextlib
import copy
import os
import threading
from collections.abc import Mapping, MutableMapping
from typing import Any

import boto3
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions, S3Options
from botocore import exceptions as botocore_errors
from botocore.config import Config

from dynabeam.transforms.aws.errors import explained
from dynabeam.transforms.aws.log_secrets import keep_secrets_out_of_logs
from dynabeam.transforms.aws.roles import Role
from dynabeam.transforms.aws.session import AwsAccess
from dynabeam.transforms.aws.web_identity import (
    DEFAULT_AUDIENCE,
    NO_WEB_IDENTITY,
    WebIdentity,
)
from dynabeam.transforms.errors import AwsUnreachableError, DynabeamError

__all__ = [
    "S3RoleOptions",
    "fill_s3_options",
    "hand_down",
    "own_access",
    "read_object",
    "s3_arguments",
    "s3_client",
    "s3_io",
    "whole_object",
]

_INHERITED = {
    "s3_role_arn": "DYNABEAM_S3_ROLE_ARN",
    "s3_external_id": "DYNABEAM_S3_EXTERNAL_ID",
    "s3_web_identity": "DYNABEAM_WEB_IDENTITY",
    "s3_web_identity_role_arn": "DYNABEAM_WEB_IDENTITY_ROLE_ARN",
    "s3_web_identity_audience": "DYNABEAM_WEB_IDENTITY_AUDIENCE",
}
"""Options of `S3RoleOptions` → variables that stand for them where there are no options."""
_ROLE_NAMES = ("s3_role_arn", "s3_external_id")
_IDENTITY_NAMES = ("s3_web_identity", "s3_web_identity_role_arn", "s3_web_identity_audience")
_S3_CONFIG = Config(
    # With boto3's growing pauses: two minutes at most until it is said that nothing answers.
    connect_timeout=5,
    read_timeout=60,
    retries={"mode": "standard", "max_attempts": 8},
)

_BODY_TRIES = 5
"""How often an object is requested whose content breaks off."""

_BROKEN_OFF = (botocore_errors.ResponseStreamingError, botocore_errors.IncompleteReadError)

keep_secrets_out_of_logs()

_lock = threading.Lock()
_clients: dict[str, Any] = {}
_plain_clients: dict[tuple[str, int], Any] = {}
_last: list[tuple[Any, dict[str, Any], str] | None] = [None]
"""The options of the last call, with what was made of them: parsing them costs."""


class S3RoleOptions(PipelineOptions):
    """Options of Beam's kind that say as whom S3 is used; they reach every worker."""

    @classmethod
    def _add_argparse_args(cls, parser: Any) -> None:
        parser.add_argument("--s3_role_arn", default=None, help="role to assume for S3")
        parser.add_argument("--s3_external_id", default=None, help="external id of that role")
        parser.add_argument("--s3_web_identity", default=None, help="who says who we are: google")
        parser.add_argument("--s3_web_identity_role_arn", default=None, help="role for its tokens")
        parser.add_argument("--s3_web_identity_audience", default=None, help="audience of these")


def s3_arguments(access: AwsAccess | None) -> list[str]:
    """Beam's arguments with the endpoint, region and role of S3, for its S3 filesystem and ours."""
    if access is None:
        return []
    return [f"--{name}={value}" for name, value in _settings_of(access).items() if value]


def _settings_of(access: AwsAccess) -> dict[str, str]:
    return {
        "s3_endpoint_url": access.endpoint_url,
        "s3_region_name": access.region,
        "s3_role_arn": access.bucket_role.arn,
        "s3_external_id": access.bucket_role.external_id,
        "s3_web_identity": access.web_identity.provider,
        "s3_web_identity_role_arn": access.web_identity.role_arn,
        "s3_web_identity_audience": access.web_identity.audience if access.web_identity else "",
    }


def fill_s3_options(options: PipelineOptions, access: AwsAccess) -> None:
    """Sets the options of `s3_arguments` in a pipeline's options, where they are not given."""
    of_beam, of_role = options.view_as(S3Options), options.view_as(S3RoleOptions)
    for name, value in _settings_of(access).items():
        view = of_beam if hasattr(of_beam, name) else of_role
        if value and not getattr(view, name):
            setattr(view, name, value)
    _last[0] = None  # it knows the options by identity, and they say something else now


def hand_down(access: AwsAccess | None, environment: MutableMapping[str, str]) -> None:
    """Hands endpoint, region, web identity and the bucket's role down by the environment.

    The worker processes of the in-process runner get no pipeline options for their filesystems;
    boto3 reads the first two of these variables by itself, `s3_io` the others.
    """
    given = {
        "AWS_ENDPOINT_URL": access.endpoint_url if access else "",
        "AWS_DEFAULT_REGION": access.region if access else "",
    }
    environment.update({name: value for name, value in given.items() if value})
    settings = _settings_of(access) if access else {}
    for name, variable in _INHERITED.items():
        environment.pop(variable, None)
        if settings.get(name):
            environment[variable] = settings[name]


def own_access(region: str) -> AwsAccess:
    """AWS in a region as who this process is, by the present pipeline options; without a role."""
    _, settings, _ = _present()
    return AwsAccess(
        region=region,
        endpoint_url=settings.get("s3_endpoint_url") or "",
        web_identity=_web_identity(settings),
    )


def s3_io() -> Any:
    """An `apache_beam.io.aws.s3io.S3IO` for the present pipeline options.

    Endpoint, region, role and the like come from the options `--s3_…`, credentials from boto3's
    chain, as for Beam's own S3 filesystem.
    """
    # Here, so that whoever does not use S3 does not wait for its imports.
    from apache_beam.io.aws.clients.s3.boto3_client import Client  # noqa: PLC0415
    from apache_beam.io.aws.s3io import S3IO  # noqa: PLC0415

    options, settings, key = _present()
    with _lock:
        if key not in _clients:
            made = Client(options)
            made.client = _without_silence(_new_client(settings, _S3_CONFIG))
            _clients[key] = made
        shared = _clients[key]
    return S3IO(client=copy.copy(shared))


class _NoAnswerError(AwsUnreachableError):
    """S3 has not answered any of several requests, so Beam is not to ask again for minutes.

    Beam's client asks again, for nine minutes and without a word, unless an error has a status.
    """

    response: Mapping[str, Any] = {"ResponseMetadata": {"HTTPStatusCode": 0}}


def _without_silence(client: Any) -> Any:
    """The client, whose calls end with an error that says so if nothing answers."""
    call = client._make_api_call

    def made(operation: str, arguments: Any) -> Any:
        try:
            return call(operation, arguments)
        except DynabeamError as refused:
            # Of the credentials. With a status, else Beam asks again for nine minutes.
            refused.__dict__["response"] = _NoAnswerError.response
            raise
        except (botocore_errors.ConnectionError, botocore_errors.HTTPClientError) as problem:
            error = explained(problem)
            raise _NoAnswerError(
                f"{operation}: {problem}",
                where=client.meta.endpoint_url,
                hint=error.hint if error is not None else "",
            ) from problem

    client._make_api_call = made
    return client


def s3_client(config: Config) -> Any:
    """A boto3 client for S3 with the endpoint, region, role and keys of `s3_io`.

    Args:
        config: Timeouts and retries; one object per kind of use, as clients are kept by it.
    """
    _, settings, key = _present()
    with _lock:
        if (key, id(config)) not in _plain_clients:
            _plain_clients[key, id(config)] = _new_client(settings, config)
        return _plain_clients[key, id(config)]


def whole_object(client: Any, **request: Any) -> tuple[Mapping[str, Any], bytes]:
    """The answer of GetObject and its content, which is requested again if it breaks off.

    boto3 sends a request again until an answer begins; what breaks off later is left to the caller.

    Args:
        client: A boto3 client for S3.
        request: The parameters of GetObject.

    Raises:
        ClientError: As GetObject.
        BotoCoreError: As GetObject; the content broke off again and again.
    """
    for _ in range(_BODY_TRIES - 1):
        with contextlib.suppress(*_BROKEN_OFF):
            return read_object(client, request)
    return read_object(client, request)


def read_object(client: Any, request: Mapping[str, Any]) -> tuple[Mapping[str, Any], bytes]:
    """As `whole_object`, with a single request."""
    answer = client.get_object(**request)
    return answer, answer["Body"].read()


def _present() -> tuple[Any, dict[str, Any], str]:
    """The present pipeline options, what they say of S3, and that as a key."""
    options = FileSystems.get_filesystem("s3://")._options
    if options is None:
        options = PipelineOptions([])
    seen = _last[0]
    if seen is None or seen[0] is not options:
        settings = _settings(options)
        seen = _last[0] = (options, settings, repr(sorted(settings.items())))
    return seen


def _new_client(settings: dict[str, Any], config: Config) -> Any:
    if settings.get("s3_role_arn") or settings.get("s3_web_identity"):
        return _as_role(settings, config)
    keys = ("access_key_id", "secret_access_key", "session_token")
    return boto3.session.Session().client(
        "s3",
        region_name=settings.get("s3_region_name"),
        endpoint_url=settings.get("s3_endpoint_url"),
        api_version=settings.get("s3_api_version"),
        use_ssl=not settings.get("s3_disable_ssl", False),
        verify=settings.get("s3_verify"),
        config=config,
        **{f"aws_{name}": settings.get(f"s3_{name}") for name in keys},
    )


def _settings(options: Any) -> dict[str, Any]:
    if isinstance(options, PipelineOptions):
        options = {
            **options.view_as(S3Options).get_all_options(drop_default=True),
            **options.view_as(S3RoleOptions).get_all_options(drop_default=True),
        }
    found = {name: options[name] for name in options if name.startswith("s3_")}
    for group in (_ROLE_NAMES, _IDENTITY_NAMES):
        # Of a role and its id, or an identity and its facts, all come from the same place.
        if not found.get(group[0]) and os.environ.get(_INHERITED[group[0]]):
            found.update({name: os.environ.get(_INHERITED[name], "") for name in group})
    return found


def _web_identity(settings: Mapping[str, Any]) -> WebIdentity:
    if not settings.get("s3_web_identity"):
        return NO_WEB_IDENTITY
    return WebIdentity(
        settings["s3_web_identity"],
        settings.get("s3_web_identity_role_arn") or "",
        settings.get("s3_web_identity_audience") or DEFAULT_AUDIENCE,
    )


def _as_role(settings: dict[str, Any], config: Config | None = None) -> Any:
    """A client for S3 as a role, or as a web identity."""
    access = AwsAccess(
        region=settings.get("s3_region_name") or "",
        endpoint_url=settings.get("s3_endpoint_url") or "",
        bucket_role=Role(settings.get("s3_role_arn") or "", settings.get("s3_external_id") or ""),
        web_identity=_web_identity(settings),
    )
    return access.new_client("s3", config)
