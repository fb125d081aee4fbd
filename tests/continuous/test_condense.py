# SPDX-License-Identifier: Apache-2.0
"""Few reports for many, bit by bit."""

from hypothesis import given
from hypothesis import strategies as st

from dynabeam.transforms.continuous.compact_reports import compact
from dynabeam.transforms.model.report import Report

COUNTS = ("changes", "bytes", "pages", "empty_polls", "throttles", "children")


def stream(reader, place, count):
    fields = dict.fromkeys(COUNTS, count)
    return Report(
        "stream",
        "orders",
        {"reader": reader, "frontier": {"at": place}, "newest_event_us": place, **fields},
    )


def export(manifest):
    return Report("export", "orders", {"export_arn": "a", "manifest": manifest})


def file(name, lines, *, done):
    return Report(
        "file", "orders", {"file": name, "lines": lines, "rows": 1, "bytes": 2, "done": done}
    )


reports = st.lists(
    st.one_of(
        st.builds(stream, st.integers(0, 2), st.integers(), st.integers(0, 9)),
        st.builds(export, st.sampled_from([None, {"m": 1}])),
        st.builds(
            lambda n, lines: file(f"f{n}", lines, done=False), st.integers(0, 2), st.integers()
        ),
        st.builds(lambda n: Report("gap", "orders", {"shard_id": str(n)}), st.integers(0, 3)),
        st.builds(
            lambda n: Report("sink", "orders", {"sink": "s", "rows": n, "written": n, "stale": 0}),
            st.integers(0, 9),
        ),
        st.builds(
            lambda n: Report("reconcile", "orders", {"stale": n, "kept": 1}), st.integers(0, 9)
        ),
    )
)


@given(reports, st.integers(0, 30))
def test_bit_by_bit_is_the_same_as_at_once(found, cut):
    def plain(condensed):
        return sorted(repr(each) for each in condensed)

    assert plain(compact(compact(found[:cut]) + found[cut:])) == plain(compact(found))


def test_the_last_position_of_each_reader_with_the_counts_of_all():
    first, second = compact([stream(0, 5, 1), stream(1, 7, 2), stream(0, 6, 10)])
    assert first.fields["frontier"] == {"at": 6}
    assert [first.fields[name] for name in COUNTS] == [11] * 6
    assert first.fields["newest_event_us"] == 6
    assert second == stream(1, 7, 2)


def test_a_manifest_that_was_read_stays():
    (report,) = compact([export(None), export({"m": 1}), export(None)])
    assert report.fields["manifest"] == {"m": 1}


def test_files_and_gaps():
    gap = Report("gap", "orders", {"shard_id": "s"})
    found = compact([file("a", 3, done=False), gap, file("a", 9, done=True), gap])
    assert [each.fields.get("lines") for each in found] == [9, None, None]
    assert found[0].fields["rows"] == 2
    assert found[0].fields["done"] is True
