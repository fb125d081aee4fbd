# SPDX-License-Identifier: Apache-2.0
"""The state directory: one position document, replaced whole, and a lock.

`state.json` says up to where every table has been read by committed rounds. It is replaced in one
step after a round's pipeline has succeeded; a crash before leaves the old one, and the round is
repeated. `attempts/<attempt>/` holds the reports of a running round, `dead_letters/` what could not
be handled (`transforms.letter_box`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from typing import Any

from transforms import storage
from transforms.errors import StateError, StateInUseError
from transforms.letter_box import LetterBox
from transforms.round_files import (
    DEAD_LETTERS,
    RETRIED,
    keep_outcome,
    read_dead_letters,
)
from transforms.sinks.base import Round

__all__ = ["State", "StateDirectory"]

FORMAT = 1
_LEASE_SECONDS = 900


@dataclasses.dataclass
class State:
    """The position document.

    Attributes:
        state_id: Identity of the directory, made once.
        number: The last committed round, 0 before the first.
        attempt: The attempt that committed it.
        tables: Table name → its state, JSON-able; `pipelines.table_state` explains it.
        deployment: The continuous deployment that reads on from here; empty for none.
    """

    state_id: str
    number: int
    attempt: str
    tables: dict[str, dict[str, Any]]
    deployment: str = ""

    @property
    def committed(self) -> Round:
        """The last committed round."""
        return Round(self.state_id, self.number, self.attempt)

    def next_round(self) -> Round:
        """A new try of the round after the committed one."""
        return Round(self.state_id, self.number + 1, uuid.uuid4().hex[:16])


class StateDirectory:
    """A locked state directory.

    Args:
        path: Local path, `s3://` or `gs://` folder.
    """

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path) if storage.is_local(path) else path.rstrip("/")
        self._document = storage.join(self.path, "state.json")
        self._lease = storage.join(self.path, "lock.json")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the directory: one run at a time.

        Raises:
            StateInUseError: Another run holds it.
            StateError: It cannot be written.
        """
        if storage.is_local(self.path):
            with self._locked_locally():
                yield
            return
        self._take_lease()
        try:
            yield
        finally:
            storage.delete([self._lease], StateError)

    def check_free(self) -> None:
        """Looks whether a run holds the directory; neither makes nor takes anything.

        Raises:
            StateInUseError: A run holds it.
        """
        if not storage.is_local(self.path):
            self._check_lease()
            return
        path = os.path.join(self.path, "lock")
        if not os.path.exists(path):
            return
        with open(path, encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError as problem:
                raise self._in_use(file.read()) from problem

    def load(self) -> State:
        """Reads the position document; a new state if there is none.

        Raises:
            StateError: It cannot be read, or is of an unknown format.
        """
        if not storage.exists(self._document):
            return State(uuid.uuid4().hex, 0, "", {})
        try:
            document = json.loads(storage.read_bytes(self._document, StateError))
            if document["format"] != FORMAT:
                raise StateError(
                    "the position document is of an unknown format",
                    where=self._document,
                    expected=FORMAT,
                    found=document["format"],
                    mend="Use the version of Dynabeam that wrote it, or a newer one",
                )
            return State(
                document["state_id"],
                document["round"],
                document["attempt"],
                document["tables"],
                document.get("deployment", ""),
            )
        except (ValueError, KeyError, TypeError) as problem:
            raise StateError(
                f"the position document is damaged: {problem!r}",
                where=self._document,
                mend="Restore it from a copy, or start with a new --state_dir",
            ) from problem

    def keep_identity(self, state: State) -> None:
        """Writes the identity of a new directory, so that a crash before the first commit keeps it.

        Raises:
            StateError: It cannot be written.
        """
        if not storage.exists(self._document):
            self.commit(State(state.state_id, 0, "", {}))

    def commit(self, state: State) -> None:
        """Replaces the position document: the moment at which a round counts.

        Raises:
            StateError: It cannot be written.
        """
        document = {
            "format": FORMAT,
            "state_id": state.state_id,
            "round": state.number,
            "attempt": state.attempt,
            "tables": state.tables,
            "deployment": state.deployment,
        }
        text = json.dumps(document, separators=(",", ":"), sort_keys=True)
        storage.write_atomic(self._document, text.encode(), StateError)
        if not storage.is_local(self.path):
            self._take_lease(renew=True)

    def attempt_file(self, attempt: str, name: str) -> str:
        """Path of a file of a running round."""
        return storage.join(self.path, "attempts", attempt, name)

    @property
    def letters(self) -> LetterBox:
        """The dead letters."""
        return LetterBox(self.path)

    def keep_dead_letters(self, current: Round) -> None:
        """Stores the dead letters of a committed round where they stay; may be repeated."""
        if not current.number:
            return
        staged = list(read_dead_letters(self.attempt_file(current.attempt, DEAD_LETTERS)))
        keep_outcome(self.letters, staged, self.attempt_file(current.attempt, RETRIED))
        self.letters.go_on()

    def clear_attempts(self) -> None:
        """Removes what rounds left for their driver."""
        storage.delete(storage.list_files(storage.join(self.path, "attempts")), StateError)
        attempts = storage.join(self.path, "attempts")
        if storage.is_local(attempts) and os.path.isdir(attempts):
            for parent, _, _ in os.walk(attempts, topdown=False):
                os.rmdir(parent)

    @contextlib.contextmanager
    def _locked_locally(self) -> Iterator[None]:
        path = os.path.join(self.path, "lock")
        try:
            storage.make_folder(self.path)
            file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 - closed below, after the run
        except OSError as problem:
            raise StateError(
                f"the state directory cannot be written: {problem.strerror}",
                where=self.path,
                mend="Give another --state_dir, or the right to write this one",
            ) from problem
        with file:
            try:
                # The kernel drops the lock with the process, however it dies.
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as problem:
                file.seek(0)
                raise self._in_use(file.read()) from problem
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
            yield

    def _in_use(self, holder: str) -> StateInUseError:
        return StateInUseError(
            "another run is using the state directory",
            where=self.path,
            found=holder.strip() or "a run that has just started",
            mend="Wait for it or stop it, or give this run its own --state_dir",
        )

    def _check_lease(self) -> None:
        if storage.exists(self._lease):
            held = json.loads(storage.read_bytes(self._lease, StateError))
            if time.time() - held["at"] < _LEASE_SECONDS:
                raise StateInUseError(
                    "another run is using the state directory",
                    where=self.path,
                    found=held["holder"],
                    mend=f"Stop it, or delete {self._lease} if it died",
                )

    def _take_lease(self, *, renew: bool = False) -> None:
        if not renew:
            self._check_lease()
        holder = {"holder": f"process {os.getpid()} on {socket.gethostname()}", "at": time.time()}
        storage.write_atomic(self._lease, json.dumps(holder).encode(), StateError)
