# SPDX-License-Identifier: Apache-2.0
"""From the keys in a manifest to the paths where the files lie now.

Keys start at the root of the bucket that AWS wrote to. As long as a copied export keeps its tree,
its files lie at the same place relative to the manifest's folder: `data/…` for full exports,
`../data/…` for incremental ones. Flattened copies, and manifests copied without their data, are
recognised by looking for a few of the files, never by listing a folder.

A manifest is text that somebody may have changed: whatever it says, in an object store nothing
outside of its bucket is read, and on a disk nothing outside of the folder that holds the export's
`AWSDynamoDB` folder; of an export that lies in no such folder, nothing outside of its own folder
and the `data` beside it. The root of a disk is never taken for a bucket.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence

from apache_beam.io.filesystem import BeamIOError

from dynabeam.transforms.errors import AwsAccessError, ExportIntegrityError
from dynabeam.transforms.storage import filesystem

__all__ = ["DataFolder"]

_LOOKED_FOR = 3
_TREE = re.compile(r"(?P<prefix>(?:.*/)?)(?P<own>AWSDynamoDB/[^/]+)")


@dataclasses.dataclass(frozen=True)
class DataFolder:
    """Resolves the keys of one export.

    Attributes:
        folder: The folder in which the summary lies now.
        root: The bucket, in an object store; on a disk the folder that holds `AWSDynamoDB`, if the
            export has kept its tree; else empty.
        origin: The folder's own key at the time of writing, without a final slash.
        prefix: The part of keys, with a final slash, that has its place in `root`: the export's own
            prefix on a disk.
    """

    folder: str
    root: str
    origin: str
    prefix: str = ""

    @classmethod
    def of(cls, summary_path: str, files_key: str) -> DataFolder:
        """Makes one from the summary's path and the `manifestFilesS3Key` in it."""
        folder = summary_path.rpartition("/")[0]
        origin = _clean(files_key, summary_path).rpartition("/")[0]
        if not filesystem.is_local(folder):
            scheme, _, rest = folder.partition("://")
            root = f"{scheme}://{rest.partition('/')[0]}"
            return cls(folder, root, origin)
        tree = _TREE.fullmatch(origin)
        if tree is None or not f"{folder}/".endswith(f"/{origin}/"):
            return cls(folder, "", origin)
        root = folder.removesuffix(f"/{tree['own']}")
        return cls(folder, root, origin, tree["prefix"])

    def sibling(self, key: str) -> str:
        """The path of the other manifest: beside the summary, wherever that lies now."""
        return filesystem.join(self.folder, key.rpartition("/")[2])

    def data_paths(self, keys: Sequence[str]) -> dict[str, str]:
        """The paths of data files, all by the first rule under which a few of them exist.

        If none exists under any rule, the paths relative to the manifest are given, so that reading
        names the file that is missing.

        Raises:
            ExportIntegrityError: A key leads out of the export.
        """
        clean = {key: _clean(key, self.folder) for key in keys}
        rules: list[Callable[[str], str]] = [self._relative]
        if self.root:
            rules.append(self._from_root)
        rules.append(lambda key: filesystem.join(self.folder, "data", key.rpartition("/")[2]))
        rules.append(lambda key: filesystem.join(self.folder, key.rpartition("/")[2]))
        looked_for = [clean[key] for key in _spread(keys)]
        chosen = next(
            (rule for rule in rules if any(_exists(rule(key)) for key in looked_for)), rules[0]
        )
        return {key: chosen(cleaned) for key, cleaned in clean.items()}

    def _from_root(self, key: str) -> str:
        if not key.startswith(self.prefix):
            return filesystem.join(self.folder, "data", key.rpartition("/")[2])
        return filesystem.join(self.root, *key[len(self.prefix) :].split("/"))

    def _relative(self, key: str) -> str:
        parent, _, own = self.origin.rpartition("/")
        if key.startswith(f"{self.origin}/"):
            return filesystem.join(self.folder, *key[len(self.origin) + 1 :].split("/"))
        shared = f"{parent}/data/" if parent else "data/"
        if own and key.startswith(shared):
            above = self.folder.rpartition("/")[0]
            return filesystem.join(above, "data", *key[len(shared) :].split("/"))
        return filesystem.join(self.folder, "data", key.rpartition("/")[2])


def _clean(key: str, where: str) -> str:
    parts = key.replace("\\", "/").split("/")
    if ".." in parts or "." in parts or key.startswith("/") or "://" in key or not parts[-1]:
        raise ExportIntegrityError(
            "a key in the manifest leads out of the export", where=where, found=key
        )
    return key


def _spread(keys: Sequence[str]) -> Iterable[str]:
    """A few keys from all over the list, so that one missing file does not mislead."""
    step = max(1, len(keys) // _LOOKED_FOR)
    return keys[::step][:_LOOKED_FOR]


def _exists(path: str) -> bool:
    try:
        return filesystem.exists(path)
    except (BeamIOError, AwsAccessError):
        # Not being allowed to look under one rule must not hide the file under another one;
        # reading the file shows the reason.
        return False
