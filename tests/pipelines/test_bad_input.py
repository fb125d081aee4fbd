# SPDX-License-Identifier: Apache-2.0
"""What is wrong is named in one line, and nothing half-done is left: not in sinks, not in state."""

import base64
import hashlib
import json

import pytest

from dynabeam.transforms.testing.export_writer import folder_put, write_incremental_export
from dynabeam.transforms.testing.faults import Faults
from tests.pipelines.runs import EXPORT_TIME, ORDERS_ARN, TABLE_ID, ExportFolder, World, orders


def spoil(sim, marker):
    """Renames the new image of the stream records with a mark, and returns what they are then."""
    spoiled = []
    for stream in sim.all_streams():
        for shard in stream.shards.values():
            for number, record in enumerate(shard.records):
                if marker in record:
                    # Still JSON, as the service's answers always are, but no stream record.
                    shard.records[number] = record.replace(b'"NewImage"', b'"NewImagf"')
                    spoiled.append(shard.records[number])
    return spoiled


def refused(place, ended, kind, *parts):
    """One line of the kind that names all parts, exit code 1, no traceback, nothing visible."""
    assert ended.code == 1
    assert "Traceback" not in ended.err
    assert ended.error_lines == ended.err.splitlines(), ended.err
    (line,) = ended.error_lines
    assert line.startswith(f"dynabeam: {kind}: "), line
    assert "while running" not in line
    for part in parts:
        assert str(part) in line, (part, line)
    assert ended.out == ""
    place.assert_nothing_visible()
    return line


class TestDamagedExports:
    def test_one_flipped_byte(self, place, export):
        path = export.with_items()[-1]
        content = bytearray(path.read_bytes())
        before = _md5(content)
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        ended = place.run(export.option)
        refused(place, ended, "ExportIntegrityError", path, before, _md5(content), "Copy it again")

    def test_truncated_gzip(self, place, export):
        path = export.with_items()[-1]
        whole = path.read_bytes()
        path.write_bytes(whole[:-20])
        ended = place.run(export.option)
        refused(
            place,
            ended,
            "ExportIntegrityError",
            path,
            _md5(whole),
            _md5(whole[:-20]),
            "Copy it again",
        )

    # The first file tells the types of the keys, before any checksum is compared.
    @pytest.mark.parametrize("which", [0, -1])
    def test_truncated_gzip_is_an_error_also_where_checksums_are_not(self, place, export, which):
        path = export.with_items()[which]
        path.write_bytes(path.read_bytes()[:-20])
        ended = place.run(export.option, "--verify=warn")
        refused(place, ended, "ExportIntegrityError", path, "gzip", "Copy the file again")

    @pytest.mark.parametrize("which", [0, -1])
    def test_missing_file(self, place, export, which):
        path = export.with_items()[which]
        path.unlink()
        ended = place.run(export.option)
        refused(place, ended, "ExportIntegrityError", path, "Check that")

    def test_wrong_count_of_a_file(self, place, export):
        entries = [json.loads(line) for line in export.files.read_text().splitlines()]
        entry = next(each for each in entries if each["dataFileS3Key"].endswith(export.data.name))
        count = entry["itemCount"]
        entry["itemCount"] += 1
        export.files.write_text("".join(json.dumps(each) + "\n" for each in entries))
        export.files.with_suffix(".md5").unlink()
        export.change_summary(itemCount=41)
        ended = place.run(export.option)
        refused(
            place,
            ended,
            "ExportIntegrityError",
            export.data.name,
            "itemCount",
            f"expected {count + 1}",
            f"found {count}",
            "Copy it again",
        )

    def test_wrong_sum_of_counts(self, place, export):
        export.change_summary(itemCount=41)
        ended = place.run(export.option)
        refused(
            place, ended, "ExportIntegrityError", export.summary, "expected 41", "found 40", "Copy"
        )

    def test_unknown_version(self, place, export):
        export.change_summary(version="2031-01-01")
        ended = place.run(export.option)
        refused(
            place,
            ended,
            "ExportIntegrityError",
            export.summary,
            "2020-06-30",
            "found '2031-01-01'",
            "upgrade",
        )

    def test_manifest_that_is_no_json(self, place, export):
        export.change_summary()
        export.summary.write_text('{"version": ')
        ended = place.run(export.option)
        refused(place, ended, "ExportIntegrityError", export.summary, "cannot be read", "copy it")

    def test_manifest_that_is_not_its_checksum(self, place, export):
        export.summary.write_text(export.summary.read_text() + " ")
        ended = place.run(export.option)
        refused(place, ended, "ExportIntegrityError", export.summary, "MD5", "expected", "found")

    def test_no_export_there(self, place, tmp_path):
        ended = place.run(f"--export={tmp_path / 'nowhere'}")
        refused(place, ended, "ExportError", tmp_path / "nowhere", "manifest-summary.json", "Give")


class TestUnfitExports:
    def test_of_another_table(self, place, export):
        ended = place.run(
            "--tables=customers", "--region=eu-west-1", "--snapshot=only", export.option
        )
        refused(
            place, ended, "ExportError", export.root, "'customers'", "found 'orders'", "--tables"
        )

    def test_of_a_table_of_this_name_elsewhere(self, world, tmp_path):
        foreign = ORDERS_ARN.replace("eu-west-1", "us-east-1")
        export = ExportFolder(tmp_path / "bucket", table_arn=foreign, export_time=world.clock.now())
        ended = world.run("--tables=orders", export.option)
        refused(world, ended, "ExportError", export.summary, ORDERS_ARN, foreign, "Give")

    def test_incremental_given_as_full(self, place, tmp_path):
        write_incremental_export(
            folder_put(tmp_path / "bucket"),
            table_arn=ORDERS_ARN,
            table_id=TABLE_ID,
            changes=[],
            export_from=EXPORT_TIME.replace(hour=11),
            export_to=EXPORT_TIME,
            bucket="exports",
        )
        ended = place.run(f"--export={tmp_path / 'bucket'}")
        refused(
            place,
            ended,
            "ExportError",
            "manifest-summary.json",
            "expected 'FULL_EXPORT'",
            "found 'INCREMENTAL_EXPORT'",
            "A mirror starts from a full export",
        )

    def test_filtered_as_its_manifest_says(self, place, export):
        export.change_summary(filterSpecification={"ProjectionExpression": "id"})
        ended = place.run(export.option)
        refused(
            place, ended, "ExportError", export.summary, "filter", "ProjectionExpression", "Export"
        )

    @pytest.mark.parametrize("named_by", ["arn", "location"])
    def test_filtered_as_aws_says(self, world, named_by):
        world.sim.put_many("orders", orders(5))
        world.catch_up()
        client = world.sim.client("dynamodb")
        arn = client.export_table_to_point_in_time(
            TableArn=ORDERS_ARN,
            S3Bucket="exports",
            FilterSpecification={"ProjectionExpression": "id"},
        )["ExportDescription"]["ExportArn"]
        manifest = client.describe_export(ExportArn=arn)["ExportDescription"]["ExportManifest"]
        export = arn if named_by == "arn" else f"s3://exports/{manifest}"
        ended = world.run("--tables=orders", f"--export={export}")
        refused(world, ended, "ExportError", arn, "filter", "without a filter")

    def test_read_without_aws_and_without_keys(self, place, export):
        place.options = []
        ended = place.run(export.option)
        refused(place, ended, "ConfigurationError", "table orders", "id (S)", "--keys=orders:hash")

    def test_two_of_one_table(self, place, export, tmp_path):
        other = ExportFolder(tmp_path / "other", seed=9)
        ended = place.run(export.option, other.option)
        refused(place, ended, "ConfigurationError", export.root, other.root, "one export")


class TestUnfitTables:
    @pytest.mark.parametrize("view", ["KEYS_ONLY", "NEW_IMAGE", "OLD_IMAGE"])
    def test_view_type(self, credentials, tmp_path, capsys, view):
        world = World(tmp_path, capsys, stream=view)
        with world.sim:
            ended = world.run("--tables=orders", "--s3_export_bucket=exports")
        refused(
            world,
            ended,
            "TableError",
            "table orders",
            "expected 'NEW_AND_OLD_IMAGES'",
            f"found '{view}'",
            "aws dynamodb update-table",
        )

    def test_without_a_stream(self, credentials, tmp_path, capsys):
        world = World(tmp_path, capsys, stream=None)
        with world.sim:
            ended = world.run("--tables=orders", "--s3_export_bucket=exports")
        refused(world, ended, "TableError", "table orders", "no stream", "StreamEnabled=true")

    def test_without_recovery(self, world):
        world.create("bare", recovery=False)
        ended = world.run("--tables=bare", "--s3_export_bucket=exports")
        refused(world, ended, "TableError", "table bare", "recovery", "update-continuous-backups")

    @pytest.mark.parametrize("snapshot", ["auto", "never"])
    def test_that_does_not_exist(self, world, snapshot):
        bucket = ["--s3_export_bucket=exports"] if snapshot == "auto" else []
        ended = world.run("--tables=orders,ordres", f"--snapshot={snapshot}", *bucket)
        refused(world, ended, "TableError", "table ordres", "eu-west-1", "Check the table's name")

    def test_glob_that_matches_nothing(self, world):
        ended = world.run("--tables=cust*", "--s3_export_bucket=exports")
        refused(world, ended, "ConfigurationError", "--tables", "cust*", "eu-west-1", "orders")


class TestPermissions:
    def test_no_credentials(self, world, monkeypatch, tmp_path):
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            monkeypatch.setenv(name, str(tmp_path / "none"))
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        ended = world.run("--tables=orders", "--s3_export_bucket=exports")
        refused(
            world,
            ended,
            "CredentialsError",
            "no AWS credentials",
            "AWS_ACCESS_KEY_ID",
            "AWS_PROFILE",
        )

    @pytest.mark.parametrize(
        "action",
        [
            "dynamodb:DescribeContinuousBackups",
            "dynamodb:DescribeStream",
            "dynamodb:DescribeTable",
            "dynamodb:ExportTableToPointInTime",
            "dynamodb:GetRecords",
            "dynamodb:GetShardIterator",
        ],
    )
    def test_action_denied(self, world, action):
        world.sim.put_many("orders", orders(5))
        world.catch_up()
        world.sim.faults = Faults(denied_actions={action})
        ended = world.run("--tables=orders", "--s3_export_bucket=exports")
        statement = f'"Effect": "Allow", "Action": "{action}"'
        refused(world, ended, "AwsAccessError", "orders", f"refused {action}", statement)

    def test_listing_denied(self, world):
        world.sim.faults = Faults(denied_actions={"dynamodb:ListTables"})
        ended = world.run("--tables=ord*", "--s3_export_bucket=exports")
        refused(world, ended, "AwsAccessError", "dynamodb:ListTables", "eu-west-1", '"Allow"')

    def test_object_denied(self, world):
        world.sim.put_many("orders", orders(5))
        world.catch_up()
        world.sim.faults = Faults(denied_actions={"s3:GetObject", "s3:HeadObject"})
        ended = world.run("--tables=orders", "--s3_export_bucket=exports")
        failed_later(world, ended, "AwsAccessError", "s3://exports/", "s3:GetObject", '"Allow"')

    def test_bucket_that_does_not_exist(self, world):
        world.sim.put_many("orders", orders(5))
        world.catch_up()
        ended = world.run("--tables=orders", "--s3_export_bucket=exprots")
        refused(
            world,
            ended,
            "ConfigurationError",
            "--s3_export_bucket=exprots: there is no such bucket",
            "aws s3 mb",
        )


def failed_later(world, ended, kind, *parts):
    """One line too, but rounds before it have read the stream, and stay as they are."""
    assert ended.code == 1
    assert "Traceback" not in ended.err
    (line,) = ended.error_lines
    assert line.startswith(f"dynabeam: {kind}: "), line
    assert "while running" not in line
    for part in parts:
        assert part in line, (part, line)
    assert world.committed()["tables"]["orders"]["snapshot"]["rows"] == 0
    assert len(world.rows()) == 5


class TestSinks:
    @pytest.mark.parametrize("scheme", ["duckdb", "file"])
    def test_cannot_be_written(self, place, export, tmp_path, scheme):
        # A file for a parent: permissions would not stop a superuser.
        (tmp_path / "plain").write_text("")
        sink = f"--sink={scheme}:///{tmp_path}/plain/there"
        ended = place.run(export.option, sinks=[sink])
        refused(place, ended, "SinkError", f"{tmp_path}/plain", "cannot be", "Give")

    def test_unknown_scheme(self, place, export):
        ended = place.run(export.option, sinks=["--sink=mongo:///m"])
        refused(place, ended, "ConfigurationError", "--sink=mongo:///m", "duckdb", "found 'mongo'")

    def test_unknown_option(self, place, export):
        ended = place.run(export.option, sinks=[f"--sink=duckdb:///{place.mirror}?colour=blue"])
        refused(place, ended, "ConfigurationError", "layout", "found 'colour'")

    def test_not_a_uri(self, place, export):
        ended = place.run(export.option, sinks=["--sink=mirror.duckdb"])
        refused(place, ended, "ConfigurationError", "--sink", "'mirror.duckdb'", "duckdb:///")

    def test_password_in_clear_is_refused_and_not_shown(self, place, export):
        sink = "--sink=postgres://me:hunter2@host/db"
        ended = place.run(export.option, sinks=[sink])
        line = refused(place, ended, "ConfigurationError", "--sink", "in clear", "${env:")
        assert "hunter2" not in line

    def test_two_at_one_place(self, place, export):
        sink = f"--sink=duckdb:///{place.mirror}"
        ended = place.run(export.option, sinks=[sink, f"{sink}?layout=packed"])
        refused(place, ended, "ConfigurationError", place.mirror, "one place", "own path")

    def test_mirror_of_another_replication(self, place, export, tmp_path):
        assert place.run(export.option).code == 0
        rows = place.rows()
        ended = place.run(
            export.option, sinks=place.sinks[:1], state_dir=tmp_path / "another_state"
        )
        assert (ended.code, len(ended.error_lines)) == (1, 1)
        assert "SinkError" in ended.err
        assert "belongs to state directory" in ended.err
        assert place.rows() == rows


class TestLaterFailure:
    def test_a_failed_round_leaves_the_committed_one(self, world):
        world.sim.put_many("orders", orders(5))
        world.catch_up()
        options = ("--tables=orders", "--snapshot=never")
        assert world.run(*options).code == 0
        before = (world.rows(), world.committed(), world.published())
        world.sim.put_many("orders", orders(5, start=5))
        world.age()
        world.sim.faults = Faults(denied_actions={"dynamodb:GetRecords"})
        assert world.run(*options).code == 1
        assert (world.rows(), world.committed(), world.published()) == before
        world.sim.faults = Faults()
        assert world.run(*options).code == 0
        assert len(world.rows()) == 10


class TestDeadLetters:
    def test_malformed_lines_of_an_export(self, place, tmp_path):
        good = [json.dumps({"Item": each}).encode() for each in orders(4)]
        bad = [b'{"Item":{"id":{"S":"x"', b"\xff\xfe no json", b'{"Itme":{"id":{"S":"y"}}}']
        export = ExportFolder(
            tmp_path / "bucket", lines=[good[0], bad[0], good[1], bad[1], bad[2], *good[2:]]
        )
        ended = place.run(export.option)
        assert ended.code == 0, ended.err
        assert "3 dead letters" in ended.out
        assert place.rows() == [("o0",), ("o1",), ("o2",), ("o3",)]
        letters = {base64.b64decode(each["raw"]): each for each in place.dead_letters()}
        assert set(letters) == set(bad)
        for raw, number in zip(bad, (2, 4, 5), strict=True):
            letter = letters[raw]
            assert (letter["table"], letter["stage"]) == ("orders", "export")
            assert letter["place"] == f"{export.data}:{number}"
            assert letter["reason"]

    def test_malformed_record_of_a_stream(self, world):
        world.sim.put_many("orders", orders(4))
        world.catch_up()
        (record,) = spoil(world.sim, b'"o2"')
        ended = world.run("--tables=orders", "--snapshot=never")
        assert ended.code == 0, ended.err
        assert "1 dead letters" in ended.out
        assert world.rows() == [("o0",), ("o1",), ("o3",)]
        (letter,) = world.dead_letters()
        assert (letter["table"], letter["stage"]) == ("orders", "stream")
        assert base64.b64decode(letter["raw"]) == record
        assert "shardId-" in letter["place"]
        assert letter["reason"]

    def test_a_second_run_does_not_tell_them_again(self, place, tmp_path):
        lines = [json.dumps({"Item": orders(1)[0]}).encode(), b"nonsense"]
        export = ExportFolder(tmp_path / "bucket", lines=lines)
        for _ in range(2):
            ended = place.run(export.option)
            assert ended.code == 0, ended.err
            assert "1 dead letters" in ended.out
            assert len(place.dead_letters()) == 1


def _md5(content):
    digest = hashlib.md5(bytes(content), usedforsecurity=False).digest()
    return base64.b64encode(digest).decode()
