# SPDX-License-Identifier: Apache-2.0
"""Contract of S3 through Beam's reader: one client for all calls, and errors that say what is."""

import boto3
import pytest
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from botocore.exceptions import ResponseStreamingError

from dynabeam.transforms.aws.beam_s3 import s3_client, s3_io
from dynabeam.transforms.errors import AwsAccessError, ExportError, StateError
from dynabeam.transforms.storage import conditional_writes, filesystem
from dynabeam.transforms.storage.conditional_writes import read_with_tag
from dynabeam.transforms.testing.faults import Faults
from dynabeam.transforms.testing.simulator import Simulator

BODY = bytes(range(256)) * 1000


@pytest.fixture
def sim(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "simulated")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "simulated")
    before = FileSystems._pipeline_options
    with Simulator(seed=1) as simulator:
        simulator.create_bucket("things")
        simulator.s3_put("things", "folder/a", BODY)
        options = [f"--s3_endpoint_url={simulator.endpoint_url}", "--s3_region_name=eu-west-1"]
        FileSystems.set_options(PipelineOptions(options))
        yield simulator
    FileSystems._pipeline_options = before


def test_reads(sim):
    assert filesystem.read_bytes("s3://things/folder/a", ExportError) == BODY
    assert filesystem.size_of("s3://things/folder/a", ExportError) == len(BODY)
    assert filesystem.exists("s3://things/folder/a")
    assert not filesystem.exists("s3://things/folder")


def test_one_client_for_all_calls(sim, monkeypatch):
    filesystem.size_of("s3://things/folder/a", ExportError)

    def no_more(*args, **options):
        raise AssertionError("another client was made")

    monkeypatch.setattr(boto3.session.Session, "client", no_more)
    for _ in range(3):
        assert filesystem.read_bytes("s3://things/folder/a", ExportError) == BODY


def test_files_read_side_by_side_do_not_disturb_each_other(sim):
    sim.s3_put("things", "other", BODY[::-1])
    with (
        filesystem.open_for_reading("s3://things/folder/a", ExportError) as first,
        filesystem.open_for_reading("s3://things/other", ExportError) as second,
    ):
        a, b = first.read(1000), second.read(1000)
        assert a + first.read() == BODY
        assert b + second.read() == BODY[::-1]


def test_other_options_are_another_client(sim):
    first = s3_io().client.client
    assert s3_io().client.client is first
    options = [f"--s3_endpoint_url={sim.endpoint_url}", "--s3_region_name=eu-west-2"]
    FileSystems.set_options(PipelineOptions(options))
    assert s3_io().client.client is not first


def test_missing_and_forbidden(sim):
    for read in (filesystem.size_of, filesystem.read_bytes):
        with pytest.raises(ExportError, match=r"s3://things/nope: the file (does not|cannot)"):
            read("s3://things/nope", ExportError)
    sim.faults = Faults(denied_actions=frozenset({"s3:GetObject"}))
    refused = r"s3://things/folder/a: AWS refused s3:GetObject: .*403"
    for read in (filesystem.size_of, filesystem.read_bytes):
        with pytest.raises(AwsAccessError, match=refused):
            read("s3://things/folder/a", ExportError)
    with pytest.raises(AwsAccessError, match=f"{refused}.*, and s3:ListBucket on the bucket"):
        filesystem.exists("s3://things/folder/a")


class Breaking:
    """The content of an object that breaks off some times."""

    def __init__(self, times):
        self.left = times
        self.asked = 0

    def within(self, client, monkeypatch):
        """Has a client give it."""
        whole = client.get_object

        def get_object(**request):
            self.asked += 1
            self.answer = whole(**request)
            return self.answer | {"Body": self}

        monkeypatch.setattr(client, "get_object", get_object)
        return self

    def read(self):
        if self.left:
            self.left -= 1
            raise ResponseStreamingError(error="cut")
        return self.answer["Body"].read()


READS = {
    "end": lambda path: filesystem.read_end(path, 8, StateError)[1],
    "start": lambda path: filesystem.read_start(path, 8, StateError),
    "tagged": lambda path: read_with_tag(path).content[:8],
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
class TestBreakingOff:
    @pytest.fixture(autouse=True)
    def clients(self, sim):
        sim.s3_put("things", "file", b"01234567" * 4)
        return s3_io().client.client, s3_client(conditional_writes._S3_CONFIG)

    def test_what_breaks_off_is_asked_for_again(self, clients, read, monkeypatch):
        bodies = [Breaking(4).within(each, monkeypatch) for each in clients]
        assert read("s3://things/file") == b"01234567"
        assert sorted(each.asked for each in bodies) == [0, 5]

    def test_what_always_breaks_off_is_an_error(self, clients, read, monkeypatch):
        bodies = [Breaking(99).within(each, monkeypatch) for each in clients]
        with pytest.raises(StateError, match="cut"):
            read("s3://things/file")
        assert sorted(each.asked for each in bodies) == [0, 5]
