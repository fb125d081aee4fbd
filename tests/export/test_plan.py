# SPDX-License-Identifier: Apache-2.0
"""Contract of the plan: caps within the budget, progress in every round, nothing twice."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from tests.export.builders import TABLE
from transforms.export.elements import DONE
from transforms.export.manifest import DataFile, ExportManifest
from transforms.export.plan import (
    DEFAULT_RATIO,
    SMALLEST_PIECE,
    compression_ratio,
    is_loaded,
    plan_round,
)

MIB = 1 << 20


def manifest_with(*files):
    return ExportManifest(
        location="/x/manifest-summary.json",
        export_arn=f"{TABLE.arn}/export/1",
        table_arn=TABLE.arn,
        table_id="",
        export_type="FULL_EXPORT",
        export_format="DYNAMODB_JSON",
        view="",
        from_us=0,
        export_time_us=5,
        item_count=sum(count for count, _ in files),
        files=tuple(DataFile(f"/x/{n}", count, "md5") for n, (count, _) in enumerate(files)),
    )


def plan(files, **options):
    sizes = {f"/x/{n}": size for n, (_, size) in enumerate(files)}
    options = {"loaded": {}, **options}
    return plan_round(
        manifest_with(*files),
        TABLE,
        generation=3,
        buckets=16,
        size_of=sizes.__getitem__,
        **options,
    )


def test_no_budget_takes_all_files_whole_and_asks_for_no_size():
    slices = plan_round(
        manifest_with((5, 0), (0, 0)),
        TABLE,
        generation=3,
        buckets=16,
        loaded={},
        size_of=lambda path: 1 // 0,
    )
    assert [(each.file.path, each.start_line, each.max_bytes) for each in slices] == [
        ("/x/0", 0, 0),
        ("/x/1", 0, 0),
    ]
    assert (slices[0].generation, slices[0].buckets, slices[0].files) == (3, 16, 2)


def test_small_files_are_taken_whole():
    slices = plan([(10, 1000)] * 3, max_bytes=100 * MIB)
    assert len(slices) == 3
    assert all(each.max_bytes >= 1000 * DEFAULT_RATIO for each in slices)


def test_a_large_file_is_cut_and_goes_on_where_it_stopped():
    (first,) = plan([(1000, 100 * MIB)], max_bytes=64 * MIB)
    assert (first.start_line, first.max_bytes) == (0, 64 * MIB)
    (second,) = plan([(1000, 100 * MIB)], max_bytes=64 * MIB, loaded={"/x/0": 80})
    assert (second.start_line, second.max_bytes) == (80, 64 * MIB)


def test_what_is_left_of_a_budget_goes_to_a_piece_of_the_next_file():
    slices = plan([(10, MIB), (10, 100 * MIB), (10, MIB)], max_bytes=64 * MIB)
    assert [each.file.path for each in slices] == ["/x/0", "/x/1"]
    assert slices[1].max_bytes == 64 * MIB - slices[0].max_bytes


def test_a_tiny_rest_of_the_budget_is_not_used():
    whole = int(100 * MIB * DEFAULT_RATIO * Fraction(3, 2)) + 1
    slices = plan([(10, 100 * MIB), (10, 100 * MIB)], max_bytes=whole + SMALLEST_PIECE // 2)
    assert [each.file.path for each in slices] == ["/x/0"]


def test_loaded_files_are_left_out():
    assert plan([(10, 100), (10, 100)], max_bytes=MIB, loaded={"/x/0": DONE, "/x/1": DONE}) == []
    assert plan([(10, 100), (10, 100)], loaded={"/x/0": DONE})[0].file.path == "/x/1"
    assert is_loaded(DataFile("/x", 0, ""), {"/x": DONE})
    assert not is_loaded(DataFile("/x", 0, ""), {"/x": 0})


def test_a_thousand_empty_files_are_one_round():
    assert len(plan([(0, 20)] * 1000, max_bytes=MIB)) == 1000


files = st.lists(
    st.tuples(st.integers(0, 10_000), st.integers(20, 200 * MIB)), min_size=1, max_size=12
)


@given(files, st.integers(1, 100 * MIB), st.fractions(1, 50))
def test_caps_stay_within_the_budget_and_every_round_makes_progress(files, budget, ratio):
    slices = plan(files, max_bytes=budget, ratio=ratio)
    assert slices
    assert sum(each.max_bytes for each in slices) <= budget
    assert all(each.max_bytes >= 1 for each in slices)
    smaller_than_asked = [each for each in slices if each.max_bytes < MIB]
    for each in smaller_than_asked:
        _, size = files[int(each.file.path[3:])]
        small = size * 1032 <= each.max_bytes or each.file.item_count == 0
        assert small or budget < MIB or (each is slices[0])


@given(files, st.integers(MIB, 64 * MIB), st.integers(1, 30))
def test_rounds_read_every_line_once_and_end(files, budget, true_ratio):
    """Reads as `read_slice` does: whole lines up to the cap, at least one."""
    loaded, rounds, seen = {}, 0, [0] * len(files)
    while slices := plan(files, max_bytes=budget, loaded=loaded):
        rounds += 1
        assert rounds <= 10 * len(files) + sum(size for _, size in files) * 30 // budget + 10
        for each in slices:
            number = int(each.file.path[3:])
            count, size = files[number]
            assert each.start_line == seen[number]
            line_bytes = max(1, size * true_ratio // max(count, 1))
            lines = min(count - seen[number], -(-each.max_bytes // line_bytes))
            seen[number] += lines
            loaded[each.file.path] = DONE if seen[number] == count else seen[number]
    assert seen == [count for count, _ in files]


def test_ratio_from_what_is_loaded():
    manifest = manifest_with((1000, 0), (1000, 0), (1000, 0))
    size_of = {"/x/0": 10_000, "/x/1": 30_000}.__getitem__
    assert compression_ratio(manifest, {}, 0, size_of) == DEFAULT_RATIO
    # 1,500 lines of 100 bytes: the two files hold 200,000 bytes in 40,000.
    loaded = {"/x/0": DONE, "/x/1": 500}
    assert compression_ratio(manifest, loaded, 150_000, size_of) == 5


def test_ratio_stays_possible():
    manifest = manifest_with((10, 0))
    assert compression_ratio(manifest, {"/x/0": DONE}, 1, lambda _: 1000) == 1
    assert compression_ratio(manifest, {"/x/0": DONE}, 10**12, lambda _: 1000) == 1032
