# SPDX-License-Identifier: Apache-2.0
"""Which tables are replicated: by name, by glob, by tag, less those that are left out.

A named table is always taken. Another one is taken if it matches one of the globs (if any is given)
and has all of the tags (if any is given); so globs and tags together narrow each other. What is to
be left out wins over everything.
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Collection, Mapping
from typing import Any

from dynabeam.transforms.aws.dynamodb import list_tables
from dynabeam.transforms.aws.session import AwsAccess
from dynabeam.transforms.aws.tags import tagged_tables
from dynabeam.transforms.runtime.stored_format import typed_fields

__all__ = ["Found", "TableSelection", "is_glob"]

_GLOB = frozenset("*?[")


def is_glob(text: str) -> bool:
    """True for a pattern, false for the name of one table."""
    return not _GLOB.isdisjoint(text)


@dataclasses.dataclass(frozen=True)
class Found:
    """What a selection means at a moment.

    Attributes:
        selected: The tables to replicate, without repeats; named ones first, whether they exist or
            not.
        listed: All tables that exist; None if nobody had to ask.
    """

    selected: tuple[str, ...]
    listed: tuple[str, ...] | None


@dataclasses.dataclass(frozen=True)
class TableSelection:
    """What was asked for.

    Attributes:
        patterns: Names, and globs with `*`, `?` and `[...]`, case-sensitive.
        tags: Tag key → its values, one of which a table must have; no value: any will do.
        exclude: Names and globs of tables to leave out.
    """

    patterns: tuple[str, ...] = ()
    tags: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    exclude: tuple[str, ...] = ()

    @property
    def is_open(self) -> bool:
        """True if a table that does not exist yet can belong to it."""
        return bool(self.tags) or any(is_glob(each) for each in self.patterns)

    def excludes(self, name: str) -> bool:
        """True for a table that is to be left out."""
        return any(fnmatch.fnmatchcase(name, each) for each in self.exclude)

    def has_name(self, name: str) -> bool:
        """True for a table that is named or matches a glob; tags are not looked at."""
        return self._matches(name, None) or name in self.patterns

    def find(self, access: AwsAccess | None) -> Found:
        """Asks AWS which tables it means now; a selection of names alone asks nobody.

        Args:
            access: Where and as whom AWS is called; may be None if there are names only.

        Raises:
            AwsAccessError: `dynamodb:ListTables` or `tag:GetResources` is not allowed.
            CredentialsError: There are no usable credentials.
        """
        selected = [each for each in self.patterns if not is_glob(each)]
        listed = None
        if self.is_open:
            assert access is not None
            listed = tuple(list_tables(access))
            tagged = set(tagged_tables(access, self.tags)) if self.tags else None
            selected += [each for each in listed if self._matches(each, tagged)]
        taken = (each for each in dict.fromkeys(selected) if not self.excludes(each))
        return Found(tuple(taken), listed)

    def matches_of(self, pattern: str, names: Collection[str]) -> list[str]:
        """Which of some tables a glob matches."""
        return [each for each in names if fnmatch.fnmatchcase(each, pattern)]

    def to_json(self) -> dict[str, Any]:
        """The selection as a JSON-able dict."""
        return {
            "patterns": list(self.patterns),
            "tags": {key: list(values) for key, values in self.tags.items()},
            "exclude": list(self.exclude),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> TableSelection:
        """Reads what `to_json` wrote."""
        names = ("patterns", "tags", "exclude")
        return typed_fields(cls, {name: document[name] for name in names})

    def _matches(self, name: str, tagged: Collection[str] | None) -> bool:
        globs = [each for each in self.patterns if is_glob(each)]
        by_name = not globs or any(fnmatch.fnmatchcase(name, each) for each in globs)
        return by_name and (tagged is None or name in tagged)
