# SPDX-License-Identifier: Apache-2.0
"""Policies are enforced as IAM does, and denials come as AWS words them."""

from datetime import timedelta

import pytest
from botocore.exceptions import ClientError

from dynabeam.transforms.testing.iam import Iam, Permission
from tests.testing.conftest import ONE_TRY
from tests.testing.reading import arn_of, code_of, error_of, iterator, shards_of

KEY = "limited"
TABLE = "arn:aws:dynamodb:eu-west-1:111122223333:table/table"
GET = Permission("dynamodb:GetRecords", f"{TABLE}/stream/2026")


def allow(actions, resources="*", effect="Allow"):
    return {"Effect": effect, "Action": actions, "Resource": resources}


def policy(*statements):
    return {"Version": "2012-10-17", "Statement": list(statements)}


def denial(permission, *statements):
    iam = Iam()
    iam.set_policies(KEY, [policy(*statements)])
    return iam.denial(KEY, permission)


class TestRules:
    @pytest.mark.parametrize(
        ("action", "resource"),
        [
            ("dynamodb:GetRecords", GET.resource),
            ("dynamodb:getrecords", GET.resource),
            ("dynamodb:*", GET.resource),
            ("dynamodb:Get*", f"{TABLE}/stream/*"),
            ("dynamodb:GetRecord?", f"{TABLE}/stream/202?"),
            (["dynamodb:PutItem", "dynamodb:GetRecords"], ["arn:x", f"{TABLE}/*"]),
            ("*", "arn:aws:dynamodb:*"),
        ],
    )
    def test_allowed(self, action, resource):
        assert denial(GET, allow(action, resource)) == ""

    @pytest.mark.parametrize(
        ("action", "resource"),
        [
            ("dynamodb:GetRecord", GET.resource),
            ("dynamodb:GetRecords", TABLE),
            ("dynamodb:GetRecords", GET.resource.upper()),
            ("dynamodb.GetRecords", GET.resource),
            ("s3:*", "*"),
            ([], "*"),
        ],
    )
    def test_denied_by_nobody_allowing(self, action, resource):
        expected = "because no identity-based policy allows the dynamodb:GetRecords action"
        assert denial(GET, allow(action, resource)) == expected

    def test_an_explicit_deny_wins(self):
        found = denial(GET, allow("*"), allow("dynamodb:Get*", effect="Deny"))
        assert found == "with an explicit deny in an identity-based policy"

    def test_all_but(self):
        other = {"Effect": "Allow", "NotAction": "dynamodb:Put*", "Resource": "*"}
        assert denial(GET, other) == ""
        assert denial(Permission("dynamodb:PutItem", TABLE), other)
        elsewhere = {"Effect": "Deny", "Action": "*", "NotResource": f"{TABLE}*"}
        assert denial(GET, allow("*"), elsewhere) == ""
        assert denial(Permission("dynamodb:PutItem", "arn:other"), allow("*"), elsewhere)

    def test_one_statement_may_stand_alone(self):
        iam = Iam()
        iam.set_policies(KEY, [{"Statement": allow("dynamodb:*")}])
        assert iam.denial(KEY, GET) == ""

    def test_a_key_without_policies_may_do_everything(self):
        iam = Iam()
        iam.set_policies(KEY, [])
        assert iam.denial("other", GET) == ""
        assert iam.denial(KEY, GET)
        iam.set_policies(KEY, None)
        assert iam.denial(KEY, GET) == ""

    @pytest.mark.parametrize(
        ("condition", "prefix", "allowed"),
        [
            ({"StringLike": {"s3:prefix": "state/*"}}, "state/", True),
            ({"StringLike": {"s3:prefix": ["x", "state/?"]}}, "state/a", True),
            ({"StringLike": {"S3:Prefix": "state/*"}}, "state", False),
            ({"StringLike": {"s3:prefix": "state/*"}}, None, False),
            ({"StringLikeIfExists": {"s3:prefix": "state/*"}}, None, True),
            ({"StringLikeIfExists": {"s3:prefix": "state/*"}}, "other/", False),
            ({"StringEquals": {"s3:prefix": "state/*"}}, "state/a", False),
            ({"StringEquals": {"s3:prefix": ["", "state/"]}}, "", True),
            ({"StringEqualsIfExists": {"s3:prefix": "state/"}}, None, True),
            (
                {"StringLike": {"s3:prefix": "*"}, "StringEquals": {"kms:ViaService": "s3"}},
                "state/",
                False,
            ),
        ],
    )
    def test_conditions(self, condition, prefix, allowed):
        context = () if prefix is None else (("s3:prefix", prefix),)
        permission = Permission("s3:ListBucket", "arn:aws:s3:::lake", context)
        found = denial(permission, {**allow("s3:ListBucket"), "Condition": condition})
        assert (found == "") is allowed
        # A denial under a condition holds only where the condition does.
        deny = {**allow("*", effect="Deny"), "Condition": condition}
        assert (denial(permission, allow("*"), deny) != "") is allowed

    @pytest.mark.parametrize(
        "statement",
        [
            {**allow("*"), "Condition": {"StringNotLike": {"s3:prefix": "x"}}},
            {**allow("*"), "Condition": {"StringLike": {"aws:PrincipalArn": "x"}}},
            {**allow("*"), "Condition": {"StringLike": {"s3:prefix": "${aws:username}/*"}}},
            {**allow("*"), "Condition": {"Bool": {"aws:SecureTransport": "true"}}},
            {**allow("*"), "Principal": "*"},
            {"Effect": "allow", "Action": "*", "Resource": "*"},
            {"Effect": "Allow", "Resource": "*"},
            {"Effect": "Allow", "Action": "*", "NotAction": "x", "Resource": "*"},
        ],
    )
    def test_what_is_not_evaluated_is_refused(self, statement):
        with pytest.raises(ValueError, match=r"not evaluated|Effect is|has either"):
            Iam().set_policies(KEY, [policy(statement)])


@pytest.fixture
def limited(sim):
    """Makes clients of the limited key."""

    def client(service):
        return sim.client(service, config=ONE_TRY, aws_access_key_id=KEY)

    sim.create_table("table", "id:S")
    sim.create_bucket("bucket")
    return client


class TestDynamoDB:
    def test_a_denial_is_worded_as_aws_does(self, sim, limited):
        sim.set_policies(KEY, [policy(allow("dynamodb:ListTables"))])
        code, message, status = error_of(limited("dynamodb").describe_table, TableName="table")
        assert (code, status) == ("AccessDeniedException", 400)
        assert message == (
            "User: arn:aws:iam::111122223333:user/simulated is not authorized to perform: "
            f"dynamodb:DescribeTable on resource: {TABLE} because no identity-based policy "
            "allows the dynamodb:DescribeTable action"
        )
        assert limited("dynamodb").list_tables()["TableNames"] == ["table"]
        assert sim.used_permissions(KEY) == [
            Permission("dynamodb:DescribeTable", TABLE),
            Permission("dynamodb:ListTables", "*"),
        ]
        sim.client("dynamodb").describe_table(TableName="table")

    def test_listings_are_allowed_on_everything_only(self, sim, limited):
        sim.set_policies(KEY, [policy(allow("dynamodb:*", "arn:aws:dynamodb:*"))])
        client = limited("dynamodb")
        assert code_of(client.list_tables) == "AccessDeniedException"
        assert code_of(client.list_exports, TableArn=TABLE) == "AccessDeniedException"
        client.describe_table(TableName="table")

    def test_streams_by_the_streams_arn(self, sim, limited, streams):
        arn = arn_of(streams, "table")
        at = iterator(streams, arn, shards_of(streams, arn)[0]["ShardId"])
        sim.set_policies(KEY, [policy(allow("dynamodb:*", TABLE))])
        assert code_of(limited("dynamodbstreams").get_records, ShardIterator=at) == (
            "AccessDeniedException"
        )
        sim.set_policies(KEY, [policy(allow("dynamodb:GetRecords", arn))])
        limited("dynamodbstreams").get_records(ShardIterator=at)
        assert sim.used_permissions(KEY) == [Permission("dynamodb:GetRecords", arn)]

    def test_each_table_of_a_batch(self, sim, limited):
        sim.create_table("other", "id:S")
        sim.set_policies(KEY, [policy(allow("dynamodb:BatchGetItem", TABLE))])
        asked = {name: {"Keys": [{"id": {"S": "a"}}]} for name in ("table", "other")}
        message = error_of(limited("dynamodb").batch_get_item, RequestItems=asked)[1]
        assert "table/other because" in message


class TestExports:
    @pytest.fixture
    def export(self, sim, limited, dynamodb):
        dynamodb.update_continuous_backups(
            TableName="table",
            PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": True},
        )

        def request():
            asked = limited("dynamodb").export_table_to_point_in_time(
                TableArn=TABLE, S3Bucket="bucket", S3Prefix="here"
            )
            arn = asked["ExportDescription"]["ExportArn"]
            return dynamodb.describe_export(ExportArn=arn)["ExportDescription"]

        return request

    WRITE = ("s3:AbortMultipartUpload", "s3:PutObject", "s3:PutObjectAcl")

    def test_the_caller_needs_the_permissions_to_write_it(self, sim, export):
        ask = allow("dynamodb:ExportTableToPointInTime", TABLE)
        write = allow(list(self.WRITE), "arn:aws:s3:::bucket/here/*")
        sim.set_policies(KEY, [policy(ask, write)])
        assert export()["ExportStatus"] == "COMPLETED"
        assert {permission.action for permission in sim.used_permissions(KEY)} == {
            "dynamodb:ExportTableToPointInTime",
            *self.WRITE,
        }

    @pytest.mark.parametrize("missing", WRITE)
    def test_without_one_of_them_the_export_fails(self, sim, export, missing):
        ask = allow("dynamodb:ExportTableToPointInTime", TABLE)
        rest = allow([each for each in self.WRITE if each != missing], "arn:aws:s3:::bucket/*")
        sim.set_policies(KEY, [policy(ask, rest)])
        failed = export()
        assert (failed["ExportStatus"], failed["FailureCode"]) == ("FAILED", "S3AccessDenied")
        assert sim.objects.keys("bucket") == []

    def test_permissions_come_before_what_is_asked(self, sim, limited, export):
        when = sim.clock.now() + timedelta(days=1)
        asked = {"TableArn": TABLE, "S3Bucket": "bucket", "ExportTime": when}
        client = limited("dynamodb")
        sim.set_policies(KEY, [policy(allow("s3:*"))])
        assert code_of(client.export_table_to_point_in_time, **asked) == "AccessDeniedException"
        sim.set_policies(KEY, [policy(allow("dynamodb:*"))])
        found = code_of(client.export_table_to_point_in_time, **asked)
        assert found == "InvalidExportTimeException"


class TestS3:
    def test_a_denial_is_worded_as_aws_does(self, sim, limited):
        sim.set_policies(KEY, [policy(allow("s3:GetObject"))])
        code, message, status = error_of(
            limited("s3").put_object, Bucket="bucket", Key="a/b c", Body=b""
        )
        assert (code, status) == ("AccessDenied", 403)
        assert message.endswith(
            "is not authorized to perform: s3:PutObject on resource: arn:aws:s3:::bucket/a/b c "
            "because no identity-based policy allows the s3:PutObject action"
        )

    def test_what_is_not_there_is_hidden_from_who_may_not_list(self, sim, limited):
        sim.s3_put("bucket", "there", b"x")
        sim.set_policies(KEY, [policy(allow("s3:GetObject", "arn:aws:s3:::bucket/*"))])
        client = limited("s3")
        assert client.get_object(Bucket="bucket", Key="there")["Body"].read() == b"x"
        code, message, _ = error_of(client.get_object, Bucket="bucket", Key="nope")
        assert code == "AccessDenied"
        assert "s3:ListBucket on resource" in message
        assert code_of(client.head_object, Bucket="bucket", Key="nope") == "403"
        sim.set_policies(KEY, [policy(allow(["s3:GetObject", "s3:ListBucket"]))])
        assert code_of(client.get_object, Bucket="bucket", Key="nope") == "NoSuchKey"

    def test_a_listing_of_a_prefix_only(self, sim, limited):
        sim.s3_put("bucket", "state/there", b"x")
        read = allow("s3:GetObject", "arn:aws:s3:::bucket/*")
        look = {
            **allow("s3:ListBucket", "arn:aws:s3:::bucket"),
            "Condition": {"StringLike": {"s3:prefix": "state/*"}},
        }
        sim.set_policies(KEY, [policy(read, look)])
        client = limited("s3")
        listed = client.list_objects_v2(Bucket="bucket", Prefix="state/")
        assert [each["Key"] for each in listed["Contents"]] == ["state/there"]
        assert sim.used_permissions(KEY) == [
            Permission("s3:ListBucket", "arn:aws:s3:::bucket", (("s3:prefix", "state/"),))
        ]
        for other in ({}, {"Prefix": ""}, {"Prefix": "state"}):
            assert code_of(client.list_objects_v2, Bucket="bucket", **other) == "AccessDenied"
        # Such a request names no prefix, so it does not tell that the object is missing.
        assert code_of(client.get_object, Bucket="bucket", Key="state/nope") == "AccessDenied"
        assert code_of(client.head_object, Bucket="bucket", Key="state/nope") == "403"

    def test_copies_need_the_source_too(self, sim, limited):
        sim.s3_put("bucket", "from", b"x")
        sim.set_policies(KEY, [policy(allow("s3:PutObject"))])
        with pytest.raises(ClientError, match="s3:GetObject on resource: arn:aws:s3:::bucket/from"):
            limited("s3").copy_object(
                Bucket="bucket", Key="to", CopySource={"Bucket": "bucket", "Key": "from"}
            )

    def test_deleting_several_needs_a_right_on_each(self, sim, limited):
        sim.set_policies(KEY, [policy(allow("s3:DeleteObject", "arn:aws:s3:::bucket/a*"))])
        both = {"Objects": [{"Key": "a1"}, {"Key": "b1"}]}
        with pytest.raises(ClientError, match="s3:DeleteObject on resource: arn:aws:s3:::bucket/b"):
            limited("s3").delete_objects(Bucket="bucket", Delete=both)

    @pytest.mark.parametrize(
        ("call", "arguments", "permission", "answer"),
        [
            ("head_bucket", {}, Permission("s3:ListBucket", "arn:aws:s3:::bucket"), ""),
            ("list_objects_v2", {}, Permission("s3:ListBucket", "arn:aws:s3:::bucket"), ""),
            (
                "get_bucket_location",
                {},
                Permission("s3:GetBucketLocation", "arn:aws:s3:::bucket"),
                "",
            ),
            (
                "put_object_acl",
                {"Key": "nope", "ACL": "bucket-owner-full-control"},
                Permission("s3:PutObjectAcl", "arn:aws:s3:::bucket/nope"),
                "NoSuchKey",
            ),
            (
                "abort_multipart_upload",
                {"Key": "nope", "UploadId": "nope"},
                Permission("s3:AbortMultipartUpload", "arn:aws:s3:::bucket/nope"),
                "NoSuchUpload",
            ),
            (
                "put_object",
                {"Key": "nope", "Body": b"x", "ContentMD5": "1B2M2Y8AsgTpgAmY7PhCfg=="},
                Permission("s3:PutObject", "arn:aws:s3:::bucket/nope"),
                "BadDigest",
            ),
        ],
    )
    def test_permissions_of_calls(self, sim, limited, call, arguments, permission, answer):
        sim.set_policies(KEY, [])
        given = {"Bucket": "bucket", **arguments}
        method = getattr(limited("s3"), call)
        assert code_of(method, **given) in ("AccessDenied", "403")
        assert sim.used_permissions(KEY) == [permission]
        sim.set_policies(KEY, [policy(allow(permission.action, permission.resource))])
        if answer:
            assert code_of(method, **given) == answer
        else:
            method(**given)
        assert sim.objects.keys("bucket") == []


class TestSimulation:
    @pytest.fixture
    def simulate(self, sim, limited):
        def ask(action, resource, principal=sim.user_arn):
            answer = limited("iam").simulate_principal_policy(
                PolicySourceArn=principal, ActionNames=[action], ResourceArns=[resource]
            )
            return [each["EvalDecision"] for each in answer["EvaluationResults"]]

        return ask

    def test_says_what_the_policies_say(self, sim, simulate):
        sim.set_policies(
            KEY,
            [
                policy(
                    allow("iam:SimulatePrincipalPolicy"),
                    allow("dynamodb:*", TABLE),
                    allow("dynamodb:PutItem", effect="Deny"),
                )
            ],
        )
        assert simulate("dynamodb:DescribeTable", TABLE) == ["allowed"]
        assert simulate("dynamodb:DescribeTable", TABLE + "2") == ["implicitDeny"]
        assert simulate("dynamodb:PutItem", TABLE) == ["explicitDeny"]

    def test_with_what_conditions_look_at(self, sim, limited):
        via = {"StringEquals": {"kms:ViaService": "s3.eu-west-1.amazonaws.com"}}
        decrypt = {**allow("kms:Decrypt"), "Condition": via}
        sim.set_policies(KEY, [policy(allow("iam:SimulatePrincipalPolicy"), decrypt)])
        found = []
        for value in ("s3.eu-west-1.amazonaws.com", "ec2.eu-west-1.amazonaws.com"):
            answer = limited("iam").simulate_principal_policy(
                PolicySourceArn=sim.user_arn,
                ActionNames=["kms:Decrypt"],
                ContextEntries=[
                    {
                        "ContextKeyName": "kms:ViaService",
                        "ContextKeyValues": [value],
                        "ContextKeyType": "string",
                    }
                ],
            )
            found.append(answer["EvaluationResults"][0]["EvalDecision"])
        assert found == ["allowed", "implicitDeny"]

    def test_asking_is_a_right_too(self, sim, simulate):
        sim.set_policies(KEY, [policy(allow("dynamodb:*"))])
        with pytest.raises(ClientError, match="iam:SimulatePrincipalPolicy"):
            simulate("dynamodb:DescribeTable", TABLE)

    def test_of_nobody_else(self, sim, simulate):
        with pytest.raises(ClientError, match="NoSuchEntity"):
            simulate("dynamodb:DescribeTable", TABLE, "arn:aws:iam::111122223333:user/other")
