# SPDX-License-Identifier: Apache-2.0
"""The state directory: one run at a time, one replication, nothing read twice."""

import fcntl
import json

from tests.pipelines.runs import ORDERS_ARN, ExportFolder, orders


def refused(ended, kind, *parts):
    """One line of the kind that names all parts."""
    assert ended.code == 1
    assert "Traceback" not in ended.err
    (line,) = ended.error_lines
    assert line.startswith(f"dynabeam: {kind}: "), line
    for part in parts:
        assert str(part) in line, (part, line)


class TestOneRunAtATime:
    def test_in_use(self, place, export):
        place.state_dir.mkdir()
        with open(place.state_dir / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            lock.write("process 7 on elsewhere")
            lock.flush()
            ended = place.run(export.option)
        refused(ended, "StateInUseError", place.state_dir, "process 7 on elsewhere", "Wait")
        place.assert_nothing_visible()
        assert not place.mirror.exists()

    def test_free_again_after_a_run_and_after_a_failure(self, place, export, tmp_path):
        assert place.run(f"--export={tmp_path / 'nowhere'}").code == 1
        assert place.run(export.option).code == 0
        assert place.run(export.option).code == 0


class TestOneReplication:
    def test_of_another_table(self, place, export, tmp_path):
        assert place.run(export.option).code == 0
        before = (place.rows(), place.committed(), place.published())
        other = ExportFolder(
            tmp_path / "other", table_arn=ORDERS_ARN.replace("orders", "customers")
        )
        ended = place.run(other.option, "--keys=customers:id")
        refused(ended, "StateError", place.state_dir, "'customers'", "'orders'", "--state_dir")
        assert (place.rows(), place.committed(), place.published()) == before

    def test_of_a_table_that_was_made_again(self, world):
        world.sim.put_many("orders", orders(3))
        world.catch_up()
        assert world.run("--tables=orders", "--snapshot=never").code == 0
        known = world.committed()["tables"]["orders"]["table_id"]
        world.sim.client("dynamodb").delete_table(TableName="orders")
        world.create("orders")
        ended = world.run("--tables=orders", "--snapshot=never")
        refused(ended, "StateError", world.state_dir, "table orders", known, "--state_dir")
        assert len(world.rows()) == 3

    def test_unwritable(self, place, export, tmp_path):
        (tmp_path / "plain").write_text("")
        ended = place.run(export.option, state_dir=tmp_path / "plain" / "state")
        refused(ended, "StateError", tmp_path / "plain" / "state", "cannot be", "--state_dir")
        assert not place.mirror.exists()
        assert place.published() == []

    def test_damaged(self, place, export):
        place.state_dir.mkdir()
        (place.state_dir / "state.json").write_text("{")
        refused(place.run(export.option), "StateError", "state.json", "damaged", "--state_dir")

    def test_unknown_format(self, place, export):
        place.state_dir.mkdir()
        (place.state_dir / "state.json").write_text(json.dumps({"format": 99}))
        ended = place.run(export.option)
        refused(ended, "StateError", "state.json", "expected 2", "found 99", "newer one")


class TestSecondRun:
    def test_an_export_is_read_once(self, place, export):
        for _ in range(2):
            ended = place.run(export.option)
            assert ended.code == 0, ended.err
            assert "orders: 40 snapshot rows" in ended.out
            assert len(place.rows()) == 40
            assert _published_lines(place) == 40

    def test_a_stream_is_read_on_where_it_was_left(self, world):
        options = ("--tables=orders", "--snapshot=never")
        world.sim.put_many("orders", orders(5))
        world.catch_up()
        assert world.run(*options).code == 0
        assert world.run(*options).code == 0
        assert _published_lines(world) == 5
        world.sim.put_many("orders", orders(3, start=5))
        world.age()
        ended = world.run(*options)
        assert ended.code == 0, ended.err
        assert "8 changes" in ended.out
        assert _published_lines(world) == 8
        assert len(world.rows()) == 8

    def test_a_table_may_be_added(self, world):
        world.create("customers")
        for name in ("orders", "customers"):
            world.sim.put_many(name, orders(2))
        world.catch_up()
        assert world.run("--tables=orders", "--snapshot=never").code == 0
        ended = world.run("--tables=orders,customers", "--snapshot=never")
        assert ended.code == 0, ended.err
        assert len(world.rows("customers")) == 2
        assert _published_lines(world) == 4


def _published_lines(place):
    return sum(len(path.read_bytes().splitlines()) for path in place.published())
