# SPDX-License-Identifier: Apache-2.0
"""The options of `dynabeam replicate`: what they mean, and what is said of bad ones."""

import os
import shutil
from pathlib import Path

import pytest

from dynabeam.pipelines.command_line import main
from dynabeam.pipelines.options.replicate import parse_replicate
from dynabeam.transforms.errors import ConfigurationError
from dynabeam.transforms.model.gap import GapPolicy
from tests.pipelines.runs import orders

SAMPLE = Path(__file__).parents[1] / "data" / "exports" / "scylla-migrator-full-all-types"
BASIC = ("--tables=orders", "--sink=duckdb:///m.duckdb", "--snapshot=never")


def parse(*options):
    return parse_replicate([*BASIC, *options])


class TestTables:
    def test_named(self):
        found = parse("--tables=a, b,orders", "--table_list=c.d-e_f")
        assert found.tables == ("orders", "a", "b", "c.d-e_f")

    def test_in_a_file_without_header(self, tmp_path):
        path = tmp_path / "tables.csv"
        path.write_bytes(b'\xef\xbb\xbfcustomers\r\n"orders"\r\n\r\n items ,\r\n')
        assert parse(f"--tables_file={path}").tables == ("orders", "customers", "items")

    def test_rows_with_two_names(self, tmp_path):
        path = tmp_path / "tables.csv"
        path.write_text("orders\ncustomers,items\n")
        with pytest.raises(ConfigurationError, match=r"tables\.csv, row 2: .*'customers,items'"):
            parse(f"--tables_file={path}")

    def test_missing_file(self, tmp_path):
        with pytest.raises(ConfigurationError, match=r"--tables_file=.*nowhere"):
            parse(f"--tables_file={tmp_path / 'nowhere'}")

    def test_not_a_name(self):
        with pytest.raises(ConfigurationError, match=r"--tables: not a table name; found 'a/b'"):
            parse("--tables=a/b")

    def test_globs_and_file_replicate_what_matches(self, world, tmp_path):
        for name in ("shop_a", "shop_b", "other"):
            world.create(name)
            world.sim.put_many(name, orders(2))
        world.catch_up()
        path = tmp_path / "tables.csv"
        path.write_text("orders\n")
        ended = world.run("--tables=shop_*", f"--tables_file={path}", "--snapshot=never")
        assert ended.code == 0, ended.err
        assert set(world.committed()["tables"]) == {"orders", "shop_a", "shop_b"}
        assert len(world.rows("shop_b")) == 2


class TestAliases:
    def test_of_names_in_use_elsewhere(self, monkeypatch):
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "before")
        monkeypatch.setenv("MY_SECRET", "hidden")
        found = parse_replicate(
            [
                "--table_list=orders",
                "--aws_region=eu-west-1",
                "--aws_access_key_id=AKIA",
                "--aws_secret_access_key=${env:MY_SECRET}",
                "--s3_export_bucket_name=exports",
                "--sink=duckdb:///m.duckdb",
            ]
        )
        assert found.tables == ("orders",)
        assert found.access is not None
        assert found.access.region == "eu-west-1"
        assert found.bucket == "exports"
        assert (os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]) == (
            "AKIA",
            "hidden",
        )
        assert "hidden" not in repr(found)

    def test_half_a_key(self):
        with pytest.raises(ConfigurationError, match=r"--access_key_id, --secret_key: .*Give both"):
            parse("--aws_access_key_id=AKIA")

    def test_secret_that_is_not_set(self, monkeypatch):
        monkeypatch.delenv("NOT_SET", raising=False)
        with pytest.raises(ConfigurationError, match=r"\$\{env:NOT_SET\}"):
            parse("--access_key_id=AKIA", "--secret_key=${env:NOT_SET}")


class TestDurations:
    @pytest.mark.parametrize(
        ("text", "seconds"), [("500ms", 0.5), ("2s", 2), ("3", 3), ("1.5m", 90), ("1h", 3600)]
    )
    def test_units(self, text, seconds):
        found = parse(f"--every={text}")
        assert found.every == pytest.approx(seconds)
        assert found.until == "forever"

    def test_default_stops_when_caught_up(self):
        assert parse().until == "caught_up"
        assert parse("--every=1s", "--until=caught_up").until == "caught_up"

    @pytest.mark.parametrize("text", ["soon", "-1s", "2 days", "1e3s"])
    def test_bad(self, text):
        with pytest.raises(ConfigurationError, match=rf"--every: .*found '{text}'.*500ms"):
            parse(f"--every={text}")


class TestSizes:
    @pytest.mark.parametrize(
        ("text", "size"),
        [("1048576", 1 << 20), ("64MiB", 64 << 20), ("64 MB", 64_000_000), ("1g", 10**9)],
    )
    def test_units(self, text, size):
        assert parse(f"--round_bytes={text}").round_bytes == size

    @pytest.mark.parametrize("text", ["many", "-5", "1.5GB", "1TB"])
    def test_bad(self, text):
        with pytest.raises(ConfigurationError, match=rf"--round_bytes: .*found '{text}'.*64MiB"):
            parse(f"--round_bytes={text}")

    def test_too_small(self):
        with pytest.raises(ConfigurationError, match="expected 1048576; found 1000"):
            parse("--round_bytes=1kB")


class TestTogether:
    def test_others_go_to_beam(self):
        assert parse("--direct_num_workers=2").beam_arguments == ("--direct_num_workers=2",)

    def test_gap_policies(self):
        bucket = "--s3_export_bucket=bucket"
        found = {parse(f"--gaps={each.value}", bucket).gaps.default for each in GapPolicy}
        assert found == set(GapPolicy)

    def test_gap_policies_of_tables(self):
        given = ("--gaps=a:heal,continue", "--gaps=b.c:resnapshot", "--s3_export_bucket=bucket")
        gaps = parse(*given).gaps
        assert [gaps.of(name).value for name in ("a", "b.c", "orders")] == [
            "heal",
            "resnapshot",
            "continue",
        ]
        assert gaps.repairs
        assert not parse("--gaps=continue").gaps.repairs

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (["--tables=a"], "no sink is named"),
            ([*BASIC, "--gaps=orders:hope"], "--gaps: .*found 'orders:hope'"),
            ([*BASIC, "--gaps=orders:heal"], "--gaps, --s3_export_bucket: "),
            (["--sink=duckdb:///m"], "no table is named"),
            (["--tables=a", "--sink=duckdb:///m"], "--s3_export_bucket: "),
            ([*BASIC, "--export=x"], "--export, --snapshot=never: "),
            ([*BASIC, "--buckets=0"], "--buckets: .*found '0'"),
            ([*BASIC, "--readers=many"], "--readers: .*found 'many'"),
            ([*BASIC, "stray"], "not an option; found 'stray'"),
        ],
    )
    def test_refused(self, options, words):
        with pytest.raises(ConfigurationError, match=words):
            parse_replicate(options)


class TestExportWithoutAws:
    def test_real_export(self, place, tmp_path):
        folder = tmp_path / "copied"
        shutil.copytree(SAMPLE, folder)
        place.options = ["--keys=S3ExportTest:id"]
        ended = place.run(f"--export={folder}")
        assert ended.code == 0, ended.err
        assert "S3ExportTest: 3 snapshot rows" in ended.out
        assert len(place.rows("S3ExportTest")) == 3


class TestCommandLine:
    def test_unknown_command(self, capsys):
        assert main(["replicat"]) == 2
        assert "'replicat'" in capsys.readouterr().err

    def test_help(self, capsys):
        assert main([]) == 0
        assert "replicate" in capsys.readouterr().out
