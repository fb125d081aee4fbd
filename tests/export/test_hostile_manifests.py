# SPDX-License-Identifier: Apache-2.0
"""Contract of manifests that somebody changed: read, or refused with the place of the fault."""

import base64
import gzip
import hashlib
import json
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dynabeam.transforms.errors import DynabeamError, ExportIntegrityError
from dynabeam.transforms.export.data_paths import DataFolder
from dynabeam.transforms.export.manifest import load_manifest
from tests.export.builders import manifest_of, read, slices_of, write_full, write_incremental


def summary_of(folder):
    return next(Path(folder).rglob("manifest-summary.json"))


def files_of(folder):
    return next(Path(folder).rglob("manifest-files.json"))


def rewrite(path, content):
    """Writes a manifest, with the checksum that whoever changes it would write too."""
    path.write_bytes(content)
    digest = base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest())
    path.with_suffix(".md5").write_bytes(digest)


def change(path, **fields):
    rewrite(path, json.dumps(json.loads(path.read_bytes()) | fields).encode())


DEEP = b"[" * 100_000 + b"]" * 100_000


class TestSummary:
    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"null",
            b"[]",
            b"\xff\xfe",
            b'{"version": ',
            b'{"a": ' + DEEP + b"}",
            b'{"version": NaN}',
            b'{"version": "2020-06-30", "version": "2023-08-01"}',
            b'{"version": ' + b"9" * 5000 + b"}",
        ],
    )
    def test_what_is_no_summary(self, tmp_path, content):
        write_full(tmp_path)
        rewrite(summary_of(tmp_path), content)
        with pytest.raises(ExportIntegrityError, match=r"manifest-summary\.json: the manifest"):
            manifest_of(tmp_path)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("version", []),
            ("version", {}),
            ("itemCount", -1),
            ("itemCount", 1 << 63),
            ("itemCount", 10.0),
            ("itemCount", True),
            ("itemCount", "10"),
            ("tableArn", "arn:aws:dynamodb:eu-west-1:1:table/../../etc"),
            ("tableArn", "arn:aws:dynamodb:eu-west-1:1:table/.."),
            ("tableArn", "orders"),
            ("tableId", {"a": 1}),
            ("exportArn", "\ud800"),
            ("exportArn", None),
            ("exportTime", "0001-01-01T00:00:00+23:00"),
            ("exportTime", "1969-12-31T00:00:00Z"),
            ("exportTime", "2026-01-01T00:00:00"),
            ("exportTime", 5),
            ("outputFormat", "CSV"),
            ("outputView", ["NEW_IMAGE"]),
            ("manifestFilesS3Key", "a/../../manifest-files.json"),
            ("manifestFilesS3Key", "/etc/passwd"),
            ("manifestFilesS3Key", "s3://other/x"),
            ("manifestFilesS3Key", "a/"),
            ("manifestFilesS3Key", "a\x00b"),
        ],
    )
    def test_a_member_that_cannot_be(self, tmp_path, name, value):
        write_full(tmp_path)
        change(summary_of(tmp_path), **{name: value})
        with pytest.raises(ExportIntegrityError, match=str(tmp_path)):
            manifest_of(tmp_path)

    def test_a_window_that_ends_before_it_begins(self, tmp_path):
        write_incremental(tmp_path)
        path = summary_of(tmp_path)
        change(path, exportToTime=json.loads(path.read_bytes())["exportFromTime"])
        with pytest.raises(ExportIntegrityError, match="before exportToTime"):
            manifest_of(tmp_path)

    def test_a_byte_order_mark_is_harmless(self, tmp_path):
        write_full(tmp_path)
        path = summary_of(tmp_path)
        rewrite(path, b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
        assert manifest_of(tmp_path).item_count == 10


class TestFiles:
    def lines(self, tmp_path):
        write_full(tmp_path)
        return files_of(tmp_path).read_bytes().splitlines()

    @pytest.mark.parametrize("end", [b"\r\n", b"\n\n", b"\n \t\n"])
    def test_line_ends_and_a_mark(self, tmp_path, end):
        lines = self.lines(tmp_path)
        rewrite(files_of(tmp_path), b"\xef\xbb\xbf" + end.join(lines) + end)
        assert sum(each.item_count for each in manifest_of(tmp_path).files) == 10

    @pytest.mark.parametrize(
        "line",
        [
            b"null",
            b"{",
            DEEP,
            b'{"itemCount": 1, "md5Checksum": "x", "dataFileS3Key": ["a"]}',
            b'{"itemCount": -1, "md5Checksum": "x", "dataFileS3Key": "a"}',
            b'{"itemCount": NaN, "md5Checksum": "x", "dataFileS3Key": "a"}',
            b'{"itemCount": 1e3, "md5Checksum": "x", "dataFileS3Key": "a"}',
            b'{"itemCount": 1, "md5Checksum": 5, "dataFileS3Key": "a"}',
            b'{"itemCount": 1, "md5Checksum": "x", "dataFileS3Key": "a\\u0000"}',
            b'{"itemCount": 1, "md5Checksum": "x", "dataFileS3Key": "\\ud800"}',
            b"\xff",
        ],
    )
    def test_the_line_is_named(self, tmp_path, line):
        lines = self.lines(tmp_path)
        rewrite(files_of(tmp_path), b"\n".join([lines[0], line, *lines[1:]]))
        with pytest.raises(ExportIntegrityError, match=r"manifest-files\.json:2: the manifest"):
            manifest_of(tmp_path)

    def test_a_file_twice_among_very_many(self, tmp_path):
        self.lines(tmp_path)
        entry = '{"itemCount": 0, "md5Checksum": "x", "dataFileS3Key": "a%d"}'
        lines = [entry % n for n in range(30_000)]
        rewrite(files_of(tmp_path), "\n".join([*lines, lines[-1]]).encode())
        with pytest.raises(ExportIntegrityError, match="listed twice; found 'a29999'"):
            manifest_of(tmp_path)

    @pytest.mark.parametrize(
        "key",
        ["../x", "a/../../x", "/etc/x", "./x", "a/./x", "s3://b/x", "file:///x", "a\\..\\x", "a/"],
    )
    def test_keys_that_lead_out(self, tmp_path, key):
        self.lines(tmp_path)
        entry = {"itemCount": 10, "md5Checksum": "x", "dataFileS3Key": key}
        rewrite(files_of(tmp_path), json.dumps(entry).encode())
        with pytest.raises(ExportIntegrityError, match="leads out of the export"):
            manifest_of(tmp_path)


names = st.text(st.sampled_from("ab.-_/AWSDynamoDBdata"), max_size=24)


class TestFollowed:
    def test_no_manifest_makes_the_disk_its_bucket(self, tmp_path):
        """A folder of a name that a manifest can tell: its root would be `/`."""
        folder = str(tmp_path / "AWSDynamoDB" / "1")
        found = DataFolder.of(
            f"{folder}/manifest-summary.json", f"{folder[1:]}/manifest-files.json"
        )
        secret = tmp_path.parent / "secret.gz"
        secret.write_bytes(b"x")
        paths = found.data_paths([str(secret)[1:], "etc/passwd"])
        assert all(path.startswith(f"{folder}/data/") for path in paths.values())

    def test_a_disk_of_exports_is_no_bucket_either(self):
        found = DataFolder.of("/AWSDynamoDB/1/manifest-summary.json", "AWSDynamoDB/1/m.json")
        assert not found.root
        assert found.data_paths(["etc/passwd"]) == {"etc/passwd": "/AWSDynamoDB/1/data/passwd"}

    @given(names, names, names)
    @settings(max_examples=200)
    def test_paths_stay_beside_the_manifest(self, folder, origin, key):
        parts = [each for each in folder.split("/") if each not in ("", ".", "..")]
        place = "/".join(["/tree/here", *parts])
        try:
            found = DataFolder.of(f"{place}/manifest-summary.json", f"{origin}/manifest-files.json")
            rules = (found._relative, found._from_root)
            keys = list(found.data_paths([key]))
        except ExportIntegrityError:
            return
        above = place.rpartition("/")[0]
        for path in [rule(each) for rule in rules[: 1 + bool(found.root)] for each in keys]:
            inside = found.root or place
            assert path.startswith((f"{place}/", f"{above}/data/", f"{inside}/"))
            assert ".." not in path.split("/")
        assert found.root in ("", place.rpartition("/AWSDynamoDB/")[0])

    def test_an_object_store_stays_in_its_bucket(self):
        found = DataFolder.of("s3://b/p/AWSDynamoDB/1/manifest-summary.json", "q/AWSDynamoDB/1/m")
        assert found.root == "s3://b"
        assert found._from_root("elsewhere/x") == "s3://b/elsewhere/x"


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An export that is changed in copies."""
    folder = tmp_path_factory.mktemp("whole")
    write_full(folder)
    return folder


@given(st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_change_is_read_or_refused(whole, tmp_path_factory, data):
    """Members of either manifest replaced, left out, or bytes changed."""
    folder = tmp_path_factory.mktemp("changed") / "copy"
    shutil.copytree(whole, folder)
    path = data.draw(st.sampled_from([summary_of(folder), files_of(folder)]))
    content = path.read_bytes()
    if data.draw(st.booleans()):
        lines = content.splitlines()
        at = data.draw(st.integers(0, len(lines) - 1))
        document = json.loads(lines[at])
        name = data.draw(st.sampled_from([*document, "outputView", "filterSpecification"]))
        document[name] = data.draw(values)
        lines[at] = json.dumps(document).encode()
        content = b"\n".join(lines)
    else:
        at = data.draw(st.integers(0, len(content)))
        content = content[:at] + data.draw(st.binary(max_size=4)) + content[at + 1 :]
    rewrite(path, content)
    try:
        manifest = load_manifest(str(summary_of(folder)), verify="warn")
        read(slices_of(folder, verify="warn"), verify="warn")
        assert all(each.path.startswith(str(folder)) for each in manifest.files)
    except DynabeamError:
        return
    finally:
        shutil.rmtree(folder)


class TestData:
    def changed(self, tmp_path, content, item_count=10):
        """An export whose one file has this content, and slices of it."""
        written = write_full(tmp_path, files=1, empty_files=0)
        (key,) = written.data_keys
        (tmp_path / key).write_bytes(content)
        digest = hashlib.md5(content, usedforsecurity=False).digest()
        entry = {
            "itemCount": item_count,
            "md5Checksum": base64.b64encode(digest).decode(),
            "dataFileS3Key": key,
        }
        rewrite(files_of(tmp_path), json.dumps(entry).encode())
        change(summary_of(tmp_path), itemCount=item_count)
        return slices_of(tmp_path)

    LINES = b"".join(b'{"Item":{"id":{"S":"k%d"}}}\n' % n for n in range(10))

    def test_several_members(self, tmp_path):
        content = gzip.compress(self.LINES[:100]) + gzip.compress(self.LINES[100:])
        _, (report,), dead = read(self.changed(tmp_path, content))
        assert (report.fields["rows"], dead) == (10, [])

    @pytest.mark.parametrize(
        "content",
        [
            gzip.compress(LINES)[:-4],
            gzip.compress(LINES) + b"garbage",
            gzip.compress(LINES)[:30],
            b"",
            b"\x1f\x8b",
        ],
        # Else its own bytes would name it, and the time is one of them.
        ids=["end", "more", "half", "nothing", "start"],
    )
    def test_what_is_not_whole(self, tmp_path, content):
        with pytest.raises(ExportIntegrityError, match=r"gz: the file"):
            read(self.changed(tmp_path, content))

    def test_a_bomb_of_lines_is_left_at_once(self, tmp_path):
        content = gzip.compress(b"\n" * (64 << 20), 1)
        slices = self.changed(tmp_path, content)
        with pytest.raises(ExportIntegrityError, match=r"itemCount; expected 10; found 'at least"):
            read(slices)

    def test_a_bomb_of_one_line_is_left_at_64_mib(self, tmp_path):
        content = gzip.compress(b"x" * (80 << 20), 1)
        with pytest.raises(ExportIntegrityError, match="longer than any item"):
            read(self.changed(tmp_path, content))
