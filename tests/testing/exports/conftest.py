# SPDX-License-Identifier: Apache-2.0
"""A table whose recovery is on since an hour, and real clients that export it."""

from datetime import timedelta

import pytest

from tests.testing.export_files import read_export
from tests.testing.reading import error_of

BUCKET = "my-exports"
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
ARN = "arn:aws:dynamodb:eu-west-1:111122223333:table/"


def items(*names, **more):
    return [{"id": {"S": name}, "v": {"N": "1"}, **more} for name in names]


def switch(dynamodb, *, on=True, table="orders", **more):
    return dynamodb.update_continuous_backups(
        TableName=table,
        PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": on, **more},
    )


@pytest.fixture
def table(sim, dynamodb):
    """A table with recovery on since an hour, two items of then, and a bucket."""
    sim.create_bucket(BUCKET)
    arn = sim.create_table("orders", "id:S")
    switch(dynamodb)
    sim.put_many("orders", items("a", "b"))
    sim.clock.advance(HOUR)
    return arn


@pytest.fixture
def export(dynamodb, table):
    def start(**arguments):
        request = {"TableArn": table, "S3Bucket": BUCKET, **arguments}
        return dynamodb.export_table_to_point_in_time(**request)["ExportDescription"]

    return start


@pytest.fixture
def refused(dynamodb, table):
    def ask(**arguments):
        request = {"TableArn": table, "S3Bucket": BUCKET, **arguments}
        code, message, status = error_of(dynamodb.export_table_to_point_in_time, **request)
        assert status == 400
        return code, message

    return ask


@pytest.fixture
def describe(dynamodb):
    return lambda arn: dynamodb.describe_export(ExportArn=arn)["ExportDescription"]


@pytest.fixture
def files(sim):
    def read(description):
        return read_export(lambda key: sim.s3_get(BUCKET, key), description["ExportManifest"])

    return read


@pytest.fixture
def exported(describe, files):
    return lambda started: files(describe(started["ExportArn"]))
