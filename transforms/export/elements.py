# SPDX-License-Identifier: Apache-2.0
"""The elements of the export branch: a request per table, and a slice per piece of a data file.

Both travel as canonical JSON with a format number, never pickled, because a savepoint keeps those
that wait for an export.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import apache_beam as beam

from dynabeam.transforms.export.manifest import DataFile
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.runtime.json_coder import JsonCoder, element_format
from dynabeam.transforms.runtime.stored_format import Document, typed_fields

__all__ = ["DONE", "FileSlice", "FileSliceCoder", "SnapshotRequest", "SnapshotRequestCoder"]

DONE: Literal["done"] = "done"
"""What `SnapshotRequest.loaded` says of a file that is loaded to its end."""

_REQUEST = element_format("a snapshot request", "snapshot request")
_SLICE = element_format("a file slice", "file slice")


@dataclasses.dataclass(frozen=True)
class SnapshotRequest:
    """A table that needs its snapshot, and how far it got.

    Attributes:
        table: The table.
        generation: The generation of the rows.
        buckets: Number of hash buckets of the table.
        reuse: Empty for a new export, an export ARN, a location, or `newest:<seconds>`
            (`transforms.export.location`).
        bucket: S3 bucket for a new export.
        prefix: Prefix inside it, or empty.
        bucket_owner: Its account, needed if it is not the table's.
        request_id: Distinguishes requests of one table and generation, e.g. the id of the state
            directory: equal ids give the same export, for eight hours.
        not_before_us: An export is not requested before this time (microseconds since 1970). The
            edge of an export is fuzzy by one minute, so the stream has to be older than that.
        max_bytes: Uncompressed bytes to read now; 0 for all.
        loaded: Path of a data file → its lines loaded so far, or `DONE`.
        loaded_bytes: Uncompressed bytes of those lines, to foresee the size of the rest.
        manifest: JSON of an `ExportManifest` read before, or None.
        from_us: Start of the window of an incremental export (inclusive); 0 for a full export.
        to_us: End of that window (exclusive); the export is not requested before it.
        key_range: The range of keys that is loaded (`transforms.model.key_range`); empty for all.
        attempt: How many exports that were requested for it have failed: each has its own token.
        table_id: The table's UUID, which another table of its name does not have; empty if it is
            not known.
    """

    table: Table
    generation: int
    buckets: int
    reuse: str = ""
    bucket: str = ""
    prefix: str = ""
    bucket_owner: str = ""
    request_id: str = ""
    not_before_us: int = 0
    max_bytes: int = 0
    loaded: Mapping[str, int | Literal["done"]] = dataclasses.field(default_factory=dict)
    loaded_bytes: int = 0
    manifest: Mapping[str, Any] | None = None
    from_us: int = 0
    to_us: int = 0
    key_range: str = ""
    attempt: int = 0
    table_id: str = ""

    @property
    def export_type(self) -> Literal["FULL_EXPORT", "INCREMENTAL_EXPORT"]:
        """What the export has to be."""
        return "INCREMENTAL_EXPORT" if self.from_us else "FULL_EXPORT"

    def to_json(self) -> dict[str, Any]:
        """The request as a JSON-able dict."""
        fields = vars(self) | {"table": self.table.to_json(), "loaded": dict(self.loaded)}
        # Without these if they say nothing, as requests were before they had them.
        later = ["attempt", "key_range", "table_id"]
        if not self.from_us:
            later += ["from_us", "to_us"]
        return _REQUEST.dump(_without(fields, later))

    @classmethod
    def from_json(cls, document: Document) -> SnapshotRequest:
        """Reads what `to_json` wrote.

        Raises:
            ValueDecodeError: If it is damaged, or the format number is unknown.
        """
        with _REQUEST.load(document) as fields:
            return typed_fields(cls, fields, table=Table.from_json(fields["table"]))


@dataclasses.dataclass(frozen=True)
class FileSlice:
    """A piece of a data file, to be read now.

    Attributes:
        table: The table.
        generation: The generation of the rows.
        buckets: Number of hash buckets of the table.
        export_arn: The export.
        export_time_us: Its time, microseconds since 1970.
        file: The data file.
        start_line: Lines to pass over: they are loaded.
        max_bytes: Uncompressed bytes after which to stop, at the end of the line; 0 for the rest.
        files: Number of data files of the export.
        export_format: `DYNAMODB_JSON` or `ION`.
        export_type: `FULL_EXPORT` or `INCREMENTAL_EXPORT`.
        view: `NEW_AND_OLD_IMAGES` or `NEW_IMAGE` of an incremental export, else empty.
        key_range: The range of keys whose rows are given; empty for all.
        digests: Folder in which digests of the keys are left (`transforms.export.distinct`), where
            nobody but people says what the key is; empty for none.
    """

    table: Table
    generation: int
    buckets: int
    export_arn: str
    export_time_us: int
    file: DataFile
    start_line: int
    max_bytes: int
    files: int
    export_format: str
    export_type: str
    view: str = ""
    key_range: str = ""
    digests: str = ""

    def to_json(self) -> dict[str, Any]:
        """The slice as a JSON-able dict."""
        fields = vars(self) | {"table": self.table.to_json(), "file": self.file.to_json()}
        return _SLICE.dump(_without(fields, ["key_range", "digests"]))

    @classmethod
    def from_json(cls, document: Document) -> FileSlice:
        """Reads what `to_json` wrote.

        Raises:
            ValueDecodeError: If it is damaged, or the format number is unknown.
        """
        with _SLICE.load(document) as fields:
            table = Table.from_json(fields["table"])
            file = DataFile.from_json(fields["file"])
            return typed_fields(cls, fields, table=table, file=file)


def _without(fields: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """The fields without those of some names that say nothing."""
    return {name: value for name, value in fields.items() if value or name not in names}


class SnapshotRequestCoder(JsonCoder[SnapshotRequest]):
    """Snapshot requests as canonical JSON with a format number."""

    kind = SnapshotRequest


class FileSliceCoder(JsonCoder[FileSlice]):
    """File slices as canonical JSON with a format number."""

    kind = FileSlice


beam.coders.registry.register_coder(SnapshotRequest, SnapshotRequestCoder)
beam.coders.registry.register_coder(FileSlice, FileSliceCoder)
