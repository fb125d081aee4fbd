# SPDX-License-Identifier: Apache-2.0
"""A simulated account, reached as a user would: by options and environment."""

import pytest
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from dynabeam.transforms.aws.session import AwsAccess
from dynabeam.transforms.testing.simulator import Simulator
from tests.export.builders import BUCKET


@pytest.fixture
def sim(monkeypatch):
    """A simulator with a bucket, credentials in the environment and Beam's S3 pointed at it."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "simulated")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "simulated")
    before = FileSystems._pipeline_options
    with Simulator(seed=1) as simulator:
        FileSystems.set_options(beam_options(simulator))
        simulator.create_bucket(BUCKET)
        yield simulator
    FileSystems._pipeline_options = before


@pytest.fixture
def access(sim):
    return AwsAccess(region=sim.region, endpoint_url=sim.endpoint_url)


def beam_options(simulator):
    return PipelineOptions(
        [f"--s3_endpoint_url={simulator.endpoint_url}", f"--s3_region_name={simulator.region}"]
    )
