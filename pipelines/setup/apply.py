# SPDX-License-Identifier: Apache-2.0
"""`dynabeam setup --apply`: reads the tables' settings, shows the plan, asks, applies it, waits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TextIO

from dynabeam.transforms.aws.session import AwsAccess
from dynabeam.transforms.aws.table_settings import (
    VIEW_TYPE,
    Needs,
    Pacing,
    TableSettings,
    apply_settings,
    read_settings,
)
from dynabeam.transforms.errors import ConfigurationError, DynabeamError, TableError

__all__ = ["Applier"]

_AT_ONCE = 8


@dataclasses.dataclass(frozen=True)
class Applier:
    """Turns on what tables lack.

    Attributes:
        access: AWS.
        needs: What has to be on.
        replace_streams: Streams with another view type are replaced by new ones.
        yes: Do not ask.
        ask: Puts a question to a person and says whether the answer is yes; None if there is
            nobody to ask.
        out: Where the plan and the progress are written.
        pacing: How long changes are waited for.
    """

    access: AwsAccess
    needs: Needs
    replace_streams: bool
    yes: bool
    ask: Callable[[str], bool] | None
    out: TextIO
    pacing: Pacing

    def apply(self, names: Sequence[str]) -> bool:
        """Brings the tables to what is needed.

        Args:
            names: The tables.

        Returns:
            True if everything needed is on; False if somebody said no, or streams have another
            view type and are not to be replaced.

        Raises:
            ConfigurationError: There is something to do, and nobody to ask.
            TableError: A table is not there, or its change failed; the others are done all the
                same.
            AwsAccessError: A permission is missing.
        """
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            found = list(pool.map(lambda name: read_settings(self.access, name, self.needs), names))
        for each in found:
            self._say(each)
        kept = [each for each in found if self._keeps(each)]
        to_do = [each.name for each in found if not self._keeps(each) and not self._done(each)]
        if to_do and not self._agreed(len(to_do)):
            self.out.write("nothing was changed\n")
            return False
        self._change(to_do)
        if not to_do and not kept:
            self.out.write("nothing to do\n")
        if kept:
            self.out.write(
                f"{len(kept)} left unchanged, because --replace_streams was not given: "
                f"{', '.join(each.name for each in kept)}\n"
            )
        return not kept

    def _done(self, table: TableSettings) -> bool:
        return table.satisfies(self.needs)

    def _keeps(self, table: TableSettings) -> bool:
        return table.has_other_stream(self.needs) and not self.replace_streams

    def _say(self, table: TableSettings) -> None:
        lines = []
        if table.lacks_stream(self.needs):
            lines.append(f"stream: off → {VIEW_TYPE}")
        if table.has_other_stream(self.needs):
            lines.append(
                f"stream: {table.view_type} → {VIEW_TYPE}. A view type cannot be changed: this "
                "stream is turned off and a new one on. It has a new ARN, which other readers "
                "(Lambda triggers, other replications) need to be given; changes written in "
                "between are in neither, which is a gap"
            )
            if self._keeps(table):
                lines.append("the table is left as it is; --replace_streams changes it")
        if table.lacks_recovery(self.needs):
            lines.append(
                "point-in-time recovery: off → on (billed by the table's size: "
                f"{table.size_bytes / 1e9:.2f} GB)"
            )
        if not lines:
            lines = ["is set up already" if table.active else "is being changed; waiting for it"]
        for line in lines:
            self.out.write(f"{table.name}: {line}\n")

    def _agreed(self, count: int) -> bool:
        if self.yes:
            return True
        if self.ask is None:
            raise ConfigurationError(
                "changes need a confirmation, and there is no terminal",
                where="--apply",
                hint="Add --yes to do what was listed",
            )
        return self.ask(f"Change {count} table{'s' if count > 1 else ''}? [y/N] ")

    def _change(self, names: Sequence[str]) -> None:
        """Changes all, each for itself, and raises the first failure at the end."""
        failures: list[DynabeamError] = []

        def one(name: str) -> str:
            try:
                apply_settings(
                    self.access,
                    name,
                    self.needs,
                    replace_stream=self.replace_streams,
                    pacing=self.pacing,
                )
            except TableError as error:
                failures.append(error)
                return f"{name}: failed: {error.what}\n"
            return f"{name}: done\n"

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for line in pool.map(one, names):
                self.out.write(line)
        if failures:
            raise failures[0]
