# SPDX-License-Identifier: Apache-2.0
"""The order rule: every permutation, repeat and interleaving ends in the same winner."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from dynabeam.transforms.model.order import newest_per_key, supersedes, without_stale
from dynabeam.transforms.model.version import encode_version

# Version fixed by key and number, so that equal versions are always the same change.
_CHANGES = st.lists(
    st.tuples(
        st.sampled_from([b"a", b"b", b"c"]),
        st.integers(1, 3),
        st.one_of(st.just(0), st.integers(10**20, 10**24), st.integers(10**39, 10**40 - 1)),
    ),
    min_size=1,
    max_size=12,
)
_CASES = settings(max_examples=700)


def _rows(changes: list[tuple[bytes, int, int]]) -> pa.RecordBatch:
    return pa.record_batch(
        {
            "key": pa.array([key for key, _, _ in changes], pa.binary()),
            "version": pa.array([encode_version(g, s) for _, g, s in changes], pa.binary()),
            "place": pa.array(range(len(changes))),
        }
    )


def _winners(changes: list[tuple[bytes, int, int]]) -> dict[bytes, tuple[int, int]]:
    winners: dict[bytes, tuple[int, int]] = {}
    for key, generation, sequence in changes:
        winners[key] = max(winners.get(key, (0, 0)), (generation, sequence))
    return winners


def _apply(deliveries: list[tuple[bytes, int, int]]) -> dict[bytes, bytes]:
    stored: dict[bytes, bytes] = {}
    for key, generation, sequence in deliveries:
        version = encode_version(generation, sequence)
        if supersedes(version, stored.get(key)):
            stored[key] = version
    return stored


@_CASES
@given(_CHANGES, st.data())
def test_one_row_at_a_time_ends_at_the_highest_version(changes, data):
    repeats = data.draw(st.lists(st.sampled_from(changes), max_size=6))
    deliveries = data.draw(st.permutations(changes + repeats))
    expected = {key: encode_version(*version) for key, version in _winners(changes).items()}
    assert _apply(deliveries) == expected


@_CASES
@given(_CHANGES, st.data())
def test_a_batch_keeps_exactly_the_winners(changes, data):
    repeats = data.draw(st.lists(st.sampled_from(changes), max_size=6))
    kept = newest_per_key(_rows(data.draw(st.permutations(changes + repeats))))
    found = dict(
        zip(kept.column("key").to_pylist(), kept.column("version").to_pylist(), strict=True)
    )
    assert kept.num_rows == len(found)
    assert found == _apply(changes)


@_CASES
@given(_CHANGES, _CHANGES, st.data())
def test_any_split_into_batches_is_one_sequence_of_rows(first, second, data):
    known: dict[bytes, bytes] = {}
    for batch in data.draw(st.permutations([first, second, first])):
        fresh = without_stale(newest_per_key(_rows(batch)), known)
        known.update(
            zip(fresh.column("key").to_pylist(), fresh.column("version").to_pylist(), strict=True)
        )
    assert known == _apply(first + second)


@given(_CHANGES)
def test_of_repeats_the_first_stays(changes):
    kept = newest_per_key(_rows(changes + changes))
    assert all(place < len(changes) for place in kept.column("place").to_pylist())


def test_a_snapshot_row_loses_to_any_stream_record_of_its_generation():
    assert supersedes(encode_version(1, 1), encode_version(1, 0))
    assert not supersedes(encode_version(1, 0), encode_version(1, 1))


def test_a_newer_generation_wins_over_every_sequence_number():
    assert supersedes(encode_version(2, 0), encode_version(1, 10**40 - 1))


def test_nothing_stored_is_always_superseded():
    assert supersedes(encode_version(1, 0), None)


def test_rows_without_a_rival_are_passed_as_they_are():
    rows = _rows([(b"a", 1, 0)])
    assert without_stale(rows, {b"z": encode_version(9, 9)}) is rows
