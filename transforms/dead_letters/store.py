# SPDX-License-Identifier: Apache-2.0
"""The dead letters of a state directory; rounds and continuous runs share them.

| path below `<state_dir>/dead_letters` | what |
|---|---|
| `letters/*.jsonl` | pieces of many lines: dead letters, and which of them are done |
| `done/*.jsonl` | dead letters that were replayed; nothing needs them, they may be deleted |
| `stopped.jsonl` | dead letters of the round that `--max_dead_letters` stopped; not committed |
| `retry/`, `severe/` | a file each, of older versions; `round-*.jsonl` and `../continuous/` too |

A piece is written whole and never changed, so writers of one folder need not know of each other. A
dead letter that comes again is another line with the same id, which says how often it was tried,
and when first: the newest line counts. Many pieces are merged into one without superseded lines.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, NamedTuple

from dynabeam.transforms.errors import StateError
from dynabeam.transforms.model.dead_letter import DeadLetter
from dynabeam.transforms.runtime.clock import machine_us
from dynabeam.transforms.runtime.stored_format import damage_told, parse_object, typed_fields
from dynabeam.transforms.storage import filesystem

__all__ = ["DeadLetterStore"]

_OPEN: tuple[Literal["retry", "severe"], ...] = ("retry", "severe")
_LETTERS = "letters"
_DONE = "done"
_STOPPED = "stopped.jsonl"
_DONE_LINE = b'{"done":'
_PIECE_BYTES = 8 << 20
_SHOWN = 1000
_PIECES = 64
"""Pieces before they are made one."""


class _Entry(NamedTuple):
    """Where the newest line of a letter is, and what has to be known without reading it."""

    table: str
    severity: str
    attempts: int
    first_us: int
    last_us: int
    path: str
    place: int


@dataclasses.dataclass(frozen=True)
class _Done:
    """A line that marks a dead letter as done, with its newest time."""

    done: str
    last_us: int


_RESTORE = "Restore the file from a copy; moving it away loses the dead letters in it"


class DeadLetterStore:
    """Reads, keeps and sets aside dead letters. Picklable; not for several threads at once.

    Args:
        state_dir: The state directory.
    """

    def __init__(self, state_dir: str) -> None:
        self._state_dir = state_dir
        self.path = filesystem.join(state_dir, "dead_letters")
        self._seen: dict[str, dict[str, _Entry]] = {}
        self._done: dict[str, dict[str, int]] = {}
        self._closed: dict[str, int] = {}
        self._last_read: tuple[str, list[bytes]] = ("", [])

    def keep(self, letters: Iterable[DeadLetter], *, max_retries: int = 0) -> int:
        """Stores letters as open ones; repeating it changes nothing.

        Args:
            letters: What could not be handled.
            max_retries: A letter that was tried again so many times, in vain, becomes severe; 0
                for no such limit.

        Returns:
            How many letters are open that were not before.

        Raises:
            StateError: They cannot be written.
        """
        known = self._index()
        new: set[str] = set()
        lines: list[bytes] = []
        size = 0
        for letter in letters:
            before = known.get(letter.id)
            met_us = self._closed.get(letter.id, -1) if before is None else before.last_us
            if met_us >= letter.last_us:
                # The same attempt reported twice, as after a crash, counts once.
                continue
            stored = letter if before is None else _again(letter, before)
            if max_retries and stored.attempts > max_retries:
                stored = dataclasses.replace(stored, severity="severe")
            if before is None:
                new.add(letter.id)
            known[letter.id] = _entry(stored, "", 0)
            line = stored.to_line()
            lines.append(line)
            size += len(line)
            if size >= _PIECE_BYTES:
                self._write(_LETTERS, lines)
                lines, size = [], 0
        self._write(_LETTERS, lines)
        self._fold()
        return len(new)

    def is_open(self, letter: DeadLetter) -> bool:
        """Whether the letter is stored, and not done."""
        return letter.id in self._index()

    def open_ids(self) -> frozenset[str]:
        """The ids of all open letters."""
        return frozenset(self._index())

    def done(self, letters: Iterable[tuple[str, str]]) -> None:
        """Sets aside dead letters that were replayed; repeating it changes nothing.

        Args:
            letters: Table and id of each.
        """
        known = self._index()
        found = {name: known[name] for _, name in letters if name in known}
        if not found:
            return
        # Set aside first, so that a crash leaves a letter twice, never not at all.
        self._write(_DONE, [self._line(each) for each in found.values()])
        self._write(_LETTERS, [_done_line(name, each) for name, each in found.items()])
        self._fold()

    def names(self, *severities: str) -> list[tuple[str, str]]:
        """Table and id of the open letters, in this order within a severity.

        Args:
            severities: `retry`, `severe` or both.
        """
        known = self._index()
        return [
            pair
            for severity in severities or _OPEN
            for pair in sorted(
                (each.table, name) for name, each in known.items() if each.severity == severity
            )
        ]

    def load(self, table: str, name: str) -> DeadLetter | None:
        """An open letter; None if there is none of this table and id.

        Raises:
            StateError: It cannot be read, or is damaged.
        """
        found = self._index().get(name)
        if found is None or found.table != table:
            return None
        return DeadLetter.from_line(self._line(found), where=found.path)

    def read(self) -> Iterator[DeadLetter]:
        """Reads the open letters, piece after piece, those of format 0 last."""
        for entry in sorted(self._index().values(), key=lambda each: (each.path, each.place)):
            yield DeadLetter.from_line(self._line(entry))
        for path in self._old_files():
            yield from _lines_of(path)

    def counts(self) -> dict[str, int]:
        """How many letters are open, by table."""
        found = collections.Counter(each.table for each in self._index().values())
        for path in self._old_files():
            found.update(each.table for each in _lines_of(path))
        return dict(found)

    def convert_old(self, convert: Callable[[DeadLetter], DeadLetter]) -> None:
        """Puts letters of format 0 among the others; repeating it changes nothing.

        Args:
            convert: Adds what such a letter does not say.
        """
        for path in self._old_files():
            self.keep(convert(each) for each in _lines_of(path))
            filesystem.delete([path], StateError)

    def stop(self, letters: Iterable[DeadLetter]) -> str:
        """Shows letters of a round that is not committed because of them: the first, if many.

        Returns:
            The path of the file that shows them.
        """
        path = filesystem.join(self.path, _STOPPED)
        lines: list[bytes] = []
        size = 0
        for each in itertools.islice(letters, _SHOWN):
            lines.append(each.to_line())
            size += len(lines[-1])
            if size >= _PIECE_BYTES:
                break
        filesystem.write_atomic(path, b"".join(lines), StateError)
        return path

    def stopped(self) -> Iterator[DeadLetter]:
        """What `stop` shows."""
        path = filesystem.join(self.path, _STOPPED)
        if filesystem.exists(path):
            yield from _lines_of(path)

    def go_on(self) -> None:
        """Forgets what `stop` showed: its round was repeated, and is committed."""
        path = filesystem.join(self.path, _STOPPED)
        if filesystem.exists(path):
            filesystem.delete([path], StateError)

    def __getstate__(self) -> dict[str, Any]:
        return {"_state_dir": self._state_dir}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_state_dir"])  # type: ignore[misc]

    def _index(self) -> dict[str, _Entry]:
        """Id → its newest line, of all open letters. Pieces that were read once are not again."""
        self._look_into_all()
        self._closed = {}
        for name, last_us in (pair for each in self._done.values() for pair in each.items()):
            self._closed[name] = max(last_us, self._closed.get(name, -1))
        newest: dict[str, _Entry] = {}
        for name, entry in (pair for each in self._seen.values() for pair in each.items()):
            known = newest.get(name)
            if known is None or _age(known) < _age(entry):
                newest[name] = entry
        return {
            name: each for name, each in newest.items() if self._closed.get(name, -1) < each.last_us
        }

    def _look_into_all(self) -> None:
        while True:
            paths = self._pieces()
            for each in [each for each in self._seen if each not in paths]:
                del self._seen[each], self._done[each]
            if all(self._look_into(each) for each in paths):
                return

    def _pieces(self) -> list[str]:
        """Paths of all pieces, and of the files of older versions that hold a letter each."""
        found = filesystem.list_files(filesystem.join(self.path, _LETTERS))
        paths = [each for each in found if each.endswith(".jsonl")]
        for severity in _OPEN:
            old = filesystem.list_files(filesystem.join(self.path, severity))
            paths += [each for each in old if each.endswith(".json")]
        return paths

    def _look_into(self, path: str) -> bool:
        """Reads what a piece says; false if another process has made it part of another one."""
        if path in self._seen:
            return True
        if not filesystem.exists(path):
            return False
        letters: dict[str, _Entry] = {}
        done: dict[str, int] = {}
        for place, line in enumerate(filesystem.read_bytes(path, StateError).splitlines()):
            if line.startswith(_DONE_LINE):
                with damage_told("a piece of dead letters", where=path, hint=_RESTORE):
                    mark = typed_fields(_Done, parse_object(line))
                done[mark.done] = mark.last_us
                continue
            letter = DeadLetter.from_line(line, where=path)
            letters[letter.id] = _entry(letter, path, place)
        self._seen[path], self._done[path] = letters, done
        return True

    def _line(self, entry: _Entry) -> bytes:
        path, lines = self._last_read
        if path != entry.path:
            lines = filesystem.read_bytes(entry.path, StateError).splitlines(keepends=True)
            self._last_read = (entry.path, lines)
        return lines[entry.place]

    def _write(self, folder: str, lines: list[bytes]) -> None:
        if lines:
            name = f"{machine_us():019d}-{uuid.uuid4().hex[:8]}.jsonl"
            path = filesystem.join(self.path, folder, name)
            filesystem.write_atomic(path, b"".join(lines), StateError)

    def _fold(self) -> None:
        """Makes many pieces one, or as few as their size allows."""
        known = self._index()
        paths = list(self._seen)
        if len(paths) <= _PIECES:
            return
        lines: list[bytes] = []
        size = 0
        for entry in sorted(known.values(), key=lambda each: (each.path, each.place)):
            lines.append(self._line(entry))
            size += len(lines[-1])
            if size >= _PIECE_BYTES:
                self._write(_LETTERS, lines)
                lines, size = [], 0
        # What is done stays said: another writer may have a letter in hand that it is about.
        lines += [_done_line(name, last_us) for name, last_us in self._closed.items()]
        self._write(_LETTERS, lines)
        filesystem.delete(paths, StateError)

    def _old_files(self) -> list[str]:
        rounds = filesystem.list_files(self.path)
        continuous = filesystem.list_files(filesystem.join(self._state_dir, "continuous"))
        in_rounds = [each for each in rounds if os.path.basename(each).startswith("round-")]
        in_jobs = [each for each in continuous if _folder_of(each) == "dead_letters"]
        return [each for each in (*in_rounds, *in_jobs) if each.endswith(".jsonl")]


def _again(letter: DeadLetter, before: _Entry) -> DeadLetter:
    return dataclasses.replace(
        letter, attempts=before.attempts + 1, first_us=before.first_us or letter.first_us
    )


def _entry(letter: DeadLetter, path: str, place: int) -> _Entry:
    return _Entry(
        letter.table,
        letter.severity,
        letter.attempts,
        letter.first_us,
        letter.last_us,
        path,
        place,
    )


def _age(entry: _Entry) -> tuple[int, int, bool]:
    """The order of the lines of one letter: severe, if a crash left both."""
    return entry.last_us, entry.attempts, entry.severity == "severe"


def _done_line(name: str, entry: _Entry | int) -> bytes:
    last_us = entry if isinstance(entry, int) else entry.last_us
    return b'%b"%b","last_us":%d}\n' % (_DONE_LINE, name.encode(), last_us)


def _folder_of(path: str) -> str:
    return os.path.basename(os.path.dirname(path))


def _lines_of(path: str) -> Iterator[DeadLetter]:
    for line in filesystem.read_bytes(path, StateError).splitlines():
        yield DeadLetter.from_line(line, where=path)
