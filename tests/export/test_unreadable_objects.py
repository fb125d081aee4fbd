# SPDX-License-Identifier: Apache-2.0
"""Contract of objects that S3 shows and does not give out: what is missing, in one line."""

from contextlib import contextmanager

import pytest
from botocore.awsrequest import AWSResponse

from dynabeam.transforms.aws.beam_s3 import s3_client, s3_io
from dynabeam.transforms.errors import (
    AwsAccessError,
    DynabeamError,
    ExportIntegrityError,
    SinkError,
    StateError,
)
from dynabeam.transforms.export.acquire import Acquisition, acquire
from dynabeam.transforms.export.elements import SnapshotRequest
from dynabeam.transforms.export.fetch import fetched
from dynabeam.transforms.export.sizes import file_size
from dynabeam.transforms.storage import conditional_writes, filesystem
from dynabeam.transforms.storage.conditional_writes import put_if_absent, read_with_tag
from dynabeam.transforms.testing.export_writer import write_full_export
from tests.export.builders import ARN, BUCKET, TABLE, TABLE_ID, TIME, items

KEY_ARN = "arn:aws:kms:eu-west-1:111122223333:key/11111111-2222-3333-4444-555555555555"
KMS_DENIED = (
    "User: arn:aws:iam::111122223333:user/reader is not authorized to perform: kms:Decrypt on "
    f"resource: {KEY_ARN} because no identity-based policy allows the kms:Decrypt action"
)


@pytest.fixture
def export(sim):
    """An export in S3; the path of its summary and its request."""
    written = write_full_export(
        lambda key, body: sim.s3_put(BUCKET, key, body),
        table_arn=ARN,
        table_id=TABLE_ID,
        export_time=TIME,
        bucket=BUCKET,
        items=items(10),
    )
    summary = f"s3://{BUCKET}/{written.manifest_summary_key}"
    return summary, SnapshotRequest(TABLE, 1, 4, reuse=summary)


@contextmanager
def refused(code, message, status=403, to="GetObject"):
    """S3 shows objects, and answers GetObject, or another operation, with an error."""
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()

    class Raw:
        def stream(self, *_, **__):
            yield body

        def read(self, *_, **__):
            return body

    def answer(request, **_):
        return AWSResponse(request.url, status, {"content-type": "application/xml"}, Raw())

    # Those of files, and those of files with conditions.
    clients = (s3_io().client.client, s3_client(conditional_writes._S3_CONFIG))
    for client in clients:
        client.meta.events.register(f"before-send.s3.{to}", answer)
    try:
        yield
    finally:
        for client in clients:
            client.meta.events.unregister(f"before-send.s3.{to}", answer)


def archive(sim, path):
    """Puts an object into Glacier."""
    bucket, _, key = path.removeprefix("s3://").partition("/")
    body = sim.s3_get(bucket, key)
    sim.client("s3").put_object(Bucket=bucket, Key=key, Body=body, StorageClass="GLACIER")


def look(request):
    return acquire(request, "", Acquisition(), now_us=0)


def ways(path, file):
    """The ways to read objects: manifests, data files, state files."""
    return {
        "state": lambda: filesystem.read_bytes(path, StateError),
        "size": lambda: file_size(file.path),
        "data": lambda: fetched(file).__enter__(),
        "lease": lambda: read_with_tag(path),
        "marker": lambda: filesystem.read_end(path, 8, SinkError),
    }


WAYS = ["state", "size", "data", "lease", "marker"]


class TestArchived:
    def test_manifest(self, sim, export):
        summary, request = export
        archive(sim, summary)
        with pytest.raises(ExportIntegrityError, match=r"archived.*aws s3api restore-object"):
            look(request)

    @pytest.mark.parametrize("way", WAYS)
    def test_files(self, sim, export, way):
        _, request = export
        file = next(each for each in look(request).manifest.files if each.item_count)
        archive(sim, file.path)
        with pytest.raises(DynabeamError) as told:
            ways(file.path, file)[way]()
        text = str(told.value)
        key = file.path.removeprefix(f"s3://{BUCKET}/")
        assert f"Restore the object: aws s3api restore-object --bucket {BUCKET} --key {key}" in text
        assert "Run again" not in text
        assert "\n" not in text


class TestKey:
    @pytest.mark.parametrize("way", WAYS)
    def test_decrypt_is_denied(self, export, way):
        _, request = export
        file = next(each for each in look(request).manifest.files if each.item_count)
        with refused("AccessDenied", KMS_DENIED), pytest.raises(AwsAccessError) as told:
            ways(file.path, file)[way]()
        text = str(told.value)
        assert f'"Action": "kms:Decrypt", "Resource": "{KEY_ARN}"' in text
        assert "Run again" not in text
        with refused("AccessDenied", KMS_DENIED), pytest.raises(AwsAccessError, match="kms:Decr"):
            look(request)

    def test_a_key_that_is_not_said(self, export):
        summary, _ = export
        message = (
            "The ciphertext refers to a customer master key that does not exist, does not exist "
            "in this region, or you are not allowed to access."
        )
        with refused("AccessDenied", message), pytest.raises(AwsAccessError, match="kms:Decrypt"):
            filesystem.read_bytes(summary, StateError)

    def test_a_key_that_is_off(self, export):
        summary, _ = export
        for read in (read_with_tag, lambda path: filesystem.read_bytes(path, StateError)):
            with (
                refused("KMS.DisabledException", f"{KEY_ARN} is disabled.", 400),
                pytest.raises(StateError, match="Turn the KMS key on"),
            ):
                read(summary)

    @pytest.mark.parametrize(
        ("call", "write"),
        [
            ("PutObject", lambda path: put_if_absent(path, b"x")),
            ("CreateMultipartUpload", lambda path: filesystem.write_atomic(path, b"x", SinkError)),
            ("UploadPart", lambda path: filesystem.write_atomic(path, b"x", SinkError)),
            ("CopyObject", lambda path: filesystem.move(f"{path}-old", path, SinkError)),
        ],
    )
    def test_no_key_to_write_with(self, sim, call, write):
        sim.s3_put(BUCKET, "new-old", b"x")
        message = KMS_DENIED.replace("Decrypt", "GenerateDataKey")
        with refused("AccessDenied", message, to=call), pytest.raises(AwsAccessError) as told:
            write(f"s3://{BUCKET}/new")
        wanted = f'"Action": "kms:GenerateDataKey", "Resource": "{KEY_ARN}"'
        assert wanted in str(told.value)


def test_get_object_is_denied_and_nothing_else(export):
    _, request = export
    with refused("AccessDenied", "Access Denied"), pytest.raises(AwsAccessError) as told:
        look(request)
    assert '"Action": "s3:GetObject"' in str(told.value)
