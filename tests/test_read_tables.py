# SPDX-License-Identifier: Apache-2.0
"""The reading half of the graph: its labels and its coders."""

import apache_beam as beam
import pytest

from dynabeam.transforms.aws.session import AwsAccess
from dynabeam.transforms.export.elements import SnapshotRequest
from dynabeam.transforms.read_tables import ReadTables
from dynabeam.transforms.stream.reader_group import ReaderGroup
from dynabeam.transforms.stream.reader_spec import ReaderSpec
from tests.graphs import labels_of, pickled_places

LABELS = {
    "tip": [
        "ReadTables",
        "ReadTables/Blocks",
        "ReadTables/DeadLetters",
        "ReadTables/Reconcile",
        "ReadTables/Reconcile/ByTableAndBucket",
        "ReadTables/Reconcile/OrderRule",
        "ReadTables/Reports",
        "ReadTables/Snapshot",
        "ReadTables/Snapshot/EnsureExport",
        "ReadTables/Snapshot/EnsureExport/PollExport",
        "ReadTables/Snapshot/ReadExportFiles",
        "ReadTables/Snapshot/ReadExportFiles/ReadSlice",
        "ReadTables/Snapshot/ReadExportFiles/Spread",
        "ReadTables/Snapshot/Reports",
        "ReadTables/Stream",
        "ReadTables/Stream/ReadStream",
        "ReadTables/Stream/ReadStream/Read",
        "ReadTables/Stream/SpreadReaders",
    ]
}
LABELS["forever"] = [each.replace("PollExport", "WaitForExport") for each in LABELS["tip"]]


def graph(until):
    pipeline = beam.Pipeline(runner="FnApiRunner")
    kind = ReaderSpec if until == "tip" else ReaderGroup
    elements = {
        "requests": pipeline | "Requests" >> beam.Create([]).with_output_types(SnapshotRequest),
        "sources": pipeline | "Sources" >> beam.Create([]).with_output_types(kind),
    }
    _ = elements | "ReadTables" >> ReadTables(AwsAccess(region="eu-west-1"), until=until)
    return pipeline


class TestGraph:
    @pytest.mark.parametrize("until", ["tip", "forever"])
    def test_labels(self, until):
        """Savepoints find their state by these: a change here is a change of the release line."""
        labels = labels_of(graph(until), below="ReadTables")
        assert sorted(labels) == LABELS[until]

    def test_nothing_is_pickled_that_a_savepoint_keeps(self):
        assert pickled_places(graph("forever")) == []
