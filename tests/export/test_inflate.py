# SPDX-License-Identifier: Apache-2.0
"""Contract of inflating: whole lines in pieces, from any line to any limit, and damage told."""

import gzip
import io
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynabeam.transforms.errors import ExportIntegrityError
from dynabeam.transforms.export import inflate
from dynabeam.transforms.export.inflate import LinesReader, count_lines, may_be_longer_than

lines = st.lists(st.binary(max_size=40).map(lambda raw: raw.replace(b"\n", b"") + b"\n"))


def packed(data):
    return io.BytesIO(gzip.compress(data, mtime=0))


@given(lines, st.booleans(), st.integers(0, 60), st.integers(0, 300), st.integers(1, 64))
def test_any_start_and_any_limit(lines, last_newline, start, limit, piece_bytes):
    data = b"".join(lines)
    if not last_newline:
        data = data.removesuffix(b"\n")
    kept = [each + b"\n" for each in data.split(b"\n")]
    kept[-1] = kept[-1][:-1]
    kept = [each for each in kept if each]
    reader = LinesReader(
        packed(data), "f", start_line=start, max_bytes=limit, piece_bytes=piece_bytes
    )
    pieces = list(reader)
    expected, size = [], 0
    for line in kept[start:]:
        if limit and size >= limit:
            break
        expected.append(line)
        size += len(line)
    assert b"".join(pieces) == b"".join(expected)
    assert all(piece.endswith(b"\n") for piece in pieces[:-1])
    assert reader.bytes == size
    assert reader.lines == min(start, len(kept)) + len(expected)
    assert reader.at_end == (reader.lines == len(kept))
    assert count_lines(packed(data), "f") == len(kept)


def test_pieces_join_up_over_many_reads_without_a_gap():
    data = b"".join(b'{"Item":{"n":{"N":"%d"}}}\n' % n for n in range(20_000))
    loaded, start = [], 0
    while True:
        reader = LinesReader(packed(data), "f", start_line=start, max_bytes=50_000)
        loaded += list(reader)
        start = reader.lines
        if reader.at_end:
            break
    assert b"".join(loaded) == data
    assert start == 20_000


def test_a_line_longer_than_a_piece():
    data = b"a" * 1000 + b"\n" + b"b" * 10 + b"\n"
    assert b"".join(LinesReader(packed(data), "f", piece_bytes=16)) == data


def test_a_line_longer_than_any_item(monkeypatch):
    monkeypatch.setattr(inflate, "_LONGEST_LINE", 100)
    with pytest.raises(ExportIntegrityError, match="f: a line is longer than any item can be"):
        list(LinesReader(packed(b"a" * 1000), "f", piece_bytes=16))


def test_several_gzip_members():
    content = io.BytesIO(gzip.compress(b"a\n") + gzip.compress(b"b\n"))
    assert b"".join(LinesReader(content, "f")) == b"a\nb\n"


WHOLE = gzip.compress(b"".join(b"line %d\n" % n for n in range(1000)), mtime=0)
FLIPPED = WHOLE[:40] + bytes([WHOLE[40] ^ 0x10]) + WHOLE[41:]


@pytest.mark.parametrize(
    "damaged", [WHOLE[:-1], WHOLE[:200], WHOLE[:5], FLIPPED, b"no gzip at all, not even near"]
)
def test_damage_is_told_with_the_files_name(damaged):
    for read in (lambda content: list(LinesReader(content, "f")), lambda c: count_lines(c, "f")):
        with pytest.raises(ExportIntegrityError, match=r"^f: the file is not whole gzip data"):
            read(io.BytesIO(damaged))


def test_a_reader_that_is_left_leaves_no_thread_behind():
    before = threading.active_count()
    reader = iter(LinesReader(packed(b"line\n" * 100_000), "f", piece_bytes=1000))
    next(reader)
    reader.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("cores", [1, 2])
def test_one_core_needs_no_thread(monkeypatch, cores):
    monkeypatch.setattr(inflate.os, "cpu_count", lambda: cores)
    assert b"".join(LinesReader(packed(b"a\nb\n"), "f", piece_bytes=1)) == b"a\nb\n"


class TestMayBeLonger:
    def test_by_the_trailer(self):
        content = packed(b"x" * 1000 + b"\n")
        size = len(content.getvalue())
        assert may_be_longer_than(content, size, 1000)
        assert not may_be_longer_than(content, size, 1001)
        assert content.tell() == 0

    def test_a_large_file_may_always_be(self):
        assert may_be_longer_than(io.BytesIO(b"1234"), 5 << 20, 1)

    def test_no_file_is_longer_than_deflate_can_make_it(self):
        assert not may_be_longer_than(io.BytesIO(b""), 5 << 20, (5 << 20) * 1032)

    def test_an_empty_file(self):
        assert not may_be_longer_than(io.BytesIO(b""), 0, 1)
