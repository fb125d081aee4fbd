# SPDX-License-Identifier: Apache-2.0
"""Beam's streams of objects in S3, with typed errors."""

from __future__ import annotations

import io
import os
from typing import Any, BinaryIO

from apache_beam.io.aws.clients.s3.messages import S3ClientError
from apache_beam.io.filesystem import BeamIOError
from botocore.exceptions import BotoCoreError

from dynabeam.transforms.errors import DynabeamError
from dynabeam.transforms.storage.s3_answers import read_error, write_error

__all__ = ["S3Object", "S3Upload"]


class S3Object(io.RawIOBase):
    """An object of S3 whose reading fails with typed errors.

    Args:
        raw: Beam's stream of it.
        path: Its path.
        error: The kind of errors.
    """

    def __init__(self, raw: io.RawIOBase, path: str, error: type[DynabeamError]) -> None:
        super().__init__()
        self._raw = raw
        self._path = path
        self._error = error

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves; see `io.RawIOBase`."""
        return self._raw.seek(offset, whence)

    def tell(self) -> int:
        """The position, in bytes."""
        return self._raw.tell()

    def readinto(self, buffer: Any) -> int:
        """Reads; see `io.RawIOBase`."""
        try:
            return self._raw.readinto(buffer) or 0
        except (OSError, BeamIOError, S3ClientError, BotoCoreError) as problem:
            raise read_error(problem, self._path, self._error) from problem

    def close(self) -> None:
        """Ends it."""
        self._raw.close()
        super().close()


class S3Upload(io.RawIOBase):
    """An object of S3 that is being written, which fails with typed errors.

    Args:
        file: Beam's stream of it.
        path: Its path.
        error: The kind of errors.
    """

    def __init__(self, file: BinaryIO, path: str, error: type[DynabeamError]) -> None:
        super().__init__()
        self._file = file
        self._path = path
        self._error = error

    def writable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """The position, in bytes."""
        return self._file.tell()

    def write(self, content: Any) -> int:
        """Writes all of it."""
        try:
            return self._file.write(content)
        except (OSError, BeamIOError, S3ClientError, BotoCoreError) as problem:
            raise write_error(problem, self._path, self._error) from problem

    def close(self) -> None:
        """Ends it."""
        if self.closed:
            return
        super().close()
        try:
            self._file.close()
        except (OSError, BeamIOError, S3ClientError, BotoCoreError) as problem:
            raise write_error(problem, self._path, self._error) from problem
