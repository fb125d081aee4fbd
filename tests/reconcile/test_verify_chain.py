# SPDX-License-Identifier: Apache-2.0
"""Lost records are seen by the changes around them; late, repeated and restarted ones are not."""

import functools

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.utils.timestamp import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from dynabeam.transforms.continuous.control_folder import ControlFolder
from dynabeam.transforms.continuous.fatal_errors import load_fatal_errors
from dynabeam.transforms.continuous.gap_handler import FolderGapHandler
from dynabeam.transforms.model.block import SCHEMA
from dynabeam.transforms.model.gap import GapPolicies, GapPolicy
from dynabeam.transforms.model.version import encode_version
from dynabeam.transforms.reconcile.chain_links import (
    LINK_RUNS,
    ChainWindows,
    Link,
    Row,
)
from dynabeam.transforms.reconcile.verify_chain import VerifyChain, _ChainFn, _digests
from dynabeam.transforms.runtime.keyed_memory import GroupCells, KeyedMemory
from dynabeam.transforms.values.digests import item_digest
from tests.reconcile.test_reconcile import _block

FOREVER = 10**18
SECOND = 1_000_000


def version(number, generation=1):
    return encode_version(generation, number)


def history(images, start=1):
    """Rows of one key that take it through images; empty for no item."""
    befores = [b"", *images]
    return [
        Row(version(start + n), befores[n], image, (start + n) * SECOND)
        for n, image in enumerate(images)
    ]


class ChainMemory:
    """The chains of one group by hand, row by row, with its state."""

    def __init__(self, budget):
        self._budget = budget
        self._memory = KeyedMemory(LINK_RUNS)
        self._cells = GroupCells(*Cells().of("token", "runs", "merged"))
        self._windows = ChainWindows()

    @property
    def known(self):
        return self._memory.recall("g", self._cells, self._budget)

    def add(self, key, row):
        copy = self.known
        if self._windows.add(key, row, copy.known.get(key)):
            self._memory.update(copy, {key: row.link}, self._cells, self._budget)

    def breaks(self, passed_us):
        return self._windows.breaks(passed_us)

    def next_due_us(self):
        return self._windows.next_due_us()

    def encode_links(self, keys=None):
        links = self.known.known
        return LINK_RUNS.encode(links if keys is None else {each: links[each] for each in keys})

    def load_links(self, run):
        self._cells.small.add(run)
        self._cells.token.write(b"%08d" % len(self._cells.small.values))

    def encode_windows(self):
        return self._windows.encode()

    def load_windows(self, encoded):
        self._windows = ChainWindows.decode(encoded)


def judged(rows, budget=100, key=b"Sk"):
    """The versions at which a memory that took the rows finds a break."""
    memory = ChainMemory(budget)
    for row in rows:
        memory.add(key, row)
    return [each.after.version for each in memory.breaks(FOREVER)]


class TestDigest:
    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ('{"a":{"N":"1e3"},"b":{"S":"x"}}', '{"b":{"S":"x"},"a":{"N":"1000.0"}}'),
            ('{"s":{"SS":["b","a"]}}', '{"s":{"SS":["a","b"]}}'),
            ('{"n":{"NS":["2","1.0"]}}', '{"n":{"NS":["1","2"]}}'),
            ('{"m":{"M":{"x":{"N":"0.10"}}}}', '{ "m": {"M": {"x": {"N": "0.1"}}}}'),
        ],
    )
    def test_equal_items(self, one, other):
        assert item_digest(one.encode()) == item_digest(other.encode())

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ('{"l":{"L":[{"N":"1"},{"N":"2"}]}}', '{"l":{"L":[{"N":"2"},{"N":"1"}]}}'),
            ('{"a":{"NULL":true}}', "{}"),
            ('{"a":{"S":"1"}}', '{"a":{"N":"1"}}'),
            ('{"a":{"SS":["1"]}}', '{"a":{"NS":["1"]}}'),
            ("not JSON", "no JSON"),
        ],
    )
    def test_different_items(self, one, other):
        assert item_digest(one.encode()) != item_digest(other.encode())


class TestMemory:
    images = st.lists(st.sampled_from([b"", b"1", b"2", b"3"]), min_size=1, max_size=8)

    @given(images, st.randoms(use_true_random=False))
    def test_whatever_is_late_or_repeated_is_no_break(self, images, rng):
        rows = history(images)
        delivered = rows + [rng.choice(rows) for _ in range(rng.randint(0, 5))]
        rng.shuffle(delivered)
        assert judged(delivered) == []

    @given(images, st.data())
    def test_a_lost_row_is_found_unless_it_changed_nothing(self, images, data):
        rows = history([b"0", *images, b"9"])
        lost = data.draw(st.integers(1, len(rows) - 2))
        left = rows[:lost] + rows[lost + 1 :]
        wanted = [] if rows[lost].old == rows[lost].new else [rows[lost + 1].version]
        assert judged(left) == wanted
        replayed = left + left[max(0, lost - 2) :]
        assert judged(replayed) == wanted

    @pytest.mark.parametrize(
        ("known", "lost", "after"),
        [(b"", b"1", b"2"), (b"1", b"2", b"3"), (b"1", b"", b"2"), (b"1", b"2", b"")],
    )
    def test_inserts_updates_and_deletes(self, known, lost, after):
        first, _, last = history([known, lost, after])
        assert judged([first, last]) == [last.version]

    def test_rows_wait_until_nothing_older_can_come(self):
        one, two, three = history([b"1", b"2", b"3"])
        memory = ChainMemory(10)
        memory.add(b"k", one)
        memory.add(b"k", three)
        due = memory.next_due_us()
        assert due == three.event_us + SECOND
        assert list(memory.breaks(due - 1)) == []
        memory.add(b"k", two)
        assert list(memory.breaks(FOREVER)) == []
        assert memory.next_due_us() is None

    def test_a_new_generation_begins_anew(self):
        first = Row(version(5), b"", b"1", SECOND)
        healed = Row(version(2, generation=2), b"other", b"2", SECOND)
        assert judged([first, healed]) == []

    def test_the_budget(self):
        memory = ChainMemory(2)
        for number, key in enumerate([b"a", b"b", b"a", b"c"]):
            memory.add(key, Row(version(number + 1), b"", b"x", SECOND))
        # Of `b`, which changed longest ago, nothing is known: no break can be seen.
        memory.add(b"b", Row(version(9), b"other", b"y", SECOND))
        assert [each.key for each in memory.breaks(FOREVER)] == [b"a"]

    def test_what_the_runner_keeps(self):
        one, _, three, four = history([b"1", b"2", b"3", b"4"])
        memory = ChainMemory(10)
        memory.add(b"k", one)
        early = memory.encode_links()
        memory.add(b"k", three)
        restored = ChainMemory(10)
        restored.load_links(early)
        restored.load_links(memory.encode_links([b"k"]))
        restored.load_windows(memory.encode_windows())
        restored.add(b"k", four)
        (found,) = restored.breaks(FOREVER)
        assert found == (b"k", Link(one.version, b"1", one.event_us), three)

    @given(st.permutations(range(6)), st.integers(1, 4))
    def test_runs_of_a_bag_may_come_in_any_order(self, order, budget):
        memory, runs = ChainMemory(budget), []
        for number, key in enumerate((b"a", b"b", b"a", b"c", b"d", b"a")):
            memory.add(key, Row(encode_version(1, 10 + number), b"", b"%d" % number, number))
            runs.append(memory.encode_links([key]))
        restored = ChainMemory(budget)
        for place in order:
            restored.load_links(runs[place])
        assert restored.encode_links() == memory.encode_links()
        # The newest change of the key is the one that the next one has to go on from.
        restored.add(b"a", Row(encode_version(1, 20), b"5", b"6", 20))
        restored.add(b"a", Row(encode_version(1, 21), b"5", b"7", 21))
        assert [each.before.digest for each in restored.breaks(FOREVER)] == [b"6"]


def blocks(*steps):
    """A block for each list of changes `(key, sequence number, old, new)`."""
    made = []
    for changes in steps:
        block = _block("stream", [(key, number) for key, number, _, _ in changes])
        columns = {name: block.rows.column(name) for name in SCHEMA.names}
        for place, name in ((2, "old"), (3, "new")):
            images = [None if c[place] is None else c[place].encode() for c in changes]
            columns[name] = pa.array(images, pa.binary())
        made.append(block.with_rows(pa.record_batch(list(columns.values()), schema=SCHEMA)))
    return made


class Cells:
    """State by hand."""

    class Cell:
        def __init__(self):
            self.values = []

        def read(self):
            return self.values[-1] if self.values else None

        def write(self, value):
            self.values = [value]

    class Bag(Cell):
        def read(self):
            return list(self.values)

        def add(self, value):
            self.values.append(value)

        def clear(self):
            self.values = []

    def __init__(self):
        names = {"token": self.Cell, "runs": self.Bag, "merged": self.Bag, "windows": self.Cell}
        self.cells = {name: make() for name, make in names.items()}

    def of(self, *names):
        return [self.cells[each] for each in names]


class Timer:
    """The last time that was set."""

    at = None

    def set(self, at):
        self.at = at


def of(policy, table):
    return policy


A, B = '{"id":{"S":"k"},"n":{"N":"1"}}', '{"n":{"N":"2"},"id":{"S":"k"}}'
A_AGAIN = '{"n":{"N":"1.0"},"id":{"S":"k"}}'


class TestVerifyChain:
    def run(self, found, check, policy=GapPolicy.CONTINUE, handler=None):
        with beam.Pipeline(runner="FnApiRunner") as p:
            blocks = p | beam.Create(found, reshuffle=False)
            reports = blocks | VerifyChain(functools.partial(of, policy), gap_handler=handler)
            assert_that(reports, check)

    def test_whole_chains(self):
        steps = [[(b"Sk", 1, None, A), (b"Sk", 2, A_AGAIN, B)], [(b"Sk", 3, B, None)]]
        again = [[(b"Sk", 2, A, B)], [(b"Sk", 4, None, A)]]
        snapshot = _block("export", [(b"Sk", 0)])
        self.run([*blocks(*steps, *again), snapshot], equal_to([]))

    def test_a_runner_that_counts_milliseconds_judges_once(self):
        """Flink rounds timers down; rows that wait for the microsecond would wait for ever."""
        fn, cells, timer = _ChainFn(lambda _: GapPolicy.CONTINUE, 100, None), Cells(), Timer()
        for block in blocks([(b"Sk", 1, None, A)], [(b"Sk", 3, B, None)]):
            times = pa.array([1_000_414], pa.timestamp("us", "UTC"))
            at = SCHEMA.get_field_index("event_time")
            rows = block.rows.set_column(at, SCHEMA.field(at), times)
            for each in _digests(block.with_rows(rows)):
                fn.process(each, *cells.of("token", "runs", "merged", "windows"), timer)
        fired = Timestamp(micros=timer.at.micros // 1000 * 1000)
        timer.at = None
        (report,) = fn.judge(fired, *cells.of("token", "runs", "merged", "windows"), timer)
        assert (report.kind, timer.at) == ("gap", None)

    def test_bytes_written_grow_with_the_changes_and_not_with_the_keys(self):
        """Each link is written some four times, however many there are already."""
        fn, cells = _ChainFn(lambda _: GapPolicy.CONTINUE, 10**6, None), Cells()
        names = ("token", "runs", "merged", "windows")
        bags = [cells.cells[name] for name in ("runs", "merged")]
        written = []
        for bag in bags:
            keep = bag.add
            bag.add = lambda run, keep=keep: (written.append(len(run)), keep(run))
        rows, halves = 10, []
        for number in range(4000):
            changes = [(b"S%07d" % (number * rows + n), 1, None, A) for n in range(rows)]
            for each in _digests(*blocks(changes)):
                fn.process(each, *cells.of(*names), Timer())
            if number % 2000 == 1999:
                halves.append(sum(written))
                written.clear()
        kept = sum(len(run) for bag in bags for run in bag.values)
        assert sum(halves) < 12 * kept
        # Twice the keys take about twice the bytes; to write all of them again every 64 blocks took
        # two and a half times as many in the second half as in the first.
        assert halves[1] < 1.5 * halves[0]
        assert len(bags[0].values) <= 64
        assert len(bags[1].values) < 200

    def test_state_is_read_only_by_a_worker_that_does_not_know_it(self):
        first, second = (_ChainFn(lambda _: GapPolicy.CONTINUE, 100, None) for _ in range(2))
        cells = Cells()
        names = ("token", "runs", "merged", "windows")
        reads = []
        for name in ("runs", "merged"):
            read = cells.cells[name].read
            cells.cells[name].read = lambda read=read, name=name: (reads.append(name), read())[1]
        for fn, number in ((first, 1), (first, 2), (second, 3), (first, 4)):
            changes = [(b"Sk", number, None if number == 1 else A, A)]
            for each in _digests(*blocks(changes)):
                fn.process(each, *cells.of(*names), Timer())
            assert len(reads) == {1: 0, 2: 0, 3: 2, 4: 4}[number]

    def test_a_break_says_what_and_where(self):
        lost = blocks([(b"Sk", 1, None, A)], [(b"Sk", 3, B, None)])

        def check(reports):
            (report,) = reports
            assert (report.kind, report.table) == ("gap", "orders")
            fields = report.fields
            assert (fields["kind"], fields["last_sequence"]) == ("chain", "1")
            assert fields["from_us"] <= fields["to_us"]
            for image in (A, B):
                assert item_digest(image.encode()).hex() in fields["detail"]

        self.run(lost, check)

    def test_a_break_stops_the_run_if_the_policy_is_to_stop(self, tmp_path):
        lost = blocks([(b"Sk", 1, None, A)], [(b"Sk", 3, B, None)])
        with pytest.raises(Exception, match=r"chain: key .*'k'"):
            self.run(
                lost, equal_to([]), GapPolicy.FAIL, FolderGapHandler(str(tmp_path), GapPolicies())
            )
        assert "chain: key" in load_fatal_errors(ControlFolder(str(tmp_path)))["orders"]
