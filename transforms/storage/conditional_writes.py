# SPDX-License-Identifier: Apache-2.0
"""Small files that are replaced by compare-and-swap: only if they are still what was read.

| place | the tag is | what compares |
|---|---|---|
| `s3://` | the ETag | S3: `If-Match`, and `If-None-Match: *` where nothing may be |
| `gs://` | the generation | Google Cloud Storage: `ifGenerationMatch`, 0 where nothing may be |
| a local path | the content's SHA-256 | this module, under a lock that the kernel keeps |

A request whose answer was lost has perhaps been carried out, and when it is sent again, by the
client or by us, the service refuses it: the tag has changed, by our own first try. So after every
answer but a plain success the file is read back; if it holds what was to be written, it was
written. That takes contents that nobody else writes: each must hold who wrote it and a number that
rises.

Facts: S3 answers 412 `PreconditionFailed` if the condition does not hold, 404 `NoSuchKey` to
`If-Match` where nothing is, 409 `ConditionalRequestConflict` if another request for the same key is
under way; the last one is to be tried again, and `If-Match` takes `s3:GetObject` beside
`s3:PutObject` (S3 User Guide, "How to prevent object overwrites with conditional writes"). Google
Cloud Storage answers 412 `conditionNotMet`, and 429 to more than one write a second of one object.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import email.utils
import fcntl
import functools
import hashlib
import os
import time
from http import HTTPStatus
from typing import Any

from apache_beam.io.filesystems import FileSystems
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    ResponseStreamingError,
)
from botocore.parsers import ResponseParserError

from dynabeam.transforms.aws.beam_s3 import read_object, s3_client
from dynabeam.transforms.errors import CredentialsError, DynabeamError, StateError
from dynabeam.transforms.storage import filesystem
from dynabeam.transforms.storage.s3_answers import LISTING_HINT, is_missing, refusal, withheld

__all__ = ["Tagged", "check_conditions", "put_if_absent", "put_if_match", "read_with_tag"]

_PAUSES = (0.2, 0.5, 1.0, 2.0)
"""Seconds before each further try of what failed, or of a write whose outcome is not known."""

# A lease of 30 s is renewed by these requests: none may take as long as that.
_S3_CONFIG = Config(
    connect_timeout=5, read_timeout=10, retries={"mode": "standard", "max_attempts": 2}
)
_GCS_SECONDS = (5, 10)
_S3_FAILURES = (BotoCoreError, OSError, ResponseParserError)
_S3_CUT_OFF = (
    HTTPClientError,
    IncompleteReadError,
    ResponseStreamingError,
    ResponseParserError,
    OSError,
)
_UNSUPPORTED = frozenset({"NotImplemented", "InvalidArgument", "InvalidRequest"})
_NO_TAG = '"00000000000000000000000000000000"'
"""An ETag that no object has: not even of an empty one is it the MD5."""
_USE_ANOTHER = (
    "Upgrade the object store to one with conditional writes (AWS S3, Google Cloud Storage, MinIO "
    "of 2024-11 or later), or give a local --state_dir"
)


@dataclasses.dataclass(frozen=True)
class Tagged:
    """A file as it was read.

    Attributes:
        content: Its bytes.
        tag: Identifies this content: a later `put_if_match` compares it.
        age_seconds: For how long the file has been as it is, by the clock of the service that keeps
            it alone; None if that is not known.
    """

    content: bytes
    tag: str
    age_seconds: float | None = None


def read_with_tag(path: str, error: type[DynabeamError] = StateError) -> Tagged | None:
    """Reads a file and its tag, None if there is none; what passes is tried again for seconds.

    Raises:
        DynabeamError: Of the given kind, if it cannot be read.
        AwsAccessError: S3 refuses to show it.
    """
    store = _store(path, error)
    problem: _UnsureError | None = None
    for pause in (0.0, *_PAUSES):
        time.sleep(pause)
        try:
            return store.read(path)
        except _UnsureError as met:
            problem = met
    raise error(
        f"the file cannot be read: {problem}",
        where=path,
        hint="Check the network and the object store, then run again",
    ) from problem


def put_if_absent(path: str, content: bytes, error: type[DynabeamError] = StateError) -> str | None:
    """Writes a file where none is; see `put_if_match`."""
    return _put(path, content, None, error)


def put_if_match(
    path: str, content: bytes, tag: str, error: type[DynabeamError] = StateError
) -> str | None:
    """Replaces a file if its tag is still this one.

    Args:
        path: The file.
        content: Its new bytes; nobody else may ever write the same ones.
        tag: What `read_with_tag` or an earlier write gave.
        error: The kind of error to raise.

    Returns:
        The new tag; None if the file was another one, and nothing was written.

    Raises:
        DynabeamError: Of the given kind: it cannot be written, or whether it was is not known.
        AwsAccessError: S3 refuses it.
    """
    return _put(path, content, tag, error)


def check_conditions(path: str, written: Tagged, error: type[DynabeamError] = StateError) -> None:
    """Makes sure that the store refuses what it has to: some endpoints pass over the conditions.

    Args:
        path: A file that this process has just written.
        written: It, as it is.
        error: The kind of error to raise.

    Raises:
        DynabeamError: Of the given kind, if the store has no conditional writes.
    """
    if not path.startswith("s3://"):
        return
    store = _store(path, error)
    for tag, header in ((None, "If-None-Match: *"), (_NO_TAG, "If-Match")):
        try:
            store.put(path, written.content, tag)
        except (_RefusedError, _UnsureError):
            continue
        raise error(
            f"the object store ignores conditions: it wrote although {header} did not hold, so "
            "two runs could overwrite each other",
            where=path,
            hint=_USE_ANOTHER,
        )


def _put(path: str, content: bytes, tag: str | None, error: type[DynabeamError]) -> str | None:
    store = _store(path, error)
    problem: Exception | None = None
    for pause in (0.0, *_PAUSES):
        time.sleep(pause)
        try:
            return store.put(path, content, tag)
        except _RefusedError:
            refused = True
        except _UnsureError as met:
            problem, refused = met, False
        try:
            found = store.read(path)
        except _UnsureError as met:
            problem = met
            continue
        if found is not None and found.content == content:
            return found.tag
        if refused or (found.tag if found else None) != tag:
            return None
    raise error(
        f"whether the file was written is not known: {problem}",
        where=path,
        hint="Check the network and the object store, then run again",
    ) from problem


class _RefusedError(Exception):
    """The condition did not hold, when this request came or when an earlier try of it had."""


class _UnsureError(Exception):
    """The request may or may not have been carried out."""


class _Store(abc.ABC):
    """One kind of place; what it raises beside the two above is meant for people."""

    def __init__(self, error: type[DynabeamError]) -> None:
        self._error = error

    @abc.abstractmethod
    def read(self, path: str) -> Tagged | None:
        """The file, None if there is none."""

    @abc.abstractmethod
    def put(self, path: str, content: bytes, tag: str | None) -> str:
        """Writes the file if its tag is this one (None: if there is none); returns its new tag."""


class _Local(_Store):
    def read(self, path: str) -> Tagged | None:
        if not os.path.exists(path):
            return None
        content = filesystem.read_bytes(path, self._error)
        return Tagged(content, hashlib.sha256(content).hexdigest())

    def put(self, path: str, content: bytes, tag: str | None) -> str:
        folder, name = os.path.split(path)
        with contextlib.ExitStack() as guarded:
            try:
                filesystem.make_folder(folder or ".")
                guard = filesystem.open_private(os.path.join(folder, f".{name}.guard"))
                fcntl.flock(guarded.enter_context(guard), fcntl.LOCK_EX)
            except OSError as problem:
                raise self._error(
                    f"the file cannot be written: {problem.strerror}",
                    where=path,
                    hint="Give another place, or the permission to write this one",
                ) from problem
            found = self.read(path)
            if (found.tag if found else None) != tag:
                raise _RefusedError
            filesystem.write_atomic(path, content, self._error)
        return hashlib.sha256(content).hexdigest()


class _S3(_Store):
    def read(self, path: str, *, again: bool = False) -> Tagged | None:
        try:
            answer, content = read_object(s3_client(_S3_CONFIG), _place(path))
        except ClientError as problem:
            if _code(problem) in ("NoSuchKey", "404"):
                return None
            if _status(problem) == HTTPStatus.FORBIDDEN:
                if self._is_missing(path):
                    return None
                if not again:
                    # It may have been missing, and be written since by another run.
                    return self.read(path, again=True)
            raise self._meant(problem, path, "s3:GetObject") from problem
        except _S3_FAILURES as problem:
            raise self._without_answer(problem, path) from problem
        said = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        age = None
        if said:
            now = email.utils.parsedate_to_datetime(said)
            age = (now - answer["LastModified"]).total_seconds()
        return Tagged(content, answer["ETag"], age)

    def put(self, path: str, content: bytes, tag: str | None) -> str:
        condition = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}
        try:
            answer = s3_client(_S3_CONFIG).put_object(**_place(path), Body=content, **condition)
        except ClientError as problem:
            if _status(problem) == HTTPStatus.PRECONDITION_FAILED or (
                tag is not None and _code(problem) == "NoSuchKey"
            ):
                raise _RefusedError from problem
            raise self._meant(problem, path, "s3:PutObject") from problem
        except _S3_FAILURES as problem:
            raise self._without_answer(problem, path) from problem
        return str(answer["ETag"])

    def _is_missing(self, path: str) -> bool:
        try:
            return is_missing(path, s3_client(_S3_CONFIG))
        except ClientError as problem:
            raise _UnsureError(str(problem)) from problem
        except _S3_FAILURES as problem:
            raise self._without_answer(problem, path) from problem

    def _without_answer(self, problem: Exception, path: str) -> Exception:
        """What it means that there is no answer."""
        if isinstance(problem, _S3_CUT_OFF):
            return _UnsureError(f"S3 does not answer: {problem}")
        if isinstance(problem, NoCredentialsError):
            return CredentialsError("no AWS credentials were found", where=path)
        return self._error(f"S3 cannot be reached: {problem}", where=path)

    def _meant(self, problem: ClientError, path: str, action: str) -> Exception:
        """What an error answer of S3 means."""
        status, code = _status(problem), _code(problem)
        held = withheld(str(problem), path, self._error)
        if held is not None:
            return held
        if status == HTTPStatus.FORBIDDEN:
            also = LISTING_HINT if action == "s3:GetObject" else ""
            return refusal(str(problem), path, action, also=also)
        if status == HTTPStatus.NOT_IMPLEMENTED or code in _UNSUPPORTED:
            return self._error(
                f"the object store has no conditional writes, which keep two runs apart: {problem}",
                where=path,
                hint=_USE_ANOTHER,
            )
        if status == HTTPStatus.CONFLICT or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return _UnsureError(str(problem))
        if code in ("RequestTimeout", "SlowDown", "Throttling", "TooManyRequests"):
            return _UnsureError(str(problem))
        verb = "read" if action == "s3:GetObject" else "written"
        return self._error(
            f"the object cannot be {verb}: {problem}",
            where=path,
            hint="Check that the bucket and the path are right",
        )


class _GCS(_Store):
    def read(self, path: str) -> Tagged | None:
        gcs = _gcs()
        try:
            for _ in _PAUSES:
                blob = _blob(path)
                try:
                    blob.reload(timeout=_GCS_SECONDS, retry=None)
                    generation = blob.generation
                    content = blob.download_as_bytes(
                        if_generation_match=generation, timeout=_GCS_SECONDS, retry=None
                    )
                except gcs.exceptions.PreconditionFailed:
                    continue  # replaced between the two requests
                except gcs.exceptions.NotFound as problem:
                    if "bucket does not exist" in str(problem):
                        raise
                    return None
                return Tagged(content, str(generation))
        except gcs.failures as problem:
            raise self._meant(problem, path, "read") from problem
        raise _UnsureError("the object changes faster than it is read")

    def put(self, path: str, content: bytes, tag: str | None) -> str:
        gcs, blob = _gcs(), _blob(path)
        try:
            blob.upload_from_string(
                content,
                content_type="application/json",
                if_generation_match=0 if tag is None else int(tag),
                timeout=_GCS_SECONDS,
                retry=None,
            )
        except gcs.exceptions.PreconditionFailed as problem:
            raise _RefusedError from problem
        except gcs.failures as problem:
            raise self._meant(problem, path, "written") from problem
        return str(blob.generation)

    def _meant(self, problem: Exception, path: str, verb: str) -> Exception:
        """What an error of Google's client means."""
        status = int(getattr(problem, "code", None) or 0)
        if status in (HTTPStatus.FORBIDDEN, HTTPStatus.UNAUTHORIZED):
            permission = (
                "filesystem.objects.get"
                if verb == "read"
                else "filesystem.objects.create and delete"
            )
            return self._error(
                f"Google Cloud Storage refused it: {problem}",
                where=path,
                hint=f"Give this identity {permission} on the bucket",
            )
        unsure = status in (0, HTTPStatus.TOO_MANY_REQUESTS)
        if unsure or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return _UnsureError(f"Google Cloud Storage does not answer: {problem}")
        return self._error(
            f"the object cannot be {verb}: {problem}",
            where=path,
            hint="Check that the bucket and the path are right",
        )


def _store(path: str, error: type[DynabeamError]) -> _Store:
    if filesystem.is_local(path):
        return _Local(error)
    scheme = path.partition("://")[0]
    if scheme == "s3":
        return _S3(error)
    if scheme == "gs":
        return _GCS(error)
    raise error(
        f"{scheme}:// has no conditional writes, which keep two runs apart",
        where=path,
        hint="Give a local path, s3:// or gs://",
    )


def _place(path: str) -> dict[str, str]:
    bucket, _, key = path.removeprefix("s3://").partition("/")
    return {"Bucket": bucket, "Key": key}


def _status(problem: ClientError) -> int:
    return int(problem.response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)


def _code(problem: ClientError) -> str:
    return str(problem.response.get("Error", {}).get("Code", ""))


@dataclasses.dataclass(frozen=True)
class _GcsPackages:
    """Google's packages, which only an extra brings."""

    exceptions: Any
    failures: tuple[type[Exception], ...]


@functools.cache
def _gcs() -> _GcsPackages:
    try:
        from google.api_core import exceptions  # noqa: PLC0415 - an extra
        from google.auth.exceptions import GoogleAuthError  # noqa: PLC0415
    except ModuleNotFoundError as problem:
        raise StateError(
            f"the package {problem.name!r} is not installed",
            where="gs://",
            hint="pip install 'dynabeam[dataflow]'",
        ) from problem
    # The exceptions of `requests`, which carries the requests of Google's client, are OSErrors.
    failures = (exceptions.GoogleAPICallError, GoogleAuthError, OSError)
    return _GcsPackages(exceptions, failures)


def _blob(path: str) -> Any:
    bucket, _, name = path.removeprefix("gs://").partition("/")
    return _gcs_client(os.environ.get("STORAGE_EMULATOR_HOST", "")).bucket(bucket).blob(name)


@functools.cache
def _gcs_client(emulator: str) -> Any:
    """The client that Beam's own filesystem would use, one per process."""
    from apache_beam.io.gcp.gcsio import create_storage_client  # noqa: PLC0415 - an extra
    from apache_beam.options.pipeline_options import PipelineOptions  # noqa: PLC0415

    options = FileSystems.get_filesystem("gs://")._pipeline_options
    if not isinstance(options, PipelineOptions):
        options = PipelineOptions([])
    return create_storage_client(options, use_credentials=not emulator)
