# SPDX-License-Identifier: Apache-2.0
"""Contract of destinations: what is a bucket and a prefix, and what is tried before it is paid."""

import pytest

from dynabeam.transforms.aws.session import AwsAccess
from dynabeam.transforms.errors import AwsAccessError, ConfigurationError
from dynabeam.transforms.export.destination import Destination, parse_destination, try_destination
from tests.export.builders import BUCKET

ALLOWED = {
    "Effect": "Allow",
    "Action": ["s3:PutObject", "s3:AbortMultipartUpload"],
    "Resource": f"arn:aws:s3:::{BUCKET}/p/AWSDynamoDB/*",
}


class TestParse:
    @pytest.mark.parametrize(
        ("bucket", "prefix", "expected"),
        [
            ("my-exports", "", ("my-exports", "")),
            ("  my-exports ", " daily ", ("my-exports", "daily")),
            ("s3://my-exports", "", ("my-exports", "")),
            ("s3://my-exports/daily/", "", ("my-exports", "daily")),
            ("S3://my.exports/", "/a/b/", ("my.exports", "a/b")),
            ("arn:aws:s3:::my-exports", "p", ("my-exports", "p")),
            ("my-exports/a", "a", ("my-exports", "a")),
            ("my-exports", "/", ("my-exports", "")),
            ("", "", ("", "")),
        ],
    )
    def test_what_people_write(self, bucket, prefix, expected):
        assert parse_destination(bucket, prefix, "") == Destination(*expected)

    @pytest.mark.parametrize(
        ("bucket", "shown"),
        [
            ("My-Exports", "Did you mean my-exports?"),
            ("my_exports", "3 to 63"),
            ("ab", "3 to 63"),
            ("a" * 64, "3 to 63"),
            ("my exports", "3 to 63"),
            ("-exports", "3 to 63"),
            ("a..b", "3 to 63"),
            ("192.168.1.1", "3 to 63"),
            ("gs://my-exports", "S3 alone"),
            ("s3://", "no bucket"),
        ],
    )
    def test_what_is_no_bucket(self, bucket, shown):
        with pytest.raises(
            ConfigurationError, match="--s3_export_bucket: this is no bucket"
        ) as refused:
            parse_destination(bucket, "", "")
        assert shown in str(refused.value)
        assert bucket in str(refused.value)

    @pytest.mark.parametrize("prefix", ["a//b", "../x", "a/./b", "s3://b/x", "a\nb", "x" * 513])
    def test_what_is_no_prefix(self, prefix):
        with pytest.raises(ConfigurationError, match="--s3_export_prefix"):
            parse_destination("my-exports", prefix, "")

    def test_two_prefixes(self):
        with pytest.raises(ConfigurationError, match="another prefix is given"):
            parse_destination("s3://my-exports/a", "b", "")

    def test_owner(self):
        assert parse_destination("my-exports", "", "1111-2222-3333").owner == "111122223333"
        with pytest.raises(ConfigurationError, match="12 digits"):
            parse_destination("my-exports", "", "me")


class TestTry:
    def test_what_can_be_written_leaves_nothing(self, sim, access):
        try_destination(access, Destination(BUCKET, "p"))
        s3 = sim.client("s3")
        assert s3.list_objects_v2(Bucket=BUCKET)["KeyCount"] == 0
        assert not s3.list_multipart_uploads(Bucket=BUCKET).get("Uploads")

    def test_no_such_bucket(self, access):
        with pytest.raises(ConfigurationError, match=r"no such bucket.*aws s3 mb s3://not-there"):
            try_destination(access, Destination("not-there"))

    def test_permissions_of_whoever_requests(self, sim, access):
        sim.set_policies("simulated", [{"Version": "2012-10-17", "Statement": [ALLOWED]}])
        try_destination(access, Destination(BUCKET, "p"))
        with pytest.raises(AwsAccessError, match=r"s3:PutObject.*exports/q/AWSDynamoDB/\*"):
            try_destination(access, Destination(BUCKET, "q"))

    def test_what_s3_does_not_tell_stops_nothing(self, sim):
        nowhere = AwsAccess(region="eu-west-1", endpoint_url="http://127.0.0.1:9")
        try_destination(nowhere, Destination(BUCKET))
