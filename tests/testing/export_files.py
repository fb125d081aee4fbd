# SPDX-License-Identifier: Apache-2.0
"""Reads an export's files with nothing of the code under test, and checks every sum on the way."""

import base64
import gzip
import hashlib
import json
from dataclasses import dataclass


@dataclass
class ExportFiles:
    summary: dict
    files: list
    lines: list  # one list of raw lines per data file, in the manifest's order

    @property
    def all_lines(self):
        return [line for lines in self.lines for line in lines]

    @property
    def rows(self):
        return [json.loads(line) for line in self.all_lines]

    @property
    def items(self):
        return [row["Item"] for row in self.rows]


def read_export(get, summary_key, *, checksums=True):
    """Reads through `get(key)`; every checksum and count must be right."""
    summary = json.loads(_checked(get, summary_key, checksums))
    listed = _checked(get, summary["manifestFilesS3Key"], checksums)
    assert not listed or listed.endswith(b"\n")
    files = [json.loads(line) for line in listed.splitlines()]
    lines = []
    for file in files:
        body = get(file["dataFileS3Key"])
        digest = hashlib.md5(body).digest()
        assert file["md5Checksum"] == base64.b64encode(digest).decode()
        assert file["etag"] == hashlib.md5(digest).hexdigest() + "-1"
        text = gzip.decompress(body)
        assert not text or text.endswith(b"\n")
        lines.append(text.split(b"\n")[:-1])
        assert file["itemCount"] == len(lines[-1])
    assert summary["itemCount"] == sum(file["itemCount"] for file in files)
    return ExportFiles(summary, files, lines)


def _checked(get, key, checksums):
    body = get(key)
    if checksums:
        sum_key = key.removesuffix(".json") + ".md5"
        assert get(sum_key) == base64.b64encode(hashlib.md5(body).digest())
        assert len(get(sum_key)) == 24
    return body


def without_order(value):
    """An item or a value with its sets sorted, to compare what has no order."""
    if isinstance(value, dict):
        return {
            name: sorted(content)
            if name in {"SS", "NS", "BS"} and isinstance(content, list)
            else without_order(content)
            for name, content in value.items()
        }
    if isinstance(value, list):
        return [without_order(member) for member in value]
    return value
