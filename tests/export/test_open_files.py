# SPDX-License-Identifier: Apache-2.0
"""Contract of pieces: a file is fetched and inflated once for all of its pieces."""

import dataclasses
import gzip
import os
import threading
from pathlib import Path

import pytest

from dynabeam.transforms.errors import ExportIntegrityError
from dynabeam.transforms.export import fetch, inflate
from dynabeam.transforms.export import read_files as module
from dynabeam.transforms.export.open_files import MOST, OpenFiles
from dynabeam.transforms.export.read_files import read_slice
from tests.export.builders import TABLE, images_of, items, read, rows_of, slices_of, write_full


@pytest.fixture
def kept(monkeypatch):
    """The kept files of a process that has just begun."""
    files = OpenFiles()
    monkeypatch.setattr(module, "_open_files", files)
    yield files
    files.close()


@pytest.fixture
def work(monkeypatch):
    """Bytes that were downloaded and inflated."""
    done = {"fetched": 0, "inflated": 0}
    digest, whole_lines = fetch._digest, inflate._whole_lines

    def counted_digest(source, copy):
        done["fetched"] += os.fstat(source.fileno()).st_size
        return digest(source, copy)

    def counted_lines(*arguments):
        for piece in whole_lines(*arguments):
            done["inflated"] += len(piece)
            yield piece

    monkeypatch.setattr(fetch, "_digest", counted_digest)
    monkeypatch.setattr(inflate, "_whole_lines", counted_lines)
    return done


def one_file(folder, count=3000):
    """An export of one file."""
    write_full(folder, count, files=1, empty_files=0)
    (part,) = slices_of(folder)
    size = os.path.getsize(part.file.path)
    return part, size, len(gzip.decompress(Path(part.file.path).read_bytes()))


def in_pieces(part, pieces, before_each=lambda number: None):
    """Reads the whole file in pieces; blocks and number of reads."""
    share, start, blocks = -(-part.file.item_count * 64 // pieces), 0, []
    for number in range(10 * pieces):
        before_each(number)
        cut = dataclasses.replace(part, start_line=start, max_bytes=share)
        more, (report,), _ = read([cut])
        blocks += more
        assert report.fields["lines"] > start
        start = report.fields["lines"]
        if report.fields["done"]:
            return blocks, number + 1
    raise AssertionError("the file never ended")


@pytest.mark.parametrize("pieces", [2, 7, 40])
def test_pieces_cost_as_much_as_the_whole(tmp_path, kept, work, pieces):
    part, size, inflated = one_file(tmp_path)
    blocks, reads = in_pieces(part, pieces)
    assert reads > 1
    assert len(rows_of(blocks)) == 3000
    assert images_of(blocks) == {f"Sk{n}".encode(): each for n, each in enumerate(items(3000))}
    assert work["fetched"] == size
    # Once to count the lines, which nobody else has done before the first piece is out; once to
    # read them.
    assert work["inflated"] == 2 * inflated
    assert not kept._kept


def test_another_process_fetches_again_and_goes_on_exactly(tmp_path, kept, work):
    part, size, _ = one_file(tmp_path)
    blocks, reads = in_pieces(part, 5, lambda number: kept.close())
    assert len(rows_of(blocks)) == 3000
    assert work["fetched"] == reads * size


def test_a_piece_that_is_read_again_is_read_from_its_line(tmp_path, kept):
    part, _, _ = one_file(tmp_path)
    first = dataclasses.replace(part, max_bytes=40_000)
    one, (report,), _ = read([first])
    second = dataclasses.replace(first, start_line=report.fields["lines"])
    expected, _, _ = read([second])
    # The round was not committed, and comes again.
    for again in (first, second, second):
        blocks, _, _ = read([again])
        assert rows_of(blocks) == rows_of(one if again is first else expected)


def test_what_fails_is_not_kept(tmp_path, kept):
    part, _, _ = one_file(tmp_path)
    cut = dataclasses.replace(part, max_bytes=40_000, table=TABLE)
    reading = read_slice(cut)
    next(reading)
    reading.close()
    assert not kept._kept
    Path(part.file.path).write_bytes(b"no gzip")
    with pytest.raises(ExportIntegrityError):
        read([cut])
    assert not kept._kept


def test_few_are_kept_and_the_oldest_goes(tmp_path, kept):
    before = threading.active_count()
    parts = [one_file(tmp_path / str(n))[0] for n in range(MOST + 2)]
    for part in parts:
        read([dataclasses.replace(part, max_bytes=40_000)])
    assert [path for path, _, _ in kept._kept] == [each.file.path for each in parts[-MOST:]]
    kept.close()
    assert threading.active_count() == before


def test_a_changed_file_is_another_one(tmp_path, kept):
    part, _, _ = one_file(tmp_path)
    _, (report,), _ = read([dataclasses.replace(part, max_bytes=40_000)])
    changed = dataclasses.replace(
        part, file=dataclasses.replace(part.file, md5="other"), start_line=report.fields["lines"]
    )
    with pytest.raises(ExportIntegrityError, match="MD5"):
        read([changed])
