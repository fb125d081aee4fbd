# SPDX-License-Identifier: Apache-2.0
"""The URI that names a sink: `duckdb:///mirror.duckdb?layout=unpacked`, `file:///data/orders`.

| written | place |
|---|---|
| `file:///out`, `file:/out`, `file://localhost/out`, `file:////out`, `/out` | the folder `/out` |
| `file:out`, `file:./out`, `./out`, `out` | the folder `out` below the one that one is in |
| `duckdb:///m.duckdb` | the file `m.duckdb` below it |
| `duckdb:////data/m.duckdb` | the file `/data/m.duckdb` |

`file:` is as RFC 8089 says, and as fsspec, pyarrow, Spark and Beam take it. Database files follow
SQLAlchemy (https://docs.sqlalchemy.org/en/20/core/engines.html#sqlite), as `duckdb_engine` does:
three slashes begin a relative path, four an absolute one.

The first `?` begins the options, which `&` separates. Everything before it is the place, `#` too: a
sink's URI has no fragment. `%` begins an escape wherever it stands: `%3F` is a question mark in a
path, `%25` a percent sign. `+` is itself. Nothing in a bare path is escaped; options may follow it.

Secrets are written by reference (`${env:NAME}`, `${file:PATH}`) and are resolved only at the moment
of use, so a `SinkUri` may be logged, shown and pickled.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Collection
from urllib.parse import quote, unquote

from dynabeam.transforms.errors import ConfigurationError
from dynabeam.transforms.secrets import is_reference

__all__ = [
    "SinkUri",
    "local_path",
    "parse_sink_uri",
    "refuse_home",
    "uri_of_path",
]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(//)?")
# Up to the first slash or question mark; a reference to a secret counts as one character.
_AUTHORITY = re.compile(r"(?:\$\{(?:env|file|secret):[^}]+\}|[^/?])*")
_PORTS = re.compile(r"(?:\[[^\]]*\]|[^:])*(?::[0-9]*(?:,(?:\[[^\]]*\]|[^:])*)?)*")
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_DATABASE = (".duckdb", ".ddb", ".db")


@dataclasses.dataclass(frozen=True)
class SinkUri:
    """A parsed sink URI.

    Attributes:
        scheme: Lower-case scheme; it selects the sink.
        authority: Host, port and user, or bucket; empty for local files.
        path: Decoded. Of `file`: the path as it is, `/out` of `file:///out`, `out` of `file:out`.
            Of others without the slash behind the authority: `m.duckdb` of `duckdb:///m.duckdb`,
            `/data/m.duckdb` of `duckdb:////data/m.duckdb`.
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

    def positive(self, name: str, default: int, *, most_digits: int = 18) -> int:
        """An option that must be a positive whole number.

        Raises:
            ConfigurationError: If it is something else.
        """
        text = self.option(name, str(default))
        if not text.isdecimal() or int(text) == 0 or len(text) > most_digits:
            raise ConfigurationError(
                f"{name} is no positive number", where=f"--sink={self.text}", found=text
            )
        return int(text)

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
                    hint="Write %3F for a question mark and %26 for an ampersand in a path",
                )


def parse_sink_uri(text: str) -> SinkUri:
    """Parses a sink URI, or a bare path, which names a folder for a changelog.

    Raises:
        ConfigurationError: If it names no place, an escape in it is none, or it holds a password in
            clear.
    """
    scheme = _SCHEME.match(text)
    if scheme is None:
        return _bare_path(text)
    name = scheme[1].lower()
    if name != "file" and not scheme[2]:
        raise _no_uri(text)
    rest = text[scheme.end() :]
    authority = _AUTHORITY.match(rest) if scheme[2] else None
    written = authority[0] if authority else ""
    place, _, query = rest[len(written) :].partition("?")
    _refuse_clear_password(name, written, rest[len(written) :])
    try:
        path = _decoded(place)
    except ValueError as problem:
        raise _unreadable(text, problem) from problem
    if name == "file":
        written, path = _file_place(written, path)
    else:
        path = path.removeprefix("/")
    return SinkUri(name, written, path, _options(query, text), text)


def uri_of_path(path: str) -> str:
    """The `file:` URI of a folder of this machine, relative if the path is."""
    # Two slashes in front would be read as a host.
    absolute = "//" if path.startswith("/") else ""
    return f"file:{absolute}{quote(path)}"


def local_path(text: str) -> str:
    """A path, or the path that a `file:` URI names; any other URI stays as it is.

    Raises:
        ConfigurationError: If it is a `file:` URI that names no path of this machine.
    """
    if not text.lower().startswith("file:"):
        return text
    uri = parse_sink_uri(text)
    if uri.authority or not uri.path or uri.options:
        raise ConfigurationError(
            "the URI names no folder of this machine",
            found=text,
            hint="Write the path itself, or file:///folder",
        )
    return uri.path


def refuse_home(uri: SinkUri) -> None:
    """Refuses `~`: a shell resolves it at the beginning of a word only, and nobody else does.

    Raises:
        ConfigurationError: If the path begins with it.
    """
    if uri.path == "~" or uri.path.startswith("~/"):
        raise ConfigurationError(
            "~ is not resolved in a URI",
            where=f"--sink={uri.text}",
            found=uri.path,
            hint=f"Write {os.path.expanduser('~')} for it, or ./~ for a folder of this name",
        )


def _bare_path(text: str) -> SinkUri:
    path, _, query = text.partition("?")
    if not path or "\0" in text or path.lower().endswith(_DATABASE):
        raise _no_uri(text)
    return SinkUri("file", "", path, _options(query, text), text)


def _options(query: str, text: str) -> tuple[tuple[str, str], ...]:
    pairs = (each.partition("=") for each in query.split("&") if each)
    try:
        return tuple((_decoded(name), _decoded(value)) for name, _, value in pairs)
    except ValueError as problem:
        raise _unreadable(text, problem) from problem


def _unreadable(text: str, problem: ValueError) -> ConfigurationError:
    return ConfigurationError(
        f"the URI cannot be read: {problem}",
        where="--sink",
        found=text,
        hint="Write a percent sign as %25, a question mark in a path as %3F",
    )


def _no_uri(text: str) -> ConfigurationError:
    return ConfigurationError(
        "not a sink URI",
        where="--sink",
        found=text,
        hint="Write scheme://place, e.g. duckdb:///mirror.duckdb or file:///out?format=parquet",
    )


def _refuse_clear_password(scheme: str, authority: str, rest: str) -> None:
    """Refuses what may be a secret, without showing it."""
    login, _, host = authority.rpartition("@")
    password = login.partition(":")[2]
    if password and not is_reference(unquote(password)):
        raise ConfigurationError(
            "the URI holds a password in clear",
            where=f"--sink={scheme}://{host}",
            hint="Write it by reference, e.g. user:${env:PGPASSWORD}@host",
        )
    # What follows the colon is no port, so it may be the beginning of a password.
    if "@" in rest and not login and not _PORTS.fullmatch(authority):
        raise ConfigurationError(
            "there is an @ after the first slash or question mark: a user or password that holds "
            "one cannot be distinguished from the host",
            where=f"--sink={scheme}://…",
            hint="Write a password by reference, user:${env:PGPASSWORD}@host, and in a user %2F "
            "for a slash and %3F for a question mark",
        )


def _decoded(text: str) -> str:
    """Resolves escapes.

    Raises:
        ValueError: If one is not two hexadecimal digits, or they are no UTF-8 or a zero byte.
    """
    if _ESCAPE.search(text):
        raise ValueError("% begins an escape of two hexadecimal digits")
    try:
        decoded = unquote(text, errors="strict")
    except UnicodeDecodeError as problem:
        raise ValueError("its escapes are not UTF-8") from problem
    if "\0" in decoded:
        raise ValueError("it holds a zero byte")
    return decoded


def _file_place(authority: str, path: str) -> tuple[str, str]:
    """Authority and path of `file:`; this machine's own name is none."""
    if authority.lower() == "localhost":
        authority = ""
    return authority, f"/{path.lstrip('/')}" if path.startswith("/") else path
