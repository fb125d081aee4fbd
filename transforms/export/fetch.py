# SPDX-License-Identifier: Apache-2.0
"""One data file at hand and verified: what no row is emitted before.

A file of an object store is copied to a temporary local file while its MD5 is taken, so it is
downloaded once, in full, and a connection that breaks half-way costs no rows. A local file is read
once for its MD5 where it lies. Either way the same open file is read afterwards, so what was
verified is what is read. Memory: two pieces of 1 MiB. Disk: the compressed file, for as long as
it is being read.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import os
import tempfile
from collections.abc import Iterator
from typing import BinaryIO

from dynabeam.transforms.errors import ExportIntegrityError
from dynabeam.transforms.export.manifest import REPACKED, DataFile, Verify
from dynabeam.transforms.storage import filesystem

__all__ = ["FetchedFile", "compressed_size", "fetched", "missing_file"]

_MISSING = (
    "Check that this identity may read it (s3:GetObject), and that the whole export was copied, "
    "all files of its manifest-files.json; a file that is gone for good needs a new export"
)
_PIECE = 1 << 20


@dataclasses.dataclass(frozen=True)
class FetchedFile:
    """An open data file.

    Attributes:
        content: The compressed bytes, at their start, seekable.
        size: Number of compressed bytes.
        warnings: What did not agree, if that was allowed.
    """

    content: BinaryIO
    size: int
    warnings: tuple[str, ...]


def compressed_size(path: str) -> int:
    """Size of a data file in bytes.

    Raises:
        ExportIntegrityError: It is missing or may not be seen.
    """
    try:
        return filesystem.size_of(path, ExportIntegrityError)
    except ExportIntegrityError as problem:
        raise missing_file(path, problem) from problem


@contextlib.contextmanager
def fetched(file: DataFile, *, verify: Verify = "strict") -> Iterator[FetchedFile]:
    """Opens a data file after its MD5 has been compared with the manifest's.

    Args:
        file: The file, as the manifest describes it.
        verify: What another MD5 is: an error or a warning.

    Raises:
        ExportIntegrityError: It is missing, may not be read, or has another MD5.
    """
    with contextlib.ExitStack() as stack:
        try:
            source = stack.enter_context(
                filesystem.open_for_reading(file.path, ExportIntegrityError)
            )
        except ExportIntegrityError as problem:
            raise missing_file(file.path, problem) from problem
        spool = None
        if not filesystem.is_local(file.path):
            spool = stack.enter_context(tempfile.TemporaryFile(prefix="dynabeam-export-"))
        try:
            digest = _digest(source, spool)
        except ExportIntegrityError as problem:
            if problem.hint:
                raise
            raise _cut(file.path, problem.what) from problem
        except OSError as problem:
            raise _cut(file.path, problem) from problem
        content: BinaryIO = spool or source
        size = content.seek(0, os.SEEK_END)
        content.seek(0)
        yield FetchedFile(content, size, _compare(file, digest, verify))


def _digest(source: BinaryIO, copy: BinaryIO | None) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    while piece := source.read(_PIECE):
        digest.update(piece)
        if copy is not None:
            copy.write(piece)
    return base64.b64encode(digest.digest()).decode("ascii")


def _compare(file: DataFile, found: str, verify: Verify) -> tuple[str, ...]:
    if found == file.md5:
        return ()
    error = ExportIntegrityError(
        "the file's MD5 is not the one in the manifest",
        where=file.path,
        expected=file.md5,
        found=found,
        hint=REPACKED,
    )
    if verify == "strict":
        raise error
    return (str(error),)


def _cut(path: str, problem: object) -> ExportIntegrityError:
    return ExportIntegrityError(
        f"the file cannot be read to its end: {problem}",
        where=path,
        hint="Run again: what was loaded before is kept",
    )


def missing_file(path: str, problem: ExportIntegrityError) -> ExportIntegrityError:
    """The error for a data file that cannot be had."""
    return ExportIntegrityError(
        f"a data file that the manifest lists is not to be had: {problem.what}",
        where=path,
        hint=_MISSING if problem.hint in ("", filesystem.CHECK_PATH) else problem.hint,
    )
