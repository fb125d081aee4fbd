# SPDX-License-Identifier: Apache-2.0
"""The gzip around lines: whole lines of a whole file, or an error that names the file."""

import base64
import gzip
import hashlib
import zlib

from hypothesis import example, given
from hypothesis import strategies as st

from dynabeam.transforms.errors import ExportIntegrityError
from dynabeam.transforms.export.elements import FileSlice
from dynabeam.transforms.export.manifest import DataFile
from dynabeam.transforms.export.read_files import read_slice
from dynabeam.transforms.model.block import Block
from dynabeam.transforms.model.dead_letter import DeadLetter
from tests.fuzz.cases import cases
from tests.fuzz.test_export_lines import SCHEMAS, part_of

LINES = [b'{"Item":{"id":{"S":"k%d"},"n":{"N":"%d"}}}' % (n, n) for n in range(40)]
TEXT = b"\n".join(LINES) + b"\n"
EMPTY = gzip.compress(b"", mtime=0)


def plainly(content):
    """What the standard library reads; None if it is no whole gzip."""
    try:
        return gzip.decompress(content)
    except (EOFError, OSError, zlib.error):
        return None


def slice_of(path, content, count, max_bytes=0):
    digest = hashlib.md5(content, usedforsecurity=False).digest()
    whole = part_of(SCHEMAS["S"])
    file = DataFile(str(path), count, base64.b64encode(digest).decode())
    fields = {**vars(whole), "file": file, "max_bytes": max_bytes}
    return FileSlice(**fields)


@st.composite
def files(draw):
    """One or several members, whole or damaged, and what may stand behind them."""
    cuts = sorted(draw(st.lists(st.integers(0, len(TEXT)), max_size=3)))
    parts = [TEXT[a:b] for a, b in zip([0, *cuts], [*cuts, len(TEXT)], strict=True)]
    level = draw(st.sampled_from([0, 1, 9]))
    content = b"".join(gzip.compress(part, level, mtime=0) for part in parts)
    what = draw(st.sampled_from(["whole", "flip", "cut", "behind", "twice", "none", "head"]))
    if what == "flip":
        at = draw(st.integers(0, len(content) - 1))
        content = (
            content[:at] + bytes([content[at] ^ (1 << draw(st.integers(0, 7)))]) + content[at + 1 :]
        )
    elif what == "cut":
        content = content[: draw(st.integers(0, len(content) - 1))]
    elif what == "behind":
        content += draw(
            st.sampled_from([b"\0", b"\0" * 1000, b"garbage", b"\x1f\x8b", b"\x1f", b"\n"])
        )
    elif what == "twice":
        content += content
    elif what == "none":
        content = draw(st.sampled_from([b"", TEXT, b"\x1f\x8b", b"PK\x03\x04", b"BZh9"]))
    elif what == "head":
        content = content[:3] + bytes([draw(st.integers(0, 255))]) + content[4:]
    return content


@cases(0.5)
@given(content=files(), wrong_count=st.integers(-1, 1), max_bytes=st.sampled_from([0, 100]))
@example(content=gzip.compress(TEXT, mtime=0) + b"\0" * 512, wrong_count=0, max_bytes=0)
@example(content=gzip.compress(TEXT, mtime=0)[:-4], wrong_count=0, max_bytes=0)
@example(content=gzip.compress(TEXT, mtime=0) + b"garbage", wrong_count=0, max_bytes=0)
@example(content=EMPTY + gzip.compress(TEXT, mtime=0) + EMPTY, wrong_count=0, max_bytes=0)
def test_a_file(content, wrong_count, max_bytes, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "x.json.gz"
    path.write_bytes(content)
    expected = plainly(content)
    lines = [] if expected is None else [each for each in expected.split(b"\n") if each]
    count = len(lines) + wrong_count if wrong_count + len(lines) >= 0 else 0
    error, found, dead = None, [], []
    try:
        for each in read_slice(slice_of(path, content, count, max_bytes)):
            if isinstance(each, Block):
                found += each.rows.column("new").to_pylist()
            elif isinstance(each, DeadLetter):
                dead.append(each.raw)
    except ExportIntegrityError as problem:
        error = str(problem)
    if error is not None:
        assert str(path) in error
        assert expected is None or count != len(lines) or has_more_behind(content)
        return
    assert expected is not None
    if not max_bytes:
        assert count == len(lines)
        assert [line[len(b'{"Item":') : -1] for line in lines if line not in dead] == found
    else:
        begin = [line[len(b'{"Item":') : -1] for line in lines][: len(found) + len(dead)]
        assert found == [each for each in begin if each in found]


def has_more_behind(content):
    """Zeros behind the last member, which the standard library passes over."""
    return content.endswith(b"\0")
