# SPDX-License-Identifier: Apache-2.0
"""`dynabeam plan` against the simulator: what it asks, what it says, in text and JSON."""

import json

import pytest

from dynabeam.pipelines.command_line import main


@pytest.fixture
def plan(world):
    def run(*options, tables="orders"):
        world.capsys.readouterr()
        code = main(["plan", f"--tables={tables}", *world.options, *options])
        return code, *world.capsys.readouterr()

    return run


def items(count):
    return [{"id": {"S": f"o{n}"}, "text": {"S": "x" * 100}} for n in range(count)]


def test_reads_the_descriptions_and_nothing_else(world, plan):
    world.sim.put_many("orders", items(500))
    before = dict(world.sim.stats.calls)
    code, out, err = plan("--json")
    assert (code, err) == (0, "")
    asked = {
        action: count - before.get(action, 0)
        for action, count in world.sim.stats.calls.items()
        if count != before.get(action, 0)
    }
    assert asked == {"DescribeTable": 1, "DescribeStream": 1}
    orders = json.loads(out)["tables"]["orders"]
    assert orders["snapshot_bytes"]["inputs"]["ItemCount"] == 500
    assert orders["open_shards"]["value"] == 1
    assert orders["catch_up_seconds"]["value"] is None


def test_a_sample_measures_the_stream(world, plan):
    world.catch_up()
    world.sim.put_many("orders", items(600))
    code, out, _ = plan("--sample=1m", "--json")
    orders = json.loads(out)["tables"]["orders"]
    changes = orders["pages_a_day"]["inputs"]["changes"]
    # The table is ten minutes old by its clock, so the whole minute counts.
    assert (code, round(changes)) == (0, 10)
    assert orders["catch_up_seconds"]["value"] is not None
    assert orders["seconds_to_loss"]["value"] is None


def test_the_text_shows_how_numbers_come_about(world, plan):
    world.sim.put_many("orders", items(500))
    code, out, _ = plan("--mode=continuous", "--runner=PrismRunner", "--price=export_gb=7")
    assert code == 0
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[0] == "orders: 500 items"
    assert any(
        line.startswith("polls, at most 345,600 a day 1 * 86400 / 0.25 + 0 * 86400 / 1;")
        for line in lines
    )
    assert any("as given" in line for line in lines)
    assert max(map(len, out.splitlines())) <= 140


def test_globs_and_tables_without_a_stream(world, plan):
    world.create("orders_old", stream=None)
    code, out, _ = plan(tables="orders*")
    assert code == 0
    assert "orders_old: 0 items" in out
    assert "WARNING  orders_old: has no stream that is on" in out


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--sample=2h", "--sample: so much would have to be read"),
        ("--sample=x", "--sample: not a duration"),
        ("--price=y=1", "--price: not a price"),
        ("--rows_per_second=fast", "--rows_per_second: not a positive number"),
        ("--runs_a_day=0", "--runs_a_day: not a positive number"),
    ],
)
def test_wrong_options(plan, option, text):
    code, _, err = plan(option)
    assert code == 1
    assert text in err


def test_a_table_that_is_not_there(plan):
    code, _, err = plan(tables="nope")
    assert code == 1
    assert "nope" in err


def test_without_aws(world):
    world.capsys.readouterr()
    assert main(["plan", f"--export={world.folder}"]) == 1
    assert "a plan is made from what AWS says" in world.capsys.readouterr().err
