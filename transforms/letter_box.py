# SPDX-License-Identifier: Apache-2.0
"""The dead letters of a state directory, one file each; rounds and continuous runs share them.

| path below `<state_dir>/dead_letters` | what |
|---|---|
| `retry/<table>/<id>.json` | may succeed later as it is |
| `severe/<table>/<id>.json` | needs other data or another version of the software |
| `done/<table>/<id>.json` | was put back; nobody needs it, it may be deleted |
| `stopped.jsonl` | letters of the round that `--max_dead_letters` stopped; not committed |
| `round-*.jsonl` | format 0, of older versions; `../continuous/*/dead_letters/*.jsonl` too |

A file is named by its letter's id, so a letter that comes again replaces itself: how often it was
tried, and when first, survive.
"""

from __future__ import annotations

import collections
import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Literal
from urllib.parse import quote, unquote

from transforms import storage
from transforms.dead_letters import DeadLetter
from transforms.errors import StateError
from transforms.stored_format import check_name

__all__ = ["LetterBox"]

_OPEN: tuple[Literal["retry", "severe"], ...] = ("retry", "severe")
_DONE = "done"
_STOPPED = "stopped.jsonl"
_THREADS = 16


class LetterBox:
    """Reads, keeps and moves dead letters. Small and picklable.

    Args:
        state_dir: The state directory.
    """

    def __init__(self, state_dir: str) -> None:
        self._state_dir = state_dir
        self.path = storage.join(state_dir, "dead_letters")

    def keep(self, letters: Iterable[DeadLetter], *, max_retries: int = 0) -> None:
        """Stores letters as open ones; repeating it changes nothing.

        Args:
            letters: What could not be handled.
            max_retries: A letter that was tried again so many times, in vain, becomes severe; 0
                for no such limit.

        Raises:
            StateError: One cannot be written.
        """
        distinct = list({each.id: each for each in letters}.values())
        # An object store answers slowly, however small the object.
        with ThreadPoolExecutor(min(_THREADS, max(1, len(distinct)))) as pool:
            for _ in pool.map(lambda each: self._keep(each, max_retries), distinct):
                pass

    def is_open(self, letter: DeadLetter) -> bool:
        """Whether the letter is stored, and not done."""
        return any(storage.exists(self._path(each, letter.table, letter.id)) for each in _OPEN)

    def done(self, letters: Iterable[tuple[str, str]]) -> None:
        """Sets aside letters that were put back; repeating it changes nothing.

        Args:
            letters: Table and id of each.
        """
        for table, name in letters:
            for severity in _OPEN:
                source = self._path(severity, table, name)
                if storage.exists(source):
                    storage.move(source, self._path(_DONE, table, name), StateError)

    def names(self, *severities: str) -> list[tuple[str, str]]:
        """Table and id of the open letters, in this order within a severity; reads none of them.

        Args:
            severities: `retry`, `severe` or both.
        """
        found = []
        for severity in severities or _OPEN:
            for path in storage.list_files(storage.join(self.path, severity)):
                if path.endswith(".json"):
                    folder, name = os.path.split(path)
                    found.append((unquote(os.path.basename(folder)), name.removesuffix(".json")))
        return list(dict.fromkeys(found))

    def load(self, table: str, name: str) -> DeadLetter | None:
        """An open letter; None if there is none of this table and id.

        Raises:
            StateError: It cannot be read, or is damaged.
        """
        for severity in _OPEN:
            path = self._path(severity, table, name)
            if storage.exists(path):
                return DeadLetter.from_line(storage.read_bytes(path, StateError))
        return None

    def read(self) -> Iterator[DeadLetter]:
        """Reads the open letters, those of format 0 last."""
        for table, name in self.names():
            letter = self.load(table, name)
            if letter is not None:
                yield letter
        for path in self._old_files():
            yield from _lines_of(path)

    def counts(self) -> dict[str, int]:
        """How many letters are open, by table; reads none of them but those of format 0."""
        found = collections.Counter(table for table, _ in self.names())
        for path in self._old_files():
            found.update(each.table for each in _lines_of(path))
        return dict(found)

    def convert_old(self, convert: Callable[[DeadLetter], DeadLetter]) -> None:
        """Gives letters of format 0 files of their own; repeating it changes nothing.

        Args:
            convert: Adds what such a letter does not say.
        """
        for path in self._old_files():
            self.keep(convert(each) for each in _lines_of(path))
            storage.delete([path], StateError)

    def stop(self, letters: Iterable[DeadLetter]) -> str:
        """Shows the letters of a round that is not committed because of them.

        Returns:
            The path of the file that shows them.
        """
        path = storage.join(self.path, _STOPPED)
        content = b"".join(each.to_line() for each in letters)
        storage.write_atomic(path, content, StateError)
        return path

    def stopped(self) -> Iterator[DeadLetter]:
        """What `stop` shows."""
        path = storage.join(self.path, _STOPPED)
        if storage.exists(path):
            yield from _lines_of(path)

    def go_on(self) -> None:
        """Forgets what `stop` showed: its round was repeated, and is committed."""
        path = storage.join(self.path, _STOPPED)
        if storage.exists(path):
            storage.delete([path], StateError)

    def _keep(self, letter: DeadLetter, max_retries: int) -> None:
        before = self.load(letter.table, letter.id)
        stored = letter.again(before)
        if max_retries and stored.attempts > max_retries:
            stored = dataclasses.replace(stored, severity="severe")
        severity = stored.severity
        storage.write_atomic(
            self._path(severity, letter.table, letter.id), stored.to_line(), StateError
        )
        other = "retry" if severity == "severe" else "severe"
        source = self._path(other, letter.table, letter.id)
        # Written first, so that a crash leaves it twice, never not at all.
        if before is not None and storage.exists(source):
            storage.delete([source], StateError)

    def _path(self, folder: str, table: str, name: str) -> str:
        check_name(name, what="the id of a dead letter", where=self.path)
        encoded = quote(table, safe="")
        if encoded.startswith("."):
            # Else the name `..` would lead out of the folder.
            encoded = f"%2E{encoded[1:]}"
        return storage.join(self.path, folder, encoded, f"{name}.json")

    def _old_files(self) -> list[str]:
        rounds = storage.list_files(self.path)
        continuous = storage.list_files(storage.join(self._state_dir, "continuous"))
        in_rounds = [each for each in rounds if os.path.basename(each).startswith("round-")]
        in_jobs = [each for each in continuous if _folder_of(each) == "dead_letters"]
        return [each for each in (*in_rounds, *in_jobs) if each.endswith(".jsonl")]


def _folder_of(path: str) -> str:
    return os.path.basename(os.path.dirname(path))


def _lines_of(path: str) -> Iterator[DeadLetter]:
    for line in storage.read_bytes(path, StateError).splitlines():
        yield DeadLetter.from_line(line)
