# SPDX-License-Identifier: Apache-2.0
"""Files wherever Beam reaches them: local paths, `s3://`, `gs://` and every registered filesystem.

A thin layer over `apache_beam.io.filesystems` that adds the two things the promises rest on: a file
appears whole or not at all, and a failure names the file and what was tried. Local files and
folders that are made here are their owner's alone (0600, 0700): they hold the tables' data. A run
that has lost its lease changes nothing here any more (`transforms.storage.fence`). S3 goes through
Beam's S3 client too, but through one that is shared and may have a role (`transforms.aws.beam_s3`).
"""

from __future__ import annotations

import contextlib
import errno
import io
import math
import os
import uuid
from collections.abc import Iterable
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import BinaryIO, cast

from apache_beam.io.aws.clients.s3.messages import S3ClientError
from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from dynabeam.transforms.aws.beam_s3 import s3_client, s3_io, whole_object
from dynabeam.transforms.aws.errors import AwsErrorKind, classify, error_code, statement_to_add
from dynabeam.transforms.errors import AwsAccessError, CredentialsError, DynabeamError
from dynabeam.transforms.runtime.clock import machine_us
from dynabeam.transforms.storage.fence import check_fence
from dynabeam.transforms.storage.s3_answers import (
    CHECK_PATH,
    ELSEWHERE,
    LISTING_HINT,
    is_known_missing,
    is_missing,
    read_error,
    refuse_forbidden,
    withheld,
    write_error,
)
from dynabeam.transforms.storage.s3_streams import S3Object, S3Upload

__all__ = [
    "CHECK_PATH",
    "check_bucket",
    "check_folder",
    "delete",
    "exists",
    "is_local",
    "join",
    "list_files",
    "make_folder",
    "move",
    "nearest_existing",
    "open_for_reading",
    "open_for_writing",
    "open_private",
    "read_bytes",
    "read_end",
    "read_start",
    "seconds_since_change",
    "size_of",
    "write_atomic",
]


_OWNERS_FILE = 0o600
_OWNERS_FOLDER = 0o700
_USUAL = Config()
_BUFFER = 1 << 20


def is_local(path: str) -> bool:
    """True for a path of the local filesystem."""
    return "://" not in path


def join(folder: str, *names: str) -> str:
    """Joins names to a folder with the filesystem's own separator."""
    return cast(str, FileSystems.join(folder, *names))


def make_folder(path: str) -> None:
    """Creates a local folder with its parents; object stores have no folders to create.

    Those that are made are their owner's alone; one that is there stays as it is.
    """
    if not is_local(path):
        return
    missing = []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path) or "."
    for each in reversed(missing):
        # `os.makedirs` would give its mode to the last one only.
        with contextlib.suppress(FileExistsError):
            os.mkdir(each, _OWNERS_FOLDER)
        if not os.path.isdir(each):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), each)


def open_private(path: str, mode: str = "ab") -> BinaryIO:
    """Opens a local file for writing that, if it is made here, only its owner may read.

    Raises:
        OSError: It cannot be opened.
    """
    return cast(
        BinaryIO,
        open(path, mode, opener=lambda name, flags: os.open(name, flags, _OWNERS_FILE)),
    )


def nearest_existing(path: str) -> str:
    """A local path, or the nearest one above it that is there."""
    there = os.path.abspath(path)
    while not os.path.lexists(there):
        there = os.path.dirname(there)
    return there


def check_folder(path: str, error: type[DynabeamError]) -> str:
    """Checks whether a local folder can be written, or else made; makes nothing.

    Returns:
        The folder, or the nearest one above it that is there.

    Raises:
        DynabeamError: Of the given kind, if not.
    """
    there = nearest_existing(path)
    if not os.path.isdir(there):
        raise error("the folder cannot be made: a file is in the way", where=there, hint=ELSEWHERE)
    if not os.access(there, os.W_OK | os.X_OK):
        raise error("the folder cannot be written", where=there, hint=ELSEWHERE)
    return there


def check_bucket(path: str, error: type[DynabeamError]) -> None:
    """Checks whether the bucket of an S3 path exists and may be listed; others are not checked.

    Requesting the object does not distinguish a missing bucket from a missing object.

    Raises:
        DynabeamError: Of the given kind, if it is not there or S3 does not answer.
        CredentialsError: There is no identity, or it is not accepted.
        AwsAccessError: S3 refuses to list it.
    """
    if not _is_s3(path):
        return
    bucket, _, prefix = path.removeprefix("s3://").partition("/")
    try:
        below = f"{prefix}/" if prefix else ""
        s3_io().client.client.list_objects_v2(Bucket=bucket, Prefix=below, MaxKeys=1)
    except Exception as problem:
        kind, code = classify(problem), error_code(problem)
        if kind is AwsErrorKind.GONE:
            raise error(
                "the bucket does not exist",
                where=path,
                found=bucket,
                hint=f"Correct its name, or make it: aws s3 mb s3://{bucket}",
            ) from problem
        if kind is AwsErrorKind.FORBIDDEN:
            hint = statement_to_add("s3:ListBucket", f"arn:aws:s3:::{bucket}")
            what = f"AWS refused s3:ListBucket: {problem}"
            raise AwsAccessError(what, where=path, hint=hint) from problem
        if kind is AwsErrorKind.CREDENTIALS:
            raise CredentialsError(str(problem), where=path) from problem
        if not isinstance(problem, (BotoCoreError, ClientError)):
            raise
        hint = "Check the bucket's name and region, and --endpoint_url"
        if code in ("PermanentRedirect", "301", "AuthorizationHeaderMalformed"):
            hint = "The bucket is in another region: correct --region"
        raise error(f"S3 does not serve the bucket: {problem}", where=path, hint=hint) from problem


def exists(path: str) -> bool:
    """True if a file (or a local folder) is there.

    Raises:
        AwsAccessError: S3 refuses to say.
        BeamIOError: The filesystem does not know.
    """
    if _is_s3(path):
        try:
            return cast(bool, s3_io().exists(path))
        except S3ClientError as problem:
            try:
                if problem.code == HTTPStatus.FORBIDDEN and is_missing(path):
                    return False
            except ClientError as other:
                raise BeamIOError("the object cannot be seen", {path: other}) from other
            refuse_forbidden(problem, path, also=LISTING_HINT)
            raise BeamIOError("the object cannot be seen", {path: problem}) from problem
    return cast(bool, FileSystems.exists(path))


def size_of(path: str, error: type[DynabeamError]) -> int:
    """Size of a file in bytes.

    Raises:
        DynabeamError: Of the given kind, if there is no such file or it cannot be seen.
        AwsAccessError: S3 refuses to show it.
    """
    try:
        if is_local(path):
            return os.stat(path).st_size
        if _is_s3(path):
            return cast(int, s3_io().size(path))
        found = FileSystems.match([path])[0].metadata_list
    except FileNotFoundError as problem:
        raise error("the file does not exist", where=path) from problem
    except S3ClientError as problem:
        missing = problem.code == HTTPStatus.NOT_FOUND
        if problem.code == HTTPStatus.FORBIDDEN:
            missing = is_known_missing(path)
            if not missing:
                refuse_forbidden(problem, path)
        what = "the file does not exist" if missing else f"the file cannot be read: {problem}"
        raise error(what, where=path) from problem
    except (OSError, BeamIOError) as problem:
        raise error(f"the file cannot be read: {problem}", where=path) from problem
    if not found:
        raise error("the file does not exist", where=path)
    return cast(int, found[0].size_in_bytes)


def list_files(folder: str) -> list[str]:
    """Paths of all files below a folder, sorted; empty if there is none.

    Raises:
        AwsAccessError: S3 refuses to list it.
    """
    if is_local(folder):
        return sorted(
            os.path.join(parent, name) for parent, _, names in os.walk(folder) for name in names
        )
    if _is_s3(folder):
        return sorted(_list_s3(folder))
    found = FileSystems.match([folder.rstrip("/") + "/**"])[0].metadata_list
    return sorted(cast(str, each.path) for each in found)


def seconds_since_change(folder: str) -> float:
    """How long ago a file below a folder was changed last; without end if there is none.

    Of S3 both times are the service's: the clock of this machine may be minutes away from them.

    Raises:
        AwsAccessError: S3 refuses to list it.
    """
    if not _is_s3(folder):
        found = FileSystems.match([folder.rstrip("/") + "/**"])[0].metadata_list
        newest = max((float(each.last_updated_in_seconds or 0) for each in found), default=0.0)
        return max(0.0, machine_us() / 1e6 - newest) if newest else math.inf
    bucket, _, below = folder.rstrip("/").removeprefix("s3://").partition("/")
    youngest = math.inf
    try:
        pages = s3_client(_USUAL).get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=bucket, Prefix=f"{below}/"):
            now = parsedate_to_datetime(page["ResponseMetadata"]["HTTPHeaders"]["date"])
            ages = (
                (now - each["LastModified"]).total_seconds() for each in page.get("Contents", ())
            )
            youngest = min(youngest, *ages, math.inf)
    except ClientError as problem:
        status = problem.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        found = S3ClientError(str(problem), status)
        refuse_forbidden(found, folder, "s3:ListBucket")
        raise BeamIOError("the folder cannot be listed", {folder: problem}) from problem
    return max(0.0, youngest)


def open_for_reading(path: str, error: type[DynabeamError]) -> BinaryIO:
    """Opens a file as raw bytes (never decompressed).

    What goes wrong while an object is read is raised alike: S3 shows the metadata of objects that
    it does not give out, such as archived ones, and ones whose key may not be used.

    Raises:
        DynabeamError: Of the given kind, if it is not there or cannot be read.
        AwsAccessError: S3 refuses to show it.
    """
    if is_local(path):
        try:
            return open(path, "rb")
        except OSError as problem:
            raise error(
                f"the file cannot be read: {problem.strerror}", where=path, hint=CHECK_PATH
            ) from problem
    try:
        if _is_s3(path):
            file = s3_io().open(path, "rb", read_buffer_size=_BUFFER)
            return cast(BinaryIO, io.BufferedReader(S3Object(file.detach(), path, error), _BUFFER))
        size_of(path, error)
        return cast(
            BinaryIO, FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)
        )
    except (OSError, BeamIOError, S3ClientError) as problem:
        raise read_error(problem, path, error) from problem


def read_bytes(path: str, error: type[DynabeamError]) -> bytes:
    """Reads a whole file.

    Raises:
        DynabeamError: Of the given kind, if it is not there or cannot be read.
        AwsAccessError: S3 refuses to show it.
    """
    with open_for_reading(path, error) as file:
        return file.read()


def read_end(path: str, count: int, error: type[DynabeamError]) -> tuple[int, bytes]:
    """Reads the last bytes of a file.

    Returns:
        The file's size in bytes, and at most `count` bytes of its end.

    Raises:
        DynabeamError: Of the given kind, if it is not there or cannot be read.
        AwsAccessError: S3 refuses to show it.
    """
    if _is_s3(path):
        return _read_s3_range(path, f"bytes=-{count}", error)
    with open_for_reading(path, error) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - count))
        return size, file.read(count)


def read_start(path: str, count: int, error: type[DynabeamError]) -> bytes:
    """Reads at most `count` bytes of a file's start, and requests no more.

    Raises:
        DynabeamError: Of the given kind, if it is not there or cannot be read.
        AwsAccessError: S3 refuses to show it.
    """
    if _is_s3(path):
        return _read_s3_range(path, f"bytes=0-{count - 1}", error)[1]
    with open_for_reading(path, error) as file:
        return file.read(count)


def open_for_writing(path: str, error: type[DynabeamError]) -> BinaryIO:
    """Opens a file for writing raw bytes, with its folders; visible as it grows on local disks.

    What goes wrong while an object is written or closed is raised alike.

    Raises:
        DynabeamError: Of the given kind, if it may not be written.
    """
    check_fence()
    try:
        if is_local(path):
            make_folder(os.path.dirname(path) or ".")
            return open_private(path, "wb")
        if _is_s3(path):
            return cast(BinaryIO, S3Upload(s3_io().open(path, "wb"), path, error))
        return cast(
            BinaryIO, FileSystems.create(path, compression_type=CompressionTypes.UNCOMPRESSED)
        )
    except (OSError, BeamIOError, S3ClientError) as problem:
        raise write_error(problem, path, error) from problem


def write_atomic(path: str, content: bytes, error: type[DynabeamError]) -> None:
    """Replaces a file as a whole: a reader sees the old content or the new, also after a crash.

    Raises:
        DynabeamError: Of the given kind, if it may not be written.
    """
    if not is_local(path):
        # Object stores show an object only after the last byte has arrived.
        with open_for_writing(path, error) as file:
            file.write(content)
        return
    check_fence()
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        make_folder(os.path.dirname(path) or ".")
        try:
            with open_private(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            # Also what interrupts: nobody would ever look for the torso.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        _sync_folder(os.path.dirname(path) or ".")
    except OSError as problem:
        raise error(
            f"the file cannot be written: {problem.strerror}", where=path, hint=ELSEWHERE
        ) from problem


def move(source: str, target: str, error: type[DynabeamError]) -> None:
    """Moves one file, replacing the target: a rename locally, copy then delete in object stores.

    Raises:
        DynabeamError: Of the given kind, if it cannot be moved.
    """
    check_fence()
    try:
        if is_local(source):
            make_folder(os.path.dirname(target) or ".")
            os.replace(source, target)
            _sync_folder(os.path.dirname(target) or ".")
            return
        if _is_s3(source) and _is_s3(target):
            s3_io().copy(source, target)
            s3_io().delete(source)
            return
        FileSystems.copy([source], [target])
        FileSystems.delete([source])
    except (OSError, BeamIOError, S3ClientError) as problem:
        held = withheld(str(problem), source, error)
        if held is not None:
            raise held from problem
        refuse_forbidden(problem, target, "s3:PutObject")
        raise error(f"the file cannot be moved: {problem}", where=source, found=target) from problem


def delete(paths: Iterable[str], error: type[DynabeamError]) -> None:
    """Deletes files; those that are gone already are no error.

    Raises:
        DynabeamError: Of the given kind, if one may not be deleted.
    """
    for path in paths:
        check_fence()
        try:
            if is_local(path):
                os.unlink(path)
            elif _is_s3(path):
                s3_io().delete(path)
            else:
                FileSystems.delete([path])
        except FileNotFoundError:
            continue
        except (OSError, BeamIOError, S3ClientError) as problem:
            refuse_forbidden(problem, path, "s3:DeleteObject")
            raise error(f"the file cannot be deleted: {problem}", where=path) from problem


def _list_s3(folder: str) -> dict[str, float]:
    """Paths below a folder of S3, each with the time of its last change."""
    below = folder.rstrip("/") + "/"
    try:
        found = s3_io().list_files(below, with_metadata=True)
        return {path: float(changed) for path, (_, changed) in found}
    except S3ClientError as problem:
        refuse_forbidden(problem, folder, "s3:ListBucket")
        raise BeamIOError("the folder cannot be listed", {folder: problem}) from problem


def _read_s3_range(path: str, wanted: str, error: type[DynabeamError]) -> tuple[int, bytes]:
    """The size of an object and a range of it, in one request."""
    bucket, _, key = path.removeprefix("s3://").partition("/")
    try:
        # Beam's client requests all that follows.
        answer, content = whole_object(s3_io().client.client, Bucket=bucket, Key=key, Range=wanted)
    except ClientError as problem:
        code = problem.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return 0, b""
        raise read_error(S3ClientError(str(problem), code), path, error) from problem
    except BotoCoreError as problem:
        raise read_error(problem, path, error) from problem
    return int(answer["ContentRange"].rpartition("/")[2]), content


def _is_s3(path: str) -> bool:
    return path.startswith("s3://")


def _sync_folder(path: str) -> None:
    # Without it a crash of the machine may forget the rename.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
