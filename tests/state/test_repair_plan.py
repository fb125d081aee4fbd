# SPDX-License-Identifier: Apache-2.0
"""Repairs: windows that the service accepts, and mirrors that end as the table, whatever happened.

The second part plays the life of some keys: a snapshot, a stream that loses a part, the switch to
the next generation, exports, and deliveries in any order.
"""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynabeam.transforms.aws.dynamodb import RecoveryWindow
from dynabeam.transforms.model.gap import GapPolicy
from dynabeam.transforms.model.order import supersedes
from dynabeam.transforms.model.version import encode_version
from dynabeam.transforms.state.coverage import FUZZ_US
from dynabeam.transforms.state.repair_plan import LONGEST_US, SHORTEST_US, Lost, Repair, plan_repair

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
NOW = 1_700_000_000 * SECOND
ALWAYS = RecoveryWindow(enabled=True, earliest_us=1, latest_us=NOW, days=35)


def plan(since_us, *, policy=GapPolicy.HEAL, switched_us=NOW, recovery=ALWAYS, **lost):
    known = {"snapshot_us": 0, "snapshot_complete": True, **lost}
    return plan_repair(policy, Lost(since_us, **known), switched_us, recovery)


class TestWindows:
    @given(st.integers(SECOND, 35 * 24 * HOUR), st.integers(0, SECOND))
    def test_the_service_accepts_them(self, ago, odd):
        repair = plan(NOW - ago, switched_us=NOW + odd)
        for begin, end in repair.windows:
            assert SHORTEST_US <= end - begin <= LONGEST_US
            assert begin % SECOND == end % SECOND == 0
            assert end < repair.not_before_us

    @given(st.integers(SECOND, 35 * 24 * HOUR))
    def test_they_touch_and_cover_what_was_lost(self, ago):
        repair = plan(NOW - ago)
        for (_, end), (begin, _) in zip(repair.windows, repair.windows[1:], strict=False):
            assert begin == end
        assert repair.windows[0][1] <= NOW - ago - FUZZ_US
        assert repair.windows[-1][1] >= NOW + FUZZ_US
        assert repair.windows[0][0] < repair.swept_since_us < repair.windows[1][0]

    def test_a_long_gap_takes_several(self):
        assert [len(plan(NOW - days * 24 * HOUR).windows) for days in (1, 3, 35)] == [3, 5, 37]


class TestRanges:
    def test_a_range_is_snapshotted_alone(self):
        repair = plan_repair(GapPolicy.RESNAPSHOT, Lost(0, 5, True), NOW, ALWAYS, "a..b")
        assert (repair.kind, repair.key_range, repair.reason) == ("resnapshot", "a..b", "")
        assert "of the keys a..b" in str(repair)
        assert Repair.from_json(repair.to_json()) == repair

    @pytest.mark.parametrize("lost", [Lost(NOW - HOUR, 5, True), Lost(0, 5, False)])
    def test_not_if_more_is_missing(self, lost):
        repair = plan_repair(GapPolicy.RESNAPSHOT, lost, NOW, ALWAYS, "a..b")
        assert (repair.kind, repair.key_range) == ("resnapshot", "")
        assert "whole table" in str(repair)


class TestFallingBack:
    @pytest.mark.parametrize(
        ("changed", "reason"),
        [
            ({"since_us": 0}, "not known"),
            ({"snapshot_complete": False}, "not complete"),
            ({"snapshot_us": NOW - 26 * HOUR + MINUTE}, "younger than the lost changes"),
            ({"recovery": dataclasses.replace(ALWAYS, enabled=False)}, "is off"),
            ({"recovery": dataclasses.replace(ALWAYS, earliest_us=NOW - HOUR)}, "reaches back to"),
        ],
    )
    def test_with_the_reason(self, changed, reason):
        repair = plan(**{"since_us": NOW - 26 * HOUR, **changed})
        assert (repair.kind, repair.windows, repair.swept_since_us) == ("resnapshot", (), 0)
        assert reason in str(repair)

    def test_a_new_snapshot_that_was_asked_for_has_no_reason(self):
        repair = plan(NOW - HOUR, policy=GapPolicy.RESNAPSHOT)
        assert str(repair) == "taking a new snapshot"
        assert repair.not_before_us > NOW + FUZZ_US

    def test_goes_through_json(self):
        for repair in (plan(NOW - HOUR), plan(0)):
            assert Repair.from_json(repair.to_json()) == repair


@dataclasses.dataclass(frozen=True)
class Write:
    key: str
    at: int
    new: int | None
    sequence: int


@dataclasses.dataclass(frozen=True)
class Row:
    key: str
    version: bytes
    op: str
    at: int
    new: int | None


def state_at(writes, key, at):
    """The item behind the writes of a key before a moment; None if there is none."""
    found = [each.new for each in writes if each.key == key and each.at < at]
    return found[-1] if found else None


def snapshot(writes, moment, generation, fuzz):
    rows = []
    for key in sorted({each.key for each in writes}):
        item = state_at(writes, key, moment + fuzz[key])
        if item is not None:
            rows.append(Row(key, encode_version(generation), "r", moment, item))
    return rows


def increment(writes, window, generation):
    rows = []
    for key in sorted({each.key for each in writes}):
        inside = [e for e in writes if e.key == key and window[0] <= e.at < window[1]]
        before = state_at(writes, key, window[0])
        if inside and not (before is None and inside[-1].new is None):
            last = inside[-1]
            op = "d" if last.new is None else "c" if before is None else "u"
            rows.append(Row(key, encode_version(generation, last.at), op, last.at, last.new))
    return rows


def records(writes, generation, skew):
    """As the stream tells them: whole seconds of another clock."""
    return [
        Row(
            each.key,
            encode_version(generation, each.sequence),
            "d" if each.new is None else "u",
            (each.at + skew) // SECOND * SECOND,
            each.new,
        )
        for each in writes
    ]


def apply(mirror, rows):
    for row in rows:
        held = mirror.get(row.key)
        if supersedes(row.version, held.version if held else None):
            mirror[row.key] = row


def sweep(mirror, repair, generation):
    for key, row in mirror.items():
        older = row.new is not None and row.version < encode_version(generation)
        written = row.op != "r" and row.at >= repair.swept_since_us
        if older and (written or not repair.swept_since_us):
            mirror[key] = Row(key, encode_version(generation), "d", row.at, None)


@st.composite
def lives(draw):
    """Writes in order of time, crowded around the edges where mistakes would be."""
    lost_from = NOW - draw(st.sampled_from([MINUTE, HOUR, 25 * HOUR, 60 * HOUR]))
    edges = [lost_from - 17 * MINUTE, lost_from - 2 * MINUTE, lost_from, NOW, NOW + MINUTE]
    times = st.one_of(
        st.builds(
            lambda edge, off: edge + off * SECOND, st.sampled_from(edges), st.integers(-150, 150)
        ),
        st.integers(NOW - 70 * HOUR, NOW + 5 * MINUTE),
    )
    whens = sorted(draw(st.lists(times, min_size=1, max_size=14, unique=True)))
    writes = [
        Write(
            draw(st.sampled_from("abc")),
            at,
            draw(st.one_of(st.none(), st.integers(0, 9))),
            10**21 + number,
        )
        for number, at in enumerate(whens)
    ]
    return writes, lost_from


@settings(max_examples=120)
@given(lives(), st.data())
@pytest.mark.parametrize("policy", [GapPolicy.HEAL, GapPolicy.RESNAPSHOT])
def test_a_repaired_mirror_is_the_table(policy, life, data):
    writes, lost_from = life
    lost_to = data.draw(st.integers(lost_from, NOW))
    skew = data.draw(st.integers(-20, 20)) * SECOND
    fuzz = {key: data.draw(st.integers(-FUZZ_US, FUZZ_US)) for key in {each.key for each in writes}}
    first = data.draw(st.sampled_from([NOW - 69 * HOUR, lost_from - 30 * MINUTE]))
    covered = first - FUZZ_US
    read = [e for e in writes if covered <= e.at and not lost_from <= e.at < lost_to]
    # The readers switch one after the other, before the moment that the plan is made for.
    early = [e for e in read if e.at < NOW - data.draw(st.integers(0, 60)) * SECOND]
    late = [e for e in read if e not in early]
    repair = plan(lost_from, policy=policy, snapshot_us=first)
    assert repair.reason == ""
    old = [*snapshot(writes, first, 1, fuzz), *records(early, 1, skew)]
    exports = [row for window in repair.windows for row in increment(writes, window, 2)]
    if policy is GapPolicy.RESNAPSHOT:
        exports = snapshot(writes, repair.not_before_us, 2, fuzz)
    mirror: dict[str, Row] = {}
    apply(mirror, data.draw(st.permutations([*old, *exports, *records(late, 2, skew)])))
    sweep(mirror, repair, 2)
    apply(mirror, data.draw(st.permutations(old)))
    held = {key: row.new for key, row in mirror.items() if row.new is not None}
    truth = {key: state_at(writes, key, NOW + HOUR) for key in {each.key for each in writes}}
    assert held == {key: item for key, item in truth.items() if item is not None}
