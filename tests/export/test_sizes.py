# SPDX-License-Identifier: Apache-2.0
"""Contract of sizes: what gzip's trailer tells, few requests, and files that are not there."""

import gzip

import pytest

from dynabeam.transforms.errors import ExportIntegrityError
from dynabeam.transforms.export import sizes
from dynabeam.transforms.export.sizes import FileSizes, file_size
from dynabeam.transforms.export.slices import FileSize
from tests.export.builders import BUCKET

TEXT = b'{"Item":{}}\n' * 1000


def test_packed_and_unpacked(tmp_path):
    path = tmp_path / "f.gz"
    path.write_bytes(gzip.compress(TEXT))
    assert file_size(str(path)) == FileSize(path.stat().st_size, len(TEXT))


@pytest.mark.parametrize(("content", "trailer"), [(b"", None), (b"abc", None), (b"\1\0\0\0", 1)])
def test_files_that_are_no_gzip(tmp_path, content, trailer):
    path = tmp_path / "f.gz"
    path.write_bytes(content)
    assert file_size(str(path)) == FileSize(len(content), trailer)


def test_in_s3_each_is_looked_at_once(sim, monkeypatch):
    paths = []
    for number in range(70):
        sim.s3_put(BUCKET, f"f{number}", gzip.compress(TEXT * (number + 1)))
        paths.append(f"s3://{BUCKET}/f{number}")
    looked = []
    look = sizes.file_size
    monkeypatch.setattr(sizes, "file_size", lambda path: looked.append(path) or look(path))
    known = FileSizes()
    first = known.of(paths)
    assert [first(path) for path in paths[:40]] == [len(TEXT) * n for n in range(1, 41)]
    # The next round asks for the rest.
    second = known.of(paths[40:])
    assert [second(path) for path in paths[40:]] == [len(TEXT) * n for n in range(41, 71)]
    assert sorted(looked) == sorted(paths)


@pytest.mark.parametrize("path", ["/nowhere/f.gz", f"s3://{BUCKET}/gone"])
def test_a_missing_file_is_named(sim, path):
    with pytest.raises(ExportIntegrityError, match=r"not to be had.*whole export was copied"):
        file_size(path)
