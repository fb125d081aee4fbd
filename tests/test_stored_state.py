# SPDX-License-Identifier: Apache-2.0
"""State that an earlier release left in a savepoint is read by this one: golden bytes.

What `VerifyChain` stored then had no merged runs: one run of all keys lay among the small ones.
"""

import base64
import json
import pathlib

from apache_beam.utils.timestamp import Timestamp

from dynabeam.transforms.continuous.control_folder import ControlFolder
from dynabeam.transforms.continuous.store_positions import STORED_AFTER_US, _StoreFn
from dynabeam.transforms.model.gap import GapPolicy
from dynabeam.transforms.reconcile import reconcile
from dynabeam.transforms.reconcile.verify_chain import _ChainFn, _digests
from tests.continuous.test_positions import Storing
from tests.continuous.test_positions import stored as stored_positions
from tests.reconcile.test_reconcile import _block, _Cell, _feed, _passed, _State, _Timer
from tests.reconcile.test_verify_chain import A, B, Cells, Timer, blocks

_GOLDEN = json.loads(
    (pathlib.Path(__file__).parent / "data" / "keyed-state.json").read_text("utf-8")
)


def _bytes(texts):
    return [base64.b64decode(each) for each in texts]


def _specs(fn):
    """The cells of a DoFn as a savepoint names them: id → kind."""
    found = [each for each in vars(type(fn)).values() if hasattr(each, "to_runner_api")]
    return {each.name: type(each).__name__ for each in found}


def _restored_order_rule():
    golden, token, runs = _GOLDEN["reconcile"], _Cell(), _State(_State())
    token.values = _bytes([golden["token"]])
    runs.values, runs.merged.values = _bytes(golden["runs"]), _bytes(golden["merged"])
    return reconcile._OrderRuleFn(), token, runs


class TestReconcile:
    def test_keys_are_still_known(self):
        fn, token, runs = _restored_order_rule()
        known = {
            key.encode(): version.encode() for key, version in _GOLDEN["reconcile"]["known"].items()
        }
        assert len(known) == 20
        snapshot = _block("export", [(key, 0) for key in [*known, b"new"]])
        assert [key for _, key, _ in _passed(_feed(fn, [snapshot], token, runs))] == [b"new"]
        cells = reconcile.GroupCells(token, runs, runs.merged)
        assert reconcile.KeyedMemory(reconcile._RUNS).recall("t/0", cells).known == known

    def test_more_can_be_remembered(self):
        fn, token, runs = _restored_order_rule()
        _feed(fn, [_block("stream", [(b"new", 99)])], token, runs)
        other, _, _ = _restored_order_rule()
        snapshot = _block("export", [(b"k00", 0), (b"new", 0), (b"newer", 0)])
        assert [key for _, key, _ in _passed(_feed(other, [snapshot], token, runs))] == [b"newer"]

    def test_the_mark_still_says_that_snapshots_are_over(self):
        fn, token, runs, timer = reconcile._OrderRuleFn(), _Cell(), _State(_State()), _Timer()
        token.values = _bytes([_GOLDEN["reconcile_over"]["token"]])
        _feed(fn, [_block("stream", [(b"a", 5)], until=42_000_000)], token, runs, timer)
        assert (runs.values, timer.at) == ([], None)
        _feed(fn, [_block("stream", [(b"a", 5)], until=42_000_001)], token, runs, timer)
        assert (len(runs.values), timer.at.micros) == (1, 42_001_000)

    def test_cells(self):
        assert _specs(reconcile._OrderRuleFn()) == {
            "token": "ReadModifyWriteStateSpec",
            "runs": "BagStateSpec",
            "merged": "BagStateSpec",
            "ts-evict": "TimerSpec",
        }


class TestVerifyChain:
    names = ("token", "runs", "merged", "windows")

    def restored(self):
        golden, cells = _GOLDEN["chain"], Cells()
        cells.cells["token"].values = _bytes([golden["token"]])
        cells.cells["runs"].values = _bytes(golden["runs"])
        cells.cells["windows"].values = _bytes([golden["windows"]])
        return _ChainFn(lambda _: GapPolicy.CONTINUE, golden["keys"], None), cells

    def process(self, fn, cells, *changes):
        for block in blocks(*([each] for each in changes)):
            for each in _digests(block):
                fn.process(each, *cells.of(*self.names), Timer())

    def judge(self, fn, cells):
        at = Timestamp(micros=_GOLDEN["chain"]["due_us"])
        found = fn.judge(at, *cells.of(*self.names), Timer())
        return [each.fields["last_sequence"] for each in found]

    def test_links_and_windows_are_still_known(self):
        fn, cells = self.restored()
        # The next changes of two keys: one fits, one does not.
        self.process(fn, cells, (b"Sk2", 21, B, A), (b"Sk9", 22, B, A))
        assert sorted(self.judge(fn, cells)) == ["11", "16"]
        assert self.judge(fn, cells) == []

    def test_no_more_keys_are_known_than_then(self):
        fn, cells = self.restored()
        # Each of the keys that were known is seen to be broken, and none of the forgotten ones.
        keys = [f"Sk{n}".encode() for n in range(12)]
        lost = [(key, 30 + n, '{"id":{"S":"lost"}}', A) for n, key in enumerate(keys)]
        golden = _GOLDEN["chain"]["known"]
        known = [key for key in keys if key.decode() in golden]
        assert len(known) == 6
        self.process(fn, cells, *(each for each in lost if each[0] in known))
        numbers = {str(int(golden[key.decode()][0].partition(".")[2])) for key in known}
        assert set(self.judge(fn, cells)) == numbers | {"11"}

    def test_what_was_one_run_of_all_keys_is_merged(self):
        fn, cells = self.restored()
        for number in range(70):
            self.process(fn, cells, (b"Sk6", 40 + number, A, A))
        assert len(cells.cells["merged"].values) == 1
        fresh, _ = self.restored()
        self.process(fresh, cells, (b"Sk7", 200, B, A))
        assert sorted(self.judge(fresh, cells)) == ["11", "7"]

    def test_cells(self):
        assert _specs(self.restored()[0]) == {
            "token": "ReadModifyWriteStateSpec",
            "runs": "BagStateSpec",
            "merged": "BagStateSpec",
            "windows": "ReadModifyWriteStateSpec",
            "ts-judge": "TimerSpec",
        }


class TestStorePositions:
    def test_reports_that_wait_and_stored_ones(self, tmp_path):
        golden, storing = _GOLDEN["positions"], Storing(str(tmp_path))
        storing.stored.value = base64.b64decode(golden["stored"])
        storing.waiting.value = _bytes(golden["waiting"])
        storing.due.value = storing.timer_us = golden["due"]
        storing.watermark(1_030 + STORED_AFTER_US // 1_000_000)
        assert stored_positions(ControlFolder(str(tmp_path))) == ["1", "2", "3"]

    def test_cells(self, tmp_path):
        assert _specs(_StoreFn(str(tmp_path), lambda: 0)) == {
            "stored": "ReadModifyWriteStateSpec",
            "waiting": "BagStateSpec",
            "due": "ReadModifyWriteStateSpec",
            "ts-store": "TimerSpec",
        }
