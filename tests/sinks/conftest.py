# SPDX-License-Identifier: Apache-2.0
"""An object store for tests of sinks, and both ways of doing things: for few rows and for many."""

import urllib.request

import pytest
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

_OF_SINKS = ("files.change_lines", "postgresql.merge")


@pytest.fixture
def no_rows_are_few(monkeypatch):
    """A function after whose call every row takes the way that many rows take."""

    def patch():
        modules = ("values.columns", *(f"sinks.{each}" for each in _OF_SINKS))
        for module in modules:
            monkeypatch.setattr(f"dynabeam.transforms.{module}.SMALL_BATCH_ROWS", -1)

    return patch


@pytest.fixture(params=[False, True], ids=["few", "many"])
def few_and_many(request, no_rows_are_few):
    """A test runs twice: as it is, and with every row going the way of many."""
    if request.param:
        no_rows_are_few()


@pytest.fixture
def s3(monkeypatch):
    """An S3 with a bucket named `bucket`; the value is the pipeline options that reach it."""
    boto3 = pytest.importorskip("boto3")
    server = pytest.importorskip("moto.server")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    running = server.ThreadedMotoServer(port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    # The servers of a process share what they hold.
    urllib.request.urlopen(f"{endpoint}/moto-api/reset", data=b"").close()
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket="bucket")
    options = [f"--s3_endpoint_url={endpoint}", "--s3_region_name=us-east-1"]
    FileSystems.set_options(PipelineOptions(options))
    yield options
    FileSystems.set_options(PipelineOptions([]))
    running.stop()
