# SPDX-License-Identifier: Apache-2.0
"""Contract of locations: what `--export` may be, and what is said when it leads nowhere."""

import pytest

from dynabeam.transforms.errors import ConfigurationError, ExportError
from dynabeam.transforms.export.location import (
    find_summary,
    is_export_arn,
    newest_age_us,
    table_arn_of_export,
)
from tests.export.builders import SAMPLE, write_full

EXPORT_ARN = "arn:aws:dynamodb:eu-west-1:111122223333:table/T/export/01700000000123-0a1b2c3d"
SUMMARY = SAMPLE / "dynamodb-export/AWSDynamoDB/01715685260608-c488b4e1/manifest-summary.json"


@pytest.mark.parametrize("levels", range(5))
def test_manifest_its_folder_and_any_folder_above(levels):
    location = SUMMARY
    for _ in range(levels):
        location = location.parent
    assert find_summary(str(location)) == str(SUMMARY)


def test_relative_paths_final_slash_and_file_uri(monkeypatch):
    monkeypatch.chdir(SAMPLE)
    assert find_summary("dynamodb-export/") == str(SUMMARY)
    assert find_summary(f"file://{SAMPLE}") == str(SUMMARY)


def test_several_exports_below_are_listed(tmp_path):
    first = write_full(tmp_path, 1, seed=1)
    second = write_full(tmp_path, 1, seed=2)
    with pytest.raises(ExportError, match="2 exports below") as caught:
        find_summary(str(tmp_path))
    assert first.export_id in str(caught.value)
    assert second.export_id in str(caught.value)
    assert find_summary(str(tmp_path / "AWSDynamoDB" / first.export_id)).endswith(".json")


@pytest.mark.parametrize("name", ["", "not-there"])
def test_nothing_there_says_what_to_give(tmp_path, name):
    with pytest.raises(ExportError, match=r"no manifest-summary.json .*export's folder"):
        find_summary(str(tmp_path / name))


def test_unknown_filesystem():
    with pytest.raises(ExportError, match=r"nope://bucket/x: the location cannot be listed"):
        find_summary("nope://bucket/x")


def test_export_arns():
    assert is_export_arn(EXPORT_ARN)
    assert table_arn_of_export(EXPORT_ARN) == EXPORT_ARN.partition("/export/")[0]
    assert not is_export_arn("s3://bucket/table/T/export/x")
    assert table_arn_of_export("s3://bucket") == ""


def test_newest():
    assert newest_age_us("newest:90") == 90_000_000
    assert newest_age_us("s3://bucket") == 0


@pytest.mark.parametrize("text", ["newest:", "newest:0", "newest:-5", "newest:1d", "newest:1.5"])
def test_newest_without_an_age(text):
    with pytest.raises(ConfigurationError, match=r"--export: .*newest:86400"):
        newest_age_us(text)
