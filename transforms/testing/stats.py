# SPDX-License-Identifier: Apache-2.0
"""What the simulator was asked and what it gave."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

__all__ = ["Stats"]


class Stats:
    """Counts since the simulator started; safe to use from several threads.

    Attributes:
        calls: Requests by action, faulty ones included.
        errors: Error answers by error code.
        faults: Faults by kind, as far as they replaced or disturbed an answer.
        pages: Answers to GetRecords.
        records: Stream records in them.
        bytes: Bytes of these records as JSON.
    """

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.pages = 0
        self.records = 0
        self.bytes = 0
        self._lock = threading.Lock()

    def count_call(self, action: str) -> None:
        """Count a request."""
        with self._lock:
            self.calls[action] += 1

    def count_error(self, code: str) -> None:
        """Count an error answer."""
        with self._lock:
            self.errors[code] += 1

    def count_fault(self, kind: str) -> None:
        """Count a fault."""
        with self._lock:
            self.faults[kind] += 1

    def count_page(self, records: int, size: int) -> None:
        """Count an answer to GetRecords."""
        with self._lock:
            self.pages += 1
            self.records += records
            self.bytes += size

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        with self._lock:
            return {
                "calls": dict(self.calls),
                "errors": dict(self.errors),
                "faults": dict(self.faults),
                "pages": self.pages,
                "records": self.records,
                "bytes": self.bytes,
            }
