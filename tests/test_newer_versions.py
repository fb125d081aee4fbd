# SPDX-License-Identifier: Apache-2.0
"""What a newer version has written, with a field more: an error that says so, never a TypeError."""

import json

import pytest

from dynabeam.transforms.errors import DynabeamError
from dynabeam.transforms.export.elements import (
    FileSlice,
    FileSliceCoder,
    SnapshotRequest,
    SnapshotRequestCoder,
)
from dynabeam.transforms.export.ensure_export import WaitState, WaitStateCoder
from dynabeam.transforms.export.manifest import DataFile, ExportManifest
from dynabeam.transforms.model.block import BlockHeader
from dynabeam.transforms.model.dead_letter import DeadLetter, DeadLetterCoder
from dynabeam.transforms.model.gap import GapPolicy
from dynabeam.transforms.model.report import Report, ReportCoder
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.state.repair_plan import Repair
from dynabeam.transforms.stream.frontier import Frontier, FrontierCoder, ShardPosition
from dynabeam.transforms.stream.reader_spec import ReaderSpec, ReaderSpecCoder
from dynabeam.transforms.values.key_schema import KeyAttribute, KeySchema

TABLE = Table("orders", KeySchema(KeyAttribute("id", "S")), "arn")
SHARD = ShardPosition("shardId-00000000000000000001-a", kind="after", sequence="1")
SLICE = FileSlice(
    TABLE, 1, 4, "arn", 1, DataFile("f", 1, "m"), 0, 0, 1, "DYNAMODB_JSON", "FULL_EXPORT"
)
SOURCE = ReaderSpec(TABLE, "arn", 0, 1, 1, 4, "trim_horizon", Frontier(), GapPolicy.FAIL, 0, 0, 0)
MANIFEST = ExportManifest("l", "arn", "t", "", "FULL_EXPORT", "DYNAMODB_JSON", "", 0, 1, 1, ())

CODED = {
    "frontier": (FrontierCoder(), Frontier(shards=(SHARD,))),
    "source": (ReaderSpecCoder(), SOURCE),
    "request": (SnapshotRequestCoder(), SnapshotRequest(TABLE, 1, 4)),
    "slice": (FileSliceCoder(), SLICE),
    "wait": (WaitStateCoder(), WaitState(export_arn="arn", next_look_us=7)),
    "report": (ReportCoder(), Report("gap", "orders", {"x": 1})),
    "letter": (DeadLetterCoder(), DeadLetter("orders", "stream", "p", "r", b"x")),
}
READ = {
    "block": (BlockHeader.from_json, BlockHeader(TABLE, 0, 1, 1, "stream", {}).to_json()),
    "position": (ShardPosition.from_json, SHARD.to_json()),
    "repair": (
        Repair.from_json,
        Repair("resnapshot", "", (), 0, 0).to_json(),
    ),
    "manifest": (ExportManifest.from_json, MANIFEST.to_json()),
}


def newer(document):
    return {**document, "written_by_a_newer_release": 1}


@pytest.mark.parametrize("name", CODED)
def test_an_element(name):
    coder, value = CODED[name]
    encoded = coder.encode(value)
    assert coder.decode(encoded) == value
    with pytest.raises(
        DynabeamError, match=r"written by a newer version.*or a newer one"
    ) as caught:
        coder.decode(json.dumps(newer(json.loads(encoded))).encode())
    assert "written_by_a_newer_release" in str(caught.value)


def test_inside_of_a_frontier():
    document = Frontier(shards=(SHARD,)).to_json()
    for part in (document["shards"], [document["counts"]]):
        changed = json.loads(json.dumps(document))
        if part is document["shards"]:
            changed["shards"][0] = newer(changed["shards"][0])
        else:
            changed["counts"] = newer(changed["counts"])
        with pytest.raises(DynabeamError, match="written by a newer version"):
            FrontierCoder().decode(json.dumps(changed).encode())


@pytest.mark.parametrize("name", READ)
def test_a_part(name):
    read, document = READ[name]
    read(document)
    with pytest.raises(DynabeamError, match="written by a newer version"):
        read(newer(document))
