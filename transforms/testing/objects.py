# SPDX-License-Identifier: Apache-2.0
"""S3: moto's own, called in process, with buckets that belong to one simulator.

moto keeps the names of all buckets in one register per process; here each simulator has its own,
so that several can live in one test run. Credentials and signatures are not looked at.

Conditional writes are as S3's: the condition is looked at and the object written in one step. If
another write of the same key is under way, a conditional one is answered with 409
`ConditionalRequestConflict`; where the condition does not hold, with 412 `PreconditionFailed`, and
`If-Match` where nothing is, with 404 `NoSuchKey`. (moto looks first and writes then.)
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from moto.core.request import Request
from moto.s3.models import FakeBucket, FakeKey, S3Backend, s3_backends
from moto.s3.responses import S3Response

from dynabeam.transforms.testing.api_error import ApiError

__all__ = ["Objects", "is_conditional_write"]

_REGISTER = threading.Lock()
_ACCOUNT_HEADER = "x-moto-account-id"


class _OwnBuckets(S3Backend):
    """An S3 whose names clash with nobody else's."""

    def create_bucket(self, bucket_name: str, *args: Any, **kwargs: Any) -> FakeBucket:
        if bucket_name in self.buckets:
            return super().create_bucket(bucket_name, *args, **kwargs)
        with _REGISTER:
            other = s3_backends.bucket_accounts.pop(bucket_name, None)
            try:
                return super().create_bucket(bucket_name, *args, **kwargs)
            finally:
                s3_backends.bucket_accounts.pop(bucket_name, None)
                if other is not None:
                    s3_backends.bucket_accounts[bucket_name] = other

    def dispose(self) -> None:
        """Close the temporary files of all objects and uploads."""
        for bucket in self.buckets.values():
            for versions in bucket.keys.values():
                for key in versions if isinstance(versions, list) else [versions]:
                    if isinstance(key, FakeKey):
                        key.dispose()
            for upload in bucket.multiparts.values():
                upload.dispose()
        self.buckets.clear()


def is_conditional_write(method: str, headers: Mapping[str, str]) -> bool:
    """Whether a request is to write only if a condition holds."""
    names = {name.lower() for name in headers}
    return method == "PUT" and not names.isdisjoint({"if-match", "if-none-match"})


class Objects:
    """The simulator's S3.

    Args:
        region: Region of buckets that name none.
        account_id: The account that owns everything.
    """

    def __init__(self, region: str, account_id: str) -> None:
        self._region = region
        self._account_id = account_id
        self._backend = _OwnBuckets(region, account_id)
        backend = self._backend

        class OwnResponse(S3Response):
            @property
            def backend(self) -> S3Backend:
                return backend

        self._response = OwnResponse
        self._written: set[str] = set()
        self._end_of_a_write = threading.Condition()

    def handle(
        self, method: str, target: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        """Answer one request.

        Args:
            method: The HTTP method.
            target: Path and query as they came, percent-encoded.
            headers: The request's headers.
            body: The request's body.

        Returns:
            HTTP status, headers and body.

        Raises:
            ApiError: A conditional write meets another write of its key.
        """
        with self._alone(method, target, headers):
            return self._handle(method, target, headers, body)

    @contextlib.contextmanager
    def _alone(self, method: str, target: str, headers: Mapping[str, str]) -> Iterator[None]:
        """Lets one request at a time write a key."""
        if method not in ("PUT", "DELETE"):
            yield
            return
        key = target.split("?", 1)[0]
        with self._end_of_a_write:
            if key in self._written and is_conditional_write(method, headers):
                text = "The conditional request cannot succeed due to a conflicting operation"
                raise ApiError("ConditionalRequestConflict", f"{text} against this resource.", 409)
            while key in self._written:
                self._end_of_a_write.wait()
            self._written.add(key)
        try:
            yield
        finally:
            with self._end_of_a_write:
                self._written.discard(key)
                self._end_of_a_write.notify_all()

    def _handle(
        self, method: str, target: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        url = f"http://{headers.get('Host', '127.0.0.1')}{target}"
        sent = {**headers, _ACCOUNT_HEADER: self._account_id}
        request = Request.from_primitives(method, url, sent, body)
        request.environ["RAW_URI"] = target
        path = target.split("?", 1)[0].strip("/")
        response = self._response()
        if not path:
            answer = response.bucket_response(request, url, request.headers)
        elif "/" not in path:
            answer = response.ambiguous_response(request, url, request.headers)
        else:
            answer = response.key_response(request, url, request.headers)
        status, answer_headers, answer_body = answer
        if isinstance(answer_body, str):
            answer_body = answer_body.encode()
        elif not isinstance(answer_body, bytes):
            answer_body = b"".join(answer_body)
        return status, {k: str(v) for k, v in answer_headers.items()}, answer_body

    def exists(self, bucket: str) -> bool:
        """Whether there is a bucket of this name."""
        return bucket in self._backend.buckets

    def create_bucket(self, bucket: str) -> None:
        """Make a bucket; nothing happens if it is there."""
        if not self.exists(bucket):
            self._backend.create_bucket(bucket, self._region)

    def put(self, bucket: str, key: str, body: bytes) -> None:
        """Write an object.

        Raises:
            ApiError: There is no such bucket.
        """
        self._need(bucket)
        self._backend.put_object(bucket, key, body)

    def get(self, bucket: str, key: str) -> bytes:
        """Read an object.

        Raises:
            ApiError: There is no such bucket or object.
        """
        self._need(bucket)
        stored = self._backend.get_object(bucket, key)
        if stored is None:
            raise ApiError("NoSuchKey", f"The specified key does not exist: {key}", 404)
        return bytes(stored.value)

    def keys(self, bucket: str, prefix: str = "") -> list[str]:
        """Names of the objects in a bucket, sorted.

        Raises:
            ApiError: There is no such bucket.
        """
        self._need(bucket)
        names = self._backend.buckets[bucket].keys.keys()
        return sorted(name for name in names if name.startswith(prefix))

    def close(self) -> None:
        """Drop everything."""
        self._backend.dispose()

    def _need(self, bucket: str) -> None:
        if not self.exists(bucket):
            raise ApiError("NoSuchBucket", f"The specified bucket does not exist: {bucket}", 404)
