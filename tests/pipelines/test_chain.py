# SPDX-License-Identifier: Apache-2.0
"""`--verify_chain`: records that the service loses without a word are found, of every kind."""

import json

from dynabeam.transforms.testing.faults import Faults


def item(number, total):
    return {"id": {"S": f"o{number}"}, "total": {"N": str(total)}}


def key(number):
    return {"id": {"S": f"o{number}"}}


def lose_one_of_each(sim):
    """An update of o0, a delete of o1 and an insert of o2 are lost; o3 is whole."""
    sim.put_many("orders", [item(number, 1) for number in range(4)])
    sim.delete_many("orders", [key(2)])
    sim.faults = Faults(lose_record=1.0)
    sim.put_many("orders", [item(0, 2), item(2, 2)])
    sim.delete_many("orders", [key(1)])
    sim.faults = Faults()
    sim.put_many("orders", [item(number, 3) for number in range(4)])


class TestLostRecords:
    def test_of_each_kind_are_gaps(self, world):
        lose_one_of_each(world.sim)
        world.catch_up()
        ended = world.run(
            "--tables=orders", "--snapshot=never", "--verify_chain", "--gaps=continue"
        )
        assert ended.code == 0, ended.err
        state = json.loads((world.state_dir / "state.json").read_text())["tables"]["orders"]
        gaps = sorted(state["gaps"], key=lambda gap: gap["detail"])
        assert [gap["kind"] for gap in gaps] == ["chain"] * 3
        assert ["o0" in gaps[0]["detail"], "o1" in gaps[1]["detail"], "o2" in gaps[2]["detail"]]
        assert all(gap["from_us"] <= gap["to_us"] for gap in gaps)
        assert state["totals"]["gaps"] == 3

    def test_stop_the_run_under_the_default_policy(self, world):
        lose_one_of_each(world.sim)
        world.catch_up()
        ended = world.run("--tables=orders", "--snapshot=never", "--verify_chain")
        assert ended.code == 1
        (line,) = ended.error_lines
        assert "GapError: table orders" in line
        assert "chain: key {'id': {'S': 'o" in line
        world.assert_nothing_visible()

    def test_are_not_looked_for_unless_asked(self, world):
        lose_one_of_each(world.sim)
        world.catch_up()
        assert world.run("--tables=orders", "--snapshot=never").code == 0
