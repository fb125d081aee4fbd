# SPDX-License-Identifier: Apache-2.0
"""Contract of chains: a full export and its increments without a hole, and read in order."""

import dataclasses

import pytest

from dynabeam.transforms.errors import ExportError
from dynabeam.transforms.export.chain import check_chain
from dynabeam.transforms.testing.export_writer import NetChange
from tests.export.builders import CHANGES, manifest_of, read, rows_of, slices_of, write_full
from tests.export.builders import write_incremental as write


def incremental(folder, minutes, **options):
    write(folder, minutes=minutes, **options)
    return manifest_of(folder)


def full(folder):
    write_full(folder)
    return manifest_of(folder)


def test_windows_that_touch_or_overlap(tmp_path):
    start = full(tmp_path / "full")
    check_chain(start, [])
    windows = [(-1, 20), (20, 40), (30, 60)]
    check_chain(start, [incremental(tmp_path / str(n), each) for n, each in enumerate(windows)])


@pytest.mark.parametrize(
    "windows", [[(1, 30)], [(-1, 20), (21, 40)], [(-1, 20), (40, 60), (20, 40)]]
)
def test_a_hole(tmp_path, windows):
    chain = [incremental(tmp_path / str(n), each) for n, each in enumerate(windows)]
    with pytest.raises(ExportError, match=r"changes are missing.*at most 2026-01-02T03.*found"):
        check_chain(full(tmp_path / "full"), chain)


@pytest.mark.parametrize("windows", [[(-40, -20)], [(-1, 30), (-1, 20)]])
def test_a_window_that_would_turn_back_time(tmp_path, windows):
    chain = [incremental(tmp_path / str(n), each) for n, each in enumerate(windows)]
    with pytest.raises(ExportError, match="not in order"):
        check_chain(full(tmp_path / "full"), chain)


def test_another_table_or_the_table_made_again(tmp_path):
    start, more = full(tmp_path / "full"), incremental(tmp_path / "more", (-1, 20))
    for other in ({"table_arn": "arn:x"}, {"table_id": "another"}):
        with pytest.raises(ExportError, match="not of one table"):
            check_chain(start, [dataclasses.replace(more, **other)])
    check_chain(start, [dataclasses.replace(more, table_id="")])


def test_types(tmp_path):
    start, more = full(tmp_path / "full"), incremental(tmp_path / "more", (-1, 20))
    with pytest.raises(ExportError, match="another type"):
        check_chain(more, [])
    with pytest.raises(ExportError, match="another type"):
        check_chain(start, [start])


def test_rows_of_later_exports_win(tmp_path):
    later = [NetChange({"id": {"S": "k1"}}, 1_767_323_200_000_000, CHANGES[1].new_image, None)]
    write_full(tmp_path / "0", 4)
    write(tmp_path / "1", minutes=(-1, 20))
    write(tmp_path / "2", later, minutes=(20, 40))
    rows = [
        row
        for n in range(3)
        for row in rows_of(read(slices_of(tmp_path / str(n), generation=n + 1))[0])
    ]
    newest = {}
    for row in sorted(rows, key=lambda row: row["version"]):
        newest[row["key"]] = row
    alive = {key for key, row in newest.items() if row["op"] != "d"}
    assert alive == {b"Sk0", b"Sk3", b"Snew"}
