# SPDX-License-Identifier: Apache-2.0
"""Manifests beside the position document: each is written once, and the document names it.

The list of files of a large export has some 30 MB, and the document is written with each round. So
a manifest lies in `manifests/<SHA-256 of its content>.json` of the state directory, written before
the first document that names it, and removed when none does any more. The files that are loaded
take little room too: those at the manifest's beginning are a number (`first`), as they are loaded
in its order. Documents that hold all of it, of older releases, are read as they are.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from dynabeam.transforms.errors import StateError
from dynabeam.transforms.export.elements import DONE
from dynabeam.transforms.export.manifest import ExportManifest
from dynabeam.transforms.runtime.stored_format import canonical, parse_object
from dynabeam.transforms.state.table_state import LoadState, TableState, field_of
from dynabeam.transforms.storage import filesystem

__all__ = ["KeptManifests"]

_NAME = re.compile(r"[0-9a-f]{64}")
_RESTORE = "Restore the state directory from a copy, or start with a new one"


class KeptManifests:
    """The manifests of a state directory.

    Args:
        path: The state directory.
    """

    def __init__(self, path: str) -> None:
        self._folder = filesystem.join(path, "manifests")
        # By identity: what is frozen says for ever what it said when it was hashed.
        self._names: dict[int, tuple[ExportManifest, str]] = {}
        self._wrote = False

    def documents(self, tables: Mapping[str, TableState]) -> dict[str, dict[str, Any]]:
        """The tables as the position document has them; manifests that are new are written.

        Args:
            tables: Table → its state.

        Raises:
            StateError: A manifest cannot be written.
        """
        return {name: self._document(state) for name, state in tables.items()}

    def states(self, documents: Mapping[str, Any]) -> dict[str, TableState]:
        """Reads what `documents` returned, now or in an earlier version.

        Raises:
            StateError: A manifest is missing, or another one than the document names.
            ValueError: A table's state is damaged; the text names the field.
            NewerFieldsError: A newer version has added a field.
        """
        found = {}
        for name, document in documents.items():
            whole = self._with_manifests(document)
            with field_of(f"tables: {name}"):
                found[name] = TableState.from_json(whole)
        self._remember_only(found.values())
        return found

    def clear(self, tables: Iterable[TableState]) -> None:
        """Removes the manifests that no table has any more, after a commit that wrote a new one."""
        self._remember_only(tables)
        if not self._wrote:
            return
        named = {name for _, name in self._names.values()}
        there = filesystem.list_files(self._folder)
        gone = [each for each in there if each.rpartition("/")[2][:64] not in named]
        filesystem.delete(gone, StateError)

    def _remember_only(self, tables: Iterable[TableState]) -> None:
        held = {id(load.manifest) for state in tables for load in state.loads}
        self._names = {key: each for key, each in self._names.items() if key in held}

    def _document(self, state: TableState) -> dict[str, Any]:
        bare = state.map_loads(_without_manifest)
        document = bare.to_json()
        written = [document["snapshot"], *document.get("heal", ())]
        for load, stored in zip(state.loads, written, strict=True):
            if load.manifest is None:
                continue
            rest, first = dict(load.files), 0
            for each in load.manifest.files:
                if rest.get(each.path) != DONE:
                    break
                del rest[each.path]
                first += 1
            stored |= {"manifest": {"kept": self._name_of(load.manifest)}, "files": rest}
            if first:
                stored["first"] = first
        return document

    def _with_manifests(self, document: Mapping[str, Any]) -> dict[str, Any]:
        found = dict(document)
        if "snapshot" in found:
            found["snapshot"] = self._with_manifest(found["snapshot"])
        if isinstance(found.get("heal"), list):
            found["heal"] = [self._with_manifest(each) for each in found["heal"]]
        return found

    def _with_manifest(self, stored: Any) -> Any:
        # Whatever else stands there, the table's state judges it.
        named = stored.get("manifest") if isinstance(stored, dict) else None
        if not isinstance(named, dict):
            return stored
        if "kept" not in named:
            # Beside the manifest itself all loaded files are named.
            return {field: each for field, each in stored.items() if field != "first"}
        name = named["kept"]
        manifest = self._read(name)
        self._names[id(manifest)] = manifest, name
        rest = dict(stored)
        listed = manifest.files[: rest.pop("first", 0)]
        files = {**{each.path: DONE for each in listed}, **stored["files"]}
        return {**rest, "manifest": manifest, "files": files}

    def _name_of(self, manifest: ExportManifest) -> str:
        """The name of a manifest's file, which is written if it is new here."""
        known = self._names.get(id(manifest))
        if known is not None:
            return known[1]
        content = canonical(manifest.to_json())
        name = hashlib.sha256(content).hexdigest()
        filesystem.write_atomic(self._path(name), content, StateError)
        self._names[id(manifest)] = manifest, name
        self._wrote = True
        return name

    def _read(self, name: Any) -> ExportManifest:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise StateError(
                "the position document names a manifest that cannot be",
                where=self._folder,
                found=name,
                hint=_RESTORE,
            )
        content = filesystem.read_bytes(self._path(name), StateError)
        if hashlib.sha256(content).hexdigest() != name:
            raise StateError(
                "a manifest is not the one that the position document names",
                where=self._path(name),
                hint=_RESTORE,
            )
        return ExportManifest.from_json(parse_object(content))

    def _path(self, name: str) -> str:
        return filesystem.join(self._folder, f"{name}.json")


def _without_manifest(load: LoadState) -> LoadState:
    return load if load.manifest is None else dataclasses.replace(load, manifest=None, files={})
