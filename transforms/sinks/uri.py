# SPDX-License-Identifier: Apache-2.0
"""The URI that names a sink, in SQLAlchemy's habit: `duckdb:///mirror.duckdb?layout=unpacked`.

Three slashes start a relative path, four an absolute one for database files
(`duckdb:////data/mirror.duckdb`); `file:///out` follows the same habit. Secrets are written by
reference (`${env:NAME}`, `${file:PATH}`) and are resolved only at the moment of use, so a `SinkUri`
may be logged, shown and pickled.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Collection, Mapping
from urllib.parse import parse_qsl, unquote, urlsplit

from transforms.errors import ConfigurationError
from transforms.telemetry.secrets import remember_secret

__all__ = ["SinkUri", "parse_sink_uri", "resolve_secrets"]

_REFERENCE = re.compile(r"\$\{(env|file):([^}]+)\}")


@dataclasses.dataclass(frozen=True)
class SinkUri:
    """A parsed sink URI.

    Attributes:
        scheme: Lower-case scheme; it selects the sink.
        authority: Host, port and user, or bucket; empty for local files.
        path: Decoded path without the slash that follows the authority: `out` of `file:///out`,
            `/data/out` of `file:////data/out`.
        options: The query's parameters, in order of appearance.
        text: The URI as written (references unresolved).
    """

    scheme: str
    authority: str
    path: str
    options: tuple[tuple[str, str], ...]
    text: str

    def __str__(self) -> str:
        return self.text

    def option(self, name: str, default: str) -> str:
        """The last value given for an option, else `default`."""
        return dict(self.options).get(name, default)

    def choice(self, name: str, default: str, allowed: Collection[str]) -> str:
        """An option that must be one of `allowed`.

        Raises:
            ConfigurationError: If it is something else.
        """
        value = self.option(name, default)
        if value not in allowed:
            raise ConfigurationError(
                f"unknown value for {name}",
                where=f"--sink={self.text}",
                expected=" | ".join(sorted(allowed)),
                found=value,
            )
        return value

    def refuse_unknown(self, known: Collection[str]) -> None:
        """Checks that only known options are given.

        Raises:
            ConfigurationError: If another one is.
        """
        for name, _ in self.options:
            if name not in known:
                raise ConfigurationError(
                    "unknown option in the sink's URI",
                    where=f"--sink={self.text}",
                    expected=" | ".join(sorted(known)),
                    found=name,
                )


def parse_sink_uri(text: str) -> SinkUri:
    """Parses a sink URI.

    Raises:
        ConfigurationError: If it has no scheme, or holds a password in clear.
    """
    parts = urlsplit(text)
    if not parts.scheme or "://" not in text:
        raise ConfigurationError(
            "not a sink URI",
            where="--sink",
            found=text,
            mend="Write scheme://place, e.g. duckdb:///mirror.duckdb or file:///out?format=parquet",
        )
    if parts.password and not _REFERENCE.fullmatch(unquote(parts.password)):
        raise ConfigurationError(
            "the URI holds a password in clear",
            where=f"--sink={parts.scheme}://{parts.hostname or ''}",
            mend="Write it by reference, e.g. user:${env:PGPASSWORD}@host",
        )
    return SinkUri(
        scheme=parts.scheme.lower(),
        authority=parts.netloc,
        path=unquote(parts.path.removeprefix("/")),
        options=tuple(parse_qsl(parts.query, keep_blank_values=True)),
        text=text,
    )


def resolve_secrets(text: str, environment: Mapping[str, str] | None = None) -> str:
    """Replaces `${env:NAME}` and `${file:PATH}` by what they refer to, and keeps that out of logs.

    Raises:
        ConfigurationError: If a variable is not set or a file cannot be read.
    """
    variables = os.environ if environment is None else environment

    def value(match: re.Match[str]) -> str:
        secret = looked_up(match)
        remember_secret(secret)
        return secret

    def looked_up(match: re.Match[str]) -> str:
        kind, name = match.groups()
        if kind == "env":
            if name not in variables:
                raise ConfigurationError("the environment variable is not set", where=match[0])
            return variables[name]
        try:
            with open(name, encoding="utf-8") as file:
                return file.read().strip()
        except OSError as error:
            raise ConfigurationError(
                f"the secret's file cannot be read: {error.strerror}", where=match[0]
            ) from error

    return _REFERENCE.sub(value, text)
