# SPDX-License-Identifier: Apache-2.0
"""Reconcile: stale snapshot rows are dropped, everything else passes, state is kept small."""

from __future__ import annotations

import datetime

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.testing.util import assert_that
from apache_beam.utils.timestamp import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from dynabeam.transforms.model.block import SCHEMA, Block, BlockHeader
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.model.version import encode_version
from dynabeam.transforms.reconcile import reconcile
from dynabeam.transforms.reconcile.reconcile import Reconcile
from dynabeam.transforms.runtime import keyed_memory
from dynabeam.transforms.values.key_schema import KeyAttribute, KeySchema

_TABLE = Table("orders", KeySchema(KeyAttribute("id", "S")))
_WHEN = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)


def _block(source: str, changes: list[tuple[bytes, int]], until: int = 1, generation: int = 1):
    count = len(changes)
    rows = pa.record_batch(
        [
            pa.array([key for key, _ in changes], pa.binary()),
            pa.array([encode_version(generation, number) for _, number in changes], pa.binary()),
            pa.array(["r" if source == "export" else "u"] * count, pa.string()),
            pa.array([_WHEN] * count, pa.timestamp("us", "UTC")),
            pa.nulls(count, pa.binary()),
            pa.array([b"{}"] * count, pa.binary()),
            pa.array([False] * count, pa.bool_()),
            pa.nulls(count, pa.binary()),
        ],
        schema=SCHEMA,
    )
    header = BlockHeader(_TABLE, 0, 1, generation, source, {}, until if source == "stream" else 0)
    return Block(header, rows)


class _State:
    """A state cell or bag with Beam's methods: what the runner keeps between bundles."""

    def __init__(self, merged: _State | None = None) -> None:
        self.values: list[bytes] = []
        self.reads = 0
        self.merged = merged

    def read(self):
        self.reads += 1
        return list(self.values)

    def add(self, value: bytes) -> None:
        self.values.append(value)

    def clear(self) -> None:
        self.values = []


class _Cell(_State):
    def read(self):
        self.reads += 1
        return self.values[0] if self.values else None

    def write(self, value: bytes) -> None:
        self.values = [value]


class _Timer:
    def __init__(self) -> None:
        self.at = None

    def set(self, at) -> None:
        self.at = at


def _feed(fn, blocks, token, runs, timer=None):
    out = []
    for block in blocks:
        out += [
            each
            for each in fn.process(
                (block.group, block), token, runs, runs.merged, timer or _Timer()
            )
            if isinstance(each, Block)
        ]
    return out


def _passed(blocks: list[Block]) -> list[tuple[str, bytes, bytes]]:
    return [
        (block.header.source, key, version)
        for block in blocks
        for key, version in zip(
            block.rows.column("key").to_pylist(),
            block.rows.column("version").to_pylist(),
            strict=True,
        )
    ]


def test_in_a_pipeline_nothing_but_stale_snapshot_rows_is_dropped():
    stream = _block("stream", [(b"a", 7), (b"a", 9)])
    export = _block("export", [(b"a", 0), (b"b", 0)])

    def check(blocks):
        passed = sorted(_passed(blocks))
        assert ("export", b"b", encode_version(1, 0)) in passed
        assert [p for p in passed if p[0] == "stream"] == _passed([stream])

    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        blocks = pipeline | beam.Create([stream, export], reshuffle=False)
        assert_that((blocks | Reconcile()).blocks, check)


def test_a_snapshot_row_loses_to_a_change_that_came_before_it():
    fn, token, runs = reconcile._OrderRuleFn(), _Cell(), _State(_State())
    out = _feed(
        fn,
        [_block("stream", [(b"a", 5)]), _block("export", [(b"a", 0), (b"b", 0)])],
        token,
        runs,
    )
    assert [p[:2] for p in _passed(out)] == [("stream", b"a"), ("export", b"b")]


def test_a_row_of_a_newer_generation_passes():
    fn, token, runs = reconcile._OrderRuleFn(), _Cell(), _State(_State())
    healed = _block("export", [(b"a", 0)], generation=2)
    out = _feed(fn, [_block("stream", [(b"a", 5)]), healed], token, runs)
    assert len(out) == 2


def test_nothing_is_remembered_while_no_snapshot_is_pending():
    fn, token, runs = reconcile._OrderRuleFn(), _Cell(), _State(_State())
    _feed(fn, [_block("stream", [(b"a", 5)], until=0)], token, runs)
    assert not token.values
    assert not runs.values


def test_memory_is_dropped_by_the_timer():
    fn, token, runs, timer = reconcile._OrderRuleFn(), _Cell(), _State(_State()), _Timer()
    _feed(fn, [_block("stream", [(b"a", 5)], until=42_000_000)], token, runs, timer)
    assert timer.at.micros == 42_000_000
    fn.forget(token, runs, runs.merged, timer.at)
    assert not runs.values
    assert len(_feed(fn, [_block("export", [(b"a", 0)])], token, runs)) == 1


def test_a_runner_that_counts_milliseconds_drops_it_once():
    """Flink rounds timers down; a block of the time before must not begin it all again."""
    fn, token, runs, timer = reconcile._OrderRuleFn(), _Cell(), _State(_State()), _Timer()
    block = _block("stream", [(b"a", 5)], until=42_000_414)
    _feed(fn, [block], token, runs, timer)
    fired = Timestamp(micros=timer.at.micros // 1000 * 1000)
    assert fired.micros >= 42_000_414
    fn.forget(token, runs, runs.merged, fired)
    again = _Timer()
    assert len(_feed(fn, [block], token, runs, again)) == 1
    assert (again.at, runs.values) == (None, [])


def test_nothing_is_remembered_once_the_snapshot_is_over():
    fn, token, runs = reconcile._OrderRuleFn(), _Cell(), _State(_State())
    fn.forget(token, runs, runs.merged, Timestamp(42))
    mark = list(token.values)
    over = _block("stream", [(b"a", 5)], until=42_000_000)
    assert len(_feed(fn, [over], token, runs)) == 1
    assert (token.values, runs.values) == (mark, [])
    # A later snapshot, after a gap say, is another matter.
    _feed(fn, [_block("stream", [(b"a", 6)], until=43_000_000)], token, runs)
    assert runs.values
    assert not _feed(fn, [_block("export", [(b"a", 0)])], token, runs)


def test_the_bag_is_read_only_by_a_worker_that_does_not_know_it():
    first, second, token, runs = (
        reconcile._OrderRuleFn(),
        reconcile._OrderRuleFn(),
        _Cell(),
        _State(_State()),
    )
    _feed(first, [_block("stream", [(b"a", 5)]), _block("stream", [(b"b", 6)])], token, runs)
    assert runs.reads == 0
    assert not _feed(second, [_block("export", [(b"a", 0), (b"b", 0)])], token, runs)
    assert runs.reads == 1


def test_the_memory_of_a_failed_bundle_is_not_believed():
    fn, token, runs = reconcile._OrderRuleFn(), _Cell(), _State(_State())
    _feed(fn, [_block("stream", [(b"a", 5)])], token, runs)
    kept = list(token.values), list(runs.values)
    _feed(fn, [_block("stream", [(b"b", 6)])], token, runs)
    # The bundle failed after it: the runner brings back the state of before.
    token.values, runs.values = kept
    out = _feed(fn, [_block("export", [(b"a", 0), (b"b", 0)])], token, runs)
    assert [p[1] for p in _passed(out)] == [b"b"]


def test_runs_are_folded_into_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(keyed_memory, "SMALL_RUNS", 4)
    fn, token, runs = reconcile._OrderRuleFn(), _Cell(), _State(_State())
    for number in range(1, 20):
        _feed(fn, [_block("stream", [(b"a", number)])], token, runs)
        assert len(runs.values) <= 4
        assert len(runs.merged.values) <= 1
    other = reconcile._OrderRuleFn()
    assert not _feed(other, [_block("export", [(b"a", 0)])], token, runs)


_DELIVERIES = st.lists(
    st.tuples(
        st.sampled_from(["stream", "export"]), st.sampled_from([b"a", b"b"]), st.integers(1, 9)
    ),
    max_size=8,
)


@settings(max_examples=300)
@given(_DELIVERIES, st.randoms(use_true_random=False))
def test_any_interleaving_on_any_worker_ends_at_the_highest_version(deliveries, random):
    token, runs = _Cell(), _State(_State())
    workers = [reconcile._OrderRuleFn(), reconcile._OrderRuleFn()]
    blocks = [
        _block(source, [(key, number if source == "stream" else 0)])
        for source, key, number in deliveries
    ]
    newest: dict[bytes, bytes] = {}
    for block in blocks:
        for _, key, version in _passed(_feed(random.choice(workers), [block], token, runs)):
            newest[key] = max(newest.get(key, b""), version)
    expected: dict[bytes, bytes] = {}
    for source, key, number in deliveries:
        version = encode_version(1, number if source == "stream" else 0)
        expected[key] = max(expected.get(key, b""), version)
    assert newest == expected
