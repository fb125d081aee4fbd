# SPDX-License-Identifier: Apache-2.0
"""What is remembered of a sink: how it is stored, and how it is told."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynabeam.transforms.errors import StateError
from dynabeam.transforms.model.block import Block, BlockHeader
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.sinks.membership import KnownSink, Lack
from dynabeam.transforms.sinks.share import SinkShare
from dynabeam.transforms.state.state_directory import State, StateDirectory
from dynabeam.transforms.values.key_schema import KeyAttribute, KeySchema

NOON = 1_715_688_000_000_000
NUMBERS = st.integers(0, 2**53)
LACKS = st.builds(Lack, NUMBERS, NUMBERS, NUMBERS, NUMBERS)
NAMES = st.text(min_size=1, max_size=8)
SINKS = st.builds(
    KnownSink,
    place=NAMES,
    uri=NAMES,
    kind=st.sampled_from(["mirror", "changelog"]),
    state=st.sampled_from(["active", "loading", "dropped"]),
    whole_from=NUMBERS,
    whole_from_us=NUMBERS,
    applied=NUMBERS,
    wrote=NUMBERS,
    changed_us=NUMBERS,
    lacks=st.lists(LACKS, max_size=3).map(tuple),
    loading=st.lists(NAMES, max_size=3).map(tuple),
    loaded=st.dictionaries(NAMES, st.integers(1, 99), max_size=3),
    position=st.integers(0, 9),
)


class TestStored:
    @given(sink=SINKS)
    def test_round_trip(self, sink):
        stored = json.loads(json.dumps(sink.to_json()))
        assert KnownSink.from_json(sink.place, stored) == sink

    def test_golden(self):
        sink = KnownSink(
            "/data/out",
            "file:///data/out",
            "changelog",
            whole_from=8,
            whole_from_us=NOON,
            applied=9,
            wrote=8,
            changed_us=NOON,
            lacks=(Lack(2, 7, NOON - 60_000_000, NOON),),
            position=1,
        )
        text = (
            '{"applied":9,"changed_us":1715688000000000,"kind":"changelog","lacks":'
            '[{"after_round":2,"from_us":1715687940000000,"through_round":7,'
            '"to_us":1715688000000000}],"loaded":{},"loading":[],"position":1,"state":"active",'
            '"uri":"file:///data/out","whole_from":8,"whole_from_us":1715688000000000,"wrote":8}'
        )
        assert json.dumps(sink.to_json(), separators=(",", ":"), sort_keys=True) == text
        assert KnownSink.from_json("/data/out", json.loads(text)) == sink

    @pytest.mark.parametrize("change", [{"state": "asleep"}, {"kind": "queue"}])
    def test_of_a_later_version(self, change):
        document = KnownSink("/data/out", "file:///data/out", "changelog").to_json()
        with pytest.raises(StateError, match="newer one"):
            KnownSink.from_json("/data/out", document | change)
        # A field that is added does not matter.
        KnownSink.from_json("/data/out", document | {"colour": "blue"})

    def test_in_the_position_document(self, tmp_path):
        directory = StateDirectory(str(tmp_path))
        known = {"/m": KnownSink("/m", "duckdb:////m", "mirror", loaded={"orders": 3})}
        with directory.locked():
            directory.commit(State("s", 4, "a", {}, sinks=known))
            assert directory.load().sinks == known
            document = json.loads((tmp_path / "state.json").read_text())
            del document["sinks"]
            (tmp_path / "state.json").write_text(json.dumps(document))
            assert directory.load().sinks is None


class TestTold:
    @pytest.mark.parametrize(
        ("lack", "text"),
        [
            (
                Lack(2, 7, NOON, NOON + 61_000_000),
                "rounds 3 to 7 (from 2024-05-14T12:00:00Z up to 2024-05-14T12:01:01Z)",
            ),
            (Lack(0, 1, 0, NOON), "round 1 (up to 2024-05-14T12:00:00Z)"),
            (
                Lack(4, 4, NOON, NOON),
                "what continuous runs read from 2024-05-14T12:00:00Z up to 2024-05-14T12:00:00Z",
            ),
        ],
    )
    def test_what_is_lacking(self, lack, text):
        assert str(lack) == text

    def test_loaded_table_by_table(self):
        sink = KnownSink("/m", "duckdb:////m", "mirror", state="loading", loading=("a", "b"))
        assert sink.describe() == "loading a, b: not whole yet"
        half = sink.with_loaded("a", 2, 5, NOON, alone=True)
        assert (half.state, half.loading, half.loaded) == ("loading", ("b",), {"a": 2})
        whole = half.with_loaded("b", 3, 6, NOON, alone=False)
        assert (whole.state, whole.whole_from, whole.loaded) == ("active", 6, {"a": 2})
        assert whole.describe() == "whole"
        # Later all sinks get the table.
        assert whole.with_loaded("a", 4, 9, NOON, alone=False).loaded == {}


class TestShare:
    def block(self, source, generation, table="orders"):
        described = Table(table, KeySchema(KeyAttribute("id", "S")))
        return Block(BlockHeader(described, 0, 1, generation, source), None)

    def test_exports_of_others(self):
        share = SinkShare(frozenset({("orders", 2)}))
        assert not share.takes(self.block("export", 2))
        assert share.takes(self.block("export", 1))
        assert share.takes(self.block("export", 2, "customers"))
        assert share.takes(self.block("stream", 2))

    def test_what_is_older_than_a_snapshot_of_its_own(self):
        share = SinkShare(floors={"orders": 3})
        assert [share.takes(self.block("stream", at)) for at in (1, 2, 3, 4)] == [
            False,
            False,
            True,
            True,
        ]
        assert share.takes(self.block("stream", 1, "customers"))
        assert (share.is_all, SinkShare().is_all) == (False, True)
