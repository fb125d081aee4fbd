# SPDX-License-Identifier: Apache-2.0
"""Exports in rounds: read once whatever the number of tables, and one that fails stops no other."""

import gzip
import json
import os
from pathlib import Path

import pytest

from dynabeam.pipelines.command_line import main
from dynabeam.pipelines.options.replicate import parse_replicate
from dynabeam.pipelines.replicate import replicate
from dynabeam.pipelines.rounds import exports as round_exports
from dynabeam.pipelines.rounds.progress import RoundPrinter
from dynabeam.transforms.export import fetch
from dynabeam.transforms.export import read_files as read_module
from dynabeam.transforms.export.location import find_summary
from dynabeam.transforms.export.manifest import load_manifest
from tests.pipelines.runs import ORDERS_ARN, ExportFolder, orders

MIB = 1 << 20


@pytest.fixture
def downloads(monkeypatch):
    """Sizes of the data files that were fetched, one entry each time."""
    sizes = []
    digest = fetch._digest

    def counted(source, copy):
        sizes.append(os.fstat(source.fileno()).st_size)
        return digest(source, copy)

    monkeypatch.setattr(fetch, "_digest", counted)
    return sizes


def wide(count, width):
    """Items of some bytes that do not pack well."""
    return [
        {
            "id": {"S": f"o{n}"},
            "v": {"S": "".join(f"{(n * 7919 + k) % 65521:x}" for k in range(width))},
        }
        for n in range(count)
    ]


def exports_of(folder, tables, **options):
    """An export of each of some tables, and the options that name them."""
    found = []
    for number in range(tables):
        arn = ORDERS_ARN.replace("orders", f"t{number:03}")
        found.append(ExportFolder(folder / f"t{number:03}", table_arn=arn, **options))
    names = [f"t{number:03}" for number in range(tables)]
    return found, [
        *(each.option for each in found),
        *(f"--keys={name}:id" for name in names),
    ]


def rounds_of(place):
    return place.committed()["round"]


class TestTraffic:
    def test_small_files_of_many_tables_are_one_round(self, place, tmp_path, downloads):
        exports, options = exports_of(tmp_path, 10, files=30, items=orders(600))
        place.options = []
        ended = place.run(*options)
        assert ended.code == 0, ended.err
        assert rounds_of(place) == 1
        assert len(place.rows("t009")) == 600
        assert len(downloads) == sum(len(list(each.root.rglob("*.json.gz"))) for each in exports)

    @pytest.mark.parametrize("tables", [1, 3])
    def test_each_byte_is_downloaded_once(self, place, tmp_path, downloads, tables):
        exports, options = exports_of(tmp_path, tables, files=4, items=wide(300, 1200))
        place.options = []
        ended = place.run(*options, "--round_bytes=1MiB")
        assert ended.code == 0, ended.err
        paths = [path for each in exports for path in each.root.rglob("*.json.gz")]
        inflated = sum(len(gzip.decompress(path.read_bytes())) for path in paths)
        assert inflated > MIB * tables
        assert sum(downloads) == sum(path.stat().st_size for path in paths)
        assert len(downloads) == len(paths)
        # A round holds one file here, and never less.
        assert rounds_of(place) <= 4 * tables + 1
        assert all(len(place.rows(f"t{n:03}")) == 300 for n in range(tables))

    def test_a_file_larger_than_a_round_is_downloaded_once_too(self, place, tmp_path, downloads):
        exports, options = exports_of(tmp_path, 2, files=1, items=wide(600, 1200))
        place.options = []
        ended = place.run(*options, "--round_bytes=1MiB")
        assert ended.code == 0, ended.err
        assert rounds_of(place) >= 4
        paths = [path for each in exports for path in each.with_items()]
        assert sorted(d for d in downloads if d > 100) == sorted(p.stat().st_size for p in paths)
        assert [len(place.rows(f"t{n:03}")) for n in range(2)] == [600, 600]

    def test_half_a_file_is_gone_on_with_by_another_process(
        self, place, tmp_path, downloads, monkeypatch
    ):
        _, options = exports_of(tmp_path, 1, files=1, items=wide(1000, 1200))
        place.options = []

        seen = set()
        real = read_module.rows_of_lines

        def killed(data, part):
            seen.add(part.start_line)
            if len(seen) == 3:
                raise MemoryError("killed")
            return real(data, part)

        with monkeypatch.context() as patched:
            # While the third round is read.
            patched.setattr(read_module, "rows_of_lines", killed)
            ended = place.run(*options, "--round_bytes=1MiB")
        assert ended.code == 1
        assert "killed" in ended.err
        assert rounds_of(place) == 2
        (lines,) = (
            each
            for each in place.committed()["tables"]["t000"]["snapshot"]["files"].values()
            if each != "done"
        )
        assert 0 < lines < 1000
        read_module._open_files.close()
        ended = place.run(*options, "--round_bytes=1MiB")
        assert ended.code == 0, ended.err
        assert place.rows("t000", "count(*), count(DISTINCT id)") == [(1000, 1000)]
        assert place.committed()["tables"]["t000"]["totals"]["snapshot_rows"] == 1000


def by_customer(count, customers=10):
    """Items of the key `cust, no`."""
    return [{"cust": {"S": f"c{n % customers}"}, "no": {"N": str(n)}} for n in range(count)]


class TestKeys:
    def test_a_part_of_the_key_is_refused(self, place, tmp_path):
        export = ExportFolder(tmp_path / "e", items=by_customer(50), hash_key="cust")
        place.options = []
        ended = place.run(export.option, "--keys=orders:cust")
        assert ended.code == 1
        (error,) = ended.error_lines
        for part in ("ExportIntegrityError", "more than once", "--keys=orders:no", "'cust'"):
            assert part in error
        place.assert_nothing_visible()
        assert not place.mirror.exists()
        # What the error says does.
        ended = place.run(export.option, "--keys=orders:cust,no")
        assert ended.code == 0, ended.err
        assert len(place.rows("orders", "cust")) == 50
        assert not list(place.state_dir.rglob("*.keys"))
        # Another key from now on is no hint any more.
        ended = place.run(export.option, "--keys=orders:no")
        assert ended.code == 1
        assert "found 'orders:no'" in ended.error_lines[0]

    def test_a_key_that_is_there_again_in_another_round(self, place, tmp_path):
        # The last file repeats a key of the first one: no round sees both.
        items = wide(400, 1200)
        lines = [json.dumps({"Item": each}).encode() for each in [*items, items[0]]]
        export = ExportFolder(tmp_path / "e", lines=lines, files=5)
        ended = place.run(export.option, "--round_bytes=1MiB")
        assert ended.code == 1
        assert "401 lines and 400 keys" in ended.error_lines[0]
        assert "new --state_dir" in ended.error_lines[0]
        assert rounds_of(place) >= 1
        assert place.committed()["tables"]["orders"]["snapshot"]["status"] == "loading"
        # And again: nothing of it was taken for done.
        ended = place.run(export.option, "--round_bytes=1MiB")
        assert "401 lines and 400 keys" in ended.error_lines[0]

    def test_a_name_with_a_comma(self, place, tmp_path):
        items = [{"cust, no": {"S": str(n)}, "v:w": {"N": "1"}} for n in range(20)]
        export = ExportFolder(tmp_path / "e", items=items, hash_key="cust, no")
        place.options = []
        ended = place.run(export.option, "--keys=orders:cust, no")
        assert ended.code == 1
        (error,) = ended.error_lines
        assert "hash attribute 'cust' and range attribute 'no'" in error
        assert """--keys='orders:"cust, no"'""" in error
        assert place.run(export.option, '--keys=orders:"cust, no"').code == 0
        assert len(place.rows("orders", '"cust, no"')) == 20

    def test_an_audit_counts_lines_and_keys(self, place, tmp_path, capsys):
        """A mirror that lost rows to a wrong key, as older releases made it, is not equal."""
        items = wide(60, 300)
        few = ExportFolder(tmp_path / "few", items=items)
        assert place.run(few.option).code == 0
        lines = [json.dumps({"Item": each}).encode() for each in [*items, items[0]]]
        whole = ExportFolder(tmp_path / "whole", lines=lines, files=3)
        capsys.readouterr()
        code = main(
            [
                "audit",
                whole.option,
                "--keys=orders:id",
                place.sinks[0],
                f"--state_dir={tmp_path / 'none'}",
            ]
        )
        out, err = capsys.readouterr()
        assert code == 2, out
        assert "61 lines and 60 keys" in err
        assert "EQUAL" not in out


class TestFailedExports:
    @pytest.fixture
    def two(self, world):
        """Two tables with items, as old as the stream's edge wants."""
        world.create("customers")
        world.sim.put_many("orders", orders(20))
        world.sim.put_many("customers", orders(30))
        world.age()
        world.options += ["--tables=customers,orders", "--s3_export_bucket=exports"]
        return world

    def test_the_other_table_goes_on_and_the_next_run_asks_anew(self, two):
        two.sim.exports.fail_next("S3AccessDenied", "Access Denied (Service: Amazon S3)")
        first = two.run()
        assert first.code == 1
        (error,) = first.error_lines
        assert "S3AccessDenied: Access Denied (Service: Amazon S3)" in error
        assert "s3:PutObject" in error
        assert len(two.rows("orders")) == 20
        assert two.rows("customers") == [] or len(two.rows("customers")) == 30
        failed = two.committed()["tables"]["customers"]["snapshot"]
        assert (failed["attempt"], failed["status"], failed["reuse"]) == (1, "pending", "")
        assert "S3AccessDenied" in failed["failed"][0]
        # As the error says: the next run requests a new one.
        second = two.run()
        assert second.code == 0, second.err
        assert len(two.rows("customers")) == 30
        assert len(two.rows("orders")) == 20
        assert "failed" not in two.committed()["tables"]["customers"]["snapshot"]

    def test_failing_again_and_again_each_is_a_new_export(self, two):
        arns = set()
        for attempt in range(1, 4):
            two.sim.exports.fail_next("Odd", f"try {attempt}")
            ended = two.run()
            assert f"Odd: try {attempt}" in ended.error_lines[0]
            found = two.sim.client("dynamodb").list_exports()["ExportSummaries"]
            failed = {each["ExportArn"] for each in found if each["ExportStatus"] == "FAILED"}
            assert len(failed) == attempt
            arns |= failed
        assert len(arns) == 3
        assert two.run().code == 0
        assert len(two.rows("customers")) == 30

    def test_a_run_for_ever_goes_on_by_itself(self, two, monkeypatch):
        two.sim.exports.fail_next("Odd", "Something odd")
        monkeypatch.setattr(round_exports, "retry_seconds", lambda times: 0)
        rounds = []

        def on_round(printer, outcome):
            rounds.append(outcome)
            if outcome.caught_up or len(rounds) > 60:
                raise KeyboardInterrupt

        monkeypatch.setattr(RoundPrinter, "on_round", on_round)
        options = parse_replicate(
            [*two.options, *two.sinks, f"--state_dir={two.state_dir}", "--every=1s"]
        )
        with pytest.raises(KeyboardInterrupt):
            replicate(options)
        assert rounds[-1].caught_up
        assert any("Something odd" in note for each in rounds for note in each.notes)
        assert len(two.rows("customers")) == 30


class TestMendedOptions:
    def test_a_wrong_bucket_costs_nothing_and_the_mended_one_works(self, world):
        world.sim.put_many("orders", orders(20))
        world.age()
        first = world.run("--tables=orders", "--s3_export_bucket=not-there")
        assert first.code == 1
        (error,) = first.error_lines
        assert "there is no such bucket" in error
        assert "--s3_export_bucket=not-there" in error
        assert world.sim.client("dynamodb").list_exports()["ExportSummaries"] == []
        second = world.run("--tables=orders", "--s3_export_bucket=exports", "--s3_export_prefix=/p")
        assert second.code == 0, second.err
        assert len(world.rows()) == 20
        arn = world.committed()["tables"]["orders"]["snapshot"]["reuse"]
        described = world.sim.client("dynamodb").describe_export(ExportArn=arn)
        assert described["ExportDescription"]["S3Prefix"] == "p"

    def test_another_bucket_after_a_failure(self, world):
        world.sim.put_many("orders", orders(20))
        world.age()
        world.sim.exports.fail_next("S3NoSuchBucket", "The specified bucket does not exist")
        first = world.run("--tables=orders", "--s3_export_bucket=exports")
        assert first.code == 1
        assert "S3NoSuchBucket" in first.error_lines[0]
        assert "--s3_export_bucket" in first.error_lines[0]
        world.sim.create_bucket("fixed")
        second = world.run("--tables=orders", "--s3_export_bucket=fixed", "--s3_export_prefix=p")
        assert second.code == 0, second.err
        assert len(world.rows()) == 20
        arn = world.committed()["tables"]["orders"]["snapshot"]["reuse"]
        described = world.sim.client("dynamodb").describe_export(ExportArn=arn)
        assert described["ExportDescription"]["S3Bucket"] == "fixed"


def test_positions_of_an_older_release_are_read(place, tmp_path):
    """A document with the manifest in it, and lines of a file that was begun."""
    export = ExportFolder(tmp_path / "old", files=2, items=orders(40))
    assert place.run(export.option).code == 0
    document = place.committed()
    snapshot = document["tables"]["orders"]["snapshot"]
    paths = [str(path) for path in export.with_items()]
    manifest = load_manifest(find_summary(str(export.root)))
    snapshot |= {
        "manifest": manifest.to_json(),
        "files": {paths[0]: "done", paths[1]: 5},
        "status": "loading",
    }
    path = Path(place.state_dir) / "state.json"
    path.write_text(json.dumps(document))
    assert place.run(export.option).code == 0
    again = place.committed()
    rest = next(each.item_count for each in manifest.files if each.path == paths[1]) - 5
    totals = again["tables"]["orders"]["totals"]
    assert totals["snapshot_rows"] == 40 + rest
    assert again["tables"]["orders"]["snapshot"]["status"] == "done"
