# SPDX-License-Identifier: Apache-2.0
"""Problems of single tables of a run, while the others continue.

Each is reported once, is listed in `findings.json` of the state directory for as long as it holds,
and makes the exit code of a run that ends another one. Discovery keeps what it finds in the same
file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from dynabeam.transforms.continuous.discovery import Finding, What, read_findings, write_findings
from dynabeam.transforms.errors import DynabeamError
from dynabeam.transforms.storage import filesystem

__all__ = ["TableFindings", "finding_of"]


def finding_of(name: str, what: What, problem: DynabeamError) -> Finding:
    """An error about one table as a finding: one line that names how to go on without it."""
    text = str(problem).replace("\n", " ")
    if "--exclude_tables" not in text:
        text = f"{text} Leave it out with --exclude_tables={name}"
    return Finding(name, what, text)


class TableFindings:
    """The findings of a run in rounds.

    Args:
        state_dir: Path of the state directory; empty to keep them in memory alone.
    """

    def __init__(self, state_dir: str = "") -> None:
        self._path = filesystem.join(state_dir, "findings.json") if state_dir else ""
        self._errors: dict[str, DynabeamError] = {}
        self._held: dict[str, Finding] = {}
        self._news: list[Finding] = []
        self._at_start = read_findings(self._path) if self._path else {}

    def add(self, finding: Finding, error: DynabeamError) -> None:
        """Adds the problem of a table.

        Args:
            finding: For people.
            error: What a run of this table alone ends with.
        """
        if self._held.get(finding.table) != finding:
            self._news.append(finding)
        self._held[finding.table] = finding
        self._errors[finding.table] = error

    def clear(self, name: str) -> None:
        """Nothing is the matter with a table any more."""
        self._held.pop(name, None)
        self._errors.pop(name, None)

    def holds(self, name: str) -> bool:
        """True if something is the matter with a table."""
        return name in self._held

    def of(self, names: Iterable[str]) -> Mapping[str, DynabeamError]:
        """Table → its error, of those tables with which something is the matter."""
        return {name: self._errors[name] for name in names if name in self._errors}

    def lines(self) -> list[str]:
        """All that is the matter now, for people."""
        return [str(each) for each in self._held.values()]

    def keep(self, healthy: Iterable[str], left_out: Iterable[str] = ()) -> list[str]:
        """Brings the file up to date.

        Args:
            healthy: Tables of the run; what stands there of those that are in order goes, but for
                the end of a table, which discovery has found and goes on to see.
            left_out: Tables that are not to be replicated: nothing stays of them.

        Returns:
            A line for people for each that is new.

        Raises:
            StateError: The file cannot be read or written.
        """
        news, self._news = self._news, []
        if not self._path:
            return [str(each) for each in news]
        before = self.keep_in(self._path, healthy, left_out)
        # Each run reports all once; its discovery has reported what was added since it began.
        told = {each for name, each in before.items() if self._at_start.get(name) != each}
        return [str(each) for each in news if each not in told]

    def keep_in(
        self, path: str, healthy: Iterable[str], left_out: Iterable[str] = ()
    ) -> dict[str, Finding]:
        """Brings a file up to date, as `keep` does; returns its former content.

        Raises:
            StateError: The file cannot be read or written.
        """
        before = read_findings(path)
        ends = ("deleted", "recreated")
        gone = {
            name
            for name in healthy
            if name in before and name not in self._held and before[name].what not in ends
        }
        gone |= set(left_out)
        after = {name: each for name, each in before.items() if name not in gone} | self._held
        if after != before:
            write_findings(path, after)
        return before
