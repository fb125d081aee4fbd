# SPDX-License-Identifier: Apache-2.0
"""Manifests that somebody changed: read as they say, or an error that names the place."""

import codecs
import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from dynabeam.transforms.errors import ConfigurationError, DynabeamError
from tests.export.builders import (
    images_of,
    manifest_of,
    read,
    slices_of,
    write_full,
    write_incremental,
)
from tests.export.test_hostile_manifests import rewrite
from tests.fuzz.cases import cases
from tests.fuzz.hostile import damaged, documents
from tests.fuzz.plain_decoder import DoubtfulError, UnreadableError, plain_json

NAMES = [
    *(
        "..",
        ".",
        "",
        "/",
        "//",
        "../../../etc/passwd",
        "a/../b",
        "/etc/passwd",
        "%2e%2e/x",
        "\\..\\x",
    ),
    *("C:\\x", "s3://other/x", "file:///etc/passwd", "http://x/y", "x\x00y", "a\nb", "\ud800", "~"),
    *("AWSDynamoDB/x/data/" + "y" * 300, "x" * 5000, "data", "*", "[a]", "\u202egpj.json"),
]


def lines_changed(content):
    """The list of files with one line damaged, doubled, gone or renamed."""
    lines = content.splitlines()

    def with_line(at, line):
        return b"\n".join([*lines[:at], line, *lines[at + 1 :]]) + b"\n"

    def renamed(at, name):
        entry = json.loads(lines[at])
        whole = entry["dataFileS3Key"].rpartition("/")[0] + "/" + name if name[:1] == "+" else name
        return json.dumps({**entry, "dataFileS3Key": whole}).encode()

    places = st.integers(0, len(lines) - 1)
    return st.one_of(
        places.flatmap(lambda at: documents(lines[at]).map(lambda line: with_line(at, line))),
        st.builds(
            lambda at, name: with_line(at, renamed(at, name)), places, st.sampled_from(NAMES)
        ),
        places.map(lambda at: content + lines[at] + b"\n"),
        damaged(content),
    )


def check_error(error, folder):
    assert "\n" not in str(error)
    # What only the reader of lines finds (the view) it says of the export.
    named = str(folder) in str(error) or "/export/" in error.where
    assert named or isinstance(error, ConfigurationError), error


@cases(0.7)
@given(data=st.data(), incremental=st.booleans(), strict=st.booleans())
def test_both_manifests(data, incremental, strict, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    if incremental:
        write_incremental(folder)
    else:
        write_full(folder, 6)
    outside = folder.parent / f"{folder.name}-outside.json.gz"
    outside.write_bytes(b"not of this export")
    name = data.draw(st.sampled_from(["manifest-summary.json", "manifest-files.json", "md5"]))
    expected = images_of(read(slices_of(folder))[0]) if not incremental else None
    if name == "md5":
        path = data.draw(st.sampled_from(sorted(folder.rglob("*.md5"))))
        path.write_bytes(data.draw(damaged(path.read_bytes())))
    else:
        path = next(Path(folder).rglob(name))
        content = path.read_bytes()
        changed = data.draw(documents(content) if "summary" in name else lines_changed(content))
        if data.draw(st.booleans()):
            rewrite(path, changed)
        else:
            path.write_bytes(changed)
    verify = "strict" if strict else "warn"
    try:
        manifest = manifest_of(folder, verify)
        blocks, reports, _ = read(slices_of(folder, verify=verify), verify)
    except DynabeamError as error:
        check_error(error, folder)
        return
    for each in manifest.files:
        assert str(folder.resolve()) in str(Path(each.path).resolve())
    if "summary" in name:
        try:
            summary = plain_json(path.read_bytes().removeprefix(codecs.BOM_UTF8))
        except (DoubtfulError, UnreadableError):
            raise AssertionError("what is no JSON was read") from None
        assert manifest.export_arn == summary["exportArn"]
        assert str(manifest.item_count) == summary["itemCount"]
    if not incremental and strict:
        assert images_of(blocks) == expected
        assert sum(each.fields["lines"] for each in reports) == manifest.item_count
