# SPDX-License-Identifier: Apache-2.0
"""Manifests beside the position document: each is written once, and the document names it.

The list of files of a large export has some 30 MB, and the document is written with each round. So
a manifest lies in `manifests/<SHA-256 of its content>.json` of the state directory, written before
the first document that names it, and removed when none does any more. The files that are loaded
take little room too: those at the manifest's beginning are a number (`first`), as they are loaded
in its order. Documents that hold all of it, of older releases, are read as they are.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from dynabeam.transforms.errors import StateError
from dynabeam.transforms.export.elements import DONE
from dynabeam.transforms.runtime.stored_format import canonical
from dynabeam.transforms.state.table_reading import loads_of
from dynabeam.transforms.storage import filesystem

__all__ = ["KeptManifest", "KeptManifests"]

_NAME = re.compile(r"[0-9a-f]{64}")


class KeptManifest(dict[str, Any]):
    """A manifest's document that lies in a file of its own; not to be changed.

    Args:
        document: The manifest.
        name: The file's name, without its ending.
    """

    def __init__(self, document: Mapping[str, Any], name: str) -> None:
        super().__init__(document)
        self.name = name

    def __deepcopy__(self, memo: Any) -> KeptManifest:
        return self


class KeptManifests:
    """The manifests of a state directory.

    Args:
        path: The state directory.
    """

    def __init__(self, path: str) -> None:
        self._folder = filesystem.join(path, "manifests")
        self._wrote = False

    def put_aside(self, tables: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Writes the manifests that are new, and returns the tables as the document has them.

        Args:
            tables: Table → its state; the manifests in it are replaced by equal `KeptManifest`s.

        Raises:
            StateError: A manifest cannot be written.
        """
        return {name: self._stored(state) for name, state in tables.items()}

    def bring_back(self, tables: Mapping[str, dict[str, Any]]) -> None:
        """Puts the manifests that a document names into its tables, in place.

        Raises:
            StateError: One is missing, or another one than the document names.
        """
        for state in tables.values():
            for load in loads_of(state):
                name = (load["manifest"] or {}).get("kept")
                if name is None:
                    continue
                load["manifest"] = self._read(name)
                files = dict(load["files"])
                first = load.pop("first", 0)
                listed = load["manifest"]["files"][:first]
                load["files"] = {each[0]: DONE for each in listed} | files

    def clear(self, tables: Iterable[dict[str, Any]]) -> None:
        """Removes the manifests that no table has any more, after a commit that wrote a new one."""
        if not self._wrote:
            return
        named = {
            load["manifest"].name
            for state in tables
            for load in loads_of(state)
            if isinstance(load["manifest"], KeptManifest)
        }
        there = filesystem.list_files(self._folder)
        gone = [each for each in there if each.rpartition("/")[2][:64] not in named]
        filesystem.delete(gone, StateError)

    def _stored(self, state: dict[str, Any]) -> dict[str, Any]:
        stored = dict(state)
        if "snapshot" in state:
            stored["snapshot"] = self._stored_load(state["snapshot"])
        if "heal" in state:
            stored["heal"] = [self._stored_load(each) for each in state["heal"]]
        return stored

    def _stored_load(self, load: dict[str, Any]) -> dict[str, Any]:
        if load["manifest"] is None:
            return load
        if not isinstance(load["manifest"], KeptManifest):
            load["manifest"] = self._keep(load["manifest"])
        manifest, rest = load["manifest"], dict(load["files"])
        first = 0
        for path, *_ in manifest["files"]:
            if rest.get(path) != DONE:
                break
            del rest[path]
            first += 1
        stored = {**load, "manifest": {"kept": manifest.name}, "files": rest}
        return stored | ({"first": first} if first else {})

    def _keep(self, document: Mapping[str, Any]) -> KeptManifest:
        content = canonical(document)
        name = hashlib.sha256(content).hexdigest()
        filesystem.write_atomic(self._path(name), content, StateError)
        self._wrote = True
        return KeptManifest(document, name)

    def _read(self, name: Any) -> KeptManifest:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise StateError(
                "the position document names a manifest that cannot be",
                where=self._folder,
                found=name,
                hint="Restore the state directory from a copy, or start with a new one",
            )
        content = filesystem.read_bytes(self._path(name), StateError)
        if hashlib.sha256(content).hexdigest() != name:
            raise StateError(
                "a manifest is not the one that the position document names",
                where=self._path(name),
                hint="Restore the state directory from a copy, or start with a new one",
            )
        return KeptManifest(json.loads(content), name)

    def _path(self, name: str) -> str:
        return filesystem.join(self._folder, f"{name}.json")
