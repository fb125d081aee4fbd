# SPDX-License-Identifier: Apache-2.0
"""Objects that are missing, for who may list one prefix only: S3 answers 403, and a listing tells.

HeadObject and GetObject carry no `s3:prefix`, so a policy with a condition on it does not count.
"""

import pytest
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from dynabeam.pipelines.status.reading import _changed_us
from dynabeam.transforms.errors import AwsAccessError, StateError
from dynabeam.transforms.storage import conditional_writes, filesystem
from dynabeam.transforms.storage.conditional_writes import put_if_absent, read_with_tag
from dynabeam.transforms.testing.simulator import Simulator

KEY = "limited"
OBJECTS = "arn:aws:s3:::lake/state/*"
USE = {"Effect": "Allow", "Action": ["s3:GetObject", "s3:PutObject"], "Resource": OBJECTS}
LOOK = {
    "Effect": "Allow",
    "Action": "s3:ListBucket",
    "Resource": "arn:aws:s3:::lake",
    "Condition": {"StringLike": {"s3:prefix": "state/*"}},
}


@pytest.fixture
def sim(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "simulated")
    before = FileSystems._pipeline_options
    with Simulator(seed=1) as simulator:
        simulator.create_bucket("lake")
        # Not the one that is looked for, though its key begins so.
        simulator.s3_put("lake", "state/a.json.old", b"old")
        simulator.set_policies(KEY, [{"Statement": [USE, LOOK]}])
        options = [f"--s3_endpoint_url={simulator.endpoint_url}", "--s3_region_name=eu-west-1"]
        FileSystems.set_options(PipelineOptions(options))
        yield simulator
    FileSystems._pipeline_options = before


def test_missing(sim):
    assert filesystem.exists("s3://lake/state/a.json") is False
    assert read_with_tag("s3://lake/state/a.json") is None


def test_positions_that_a_job_has_not_stored_yet(sim):
    assert _changed_us("s3://lake/state/a.json") == 0


def test_there(sim):
    tag = put_if_absent("s3://lake/state/a.json", b"new")
    assert filesystem.exists("s3://lake/state/a.json") is True
    found = read_with_tag("s3://lake/state/a.json")
    assert (found.content, found.tag) == (b"new", tag)


@pytest.mark.parametrize(
    "read",
    [
        filesystem.read_bytes,
        filesystem.size_of,
        lambda path, error: filesystem.read_end(path, 8, error),
        lambda path, error: filesystem.read_start(path, 8, error),
    ],
)
def test_who_needs_it_is_told_that_it_is_missing(sim, read):
    with pytest.raises(StateError, match=r"s3://lake/state/a.json: the file does not exist"):
        read("s3://lake/state/a.json", StateError)


@pytest.mark.parametrize("look", [filesystem.exists, read_with_tag])
class TestNotKnown:
    def test_without_the_right_to_list(self, sim, look):
        sim.set_policies(KEY, [{"Statement": [USE]}])
        with pytest.raises(AwsAccessError, match=r"GetObject.*and s3:ListBucket on the bucket"):
            look("s3://lake/state/a.json")

    def test_outside_the_prefix(self, sim, look):
        with pytest.raises(AwsAccessError, match=r"GetObject.*and s3:ListBucket on the bucket"):
            look("s3://lake/elsewhere/a.json")

    def test_what_is_there_and_may_not_be_read(self, sim, look):
        sim.s3_put("lake", "state/a.json", b"new")
        sim.set_policies(KEY, [{"Statement": [LOOK]}])
        with pytest.raises(AwsAccessError, match=r"refused s3:GetObject"):
            look("s3://lake/state/a.json")


def test_written_between_the_two_requests(sim, monkeypatch):
    """The lease of another run, which comes after the first look and before the listing."""
    is_missing = conditional_writes.is_missing

    def after_another_run(path, client=None):
        sim.s3_put("lake", "state/a.json", b"another's")
        return is_missing(path, client)

    monkeypatch.setattr(conditional_writes, "is_missing", after_another_run)
    assert read_with_tag("s3://lake/state/a.json").content == b"another's"
