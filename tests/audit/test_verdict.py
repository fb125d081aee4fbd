# SPDX-License-Identifier: Apache-2.0
"""The rule that says what a row of a mirror is: every kind, and both sides of the common point."""

import itertools

import pytest

from dynabeam.transforms.audit.verdict import (
    DIFFERENCES,
    KINDS,
    CommonPoint,
    RowFacts,
    StoredPositions,
    judge,
)
from dynabeam.transforms.model.version import encode_version
from dynabeam.transforms.stream.frontier import Frontier, ShardPosition

SHARD = "shardId-00000001700000000000-0000000a"
CHILD = "shardId-00000001700000100000-0000000b"
BEFORE, AHEAD = 1_000_000, 9_000_000


def row(sequence, *, at=BEFORE, deleted=False, shard="", generation=1):
    return RowFacts(encode_version(generation, sequence), at, deleted, shard)


def read(sequence, **more):
    return row(sequence, shard=SHARD, **more)


def positions(*shards, pending=(), finished=(), swept_us=0):
    return StoredPositions((Frontier(shards, pending, finished, swept_us=swept_us),))


PAST = positions(ShardPosition(SHARD, "after", sequence="900"))
NOT_PAST = positions(ShardPosition(SHARD, "after", sequence="400"))


def verdict(truth, mirror, *, same=False, at=PAST):
    return judge(truth, mirror, same, CommonPoint(AHEAD, at))


class TestEqual:
    @pytest.mark.parametrize("at", [PAST, NOT_PAST])
    @pytest.mark.parametrize("mirror", [row(0), row(300), row(700, at=AHEAD)])
    @pytest.mark.parametrize("truth", [row(0), read(500)])
    def test_contents_decide_not_versions(self, truth, mirror, at):
        assert verdict(truth, mirror, same=True, at=at) == "equal"

    @pytest.mark.parametrize("mirror", [None, row(300, deleted=True)])
    @pytest.mark.parametrize("truth", [None, read(500, deleted=True)])
    def test_nothing_on_both_sides(self, truth, mirror):
        assert verdict(truth, mirror) == "equal"


class TestMirrorIsBehind:
    @pytest.mark.parametrize(
        ("mirror", "kind"),
        [(row(300), "stale"), (None, "missing"), (row(300, deleted=True), "missing")],
    )
    def test_of_a_change_that_positions_are_past(self, mirror, kind):
        assert verdict(read(500), mirror) == kind
        assert verdict(read(500), mirror, at=NOT_PAST) == "pending"

    def test_of_a_delete(self):
        assert verdict(read(500, deleted=True), row(300)) == "extra"
        assert verdict(read(500, deleted=True), row(300), at=NOT_PAST) == "pending"

    def test_same_version_is_no_excuse(self):
        assert verdict(read(500), row(500), at=NOT_PAST) == "different"

    def test_nobody_stores_positions(self):
        assert verdict(read(500), row(300), at=StoredPositions()) == "stale"

    def test_snapshot_that_is_being_loaded(self):
        loading = StoredPositions((), snapshot_over=False)
        assert verdict(row(0), None, at=loading) == "pending"
        assert verdict(row(0), None) == "missing"
        assert verdict(row(0), row(0), at=loading) == "different"

    def test_older_generation(self):
        assert verdict(row(0, generation=2), row(0)) == "stale"


class TestMirrorIsAhead:
    @pytest.mark.parametrize("truth", [None, row(0), read(500), read(500, deleted=True)])
    def test_by_a_change_that_is_new(self, truth):
        assert verdict(truth, row(700, at=AHEAD)) == "newer"

    @pytest.mark.parametrize("truth", [row(0), read(500)])
    def test_by_a_delete_that_is_new(self, truth):
        assert verdict(truth, row(700, at=AHEAD, deleted=True)) == "newer"

    @pytest.mark.parametrize(
        ("truth", "kind"), [(None, "extra"), (row(0), "different"), (read(500), "different")]
    )
    def test_a_change_that_the_stream_never_had(self, truth, kind):
        assert verdict(truth, row(700, at=AHEAD - 1)) == kind

    def test_snapshot_rows_are_never_ahead(self):
        assert verdict(None, row(0, at=AHEAD)) == "extra"
        assert verdict(read(500), row(0, at=AHEAD)) == "stale"


class TestNoVersionIsKnown:
    @pytest.mark.parametrize("mirror", [row(0), row(300)])
    def test_against_an_export(self, mirror):
        assert verdict(row(0), mirror) == "different"

    def test_what_is_no_version_counts_as_none(self):
        assert verdict(read(500), RowFacts(b"damaged", BEFORE, False)) == "stale"


def test_every_case_has_one_verdict_and_none_hides_an_old_difference():
    rows = [None, row(0), row(300), row(500), row(700), row(700, deleted=True)]
    for truth, mirror, same in itertools.product([None, row(0), read(500)], rows, [False, True]):
        kind = verdict(truth, mirror, same=same)
        assert kind in KINDS
        live = truth is not None, mirror is not None and not mirror.deleted
        if live[0] != live[1] or (all(live) and not same):
            # All is older than the audit, and positions are past it.
            assert kind in DIFFERENCES


class TestPositions:
    def test_shard_that_is_being_read(self):
        at = positions(ShardPosition(SHARD, "after", sequence="500"))
        assert at.has_passed(SHARD, 500)
        assert not at.has_passed(SHARD, 501)

    @pytest.mark.parametrize("kind", ["trim_horizon", "at_timestamp"])
    def test_shard_that_is_not_begun(self, kind):
        assert not positions(ShardPosition(SHARD, kind)).has_passed(SHARD, 1)

    def test_shard_that_is_over(self):
        assert positions(ShardPosition(SHARD, "ended")).has_passed(SHARD, 500)
        assert positions(finished=((SHARD, 7),)).has_passed(SHARD, 500)

    def test_child_that_waits_for_its_parent(self):
        assert not positions(pending=((CHILD, SHARD),)).has_passed(CHILD, 500)

    def test_shard_that_nobody_names(self):
        swept_us = 1_700_000_050_000_000
        assert positions(swept_us=swept_us).has_passed(SHARD, 500)
        assert not positions(swept_us=swept_us).has_passed(CHILD, 500)
        assert not positions(swept_us=swept_us).has_passed("another form", 500)

    def test_reader_that_has_not_begun(self):
        begun = Frontier((ShardPosition(SHARD, "after", sequence="500"),))
        assert not StoredPositions((begun, None)).has_passed(SHARD, 400)
