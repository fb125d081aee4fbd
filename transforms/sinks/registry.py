# SPDX-License-Identifier: Apache-2.0
"""Which scheme is which sink, and whether the sinks fit the run.

A sink's module is imported when a URI names its scheme, never before: who writes files needs no
database driver. A new sink is one folder and one line in `SINKS`.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping, Sequence

from dynabeam.transforms.errors import ConfigurationError, SinkError
from dynabeam.transforms.sinks.base import Sink
from dynabeam.transforms.sinks.uri import parse_sink_uri
from dynabeam.transforms.storage import filesystem

__all__ = [
    "SINKS",
    "RunnerFacts",
    "SinkModule",
    "check_capabilities",
    "check_place",
    "open_sink",
    "schemes",
]


@dataclasses.dataclass(frozen=True)
class SinkModule:
    """Where a sink's class is.

    Attributes:
        module: Module to import.
        name: Name of the class in it.
        extra: Optional set of packages that it needs; empty if the package itself brings them.
    """

    module: str
    name: str
    extra: str = ""


_FILES = SinkModule("dynabeam.transforms.sinks.files.changelog", "FileChangelog")
_POSTGRESQL = SinkModule(
    "dynabeam.transforms.sinks.postgresql.mirror", "PostgreSQLMirror", extra="postgres"
)

SINKS: Mapping[str, SinkModule] = {
    "duckdb": SinkModule("dynabeam.transforms.sinks.duckdb.mirror", "DuckDBMirror", extra="duckdb"),
    "file": _FILES,
    "s3": _FILES,
    "gs": dataclasses.replace(_FILES, extra="dataflow"),
    "postgres": _POSTGRESQL,
    "postgresql": _POSTGRESQL,
}


@dataclasses.dataclass(frozen=True)
class RunnerFacts:
    """What a run is like, as far as sinks care.

    Attributes:
        runner: Name of the runner, for the error's text.
        continuous: The run never ends; otherwise it is one catch-up round.
        shares_disk: Every worker sees the disk of the machine that starts the run.
    """

    runner: str
    continuous: bool
    shares_disk: bool


def schemes() -> list[str]:
    """The schemes of all known sinks, sorted."""
    return sorted(SINKS)


def open_sink(text: str) -> Sink:
    """Makes the sink that a URI names; nothing is connected or read yet.

    Raises:
        ConfigurationError: If the URI or one of its options is wrong, or its scheme is unknown.
        SinkError: If the packages that the sink needs are not installed.
    """
    uri = parse_sink_uri(text)
    entry = SINKS.get(uri.scheme)
    if entry is None:
        raise ConfigurationError(
            "no sink has this scheme",
            where=f"--sink={text}",
            expected=" | ".join(schemes()),
            found=uri.scheme,
            hint="For a folder whose name has a colon in it write ./ in front",
        )
    try:
        module = importlib.import_module(entry.module)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.partition(".")[0] == "dynabeam":
            raise
        package = f"dynabeam[{entry.extra}]" if entry.extra else "dynabeam"
        raise SinkError(
            f"the package {error.name!r} is not installed",
            where=f"--sink={text}",
            hint=f"pip install '{package}'",
        ) from error
    sink = getattr(module, entry.name)(uri)
    assert isinstance(sink, Sink)
    return sink


def check_capabilities(sinks: Sequence[Sink], facts: RunnerFacts) -> None:
    """Compares what the sinks can do with the run that was asked for.

    Raises:
        ConfigurationError: If there is no sink, two sinks share one place, a sink cannot be written
            without rounds, or a sink is on a disk that the workers do not see.
    """
    if not sinks:
        raise ConfigurationError("no sink is given", where="--sink", expected=schemes())
    places: dict[str, Sink] = {}
    for sink in sinks:
        other = places.setdefault(sink.place, sink)
        if other is not sink:
            raise ConfigurationError(
                "two sinks write to one place",
                where=f"--sink={sink.name}",
                found=f"--sink={other.name}",
                hint="Give each its own path",
            )
        if facts.continuous and not sink.capabilities.continuous:
            raise ConfigurationError(
                "this sink is written in rounds, and a continuous run has none",
                where=f"--sink={sink.name}",
                hint="Use --mode=catch_up with --every, or another sink",
            )
        check_place(sink.place, facts, f"--sink={sink.name}")


def check_place(place: str, facts: RunnerFacts, option: str) -> None:
    """Refuses a place of this machine's disk that the run's workers write, and do not see.

    Args:
        place: A path, or the URL of an object store.
        facts: What the run is like.
        option: What names the place, for the error's text.

    Raises:
        ConfigurationError: They would write to disks of their own, and nobody would notice.
    """
    if filesystem.is_local(place) and not facts.shares_disk:
        raise ConfigurationError(
            f"the workers of {facts.runner} do not see this machine's disk",
            where=option,
            found=place,
            hint="Name an object store (s3:// or gs://), or a runner of this machine",
        )
