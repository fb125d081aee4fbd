# SPDX-License-Identifier: Apache-2.0
"""A lease: who may write a state directory in an object store, where no kernel keeps a lock.

A small document, replaced by compare-and-swap only (`transforms.storage.conditional_writes`).
Whoever holds it renews it every third of its length; a process that dies stops doing so, and the
next one may take it. Modelled on the leases of Litestream; the terms are those of Gray and
Cheriton.

**No two clocks are compared.** The holder reckons from the moment *before* its last renewal was
sent, by a clock of its own that goes on while the process or the machine is suspended. The waiter
reckons from the moment *after* it has seen the document for the first time as it is, by a clock of
its own. The renewal lies between the two, so the holder's time is up before the waiter's, whatever
o'clock either believes it is; a tenth is left for clocks that go at different rates. If the service
says how old the document is, by its own clock alone, a waiter need not watch it.

**A holder that is late is stopped**: it checks its lease before everything that it changes
(`transforms.storage.fence`), and `on_lost` is called as soon as the lease is known to be lost.

| field of the document | what |
|---|---|
| `format` | 2; documents without it are of versions that renewed a lease with commits only |
| `id` | the holder's, unique for each time it is taken |
| `renewal` | counts up |
| `seconds` | for how long it holds |
| `released` | the holder has given it back |
| `handed_on` | with `released`: it was asked to end, so who waits goes on; see below |
| `holder` | who it is, for people |
| `at` | seconds since 1970 by the holder's clock, for those older versions alone; 0 if released |

**Who comes while it is held** waits only to learn whether the holder is alive. One that is, because
it renews the lease or ends by itself, has refused it: two schedules on one directory are a mistake,
to be told and not to be played one after the other. A holder that was asked to end by a signal
makes room for the one that waits, which most likely was started in its place.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from dynabeam.transforms.errors import DynabeamError, StateError, StateInUseError
from dynabeam.transforms.runtime.clock import Monotonic, machine_us, steady_seconds
from dynabeam.transforms.runtime.stored_format import (
    DocumentFormat,
    canonical,
    damage_told,
    parse_object,
    typed_fields,
)
from dynabeam.transforms.storage.conditional_writes import (
    Tagged,
    check_conditions,
    put_if_absent,
    put_if_match,
    read_with_tag,
)
from dynabeam.transforms.storage.fence import fenced

__all__ = ["LEASE_SECONDS", "Lease", "check_unheld"]

LEASE_SECONDS = 30.0
"""How long a lease holds that is not renewed."""

_FORMAT = DocumentFormat(
    "the lease of the state directory",
    number=2,
    hint="If no run uses the directory, delete this file",
)
_OLD_SECONDS = 900
"""How long the versions without a format number believe in a lease, by wall clocks."""
_SERVICE_MARGIN = 5.0
"""A service's clocks, on several machines, may differ; and S3 gives whole seconds."""
_LONGEST = 3600.0


@dataclasses.dataclass(frozen=True)
class _Document:
    """The document; what its fields mean is said above."""

    id: str
    renewal: int
    seconds: float
    released: bool
    handed_on: bool
    holder: str
    at: int


@dataclasses.dataclass(frozen=True)
class _Found:
    """A lease, as it was read.

    Attributes:
        tagged: As it was read.
        id: The holder's.
        holder: The holder, for people.
        seconds: How long it holds unless it is renewed.
        free: Nobody holds it.
        handed_on: Nobody does because the holder was asked to end.
    """

    tagged: Tagged
    id: str
    holder: str
    seconds: float
    free: bool
    handed_on: bool = False

    @property
    def is_over(self) -> bool:
        """The service says that it was not renewed for longer than it holds."""
        age = self.tagged.age_seconds
        return age is not None and age > self.seconds + _SERVICE_MARGIN


class Lease:
    """A lease of one process. Each instance is taken at most once.

    Args:
        path: The document; its folder is what the lease is of.
        holder: Who holds it, for people.
        seconds: How long it holds unless it is renewed.
        tell: Shows a line to a person.
        on_lost: Called once, by a thread of the lease, when it is lost.
        asked_to_end: Whether the holder ends because it was asked to.
        clock: Gives seconds that never go back.
    """

    def __init__(
        self,
        path: str,
        holder: str,
        *,
        seconds: float = LEASE_SECONDS,
        tell: Callable[[str], None] = lambda line: None,
        on_lost: Callable[[DynabeamError], None] = lambda error: None,
        asked_to_end: Callable[[], bool] = lambda: False,
        clock: Monotonic = steady_seconds,
    ) -> None:
        self._path = path
        self._holder = holder
        self._seconds = seconds
        self._tell = tell
        self._on_lost = on_lost
        self._asked_to_end = asked_to_end
        self._clock = clock
        self._id = uuid.uuid4().hex
        self._follows_a_release = False
        self._tag = ""
        self._renewal = 0
        self._good_until = 0.0
        self._lost: DynabeamError | None = None
        self._guard = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def id(self) -> str:
        """Unique for this holder."""
        return self._id

    @property
    def follows_a_release(self) -> bool:
        """Whether the holder before this one has given it back, and so writes nothing any more."""
        return self._follows_a_release

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Takes the lease, renews it in the background, and gives it back.

        Raises:
            StateInUseError: Another process holds it, and is alive.
            StateError: It cannot be written, or the object store has no conditional writes.
        """
        self._take()
        self._thread = threading.Thread(target=self._keep, name="dynabeam-lease", daemon=True)
        self._thread.start()
        try:
            with fenced(self.check):
                yield
        finally:
            self.release()

    def check(self) -> None:
        """Does nothing while the lease is surely held.

        Raises:
            StateInUseError: Another run has taken it, or may do so at any moment.
        """
        if self._lost is None and self._clock() >= self._good_until:
            self._lose(self._not_renewed(None))
        if self._lost is not None:
            raise self._lost

    def release(self) -> None:
        """Gives the lease back, so that the next one need not wait; may be repeated."""
        self._ended.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(self._seconds)
        with self._guard:
            if not self._tag or self._lost is not None:
                return
            tag, self._tag = self._tag, ""
            self._renewal += 1
            try:
                put_if_match(self._path, self._document(released=True), tag)
            except DynabeamError as problem:
                self._tell(
                    f"The lease of the state directory could not be released ({problem}); it "
                    f"expires within {self._seconds:.0f} s"
                )

    def _take(self) -> None:
        seen: _Found | None = None
        since = 0.0
        pause = min(1.0, self._seconds / 15)
        while True:
            found = _read(self._path)
            if found is None or found.free or found.is_over:
                if seen is not None and found is not None and found.free and not found.handed_on:
                    raise _in_use(self._path, seen)
                if self._try(found):
                    return
                continue
            if seen is None:
                self._tell(f"Waiting for the lease of {found.holder} (up to {found.seconds:.0f} s)")
                seen, since = found, self._clock()
            elif found.tagged.tag != seen.tagged.tag:
                # Renewed, or taken by another one that waited too: somebody is alive.
                raise _in_use(self._path, found)
            if self._clock() - since >= found.seconds:
                self._tell(f"The lease of {found.holder} was not renewed: taking over")
                if self._try(found):
                    return
                continue
            time.sleep(pause)

    def _try(self, over: _Found | None) -> bool:
        """Writes the document in the place of another; false if that one has changed."""
        began = self._clock()
        content = self._document()
        if over is None:
            tag = put_if_absent(self._path, content)
        else:
            tag = put_if_match(self._path, content, over.tagged.tag)
        if tag is None:
            return False
        self._hold(tag, began)
        self._follows_a_release = over is not None and over.free and bool(over.id)
        try:
            check_conditions(self._path, Tagged(content, tag))
        except BaseException:
            self.release()
            raise
        return True

    def _hold(self, tag: str, began: float) -> None:
        self._tag = tag
        # Of the time before the request: whoever sees the document sees it later.
        self._good_until = began + self._seconds * 0.9

    def _keep(self) -> None:
        """Renews until the end; what goes wrong is tried again while there is time."""
        pause = self._seconds / 3
        problem: DynabeamError | None = None
        while not self._ended.wait(pause):
            try:
                with self._guard:
                    if self._ended.is_set():
                        return
                    self._renew()
                pause, problem = self._seconds / 3, None
            except DynabeamError as met:
                pause, problem = self._seconds / 15, met
            if self._lost is None and self._clock() >= self._good_until:
                self._lose(self._not_renewed(problem))
            if self._lost is not None:
                return

    def _renew(self) -> None:
        began = self._clock()
        if began >= self._good_until:
            # Too late to know whether somebody is writing in the belief that it is over.
            return
        self._renewal += 1
        tag = put_if_match(self._path, self._document(), self._tag)
        if tag is not None:
            self._hold(tag, began)
            return
        found = _read(self._path)
        if found is not None and found.id == self._id and not found.free:
            # An earlier renewal, whose answer was lost, has arrived after all.
            self._tag = found.tagged.tag
            raise StateError("the lease was renewed by a request that was given up")
        now_held_by = "nobody" if found is None or found.free else found.holder
        self._lose(
            StateInUseError(
                "another run has taken over the state directory; this one stops without writing "
                "anything more",
                where=self._path,
                found=now_held_by,
                hint="Nothing is lost: the other run continues from the last committed round",
            )
        )

    def _lose(self, error: DynabeamError) -> None:
        if self._lost is None:
            self._lost = error
            self._on_lost(error)

    def _not_renewed(self, problem: DynabeamError | None) -> DynabeamError:
        why = f": {problem}" if problem is not None else ", perhaps because the process was stopped"
        return StateInUseError(
            f"the lease of the state directory could not be renewed for {self._seconds:.0f} s, so "
            f"another run may have taken over; this one stops without writing anything more{why}",
            where=self._path,
            hint="Run again: it continues from the last committed round",
        )

    def _document(self, *, released: bool = False) -> bytes:
        document = _Document(
            id=self._id,
            renewal=self._renewal,
            seconds=self._seconds,
            released=released,
            handed_on=released and self._asked_to_end(),
            holder=self._holder,
            at=0 if released else machine_us() // 1_000_000,
        )
        return canonical(_FORMAT.dump(vars(document)))


def check_unheld(path: str, *, watch_seconds: float = LEASE_SECONDS) -> None:
    """Checks whether somebody holds a lease; takes nothing.

    Args:
        path: The document.
        watch_seconds: How long to watch a document whose age the service does not give.

    Raises:
        StateInUseError: Somebody does.
    """
    seen = _read(path)
    if seen is None or seen.free or seen.is_over:
        return
    if seen.tagged.age_seconds is None:
        until = steady_seconds() + min(seen.seconds, watch_seconds)
        while steady_seconds() < until:
            time.sleep(min(1.0, seen.seconds / 15))
            found = _read(path)
            if found is None or found.free:
                return
            if found.tagged.tag != seen.tagged.tag:
                raise _in_use(path, found)
        return
    raise _in_use(path, seen)


def _in_use(path: str, found: _Found) -> StateInUseError:
    return StateInUseError(
        "another run is using the state directory",
        where=path.rpartition("/")[0],
        found=found.holder,
        hint="Wait for it or stop it, or give this run its own --state_dir",
    )


def _read(path: str) -> _Found | None:
    tagged = read_with_tag(path)
    if tagged is None:
        return None
    with damage_told(_FORMAT.what, where=path, hint=_FORMAT.hint):
        document = parse_object(tagged.content)
        if "format" not in document:
            return _read_old(path, tagged, document)
    with _FORMAT.load(document, where=path) as fields:
        found = typed_fields(_Document, fields)
    # Bounded, so that nobody can be made to wait for a day.
    seconds = min(max(found.seconds, 0.0), _LONGEST)
    return _Found(tagged, found.id, found.holder, seconds, found.released, found.handed_on)


def _read_old(path: str, tagged: Tagged, document: dict[str, Any]) -> _Found:
    """A lease of a version that renewed it with commits only, and stated its age by wall clocks."""
    holder = str(document["holder"])
    if machine_us() / 1e6 - float(document["at"]) >= _OLD_SECONDS:
        return _Found(tagged, "", holder, _OLD_SECONDS, free=True)
    raise StateInUseError(
        "another run, of an older version, is using the state directory",
        where=path.rpartition("/")[0],
        found=holder,
        hint=f"Stop it, or delete {path} if it died",
    )
