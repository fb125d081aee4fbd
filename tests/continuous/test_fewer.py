# SPDX-License-Identifier: Apache-2.0
"""Counts are added up over bundles; everything else passes at once, and nothing is lost."""

from apache_beam.utils.timestamp import MIN_TIMESTAMP, Timestamp

from dynabeam.transforms.continuous.fewer import _FewerFn
from dynabeam.transforms.model.report import Report


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def counts(table, rows, sink="a"):
    return Report("sink", table, {"sink": sink, "rows": rows, "written": rows, "stale": 0})


def bundle(fn, *reports, at=1):
    passed = [each for report in reports for each in fn.process(report, Timestamp(at))]
    return passed, [each.value for each in fn.finish_bundle()]


def test_counts_wait_and_are_added_up_per_table_and_sink():
    clock = Clock()
    fn = _FewerFn(5.0, clock)
    assert bundle(fn, counts("t", 1), counts("u", 2)) == ([], [])
    clock.now += 4.9
    assert bundle(fn, counts("t", 10), counts("t", 100, sink="b")) == ([], [])
    clock.now += 0.2
    passed, given = bundle(fn, counts("t", 1000))
    assert passed == []
    assert sorted(given, key=lambda each: (each.table, each.fields["sink"])) == [
        counts("t", 1011),
        counts("t", 100, sink="b"),
        counts("u", 2),
    ]
    assert bundle(fn) == ([], [])


def test_what_is_no_count_passes_at_once_and_pushes_out_what_is_due():
    clock = Clock()
    fn = _FewerFn(5.0, clock)
    bundle(fn, counts("t", 1))
    clock.now += 6
    gap = Report("gap", "t", {"kind": "trimmed"})
    assert bundle(fn, gap) == ([gap], [counts("t", 1)])


def test_given_counts_carry_the_latest_time_seen():
    fn = _FewerFn(0.0, Clock())
    list(fn.process(counts("t", 1), Timestamp(7)))
    list(fn.process(counts("t", 1), MIN_TIMESTAMP))
    (value,) = fn.finish_bundle()
    assert value.timestamp == Timestamp(7)
    assert value.value == counts("t", 2)
