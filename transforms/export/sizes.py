# SPDX-License-Identifier: Apache-2.0
"""How large data files are, packed and unpacked: a look at each file's end.

In an object store a look is two small requests, so that several files are looked at together.
What was looked at is remembered until it is used, within bounds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from dynabeam.transforms.errors import ExportIntegrityError
from dynabeam.transforms.export.fetch import missing_file
from dynabeam.transforms.export.slices import FileSize, foresee
from dynabeam.transforms.storage import filesystem

__all__ = ["FileSizes", "file_size"]

_TRAILER = 4
_TOGETHER = 32
_MOST_REMEMBERED = 20_000


def file_size(path: str) -> FileSize:
    """Size of a data file, and what its gzip trailer says.

    Raises:
        ExportIntegrityError: It is missing or cannot be read.
        AwsAccessError: S3 refuses to show it.
    """
    try:
        size, end = filesystem.read_end(path, _TRAILER, ExportIntegrityError)
    except ExportIntegrityError as problem:
        raise missing_file(path, problem) from problem
    return FileSize(size, int.from_bytes(end, "little") if len(end) == _TRAILER else None)


class FileSizes:
    """Unpacked sizes of the files of many exports."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def of(self, paths: Iterable[str]) -> _Asked:
        """Those of some files that will be needed in this order.

        Args:
            paths: The files.
        """
        return _Asked(self._known, iter(paths))


class _Asked:
    """Looks at some of the coming files whenever an unknown one is needed."""

    def __init__(self, known: dict[str, int], coming: Iterator[str]) -> None:
        self._known = known
        self._coming = coming

    def __call__(self, path: str) -> int:
        """Uncompressed bytes of a file, as foreseen.

        Raises:
            ExportIntegrityError: It is missing or cannot be read.
            AwsAccessError: S3 refuses to show it.
        """
        if path not in self._known:
            self._look(path)
        return self._known[path]

    def _look(self, path: str) -> None:
        if len(self._known) > _MOST_REMEMBERED:
            self._known.clear()
        paths = [path]
        if not filesystem.is_local(path):
            following = (each for each in self._coming if each != path and each not in self._known)
            paths += islice(following, _TOGETHER - 1)
        if len(paths) == 1:
            self._known[path] = foresee(file_size(path))
            return
        with ThreadPoolExecutor(len(paths), thread_name_prefix="sizes") as threads:
            found = list(threads.map(file_size, paths))
        self._known.update(zip(paths, map(foresee, found), strict=True))
