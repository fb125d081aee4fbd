# SPDX-License-Identifier: Apache-2.0
"""`dynabeam dead_letters`: what could not be handled, for people, for machines, or one in full.

Reads the state directory only, so it may be given while a run goes on. `dynabeam retry` replays
them.
"""

from __future__ import annotations

import argparse
import base64
import dataclasses
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timezone
from typing import Any, TextIO

from dynabeam.pipelines.options.arguments import beam_arguments, option_strings, parse_known
from dynabeam.pipelines.options.state import add_state_options, named_state_directory
from dynabeam.transforms.dead_letters.store import DeadLetterStore
from dynabeam.transforms.errors import StateError
from dynabeam.transforms.model.dead_letter import DeadLetter
from dynabeam.transforms.printable import printable

__all__ = ["main"]

_STOPPED = "stopped"


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit code.

    Raises:
        StateError: A dead letter cannot be read, or none has this id.
    """
    parser = _parser()
    given, rest = parse_known(parser, arguments)
    beam = beam_arguments(rest, option_strings(parser))
    box = named_state_directory(given, beam).letters
    if given.show:
        sys.stdout.buffer.write(_find(box, given.show).raw + b"\n")
        sys.stdout.buffer.flush()
        return 0
    tables = {name.strip() for text in given.tables for name in text.split(",") if name.strip()}
    letters = [each for each in _all(box) if not tables or each[1].table in tables]
    if given.json:
        _write_json(letters, sys.stdout)
    else:
        _write_text(letters, box.path, sys.stdout)
    return 0


def _all(box: DeadLetterStore) -> Iterator[tuple[str, DeadLetter]]:
    """The dead letters, each with its severity."""
    for letter in box.read():
        yield letter.severity, letter
    for letter in box.stopped():
        yield _STOPPED, letter


def _find(box: DeadLetterStore, name: str) -> DeadLetter:
    found = {each.id: each for _, each in _all(box) if each.id.startswith(name)}
    if len(found) == 1:
        return next(iter(found.values()))
    raise StateError(
        "no dead letter has this id" if not found else "several dead letters begin with this id",
        where="--show",
        found=name,
        hint="dynabeam dead_letters lists them",
    )


def _write_json(letters: Iterable[tuple[str, DeadLetter]], stream: TextIO) -> None:
    """A line of JSON each: the stored fields, `id`, and times in RFC 3339."""
    for severity, letter in letters:
        document: dict[str, Any] = dataclasses.asdict(letter)
        document |= {
            "id": letter.id,
            "severity": severity,
            "first": _time(letter.first_us),
            "last": _time(letter.last_us),
            "raw": base64.b64encode(letter.raw).decode("ascii"),
        }
        stream.write(json.dumps(document, sort_keys=True) + "\n")


def _write_text(letters: Sequence[tuple[str, DeadLetter]], place: str, stream: TextIO) -> None:
    for severity, letter in letters:
        times = f"first {_time(letter.first_us)}, last {_time(letter.last_us)}"
        tries = f"{letter.error or '-'}  {letter.attempts} x"
        lines = (
            f"{letter.id}  {severity:<7}  {letter.table}  {letter.stage}  {tries}  {times}",
            f"    {letter.place}",
            f"    {letter.reason}",
        )
        stream.writelines(f"{printable(line)}\n" for line in lines)
    stopped = sum(severity == _STOPPED for severity, _ in letters)
    stream.write(f"{len(letters) - stopped:,} dead letters in {place}\n")
    if stopped:
        stream.write(
            f"{stopped:,} more of a round that --max_dead_letters stopped: it is not committed, "
            "so the next round reads them again\n"
        )


def _time(micros: int) -> str:
    if not micros:
        return "unknown"
    return datetime.fromtimestamp(micros // 1_000_000, timezone.utc).strftime(
        f"%Y-%m-%dT%H:%M:%S.{micros % 1_000_000:06d}Z"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dynabeam dead_letters",
        description="Show the records that could not be handled.",
        allow_abbrev=False,
    )
    add_state_options(parser)
    add = parser.add_argument
    add("--tables", action="append", default=[], help="only of these tables, commas")
    add("--json", action="store_true", help="a line of JSON for each")
    add("--show", default="", metavar="ID", help="the payload of one, exactly as it was read")
    return parser


if __name__ == "__main__":
    from dynabeam.pipelines.command_line import main as command_line

    sys.exit(command_line(["dead_letters", *sys.argv[1:]]))
