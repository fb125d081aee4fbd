# SPDX-License-Identifier: Apache-2.0
"""No change is lost and no file changes, whatever fails when: any schedule of a runner."""

import collections
import json
import tempfile

from hypothesis import given
from hypothesis import strategies as st

from dynabeam.transforms.sinks.base import HELD_SECONDS
from dynabeam.transforms.sinks.registry import open_sink
from dynabeam.transforms.storage import filesystem
from tests.sinks.changes import NO_ROUND, blocks
from tests.sinks.continuous_worker import (
    LINES,
    NOON,
    ORDERS,
    SECOND,
    Worker,
    change,
    counted,
    identity,
    wanted,
)
from tests.sinks.targets import published

ACTIONS = st.one_of(
    st.tuples(st.just("deliver"), st.integers(1, 4)),
    st.tuples(st.just("deliver"), st.integers(1, 4)),
    st.tuples(st.just("watermark"), st.integers(0, 40)),
    st.tuples(st.just("clock"), st.integers(1, 40)),
    st.tuples(st.just("checkpoint"), st.just(0)),
    st.tuples(st.just("restore"), st.integers(0, 9)),
    st.tuples(st.just("die"), st.sampled_from(["before the move", "after the move"])),
    st.tuples(st.just("zombie"), st.integers(1, 4)),
    st.tuples(st.just("zombie writes"), st.just(0)),
)


class Deployment:
    """A runner with a source of numbered changes, checkpoints, and workers that die or linger."""

    STEP = 10 * SECOND

    def __init__(self, folder):
        path = LINES.uri.replace("FOLDER", str(folder))
        self.sink = open_sink(f"{path}?max_file_bytes=400")
        self.sink.check([ORDERS], NO_ROUND)
        self.clock = [NOON]
        self.live = Worker(self.clock)
        self.checkpoints = [self.live.checkpoint()]
        self.zombie = None
        self.seen = {}
        self.delivered = 0

    def changes(self, first, end):
        return [change(at, key=at % 3) for at in range(first, end)]

    def deliver(self, worker, count):
        """Blocks of other sizes than before, if it is a replay."""
        some = self.changes(worker.read, worker.read + count)
        self.delivered = max(self.delivered, worker.read + count)
        stamp = worker.read * self.STEP
        worker.read += count
        worker.gather(self.sink, blocks(ORDERS, some), stamp)

    def do(self, action, argument):
        if action == "deliver":
            self.deliver(self.live, argument)
        elif action == "watermark":
            self.watermark(argument)
        elif action == "clock":
            self.clock[0] += argument * SECOND
        elif action == "checkpoint":
            self.checkpoints.append(self.live.checkpoint())
        elif action == "restore":
            # The worker that is given up goes on as a zombie until it notices.
            self.zombie = self.live
            self.live = self.checkpoints[-1 - argument % len(self.checkpoints)].checkpoint()
        elif action == "die":
            self.die(argument)
        elif self.zombie is not None:
            if action == "zombie":
                self.deliver(self.zombie, argument)
            else:
                self.zombie.advance_watermark(self.sink, 10**17)
        self.check_files()

    def watermark(self, behind):
        to_us = self.live.read * self.STEP - behind * SECOND
        self.live.advance_watermark(self.sink, to_us)
        # The promise that positions elsewhere rest on.
        safe = max(0, min(self.live.read, (to_us - HELD_SECONDS * SECOND) // self.STEP + 1))
        assert wanted(ORDERS, self.changes(0, safe)) <= set(counted(LINES, self.sink))

    def die(self, when):
        """In the midst of a write; the runner starts again from the last checkpoint."""
        real = filesystem.move

        def dying(source, target, error):
            if when == "after the move":
                real(source, target, error)
            raise KeyboardInterrupt

        filesystem.move = dying
        try:
            self.live.advance_watermark(self.sink, 10**17)
        except KeyboardInterrupt:
            pass
        finally:
            filesystem.move = real
        self.live = self.checkpoints[-1].checkpoint()

    def check_files(self):
        """No file ever goes away or comes to hold other changes."""
        found = {name: path.read_bytes() for name, path in published(LINES, self.sink).items()}
        assert self.seen.keys() <= found.keys()
        for name, content in found.items():
            assert content.endswith(b"\n")
            held = collections.Counter(identity(json.loads(line)) for line in content.splitlines())
            assert self.seen.setdefault(name, held) == held

    def finish(self):
        if self.live.read < self.delivered:
            self.deliver(self.live, self.delivered - self.live.read)
        self.live.advance_watermark(self.sink, 10**17)
        self.check_files()
        return counted(LINES, self.sink)


class TestAnySchedule:
    @given(actions=st.lists(ACTIONS, max_size=25))
    def test_no_change_is_lost_and_no_file_changes(self, actions):
        with tempfile.TemporaryDirectory() as folder:
            deployment = Deployment(folder)
            for action, argument in actions:
                deployment.do(action, argument)
            found = deployment.finish()
            assert set(found) == wanted(ORDERS, deployment.changes(0, deployment.delivered))
            failures = {"restore", "die"}
            if not any(action in failures for action, _ in actions):
                assert set(found.values()) <= {1}

    def test_a_zombie_that_writes_last_takes_nothing_away(self, tmp_path):
        """Both write their first file since the checkpoint; the runner believes in one of them."""
        deployment = Deployment(tmp_path)
        deployment.do("deliver", 1)
        deployment.do("checkpoint", 0)
        deployment.do("restore", 0)
        deployment.do("deliver", 4)
        deployment.do("watermark", 0)
        deployment.live.advance_watermark(deployment.sink, 10**17)
        deployment.do("zombie writes", 0)
        found = deployment.finish()
        assert set(found) == wanted(ORDERS, deployment.changes(0, 5))

    def test_repeats_after_a_failure_are_the_same_rows(self, tmp_path):
        deployment = Deployment(tmp_path)
        deployment.do("deliver", 4)
        deployment.live.advance_watermark(deployment.sink, 10**17)
        deployment.do("restore", 0)
        deployment.do("deliver", 3)
        deployment.live.advance_watermark(deployment.sink, 10**17)
        deployment.finish()
        lines = [
            line
            for path in published(LINES, deployment.sink).values()
            for line in path.read_bytes().splitlines()
        ]
        assert len(lines) > 4
        assert len(set(lines)) == 4
