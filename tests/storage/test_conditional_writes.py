# SPDX-License-Identifier: Apache-2.0
"""Compare-and-swap of small files: one winner, and an outcome that is known."""

import threading
import uuid

import boto3
import pytest
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from moto.server import ThreadedMotoServer

from dynabeam.transforms.errors import AwsAccessError, StateError
from dynabeam.transforms.storage import conditional_writes
from dynabeam.transforms.storage.conditional_writes import (
    Tagged,
    check_conditions,
    put_if_absent,
    put_if_match,
    read_with_tag,
)
from dynabeam.transforms.testing.faults import Faults
from dynabeam.transforms.testing.simulator import Simulator
from tests.fake_gcs import FakeGCS


def use_s3(url):
    """Beam's options that name this endpoint."""
    FileSystems.set_options(
        PipelineOptions([f"--s3_endpoint_url={url}", "--s3_region_name=eu-west-1"])
    )


@pytest.fixture(autouse=True)
def own_options(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "simulated")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "simulated")
    before = FileSystems._pipeline_options
    yield
    FileSystems._pipeline_options = before


@pytest.fixture
def sim():
    with Simulator(seed=1) as simulator:
        simulator.create_bucket("bucket")
        use_s3(simulator.endpoint_url)
        yield simulator


@pytest.fixture
def moto():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    bucket = f"bucket-{uuid.uuid4().hex}"
    boto3.client("s3", endpoint_url=url, region_name="us-east-1").create_bucket(Bucket=bucket)
    use_s3(url)
    yield bucket
    server.stop()


@pytest.fixture
def gcs(monkeypatch):
    with FakeGCS() as fake:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", fake.url)
        yield fake


@pytest.fixture(params=["local", "sim", "gcs", "moto"])
def path(request, tmp_path):
    """A file in each kind of place."""
    if request.param == "local":
        return str(tmp_path / "folder" / "file.json")
    place = request.getfixturevalue(request.param)
    bucket = place if request.param == "moto" else "bucket"
    return f"{'gs' if request.param == 'gcs' else 's3'}://{bucket}/folder/file.json"


# moto looks first and writes then: of two at once both may win.
one_at_a_time = pytest.mark.parametrize("path", ["local", "sim", "gcs"], indirect=True)


class TestEveryPlace:
    def test_written_once_where_nothing_is(self, path):
        assert read_with_tag(path) is None
        tag = put_if_absent(path, b"one")
        found = read_with_tag(path)
        assert (found.content, found.tag) == (b"one", tag)
        assert put_if_absent(path, b"two") is None
        assert read_with_tag(path).content == b"one"

    def test_replaced_only_if_it_is_what_was_read(self, path):
        first = put_if_absent(path, b"one")
        second = put_if_match(path, b"two", first)
        assert second not in (None, first)
        assert put_if_match(path, b"late", first) is None
        assert read_with_tag(path).content == b"two"
        assert put_if_match(path, b"three", second) == read_with_tag(path).tag

    def test_nothing_is_replaced_where_nothing_is(self, path):
        tag = put_if_absent(path + ".other", b"one")
        assert put_if_match(path, b"two", tag) is None
        assert read_with_tag(path) is None

    @one_at_a_time
    def test_of_many_at_once_one_wins(self, path):
        start, won = threading.Barrier(20), []

        def write(number):
            start.wait()
            if put_if_absent(path, f"{number}".encode()) is not None:
                won.append(number)

        writers = [threading.Thread(target=write, args=(at,)) for at in range(20)]
        for each in writers:
            each.start()
        for each in writers:
            each.join()
        assert [f"{each}".encode() for each in won] == [read_with_tag(path).content]

    @one_at_a_time
    def test_a_counter_loses_no_step(self, path):
        assert put_if_absent(path, b"0 -") is not None

        def count(name):
            for _ in range(5):
                while True:
                    found = read_with_tag(path)
                    number = int(found.content.split()[0]) + 1
                    if put_if_match(path, f"{number} {name}".encode(), found.tag) is not None:
                        break

        writers = [threading.Thread(target=count, args=(at,)) for at in range(4)]
        for each in writers:
            each.start()
        for each in writers:
            each.join()
        assert read_with_tag(path).content.split()[0] == b"20"


class TestAmbiguousAnswers:
    """A write whose answer is lost was carried out or not: what is there tells."""

    PATH = "s3://bucket/file.json"

    @pytest.mark.parametrize("kind", ["drop_after", "drop_before", "internal_error", "throttle"])
    def test_s3_says_nothing_or_fails(self, sim, kind, monkeypatch):
        monkeypatch.setattr(conditional_writes, "_PAUSES", (0.0,) * 40)
        sim.faults = Faults(actions=frozenset({"PutObject"}), **{kind: 0.6})
        tag = put_if_absent(self.PATH, b"0")
        for number in range(1, 12):
            tag = put_if_match(self.PATH, f"{number}".encode(), tag)
            assert tag == read_with_tag(self.PATH).tag
        assert sim.s3_get("bucket", "file.json") == b"11"
        assert sim.stats.faults[kind] > 0

    def test_s3_is_asked_again_after_a_conflict(self, sim, monkeypatch):
        monkeypatch.setattr(conditional_writes, "_PAUSES", (0.0,) * 40)
        sim.faults = Faults(conflict=0.7)
        tag = put_if_absent(self.PATH, b"0")
        for number in range(1, 9):
            tag = put_if_match(self.PATH, f"{number}".encode(), tag)
        assert sim.s3_get("bucket", "file.json") == b"8"
        assert sim.stats.faults["conflict"] > 0

    def test_nobody_else_is_taken_for_oneself(self, sim, monkeypatch):
        monkeypatch.setattr(conditional_writes, "_PAUSES", (0.0,))
        tag = put_if_absent(self.PATH, b"0")
        sim.s3_put("bucket", "file.json", b"another's")
        sim.faults = Faults(actions=frozenset({"PutObject"}), drop_before=1.0)
        assert put_if_match(self.PATH, b"1", tag) is None
        assert sim.s3_get("bucket", "file.json") == b"another's"

    def test_what_stays_unknown_is_an_error(self, sim, monkeypatch):
        monkeypatch.setattr(conditional_writes, "_PAUSES", (0.0,))
        sim.faults = Faults(actions=frozenset({"PutObject"}), drop_before=1.0)
        with pytest.raises(StateError, match="not known"):
            put_if_absent(self.PATH, b"1")

    @pytest.mark.parametrize("fault", ["cut", 429, 503])
    def test_gcs(self, gcs, fault):
        path = "gs://bucket/file.json"
        tag = put_if_absent(path, b"0")
        gcs.faults = [fault]
        after = put_if_match(path, b"1", tag)
        assert gcs.objects["bucket/file.json"] == (b"1", int(after))


class TestStoresWithoutConditions:
    PATH = "s3://bucket/file.json"

    def test_unsupported(self, sim):
        sim.faults = Faults(conditional_writes="unsupported")
        with pytest.raises(StateError, match="no conditional writes") as caught:
            put_if_absent(self.PATH, b"1")
        assert "MinIO" in caught.value.hint
        assert "local --state_dir" in caught.value.hint

    def test_ignored(self, sim):
        tag = put_if_absent(self.PATH, b"1")
        check_conditions(self.PATH, Tagged(b"1", tag))
        sim.faults = Faults(conditional_writes="ignored")
        with pytest.raises(StateError, match="ignores conditions"):
            check_conditions(self.PATH, Tagged(b"1", tag))

    def test_another_filesystem(self):
        with pytest.raises(StateError, match="hdfs:// has no conditional writes"):
            put_if_absent("hdfs://host/file", b"1")


class TestErrors:
    def test_no_bucket(self, sim):
        with pytest.raises(StateError, match="NoSuchBucket"):
            put_if_absent("s3://nowhere/file", b"1")
        with pytest.raises(StateError, match="NoSuchBucket"):
            read_with_tag("s3://nowhere/file")

    @pytest.mark.parametrize("action", ["s3:PutObject", "s3:GetObject"])
    def test_a_missing_permission_is_named(self, sim, action):
        tag = put_if_absent("s3://bucket/file", b"1")
        sim.faults = Faults(denied_actions=frozenset({action}))
        call = {
            "s3:GetObject": lambda: read_with_tag("s3://bucket/file"),
            "s3:PutObject": lambda: put_if_match("s3://bucket/file", b"2", tag),
        }[action]
        with pytest.raises(AwsAccessError, match=f"AWS refused {action}"):
            call()

    def test_no_place_to_write(self, tmp_path):
        (tmp_path / "plain").write_text("")
        with pytest.raises(StateError, match="cannot be written"):
            put_if_absent(str(tmp_path / "plain" / "file"), b"1")


def test_s3_tells_the_age(sim):
    put_if_absent("s3://bucket/file", b"1")
    assert -2 <= read_with_tag("s3://bucket/file").age_seconds < 60
