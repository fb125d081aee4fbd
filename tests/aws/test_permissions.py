# SPDX-License-Identifier: Apache-2.0
"""Contract of the catalogue of permissions: exact resources, a purpose each, nothing unused.

That it is sufficient and minimal for what the code calls is for a whole run to show.
"""

import dataclasses
import re

import pytest

from dynabeam.transforms.aws.permissions import (
    Features,
    S3Folder,
    partition_of,
    permissions,
    table_arn,
)
from dynabeam.transforms.errors import ConfigurationError

ORDERS = "arn:aws:dynamodb:eu-west-1:111122223333:table/orders"
KEY = "arn:aws:kms:eu-west-1:111122223333:key/0a1b"
EVERYTHING = Features(
    tables=(ORDERS,),
    newest_export=True,
    export_target=S3Folder("exports", "daily"),
    exports=(S3Folder("old"),),
    search_exports=True,
    bucket_key=KEY,
    table_keys=(KEY,),
    state=S3Folder("lake", "state"),
    changelogs=(S3Folder("lake", "changes"),),
    globs=True,
    tags=True,
    apply=True,
    source_role="arn:aws:iam::111122223333:role/tables",
    bucket_role="arn:aws:iam::444455556666:role/files",
)


def by_sid(features):
    return {each.sid: each for each in permissions(features)}


def test_a_stream_alone():
    found = by_sid(Features(tables=(ORDERS,), request_exports=False))
    assert {sid: (each.actions, each.resources) for sid, each in found.items()} == {
        "DescribeTheTable": (("dynamodb:DescribeTable",), (ORDERS,)),
        "ReadTheStream": (
            ("dynamodb:DescribeStream", "dynamodb:GetRecords", "dynamodb:GetShardIterator"),
            (f"{ORDERS}/stream/*",),
        ),
        "FindEarlierStreams": (("dynamodb:ListStreams",), ("*",)),
    }


def test_an_export_that_is_requested():
    features = Features(tables=(ORDERS,), streams=False, export_target=S3Folder("exports"))
    found = by_sid(features)
    assert {sid: (each.actions, each.resources) for sid, each in found.items()} == {
        "DescribeTheTable": (("dynamodb:DescribeTable",), (ORDERS,)),
        "SeeTheRecoveryWindow": (("dynamodb:DescribeContinuousBackups",), (ORDERS,)),
        "ExportTheTable": (("dynamodb:ExportTableToPointInTime",), (ORDERS,)),
        "FollowTheExport": (("dynamodb:DescribeExport",), (f"{ORDERS}/export/*",)),
        "WriteTheExport": (
            ("s3:AbortMultipartUpload", "s3:PutObject", "s3:PutObjectAcl"),
            ("arn:aws:s3:::exports/*",),
        ),
        "ReadTheExport": (("s3:GetObject",), ("arn:aws:s3:::exports/*",)),
    }


def test_a_prefix_narrows_the_objects():
    found = by_sid(EVERYTHING)
    assert found["WriteTheExport"].resources == ("arn:aws:s3:::exports/daily/*",)
    assert found["ReadTheExport"].resources == (
        "arn:aws:s3:::old/*",
        "arn:aws:s3:::exports/daily/*",
    )
    assert found["LookIntoTheState"].resources == ("arn:aws:s3:::lake",)
    prefixes = {
        sid: each.conditions for sid, each in found.items() if "s3:ListB" in each.actions[0]
    }
    assert prefixes == {
        "LookIntoTheState": (("StringLike", "s3:prefix", ("state/*",)),),
        "LookIntoTheChangelog": (("StringLike", "s3:prefix", ("changes/*",)),),
        "SearchForTheExport": (),
    }


def test_no_bucket_is_listed_by_the_prefix_of_another():
    places = (S3Folder("a", "x"), S3Folder("b", "y/z"), S3Folder("a", "v"), S3Folder("c"))
    found = by_sid(Features(tables=(ORDERS,), request_exports=False, changelogs=places))
    listed = {sid: each for sid, each in found.items() if each.actions == ("s3:ListBucket",)}
    assert {sid: (each.resources, each.conditions) for sid, each in listed.items()} == {
        "LookIntoTheChangelog1": (
            ("arn:aws:s3:::a",),
            (("StringLike", "s3:prefix", ("x/*", "v/*")),),
        ),
        "LookIntoTheChangelog2": (("arn:aws:s3:::b",), (("StringLike", "s3:prefix", ("y/z/*",)),)),
        "LookIntoTheChangelog3": (("arn:aws:s3:::c",), ()),
    }


@pytest.mark.parametrize(
    ("partition", "region", "suffix"),
    [("aws", "eu-west-1", "amazonaws.com"), ("aws-cn", "cn-north-1", "amazonaws.com.cn")],
)
def test_keys_are_used_by_services_of_their_region_only(partition, region, suffix):
    key = f"arn:{partition}:kms:{region}:111122223333:key/0a1b"
    found = by_sid(dataclasses.replace(EVERYTHING, bucket_key=key, table_keys=(key,)))
    via = {
        sid: each.conditions
        for sid, each in found.items()
        if any(action.startswith("kms:") for action in each.actions)
    }
    s3, dynamodb = f"s3.{region}.{suffix}", f"dynamodb.{region}.{suffix}"
    assert via == {
        "UseTheTablesKey": (("StringEquals", "kms:ViaService", (dynamodb,)),),
        # The doctor asks for it by itself.
        "SeeTheTablesKey": (),
        "UseTheKey": (("StringEquals", "kms:ViaService", (s3, dynamodb)),),
        "UseTheKeyToRead": (("StringEquals", "kms:ViaService", (s3,)),),
    }


def test_writing_belongs_to_who_requests_and_reading_to_who_reads():
    identities = {each.sid: each.identity for each in permissions(EVERYTHING)}
    assert identities["WriteTheExport"] == identities["UseTheKey"] == "source"
    assert identities["ReadTheExport"] == identities["UseTheKeyToRead"] == "bucket"
    assert identities["AssumeTheRoles"] == "worker"
    assert identities["TurnOnTheStream"] == identities["TurnOnRecovery"] == "operator"


def test_one_identity_gets_no_right_to_the_key_twice():
    one = Features(tables=(ORDERS,), export_target=S3Folder("exports"), bucket_key=KEY)
    assert "UseTheKeyToRead" not in by_sid(one)
    assert by_sid(one)["UseTheKey"].actions == ("kms:Decrypt", "kms:GenerateDataKey")


def test_exports_at_hand_need_no_right_to_dynamodb():
    features = Features(
        describe_tables=False, streams=False, request_exports=False, exports=(S3Folder("old", "x"),)
    )
    found = by_sid(features)
    assert list(found) == ["ReadTheExport"]


def test_whether_an_export_is_filtered_is_good_to_know_but_not_needed():
    features = Features(tables=(ORDERS,), request_exports=False, exports=(S3Folder("old"),))
    assert by_sid(features)["FollowTheExport"].optional
    assert not by_sid(EVERYTHING)["FollowTheExport"].optional


def test_sids_are_letters_and_unique_for_each_identity():
    found = [(each.identity, each.sid) for each in permissions(EVERYTHING)]
    assert len(found) == len(set(found))
    assert all(re.fullmatch("[A-Za-z]+", sid) for _, sid in found)


def test_each_says_what_it_is_for_and_is_sorted():
    for each in permissions(EVERYTHING):
        assert each.purpose
        assert list(each.actions) == sorted(each.actions)
        assert each.resources


def test_exports_without_a_bucket_are_refused():
    with pytest.raises(ConfigurationError, match="--s3_export_bucket"):
        permissions(Features(tables=(ORDERS,)))


@pytest.mark.parametrize(
    ("region", "partition"),
    [("eu-west-1", "aws"), ("cn-north-1", "aws-cn"), ("us-gov-west-1", "aws-us-gov")],
)
def test_partitions(region, partition):
    assert partition_of(region) == partition
    arn = table_arn("orders", region=region, account="111122223333")
    assert arn == f"arn:{partition}:dynamodb:{region}:111122223333:table/orders"


def test_a_region_that_the_sdk_does_not_know_is_in_the_common_partition():
    assert partition_of("mars-1") == "aws"


def test_a_glob_becomes_the_pattern_that_covers_it():
    arn = table_arn("orders_[ab]?*", region="eu-west-1", account="111122223333")
    assert arn.endswith(":table/orders_??*")


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("s3://lake", S3Folder("lake")),
        ("s3://lake/a/b/?format=parquet", S3Folder("lake", "a/b")),
    ],
)
def test_places_in_s3(uri, expected):
    assert S3Folder.of(uri) == expected


@pytest.mark.parametrize("uri", ["gs://lake", "/tmp/x", "s3://"])
def test_other_places_are_refused(uri):
    with pytest.raises(ConfigurationError, match="s3://bucket/prefix"):
        S3Folder.of(uri)
