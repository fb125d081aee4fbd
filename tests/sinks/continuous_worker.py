# SPDX-License-Identifier: Apache-2.0
"""A worker of a continuous run, with its state in hand: for tests that no runner can schedule."""

import collections
import copy
import json

from apache_beam.utils.timestamp import Timestamp

from dynabeam.transforms.sinks.files import continuous_files
from tests.sinks.changes import NO_ROUND, STATE, Change, blocks, table
from tests.sinks.targets import CHANGELOGS, read_changes

ORDERS = table("orders")
LINES, PARQUET = CHANGELOGS[0], CHANGELOGS[2]
SECOND = 1_000_000
NOON = 1_769_860_800 * SECOND  # 2026-01-31T12:00Z


def change(at, key=None):
    return Change(at, {"id": {"S": f"k{at % 5 if key is None else key}"}, "v": {"N": str(at)}})


def opened(target, folder, tables=(ORDERS,)):
    sink = target.open(folder)
    sink.check(tables, NO_ROUND)
    sink.recover(NO_ROUND)
    return sink


def identity(each):
    return each["table"], json.dumps(each["keys"], sort_keys=True), each["version"]


def counted(target, sink):
    return collections.Counter(identity(each) for each in read_changes(target, sink))


def wanted(of, changes):
    rows = [row for each in blocks(of, changes, buckets=1) for row in each.rows.to_pylist()]
    keys = [json.dumps(each.item()["id"]) for each in changes]
    return {
        (of.name, f'{{"id": {key}}}', row["version"].decode())
        for key, row in zip(keys, rows, strict=True)
    }


class Bag:
    """A bag or cell with Beam's methods: what the runner keeps of a key."""

    def __init__(self):
        self.values = []

    def read(self):
        return list(self.values)

    def add(self, value):
        assert isinstance(value, bytes)
        self.values.append(value)

    def clear(self):
        self.values = []


class Cell(Bag):
    def read(self):
        return self.values[0] if self.values else None

    def write(self, value):
        assert isinstance(value, bytes)
        self.values = [value]


class Timer:
    def __init__(self):
        self.at = None

    def set(self, at):
        self.at = at.micros


class Worker:
    """A worker with the state that the runner gave it: runs the DoFn itself, without Beam.

    `read` is the position in the source, in changes; a copy is a checkpoint.
    """

    def __init__(self, clock):
        self.read = 0
        self.keys = collections.defaultdict(lambda: (Cell(), Bag(), Timer()))
        self.clock = clock

    def checkpoint(self):
        other = Worker(self.clock)
        other.read = self.read
        other.keys.update(copy.deepcopy(dict(self.keys)))
        return other

    def gather(self, sink, given_blocks, timestamp_us):
        fn = self.do_fn(sink)
        reports = []
        for block in given_blocks:
            element = continuous_files._with_writer(block, 2)
            cell, bag, timer = self.keys[element[0]]
            reports += fn.process(element, Timestamp(micros=timestamp_us), cell, bag, timer)
        return reports

    def advance_watermark(self, sink, to_us):
        fn = self.do_fn(sink)
        reports = []
        for cell, bag, timer in self.keys.values():
            if timer.at is not None and timer.at <= to_us:
                timer.at = None
                reports += fn.write_held(cell, bag)
        return reports

    def do_fn(self, sink):
        transform = sink.write_continuously(STATE)
        # As after the trip to a worker.
        files = copy.deepcopy(transform._files)
        return continuous_files._GatherFn(files, transform._max_bytes, lambda: self.clock[0])
