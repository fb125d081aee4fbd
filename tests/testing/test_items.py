# SPDX-License-Identifier: Apache-2.0
"""Every way to write an item leaves exactly the right records, and none for nothing."""

import pytest

from dynabeam.transforms.testing.simulator import Simulator
from tests.testing.reading import code_of, error_of


def item(key, **attributes):
    return {"id": {"S": key}, **attributes}


def events(sim, table="table"):
    return [
        (r["eventName"], r["dynamodb"].get("OldImage"), r["dynamodb"].get("NewImage"))
        for r in sim.records(table)
    ]


@pytest.fixture
def table(sim):
    sim.create_table("table", "id:S")
    return "table"


class TestEveryWritePathMakesExactRecords:
    def test_put_update_delete(self, sim, dynamodb, table):
        key = {"id": {"S": "a"}}
        dynamodb.put_item(TableName=table, Item=item("a", n={"N": "1"}))
        dynamodb.update_item(
            TableName=table,
            Key=key,
            UpdateExpression="SET n = n + :one, b = :b",
            ExpressionAttributeValues={":one": {"N": "1"}, ":b": {"B": b"\0\1"}},
        )
        dynamodb.delete_item(TableName=table, Key=key)
        first, second = item("a", n={"N": "1"}), item("a", n={"N": "2"}, b={"B": "AAE="})
        assert events(sim) == [
            ("INSERT", None, first),
            ("MODIFY", first, second),
            ("REMOVE", second, None),
        ]
        assert sim.items(table) == []

    def test_update_makes_a_missing_item_in_one_record(self, sim, dynamodb, table):
        dynamodb.update_item(
            TableName=table,
            Key={"id": {"S": "a"}},
            UpdateExpression="SET x = :x",
            ExpressionAttributeValues={":x": {"S": "y"}},
        )
        dynamodb.update_item(TableName=table, Key={"id": {"S": "b"}})
        assert events(sim) == [
            ("INSERT", None, item("a", x={"S": "y"})),
            ("INSERT", None, item("b")),
        ]

    def test_batches(self, sim, dynamodb, table):
        dynamodb.batch_write_item(
            RequestItems={table: [{"PutRequest": {"Item": item(k)}} for k in "ab"]}
        )
        dynamodb.batch_write_item(
            RequestItems={
                table: [
                    {"DeleteRequest": {"Key": item("a")}},
                    {"DeleteRequest": {"Key": item("missing")}},
                    {"PutRequest": {"Item": item("b")}},
                ]
            }
        )
        assert [name for name, _, _ in events(sim)] == ["INSERT", "INSERT", "REMOVE"]
        assert sim.items(table) == [item("b")]

    def test_transactions(self, sim, dynamodb, table):
        sim.put_many(table, [item("a", n={"N": "1"}), item("gone")])
        dynamodb.transact_write_items(
            TransactItems=[
                {"Put": {"TableName": table, "Item": item("new")}},
                {"Delete": {"TableName": table, "Key": item("gone")}},
                {
                    "Update": {
                        "TableName": table,
                        "Key": item("a"),
                        "UpdateExpression": "ADD n :n",
                        "ExpressionAttributeValues": {":n": {"N": "0"}},
                    }
                },
            ]
        )
        assert [name for name, _, _ in events(sim)[2:]] == ["INSERT", "REMOVE"]

    def test_a_failed_transaction_leaves_nothing(self, sim, dynamodb, table):
        sim.put_many(table, [item("a")])
        transaction = [
            {"Put": {"TableName": table, "Item": item("new")}},
            {"Delete": {"TableName": table, "Key": item("a")}},
            {
                "ConditionCheck": {
                    "TableName": table,
                    "Key": item("missing"),
                    "ConditionExpression": "attribute_exists(id)",
                }
            },
        ]
        code = code_of(dynamodb.transact_write_items, TransactItems=transaction)
        assert code == "TransactionCanceledException"
        assert len(sim.records(table)) == 1
        assert dynamodb.scan(TableName=table)["Items"] == [item("a")]

    def test_a_failed_update_leaves_no_half_made_item(self, sim, dynamodb, table):
        update = {
            "TableName": table,
            "Key": item("a"),
            "UpdateExpression": "SET x = y + :one",
            "ExpressionAttributeValues": {":one": {"N": "1"}},
        }
        assert code_of(dynamodb.update_item, **update) == "ValidationException"
        assert dynamodb.scan(TableName=table)["Items"] == []
        assert sim.records(table) == []

    def test_conditions_are_checked(self, sim, dynamodb, table):
        sim.put_many(table, [item("a")])
        put = {"Item": item("a", x={"S": "y"}), "ConditionExpression": "attribute_not_exists(id)"}
        code = code_of(dynamodb.put_item, TableName=table, **put)
        assert code == "ConditionalCheckFailedException"
        assert len(sim.records(table)) == 1

    def test_bulk_path_and_requests_see_each_other(self, sim, dynamodb, table):
        dynamodb.put_item(TableName=table, Item=item("a"))
        assert sim.put_many(table, [item("a", x={"BS": ["AAE=", "/w=="]}), item("b")]) == 2
        got = dynamodb.get_item(TableName=table, Key=item("a"))["Item"]
        assert set(got["x"]["BS"]) == {b"\0\1", b"\xff"}
        assert sim.delete_many(table, [item("a"), item("a")]) == 1
        assert dynamodb.scan(TableName=table)["Items"] == [item("b")]

    def test_range_keys(self, sim, dynamodb):
        sim.create_table("ranged", "h:S,r:N")
        for r in ("1", "2"):
            dynamodb.put_item(TableName="ranged", Item={"h": {"S": "x"}, "r": {"N": r}})
        dynamodb.delete_item(TableName="ranged", Key={"h": {"S": "x"}, "r": {"N": "1.0"}})
        sim.delete_many("ranged", [{"h": {"S": "x"}, "r": {"N": "3"}}])
        assert sim.items("ranged") == [{"h": {"S": "x"}, "r": {"N": "2"}}]
        assert dynamodb.scan(TableName="ranged")["Items"] == sim.items("ranged")
        assert [r["eventName"] for r in sim.records("ranged")] == ["INSERT", "INSERT", "REMOVE"]


FULL = {
    "s": {"SS": ["a", "b"]},
    "m": {"M": {"x": {"N": "1"}, "y": {"NULL": True}}},
    "l": {"L": [{"BOOL": True}]},
}


class TestWritesThatChangeNothing:
    @pytest.fixture(autouse=True)
    def one_item(self, sim, table):
        sim.put_many(table, [item("a", **FULL)])

    def test_identical_put_with_another_order(self, sim, dynamodb, table):
        reordered = {
            **FULL,
            "s": {"SS": ["b", "a"]},
            "m": {"M": {"y": {"NULL": True}, "x": {"N": "1.00"}}},
        }
        dynamodb.put_item(TableName=table, Item=item("a", **reordered))
        assert sim.put_many(table, [item("a", **reordered)]) == 0
        assert len(sim.records(table)) == 1

    def test_update_to_the_same(self, sim, dynamodb, table):
        for expression, values in [
            ("SET l = :l", {":l": {"L": [{"BOOL": True}]}}),
            ("REMOVE not_there", None),
            ("ADD s :s", {":s": {"SS": ["a"]}}),
        ]:
            given = {"ExpressionAttributeValues": values} if values else {}
            dynamodb.update_item(
                TableName=table, Key=item("a"), UpdateExpression=expression, **given
            )
        assert len(sim.records(table)) == 1

    def test_list_order_does_matter(self, sim, table):
        sim.put_many(table, [item("l", l={"L": [{"N": "1"}, {"N": "2"}]})])
        assert sim.put_many(table, [item("l", l={"L": [{"N": "2"}, {"N": "1"}]})]) == 1

    def test_delete_of_a_missing_item(self, sim, dynamodb, table):
        dynamodb.delete_item(TableName=table, Key=item("missing"))
        assert sim.expire(table, item("missing")) is False
        assert len(sim.records(table)) == 1


class TestNumbers:
    @pytest.mark.parametrize(
        ("given", "kept"),
        [
            ("007", "7"),
            ("+3", "3"),
            ("1.10", "1.1"),
            ("100.000", "100"),
            (".5", "0.5"),
            ("1.0e-1", "0.1"),
            ("-0", "0"),
            ("0e5", "0"),
            ("1e20", "1" + "0" * 20),
            ("1e125", "1" + "0" * 125),
            ("1e-20", "0." + "0" * 19 + "1"),
            ("-12.50E+2", "-1250"),
            ("9" * 38, "9" * 38),
            ("0.0e126", "0"),
        ],
    )
    def test_come_back_in_plain_decimal(self, sim, dynamodb, table, given, kept):
        value = {"n": {"N": given}, "l": {"L": [{"NS": [given]}]}}
        dynamodb.put_item(TableName=table, Item=item("a", **value))
        expected = item("a", n={"N": kept}, l={"L": [{"NS": [kept]}]})
        assert dynamodb.get_item(TableName=table, Key=item("a"))["Item"] == expected
        assert sim.items(table) == [expected]

    @pytest.mark.parametrize(
        "given", ["NaN", " 1", "1_0", "", "9" * 39, "1e126", "1e-131", "0e126"]
    )
    def test_bad_ones_are_refused(self, sim, dynamodb, table, given):
        bad = item("a", n={"N": given})
        assert code_of(dynamodb.put_item, TableName=table, Item=bad) == "ValidationException"
        assert sim.items(table) == []

    def test_one_key_in_many_spellings(self, sim, dynamodb):
        sim.create_table("numbered", "id:N")
        for spelling in ("1000", "1e3", "1000.0", "001000", "+1000"):
            dynamodb.put_item(TableName="numbered", Item={"id": {"N": spelling}})
        assert sim.items("numbered") == [{"id": {"N": "1000"}}]
        assert len(sim.records("numbered")) == 1
        got = dynamodb.get_item(TableName="numbered", Key={"id": {"N": "10e2"}})
        assert got["Item"] == {"id": {"N": "1000"}}

    def test_sums_keep_38_digits(self, sim, dynamodb, table):
        sim.put_many(table, [item("a", n={"N": "12345678901234567890123456789012345678"})])
        answer = dynamodb.update_item(
            TableName=table,
            Key=item("a"),
            UpdateExpression="SET n = n + :x, m = :y - :z",
            ExpressionAttributeValues={
                ":x": {"N": "1"},
                ":y": {"N": "0.00000003"},
                ":z": {"N": "1e-8"},
            },
            ReturnValues="UPDATED_NEW",
        )
        expected = {"n": {"N": "12345678901234567890123456789012345679"}, "m": {"N": "0.00000002"}}
        assert answer["Attributes"] == expected
        assert sim.items(table) == [item("a", **expected)]


class TestRecordForm:
    def test_fields(self, sim, dynamodb, table):
        dynamodb.put_item(TableName=table, Item=item("Fred"))
        (record,) = sim.records(table)
        assert len(record["eventID"]) == 32
        assert int(record["eventID"], 16) >= 0
        assert record["eventVersion"] == "1.1"
        assert record["eventSource"] == "aws:dynamodb"
        assert record["awsRegion"] == "eu-west-1"
        assert "userIdentity" not in record
        change = record["dynamodb"]
        assert change["ApproximateCreationDateTime"] == 1767323045
        assert change["SizeBytes"] == 12
        assert change["Keys"] == item("Fred")

    @pytest.mark.parametrize(
        ("view_type", "images"),
        [
            ("KEYS_ONLY", set()),
            ("NEW_IMAGE", {"NewImage"}),
            ("OLD_IMAGE", {"OldImage"}),
            ("NEW_AND_OLD_IMAGES", {"OldImage", "NewImage"}),
        ],
    )
    def test_view_type_decides_the_images(self, sim, view_type, images):
        sim.create_table("viewed", "id:S", stream=view_type)
        sim.put_many("viewed", [item("a"), item("a", x={"S": "y"})])
        record = sim.records("viewed")[1]["dynamodb"]
        assert record.keys() & {"OldImage", "NewImage"} == images
        assert record["StreamViewType"] == view_type

    def test_time_to_live_is_marked(self, sim, table):
        sim.put_many(table, [item("a"), item("b")])
        assert sim.expire(table, item("a"))
        sim.delete_many(table, [item("b")])
        expired, deleted = sim.records(table)[2:]
        service = {"Type": "Service", "PrincipalId": "dynamodb.amazonaws.com"}
        assert expired["eventName"] == deleted["eventName"] == "REMOVE"
        assert expired["userIdentity"] == service
        assert "userIdentity" not in deleted


class TestRefusals:
    def test_unknown_table(self, dynamodb):
        code, message, status = error_of(dynamodb.describe_table, TableName="nope")
        assert (code, status) == ("ResourceNotFoundException", 400)
        assert "nope" in message
        put = {"TableName": "nope", "Item": item("a")}
        assert code_of(dynamodb.put_item, **put) == "ResourceNotFoundException"

    def test_too_large(self, sim, dynamodb, table):
        big = item("a", x={"S": "x" * 410_000})
        assert code_of(dynamodb.put_item, TableName=table, Item=big) == "ValidationException"
        assert sim.items(table) == []

    def test_sets_with_repeats_after_normalising(self, dynamodb, table):
        bad = item("a", x={"NS": ["1", "1.0"]})
        assert code_of(dynamodb.put_item, TableName=table, Item=bad) == "ValidationException"

    def test_what_is_not_simulated_says_so(self, dynamodb, table):
        code, message, _ = error_of(dynamodb.create_backup, TableName=table, BackupName="abc")
        assert code == "UnknownOperationException"
        assert "CreateBackup" in message


class TestTables:
    def test_description(self, sim, dynamodb, table):
        described = dynamodb.describe_table(TableName=table)["Table"]
        assert described["TableArn"] == "arn:aws:dynamodb:eu-west-1:111122223333:table/table"
        assert described["LatestStreamArn"] == (
            f"{described['TableArn']}/stream/{described['LatestStreamLabel']}"
        )
        assert described["LatestStreamLabel"] == "2026-01-02T03:04:05.678"
        assert described["StreamSpecification"] == {
            "StreamEnabled": True,
            "StreamViewType": "NEW_AND_OLD_IMAGES",
        }
        assert described["TableId"] == sim.table(table).table_id

    def test_a_table_made_again_has_another_id_and_is_empty(self, sim, dynamodb, table):
        before = dynamodb.describe_table(TableName=table)["Table"]["TableId"]
        sim.put_many(table, [item("a")])
        dynamodb.delete_table(TableName=table)
        assert dynamodb.list_tables()["TableNames"] == []
        sim.create_table(table, "id:S")
        assert dynamodb.describe_table(TableName=table)["Table"]["TableId"] != before
        assert dynamodb.scan(TableName=table)["Items"] == []

    def test_listing_is_sorted_and_paged(self, sim, dynamodb):
        for name in ("zzz", "aaa", "mmm"):
            sim.create_table(name)
        first = dynamodb.list_tables(Limit=2)
        assert first["TableNames"] == ["aaa", "mmm"]
        start = first["LastEvaluatedTableName"]
        assert dynamodb.list_tables(ExclusiveStartTableName=start)["TableNames"] == ["zzz"]

    def test_two_simulators_share_nothing(self, sim, table):
        with Simulator(seed=2) as other:
            other.create_table(table, "id:S")
            other.put_many(table, [item("a")])
            sim.create_bucket("bucket")
            other.create_bucket("bucket")
            other.s3_put("bucket", "key", b"theirs")
            assert sim.items(table) == []
            assert sim.objects.keys("bucket") == []
