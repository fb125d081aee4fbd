# SPDX-License-Identifier: Apache-2.0
"""How clients for AWS are made on every worker: region, endpoint and credentials by reference.

`AwsAccess` travels inside pickled transforms and into display data, so it never holds a secret:
keys come from boto3's own chain (environment, profile, role), explicit ones by the *names* of the
environment variables that hold them; or another provider's token stands in place of keys
(`transforms.aws.web_identity`). With those a role may be assumed, one for tables and another one
for buckets (`transforms.aws.roles`).
"""

from __future__ import annotations

import dataclasses
import getpass
import os
import sys
import threading
from collections.abc import Mapping
from typing import Any

import boto3
import botocore.session
from botocore.config import Config
from botocore.credentials import CredentialProvider, CredentialResolver
from botocore.exceptions import BotoCoreError, IncompleteReadError, NoCredentialsError

from dynabeam.transforms.aws.log_secrets import keep_secrets_out_of_logs
from dynabeam.transforms.aws.roles import NO_ROLE, Role, refreshing_credentials
from dynabeam.transforms.aws.web_identity import (
    FILE_METHOD,
    NO_WEB_IDENTITY,
    WebIdentity,
    check_token_file,
    web_identity_credentials,
)
from dynabeam.transforms.errors import ConfigurationError, CredentialsError
from dynabeam.transforms.runtime.clock import machine_us, observe

__all__ = ["AwsAccess", "client", "repeat_cut_answers"]

_CONNECT_SECONDS = 5
_READ_SECONDS = 30
_ATTEMPTS = 5
_POOL = 64
_CUT_ANSWER_DELAY = 0.1
_SENT = "dynabeam_sent_us"
_SETS_CLOCK = frozenset({"dynamodb", "dynamodbstreams"})
"""Services whose answers set the wall clock: theirs are the times that are compared with it."""

# At import, because Beam's filesystems make clients of their own in every process that reads.
keep_secrets_out_of_logs()

_lock = threading.Lock()
_clients: dict[tuple[AwsAccess, str], Any] = {}
_assuming = threading.RLock()
"""Held again by the same thread when a role's external id is a secret that AWS keeps."""
_sessions_of_profiles: dict[str, Any] = {}
"""What botocore keeps of roles that profiles name, by its own key of profile and role."""
_assumed: dict[tuple[AwsAccess, Role], Any] = {}
_identified: dict[tuple[WebIdentity, str, str], Any] = {}
"""Credentials by identity, region and endpoint: tables and buckets share them."""


@dataclasses.dataclass(frozen=True)
class AwsAccess:
    """Where and as whom AWS is called; picklable, comparable, free of secrets.

    Attributes:
        region: AWS region, e.g. `eu-west-1`; empty for boto3's default.
        endpoint_url: One endpoint for DynamoDB, its streams, S3 and STS (a simulator or a private
            endpoint); empty for AWS's own.
        access_key_id_env: Name of the environment variable with the access key id.
        secret_access_key_env: Name of the environment variable with the secret key.
        session_token_env: Name of the environment variable with the session token.
        role: Role to assume for DynamoDB and its streams, also to request exports.
        bucket_role: Role to assume for S3; without one S3 is used as who the process is.
        web_identity: Who the process is, if another provider says so and not boto3's chain.
    """

    region: str = ""
    endpoint_url: str = ""
    access_key_id_env: str = ""
    secret_access_key_env: str = ""
    session_token_env: str = ""
    role: Role = NO_ROLE
    bucket_role: Role = NO_ROLE
    web_identity: WebIdentity = NO_WEB_IDENTITY

    def _credentials(self) -> dict[str, str]:
        named = {
            "aws_access_key_id": self.access_key_id_env,
            "aws_secret_access_key": self.secret_access_key_env,
            "aws_session_token": self.session_token_env,
        }
        found = {}
        for argument, variable in named.items():
            if not variable:
                continue
            if variable not in os.environ:
                raise CredentialsError(
                    "the environment variable that should hold it is not set on this worker",
                    where=argument,
                    expected=f"${variable}",
                    found=None,
                    hint=f"Set {variable} where the pipeline's workers run",
                )
            found[argument] = os.environ[variable]
        return found

    def new_client(self, service: str, config: Config | None = None) -> Any:
        """Makes a boto3 client: for `s3` as the bucket's role, for all others as the source's.

        A role is assumed at the first call, not here.

        Args:
            service: As boto3 names it.
            config: What differs from the defaults, such as timeouts.

        Raises:
            ConfigurationError: If no region is known.
            CredentialsError: If no credentials are found.
        """
        session = boto3.session.Session(region_name=self.region or None, **self._credentials())
        _ask_for_codes(session)
        if not session.region_name:
            raise ConfigurationError(
                "no AWS region is known", where="--region", hint="Give --region, e.g. eu-west-1"
            )
        region = session.region_name
        if self.web_identity:
            own = self._identified(region)
            session = _session_with(own, region)
        else:
            own = _own_credentials(session)
        role = self.bucket_role if service == "s3" else self.role
        if role:
            session = self._session_of(role, own, region)
        return self._client_of(session, service, config)

    def _identified(self, region: str) -> Any:
        """The credentials of the web identity's role; all of a process share them."""

        def make_sts(service: str, config: Config) -> Any:
            return self._client_of(_session_with(None, region), service, config)

        key = (self.web_identity, region, self.endpoint_url)
        with _assuming:
            if key not in _identified:
                _identified[key] = web_identity_credentials(self.web_identity, make_sts)
            return _identified[key]

    def _session_of(self, role: Role, own: Any, region: str) -> Any:
        """A session as a role; all of a process share the credentials, and so their renewals."""

        def make_sts(service: str, **keys: str) -> Any:
            plain = boto3.session.Session(region_name=region, **keys)
            return self._client_of(plain, service)

        with _assuming:
            if (self, role) not in _assumed:
                _assumed[self, role] = refreshing_credentials(role, own, make_sts)
            credentials = _assumed[self, role]
        return _session_with(credentials, region)

    def _client_of(self, session: Any, service: str, config: Config | None = None) -> Any:
        usual = Config(
            connect_timeout=_CONNECT_SECONDS,
            read_timeout=_READ_SECONDS,
            max_pool_connections=_POOL,
            retries={"mode": "standard", "max_attempts": _ATTEMPTS},
            s3={"addressing_style": "path"} if self.endpoint_url else {},
        )
        made = session.client(
            service,
            endpoint_url=self.endpoint_url or None,
            config=usual if config is None else usual.merge(config),
        )
        event = f"needs-retry.{made.meta.service_model.service_id.hyphenize()}"
        made.meta.events.register(event, repeat_cut_answers, unique_id="dynabeam-cut-answers")
        if service in _SETS_CLOCK:
            name = made.meta.service_model.service_id.hyphenize()
            made.meta.events.register(f"request-created.{name}", _note_sent)
            made.meta.events.register(f"response-received.{name}", _take_time)
        return made


def _session_with(credentials: Any, region: str) -> Any:
    """A session with these credentials, or with none: it looks for no others."""
    core = botocore.session.get_session()
    core.register_component("credential_provider", CredentialResolver([_Given(credentials)]))
    return boto3.session.Session(botocore_session=core, region_name=region)


def _ask_for_codes(session: Any) -> None:
    """Lets a profile whose role wants an MFA code ask once per process, and only a person.

    Each client has a session of its own, and botocore's would each ask for a code.
    """
    provider = session._session.get_component("credential_provider").get_provider("assume-role")
    provider.cache = _sessions_of_profiles
    provider._prompter = _code_of_person


def _code_of_person(prompt: str) -> str:
    if not sys.stdin.isatty():
        raise CredentialsError(
            "the profile's role needs an MFA code, and there is no terminal to enter it",
            where=f"AWS_PROFILE={os.environ.get('AWS_PROFILE', 'default')}",
            hint="Open a session beforehand ('aws sts get-session-token'), or use another role",
        )
    return getpass.getpass(prompt)


def _note_sent(request: Any, **_: Any) -> None:
    """Handler of `request-created`: when this try is sent."""
    request.context[_SENT] = machine_us()


def _take_time(
    response_dict: Mapping[str, Any] | None = None,
    context: Mapping[str, Any] | None = None,
    **_: Any,
) -> None:
    """Handler of `response-received`: what time the service has; errors say it too."""
    sent_us = (context or {}).get(_SENT)
    date = (response_dict or {}).get("headers", {}).get("date")
    if sent_us is not None and date:
        observe(date, sent_us, machine_us())


class _Given(CredentialProvider):
    """Provides credentials that are there already."""

    METHOD = "assume-role"

    def __init__(self, credentials: Any) -> None:
        super().__init__()
        self._credentials = credentials

    def load(self) -> Any:
        return self._credentials


def _own_credentials(session: Any) -> Any:
    """The credentials that this process finds for itself, not looked up again."""
    try:
        found = session.get_credentials()
    except BotoCoreError as error:
        raise CredentialsError(
            f"AWS credentials cannot be loaded: {error}",
            hint="Check AWS_PROFILE, ~/.aws and the role of this machine",
        ) from error
    if found is None:
        raise CredentialsError(
            "no AWS credentials were found",
            hint=(
                "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or run on a "
                "machine with a role; on Google Cloud give --aws_web_identity=google"
            ),
        )
    if getattr(found, "method", "") == FILE_METHOD:
        check_token_file()
    return found


def repeat_cut_answers(
    response: Any = None, operation: Any = None, attempts: int = 1, **_: Any
) -> float | None:
    """Handler of `needs-retry`: asks again if the connection closed within an answer.

    botocore takes half an answer for a whole one: it reads an error's torn text as an error without
    a code, and a torn result as an empty one.

    Returns:
        Seconds to wait before the next try; None if the answer is whole.

    Raises:
        IncompleteReadError: The last try was cut off too.
    """
    if response is None or operation.has_streaming_output or operation.http["method"] == "HEAD":
        return None
    answer = response[0]
    stated = answer.headers.get("content-length") or ""
    # What is no number is no promise: botocore has read until the end then.
    promised = int(stated) if stated.isdecimal() and len(stated) < 20 else 0
    if len(answer.content) >= promised:
        return None
    if attempts >= _ATTEMPTS:
        raise IncompleteReadError(actual_bytes=len(answer.content), expected_bytes=promised)
    return _CUT_ANSWER_DELAY * 2 ** (attempts - 1)


def client(access: AwsAccess, service: str) -> Any:
    """The process-wide boto3 client for a service (boto3 clients are thread-safe).

    Raises:
        ConfigurationError: If no region is known.
        CredentialsError: If no credentials are found.
    """
    with _lock:
        key = (access, service)
        if key not in _clients:
            try:
                _clients[key] = access.new_client(service)
            except NoCredentialsError as error:
                raise CredentialsError("no AWS credentials were found") from error
        return _clients[key]
