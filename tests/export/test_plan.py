# SPDX-License-Identifier: Apache-2.0
"""Contract of the plan: caps within the budget, progress in every round, nothing twice."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from dynabeam.transforms.export.elements import DONE
from dynabeam.transforms.export.manifest import DataFile, ExportManifest
from dynabeam.transforms.export.slices import (
    DEFAULT_RATIO,
    SMALLEST_PIECE,
    FileSize,
    compression_ratio,
    foresee,
    is_loaded,
    plan_round,
)
from tests.export.builders import TABLE

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


GIB = 1 << 30


class TestForesee:
    def test_the_trailer_is_exact(self):
        assert foresee(FileSize(2_000, 16_123)) == 16_123
        assert foresee(FileSize(16_000, 16_123)) == 16_123

    def test_more_than_it_can_hold_is_the_nearest_to_the_usual(self):
        # 1 GiB of gzip is some 8 GiB of JSON: 9 GiB are told as 1.
        assert foresee(FileSize(GIB, GIB)) == 9 * GIB
        assert foresee(FileSize(GIB // 2, 3 * GIB)) == 3 * GIB

    def test_what_cannot_be_is_guessed(self):
        # The last of several members.
        assert foresee(FileSize(100 * MIB, 10)) == 1200 * MIB
        assert foresee(FileSize(20, 0)) == 240
        assert foresee(FileSize(3, None)) == 24


def plan_told(files, told, *, loaded=None, max_bytes, round_bytes=0):
    """A plan with the sizes that trailers tell."""
    return plan_round(
        manifest_with(*((count, 0) for count in files)),
        TABLE,
        generation=3,
        buckets=16,
        loaded=loaded or {},
        max_bytes=max_bytes,
        round_bytes=round_bytes,
        inflated_of=lambda path: told[int(path[3:])],
    )


class TestToldSizes:
    def test_small_files_count_as_what_they_are(self):
        slices = plan_told([10] * 300, [8_000] * 300, max_bytes=64 * MIB)
        assert len(slices) == 300
        assert {each.max_bytes for each in slices} == {8_000}

    def test_a_file_that_does_not_fit_any_more_waits(self):
        told = [20 * MIB] * 4
        slices = plan_told([10] * 4, told, max_bytes=64 * MIB)
        assert [each.file.path for each in slices] == ["/x/0", "/x/1", "/x/2"]
        assert {each.max_bytes for each in slices} == {20 * MIB}

    def test_only_a_file_larger_than_a_round_is_cut(self):
        (only,) = plan_told([10, 10], [65 * MIB, 1], max_bytes=64 * MIB)
        assert only.max_bytes == 64 * MIB
        assert plan_told([10], [64 * MIB], max_bytes=30 * MIB, round_bytes=64 * MIB) == []
        (cut,) = plan_told([10], [65 * MIB], max_bytes=30 * MIB, round_bytes=64 * MIB)
        assert cut.max_bytes == 30 * MIB

    def test_the_next_table_gets_what_is_left_and_no_more(self):
        assert plan_told([10], [2 * MIB], max_bytes=MIB, round_bytes=64 * MIB) == []
        (fits,) = plan_told([10, 10], [1000, 2 * MIB], max_bytes=MIB, round_bytes=64 * MIB)
        assert fits.file.path == "/x/0"


@given(
    st.lists(st.tuples(st.integers(1, 5_000), st.integers(20, 200 * MIB)), min_size=1, max_size=9),
    st.integers(MIB, 64 * MIB),
    st.integers(1, 5),
)
def test_whole_files_are_read_once_whatever_the_number_of_tables(files, budget, tables):
    """Tables share rounds as `pipelines.rounds.exports` has them do."""
    loaded = [{} for _ in range(tables)]
    reads = 0
    while True:
        left, planned = budget, 0
        for table in range(tables):
            if left <= 0:
                break
            found = plan_told(
                [count for count, _ in files],
                [size for _, size in files],
                loaded=loaded[table],
                max_bytes=left,
                round_bytes=budget,
            )
            planned += len(found)
            left -= sum(each.max_bytes for each in found)
            for each in found:
                number = int(each.file.path[3:])
                count, size = files[number]
                reads += 1
                before = loaded[table].get(each.file.path, 0)
                # As much as a reader takes: whole lines, until there are enough.
                lines = before + max(1, -(-each.max_bytes * count // size))
                loaded[table][each.file.path] = DONE if lines >= count else lines
                if size <= budget:
                    assert loaded[table][each.file.path] == DONE
        assert left >= 0
        if not planned:
            break
    assert all(len(each) == len(files) and set(each.values()) == {DONE} for each in loaded)
    pieces = sum(-(-size // (budget // 2)) + 3 if size > budget else 1 for _, size in files)
    assert reads <= tables * pieces
