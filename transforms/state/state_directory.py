# SPDX-License-Identifier: Apache-2.0
"""The state directory: one position document, replaced whole, and one holder at a time.

`state.json` says up to where every table has been read by committed rounds. It is replaced in one
step after a round's pipeline has succeeded; a crash before leaves the old one, and the round is
repeated. `attempts/<attempt>/` holds the reports of a running round, `dead_letters/` what could not
be handled (`transforms.dead_letters.store`).

**One holder.** On a disk the kernel keeps the lock, and drops it with the process. In an object
store it is a lease (`transforms.storage.lease`), which a process that died loses within half a
minute.

**The document is replaced by compare-and-swap** (`transforms.storage.conditional_writes`), and
whoever takes a lease that was not given back first writes the document anew under its own name. So
a run that was stopped, for however long, between a look at its lease and its commit, cannot commit
any
more: the document is another one. Nor can it publish, which comes after the commit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import socket
import sys
import uuid
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from dynabeam.transforms.dead_letters.store import DeadLetterStore
from dynabeam.transforms.errors import StateError, StateInUseError
from dynabeam.transforms.runtime.stored_format import (
    DocumentFormat,
    canonical,
    check_name,
    damage_told,
    typed_fields,
)
from dynabeam.transforms.sinks.base import Round
from dynabeam.transforms.sinks.membership import KnownSink
from dynabeam.transforms.state.kept_manifests import KeptManifests
from dynabeam.transforms.state.round_outputs import (
    DEAD_LETTERS,
    RETRIED,
    keep_outcome,
    read_kept_dead_letters,
)
from dynabeam.transforms.state.table_state import TableState
from dynabeam.transforms.storage import filesystem
from dynabeam.transforms.storage.conditional_writes import (
    Tagged,
    put_if_absent,
    put_if_match,
    read_with_tag,
)
from dynabeam.transforms.storage.fence import check_fence
from dynabeam.transforms.storage.lease import LEASE_SECONDS, Lease, check_unheld

__all__ = ["Ending", "State", "StateDirectory"]

FORMAT = 2
"""Format 1 has neither `owner` nor `revision`, and is read too."""

_WHAT = "the position document"
_FORMAT = DocumentFormat(
    _WHAT,
    number=FORMAT,
    former=(1,),
    hint="Restore it from a copy, or start with a new --state_dir",
)


@dataclasses.dataclass(frozen=True)
class _Document:
    """The position document, with its tables and sinks as JSON.

    Attributes:
        owner: Who wrote it: no two holders of the directory write the same document.
        revision: How often it was written.
    """

    state_id: str
    round: int
    attempt: str
    tables: dict[str, dict[str, Any]]
    deployment: str = ""
    sinks: dict[str, dict[str, Any]] | None = None
    owner: str = ""
    revision: int = 0


@dataclasses.dataclass
class State:
    """The position document.

    Attributes:
        state_id: Identity of the directory, made once.
        number: The last committed round, 0 before the first.
        attempt: The attempt that committed it.
        tables: Table name → its state.
        deployment: The continuous deployment that reads on from here; empty for none.
        sinks: Place → its sink; None in documents of versions that did not know their sinks.
    """

    state_id: str
    number: int
    attempt: str
    tables: dict[str, TableState]
    deployment: str = ""
    sinks: dict[str, KnownSink] | None = None

    @property
    def committed(self) -> Round:
        """The last committed round."""
        return Round(self.state_id, self.number, self.attempt)

    def next_round(self) -> Round:
        """A new try of the round after the committed one."""
        return Round(self.state_id, self.number + 1, uuid.uuid4().hex[:16])


class Ending(Protocol):
    """How a process ends that holds a directory."""

    def end_at_once(self, error: Exception) -> None:
        """Ends it because of an error that allows no further step."""

    def requested(self) -> int:
        """The number of the signal that asks it to end; 0 for none."""

    def before_the_end(
        self, cleanup: Callable[[], None]
    ) -> contextlib.AbstractContextManager[None]:
        """Has something called if it is ended at once within this."""


class StateDirectory:
    """A state directory; to be changed while it is locked only.

    Args:
        path: Local path, `s3://` or `gs://` folder.
        lease_seconds: How long a lease holds that is not renewed, in an object store.
    """

    def __init__(self, path: str, lease_seconds: float = LEASE_SECONDS) -> None:
        self.path = os.path.abspath(path) if filesystem.is_local(path) else path.rstrip("/")
        self._document = filesystem.join(self.path, "state.json")
        self._lease = filesystem.join(self.path, "lock.json")
        self._lease_seconds = lease_seconds
        self._owner = uuid.uuid4().hex
        self._held = False
        self._seen = False
        self._tag: str | None = None
        self._revision = 0
        self._manifests = KeptManifests(self.path)

    @contextlib.contextmanager
    def locked(self, ending: Ending | None = None) -> Iterator[None]:
        """Holds the directory: one run at a time.

        In an object store it waits for the lease of a run that may have died; see
        `transforms.storage.lease`.

        Args:
            ending: How this process ends; None if it is not one of a command.

        Raises:
            StateInUseError: Another run holds it.
            StateError: It cannot be written.
        """
        if filesystem.is_local(self.path):
            with self._locked_locally():
                yield
            return
        lease = Lease(
            self._lease,
            _this_process(),
            seconds=self._lease_seconds,
            tell=_tell,
            on_lost=lambda error: ending.end_at_once(error) if ending else None,
            asked_to_end=lambda: ending is not None and ending.requested() != 0,
        )
        at_the_end = ending.before_the_end(lease.release) if ending else contextlib.nullcontext()
        with lease.held(), at_the_end:
            self._owner = lease.id
            self._claim(anew=not lease.follows_a_release)
            self._held = True
            try:
                yield
            finally:
                self._held = False

    def check_free(self) -> None:
        """Looks whether a run holds the directory; neither makes nor takes anything.

        Raises:
            StateInUseError: A run holds it.
        """
        if not filesystem.is_local(self.path):
            check_unheld(self._lease, watch_seconds=self._lease_seconds)
            return
        path = os.path.join(self.path, "lock")
        if not os.path.exists(path):
            return
        with open(path, encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError as problem:
                raise self._in_use(file.read()) from problem

    def check_held(self) -> None:
        """Does nothing while nobody else can hold the directory; to be called while it is locked.

        Raises:
            StateInUseError: Another run has taken over, or may do so at any moment.
        """
        check_fence()

    def load(self) -> State:
        """Reads the position document; a new state if there is none.

        Raises:
            StateError: It cannot be read, or is of an unknown format.
            StateInUseError: It is locked, and another run has replaced the document all the same.
        """
        found = self._read()
        tag = None if found is None else found.tag
        if self._held and tag != self._tag:
            raise self._replaced()
        self._seen, self._tag = True, tag
        if found is None:
            return State(uuid.uuid4().hex, 0, "", {})
        document = self._parsed(found)
        self._revision = document.revision
        with damage_told(_WHAT, where=self._document, hint=_FORMAT.hint):
            return State(
                document.state_id,
                document.round,
                document.attempt,
                self._manifests.states(document.tables),
                document.deployment,
                _sinks(document.sinks),
            )

    def keep_identity(self, state: State) -> None:
        """Writes the identity of a new directory, so that a crash before the first commit keeps it.

        Raises:
            StateError: It cannot be written.
        """
        if self._read() is None:
            self.commit(State(state.state_id, 0, "", {}))

    def commit(self, state: State) -> None:
        """Replaces the position document: the moment at which a round counts.

        Raises:
            StateError: It cannot be written.
            StateInUseError: Another run has taken over; nothing is written.
        """
        check_fence()
        if not self._seen:
            found = self._read()
            self._seen, self._tag = True, None if found is None else found.tag
        sinks = state.sinks
        self._write(
            _Document(
                state.state_id,
                state.number,
                state.attempt,
                self._manifests.documents(state.tables),
                state.deployment,
                None if sinks is None else {place: each.to_json() for place, each in sinks.items()},
            )
        )
        self._manifests.clear(state.tables.values())

    def attempt_file(self, attempt: str, name: str) -> str:
        """Path of a file of a running round."""
        check_name(attempt, what="the attempt", where=self._document)
        return filesystem.join(self.path, "attempts", attempt, name)

    @property
    def letters(self) -> DeadLetterStore:
        """The dead letters."""
        return DeadLetterStore(self.path)

    def keep_dead_letters(self, current: Round) -> None:
        """Stores the dead letters of a committed round where they stay; may be repeated."""
        if not current.number:
            return
        staged = read_kept_dead_letters(self.attempt_file(current.attempt, DEAD_LETTERS))
        keep_outcome(self.letters, staged, self.attempt_file(current.attempt, RETRIED))
        self.letters.go_on()

    def clear_attempts(self) -> None:
        """Removes what rounds left for their driver."""
        filesystem.delete(filesystem.list_files(filesystem.join(self.path, "attempts")), StateError)
        attempts = filesystem.join(self.path, "attempts")
        if filesystem.is_local(attempts) and os.path.isdir(attempts):
            for parent, _, _ in os.walk(attempts, topdown=False):
                os.rmdir(parent)

    @contextlib.contextmanager
    def _locked_locally(self) -> Iterator[None]:
        path = os.path.join(self.path, "lock")
        try:
            filesystem.make_folder(self.path)
            file = filesystem.open_private(path, "a+b")
        except OSError as problem:
            raise StateError(
                f"the state directory cannot be written: {problem.strerror}",
                where=self.path,
                hint="Give another --state_dir, or the permission to write it",
            ) from problem
        with file:
            try:
                # The kernel drops the lock with the process, however it dies.
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as problem:
                file.seek(0)
                raise self._in_use(file.read().decode(errors="replace")) from problem
            except OSError as problem:
                raise StateError(
                    f"the state directory cannot be locked: {problem.strerror}",
                    where=path,
                    hint="Give a --state_dir on a disk with locks, or in an object store",
                ) from problem
            file.truncate(0)
            file.write(_this_process().encode())
            file.flush()
            yield

    def _in_use(self, holder: str) -> StateInUseError:
        return StateInUseError(
            "another run is using the state directory",
            where=self.path,
            found=holder.strip() or "a run that has just started",
            hint="Wait for it or stop it, or give this run its own --state_dir",
        )

    def _read(self) -> Tagged | None:
        return read_with_tag(self._document, StateError)

    def _parsed(self, found: Tagged) -> _Document:
        with _FORMAT.load(found.content, where=self._document) as fields:
            if fields["attempt"]:
                check_name(fields["attempt"], what="the attempt", where=self._document)
            if fields.get("deployment"):
                check_name(fields["deployment"], what="the deployment", where=self._document)
            check_name(fields["state_id"], what="the state's identity", where=self._document)
            document = typed_fields(_Document, fields)
            if "" in document.tables:
                raise StateError("a table of the state has no name", where=self._document)
        return document

    def _claim(self, *, anew: bool) -> None:
        """Sees the document as it is; a new directory gets its identity.

        Args:
            anew: The holder before this one may only be stopped: the document is written anew, in
                the name of this one, so that the other can commit no more.
        """
        found = self._read()
        document = _Document(uuid.uuid4().hex, 0, "", {}) if found is None else self._parsed(found)
        self._seen, self._tag = True, None if found is None else found.tag
        self._revision = document.revision
        if anew or found is None:
            self._write(document)

    def _write(self, document: _Document) -> None:
        """Replaces the document if it is still the one that this object has seen."""
        own = dataclasses.replace(document, owner=self._owner, revision=self._revision + 1)
        known = {name: value for name, value in vars(own).items() if value is not None}
        text = canonical(_FORMAT.dump(known))
        if self._tag is None:
            tag = put_if_absent(self._document, text, StateError)
        else:
            tag = put_if_match(self._document, text, self._tag, StateError)
        if tag is None:
            raise self._replaced()
        self._tag = tag
        self._revision += 1

    def _replaced(self) -> StateInUseError:
        return StateInUseError(
            f"another run has replaced {_WHAT}; this one stops without writing anything more",
            where=self._document,
            hint="Nothing is lost: the other run continues from the last committed round",
        )


def _sinks(document: dict[str, Any] | None) -> dict[str, KnownSink] | None:
    if document is None:
        return None
    return {place: KnownSink.from_json(place, each) for place, each in document.items()}


def _this_process() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
