# SPDX-License-Identifier: Apache-2.0
"""Credentials to sign with at once, loaded and refreshed on a thread of their own.

botocore renews credentials on whatever thread requests them: a role is assumed, a process is run, a
token is exchanged, which takes seconds or, if something is down, minutes. Here only those who
need just these credentials wait for that, and only if the present ones cannot be used any more.
botocore's rules hold: in the last fifteen minutes before they expire it tries to refresh them, in
the last ten it must.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from botocore.exceptions import CredentialRetrievalError, NoCredentialsError

from dynabeam.transforms.aws.deadlines import deadlines
from dynabeam.transforms.aws.forks import reset_in_child

__all__ = ["SigningCredentials"]

_REFRESH_EVERY = 5.0
_MUST_RENEW = 10 * 60
"""Seconds; botocore's mandatory refresh."""
_REFRESH_TIMEOUT = 180.0
"""botocore bounds its own requests, but not a process that it runs."""

Then = Callable[[Any], None]
"""Takes frozen credentials, or the exception why there are none."""


class SigningCredentials:
    """The credentials of one botocore request signer; thread-safe.

    Args:
        signer: The signer.
        signing_name: Of the service.
        region: Of the signature.
        refresh_timeout: Seconds after which a refresh counts as failed for those who wait for it.
    """

    def __init__(
        self, signer: Any, signing_name: str, region: str, refresh_timeout: float = _REFRESH_TIMEOUT
    ) -> None:
        self._signer = signer
        self._signing_name = signing_name
        self._region = region
        self._refresh_timeout = refresh_timeout
        self._known: Any = None
        self._of: Any = None
        self._refreshed_at = 0.0
        self.reset_after_fork()
        reset_in_child(self)

    def reset_after_fork(self) -> None:
        """Forgets a refresh that is in flight."""
        self._lock = threading.Lock()
        self._refreshing = 0
        self._refreshes = 0
        self._waiting: list[Then] = []

    def use(self, then: Then) -> None:
        """Gives credentials; returns at once.

        Args:
            then: Called once, on this or another thread: with frozen credentials, or with the
                exception of botocore or of the role (`NoCredentialsError` if there are none).
        """
        source = getattr(self._signer, "_credentials", None)
        needed = getattr(source, "refresh_needed", _never)
        with self._lock:
            known = self._known if source is self._of else None
            missing = known is None or needed(_MUST_RENEW)
            aged = time.monotonic() - self._refreshed_at > _REFRESH_EVERY
            if not self._refreshing and (missing or aged or needed()):
                self._start_refresh(source)
            if missing:
                self._waiting.append(then)
                return
        then(known)

    def _start_refresh(self, source: Any) -> None:
        self._refreshes += 1
        self._refreshing = self._refreshes
        name = "dynabeam-credentials"
        threading.Thread(
            target=self._refresh, args=(source, self._refreshes), name=name, daemon=True
        ).start()

    def _refresh(self, source: Any, number: int) -> None:
        error = CredentialRetrievalError(
            provider=getattr(source, "method", None) or "explicit",
            error_msg=f"no answer within {self._refresh_timeout:g} s",
        )
        deadline = deadlines.add(
            self._refresh_timeout, lambda: self._refreshed(source, number, error)
        )
        try:
            auth = self._signer.get_auth_instance(self._signing_name, self._region)
            found = auth.credentials or NoCredentialsError()
        except BaseException as caught:  # noqa: BLE001 - handed to who waits
            found = caught if isinstance(caught, Exception) else RuntimeError(repr(caught))
        deadlines.cancel(deadline)
        self._refreshed(source, number, found)

    def _refreshed(self, source: Any, number: int, found: Any) -> None:
        with self._lock:
            if number != self._refreshing:
                # It took too long: those who waited have its error already.
                return
            self._refreshing = 0
            self._known = None if isinstance(found, Exception) else found
            self._of = source
            self._refreshed_at = time.monotonic()
            waiting, self._waiting = self._waiting, []
        for then in waiting:
            then(found)


def _never(*_: Any) -> bool:
    return False
