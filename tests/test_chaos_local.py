# SPDX-License-Identifier: Apache-2.0
"""Random work, random faults, random crashes: the mirror is the table, the changelog is complete.

The seed in a test's name decides the workload, the faults, and what happens to the replication
(`tests.chaos.scenario`): how its runs end, with how many readers and which sinks each is begun,
what becomes of streams and tables, where its state is. A failed test shows the scenario that it
drew. The replication is a process of its own, so the interleaving is not the same in every run. The
deep profile (`--hypothesis-profile=deep`) tries many more seeds.
"""

import collections
import dataclasses
import functools
import json
import pathlib
import random
import re
import sys
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import settings

from dynabeam.transforms.model.table import Table
from dynabeam.transforms.testing.clock import SimClock
from dynabeam.transforms.testing.faults import Faults
from dynabeam.transforms.testing.simulator import Simulator
from dynabeam.transforms.values.key_schema import KeyAttribute, KeySchema
from dynabeam.transforms.values.keys import encode_key
from dynabeam.transforms.values.plain_json import same_item
from tests.chaos.replication import BUCKET, SINKS, STATE_BUCKET, Replication
from tests.chaos.scenario import CI_SEEDS, Scenario
from tests.chaos.shared_clock import SharedClock
from tests.chaos.workload import TABLES, Workload, make_table
from tests.sinks.targets import Target, published, read_back, read_changes

pytestmark = pytest.mark.slow

SEEDS = 300 if settings.get_current_profile_name() == "deep" else CI_SEEDS
TARGETS = {name: Target(uri) for name, uri in SINKS.items()}
ALL_DIMENSIONS = {
    *(f"state {where}" for where in ("local", "s3")),
    *(f"{where}, end {end}" for where in ("local", "s3") for end in ("KILL", "TERM", "TERM twice")),
    *(f"readers {count}" for count in (1, 2, 3, 4)),
    *(
        "s3, end STOP",
        "another number of readers",
        "chain verified",
        "second mirror",
        "clock wrong",
    ),
    *(f"{sink} left out and given again" for sink in ("mirror", "changelog")),
    *(f"switched under {policy}" for policy in ("continue", "heal", "resnapshot")),
    *("made again under resnapshot", "event while nobody reads", "event while it runs"),
}


def test_each_dimension_is_drawn_by_the_seeds_of_every_run():
    drawn = set().union(*(Scenario.draw(seed).dimensions() for seed in range(CI_SEEDS)))
    assert drawn >= ALL_DIMENSIONS


@pytest.mark.parametrize("seed", range(SEEDS))
def test_mirror_equals_table_and_changelog_is_complete(seed, tmp_path):
    # The word only seeds: with another, each seed would draw other faults.
    scenario, rng = Scenario.draw(seed), random.Random(f"chief {seed}")
    sys.stdout.write(f"{scenario}\n")
    with simulator(rng, scenario) as sim:
        workload = Workload(sim, seed)
        prepare(sim, workload, rng)
        clock = SharedClock(tmp_path / "clock", sim.clock)
        replication = Replication(sim, tmp_path, scenario, clock)
        gaps = {}
        sim.faults = faults(rng, scenario)
        sys.stdout.write(f"  {sim.faults}\n")
        try:
            with workload:
                for number, leg in enumerate(scenario.legs[:-1]):
                    replication.run(leg, happening(scenario, number, replication, workload, gaps))
            sim.faults = rng.choice([Faults(), milder(sim.faults)])
            replication.run(scenario.legs[-1])
        finally:
            replication.close()
        sim.faults = Faults()
        Proof(sim, tmp_path, scenario, replication, gaps).prove()


def simulator(rng, scenario):
    """A simulator hours ago: streams that are too young cannot cover an export's edge."""
    past = SimClock(datetime.now(timezone.utc) - timedelta(hours=2))
    return Simulator(seed=scenario.seed, clock=past, initial_shards=scenario.shards)


def prepare(sim, workload, rng):
    """Makes tables that have a past, and brings the simulator to the present."""
    for name in TABLES:
        make_table(sim, name)
    sim.create_bucket(BUCKET)
    sim.create_bucket(STATE_BUCKET)
    workload.load()
    # Some of it within the minute before the export, whose edge is fuzzy.
    sim.clock.advance(timedelta(hours=1, minutes=59, seconds=rng.randint(0, 50)))
    for _ in range(rng.randint(0, 30)):
        workload.step()
    sim.clock.set(datetime.now(timezone.utc))
    sim.exports.fuzz = timedelta(seconds=rng.choice([0, 1, 59]))
    sim.exports.export_seconds = rng.choice([0, 0.5, 2])


def happening(scenario, number, replication, workload, gaps):
    """What happens to streams during a run; what does before it is done at once.

    Args:
        scenario: The scenario.
        number: The run's.
        replication: To what it happens.
        workload: Does it.
        gaps: Table → keys that were written while it had no stream; filled when it is done.
    """
    later = []
    for event in sorted(scenario.events, key=lambda each: each.at):
        if event.leg != number:
            continue
        act = functools.partial(make_happen, event, replication, workload, gaps)
        if event.at:
            later.append((event.at, event.table if event.minutes_before else "", act))
        else:
            act()
    return later


def make_happen(event, replication, workload, gaps):
    """Does to a table's stream what the scenario wants."""
    replication.let_pass(event.minutes_before)
    if event.what == "switched":
        gaps[event.table] = workload.switch_stream(event.table, event.writes)
    else:
        workload.make_again(event.table, event.writes)


def faults(rng, scenario):
    """Each of them at times, none so often that nothing gets through."""

    def at_times(most):
        return rng.choice([0, rng.uniform(0, most)])

    of_objects = [frozenset(), {"GetObject"}]
    if scenario.state == "s3":
        of_objects.append({"GetObject", "PutObject"})
    actions = Faults().actions | rng.choice(of_objects)
    return Faults(
        actions=actions,
        throttle=at_times(0.1),
        internal_error=at_times(0.1),
        drop_before=at_times(0.05),
        drop_after=at_times(0.05),
        empty_page=at_times(0.5),
        max_empty_run=rng.randint(1, 3),
        short_page=at_times(0.7),
        late_end=at_times(0.8),
        expired_iterator=at_times(0.2),
        late_listing=at_times(0.8),
        enabling_asks=rng.randint(0, 2),
        child_filter_empty_asks=rng.randint(0, 2),
        e_notation_times=at_times(0.5),
        roll_after=rng.choice([0, rng.randint(5, 100)]),
        roll_children=rng.randint(1, 2),
        conflict=at_times(0.3),
    )


def milder(faults):
    """The same kinds of faults at half the rate."""
    halved = {
        field.name: getattr(faults, field.name) / 2
        for field in dataclasses.fields(faults)
        if field.type == "float" and field.name != "slow_seconds"
    }
    return dataclasses.replace(faults, **halved)


class Proof:
    """Compares all that was delivered with the simulator's truth.

    Args:
        sim: The simulator.
        folder: Where the sinks are.
        scenario: What happened.
        replication: Its runs, all ended.
        gaps: Table → keys that were written while it had no stream.
    """

    def __init__(self, sim, folder, scenario, replication, gaps):
        self.sim = sim
        self.scenario = scenario
        self.replication = replication
        self.gaps = gaps
        self.names = scenario.legs[-1].sinks
        self.sinks = {name: TARGETS[name].open(folder) for name in self.names}
        self.tables = [table_of(sim, name) for name in TABLES]
        self.changes = {
            name: list(read_changes(TARGETS[name], self.sinks[name]))
            for name in self.names
            if not TARGETS[name].is_mirror
        }

    def prove(self):
        """Does it."""
        held = {
            name: read_back(TARGETS[name], self.sinks[name], self.tables) for name in self.names
        }
        for table in self.tables:
            for name in self.names:
                if name != "changelog" or self.scenario.away != "changelog":
                    self.prove_items(name, table, held[name][table.name])
            for name in self.changes:
                if name != "changelog" or self.scenario.away != "changelog":
                    self.prove_changes(name, table.name)
            self.prove_state(table.name)
        if self.scenario.away == "changelog":
            self.prove_lacks()
        assert not self.replication.dead_letters()

    def prove_items(self, where, table, found):
        """A sink has the items of a table."""
        truth = {encode_key(item, table.keys): item for item in self.sim.items(table.name)}
        if self.scenario.policies.get(table.name) == "continue":
            # What was written while there was no stream is lost, until it is written again.
            lost = {encode_key(key, table.keys) for key in self.gaps[table.name]}
            truth = {key: item for key, item in truth.items() if key not in lost}
            found = {key: item for key, item in found.items() if key not in lost}
        assert_same_items(f"{where} of {table.name}", found, truth)

    def prove_changes(self, where, name):
        """A changelog has each record of a table's streams once."""
        generation = self.replication.document()["tables"][name]["generation"]
        assert_complete(
            f"{where} of {name}", self.streamed(where, name), self.sim.records(name), generation
        )

    def streamed(self, where, name):
        """The changes of a table that its streams brought into a changelog."""
        return [
            each
            for each in self.changes[where]
            if each["table"] == name and each["source"] == "stream"
        ]

    def prove_state(self, name):
        """Nothing is said to be lost that is not, and nothing is left to be done."""
        state = self.replication.document()["tables"][name]
        events = [each.what for each in self.scenario.events if each.table == name]
        gaps = state.get("gaps", [])
        assert [each["kind"] for each in gaps] == ["stream_changed"] * events.count("switched"), (
            gaps
        )
        assert "repair" not in state
        assert "heal" not in state
        raised = bool(events or self.scenario.second or self.scenario.away == "mirror")
        assert raised or state["generation"] == 1

    def prove_lacks(self):
        """The changelog that was left out says which rounds it lacks, and has all others once."""
        root = pathlib.Path(self.sinks["changelog"].place)
        lacks = json.loads((root / "_dynabeam.json").read_text())["lacks"]
        assert len(lacks) == 1, lacks
        (after, through) = (lacks[0]["after_round"], lacks[0]["through_round"])
        held, all_of_it = self.by_round("changelog"), self.by_round("witness")
        assert all_of_it
        # What it shows of them, and so what is swept of it, may be another thing from then on.
        changed = {
            key_of(line)
            for number, lines in all_of_it.items()
            if after < number <= through
            for line in lines
        }
        for number, lines in all_of_it.items():
            if not after < number <= through:
                where = f"changelog, round {number}, lacks {lacks}"
                assert comparable(held.get(number, ()), changed) == comparable(lines, changed), (
                    where
                )
            else:
                assert number not in held, f"changelog has round {number}, lacks {lacks}"
        assert held.keys() <= all_of_it.keys()
        self.prove_swept([line for lines in held.values() for line in lines])

    def prove_swept(self, lines):
        """What is swept of a changelog was shown by that changelog, in an older generation."""
        live = {(key_of(line), line["version"]) for line in lines if line["op"] != "d"}
        for line in filter(is_swept, lines):
            key, swept = key_of(line), line["version"]
            assert any(k == key and version < swept for k, version in live), line

    def by_round(self, name):
        """Round → the lines of a changelog, each as often as it is there."""
        lines = collections.defaultdict(list)
        for path, file in published(TARGETS[name], self.sinks[name]).items():
            (number,) = re.findall(r"/dynabeam_round=0*(\d+)/", f"/{path}")
            lines[int(number)] += map(json.loads, file.read_text().split("\n")[:-1])
        return dict(lines)


def key_of(line):
    """Of which item a line of a changelog is."""
    return line["table"], json.dumps(line["keys"], sort_keys=True)


def is_swept(line):
    """Whether a line is the delete of what a repair swept, not of what a table has told."""
    return line["origin"].get("reason") == "swept"


def comparable(lines, changed):
    """Lines of a round that another changelog should have, too, sorted.

    Each changelog is swept of what it shows, at a time of its own.
    """
    told = [line for line in lines if not is_swept(line)]
    swept = [
        line | {"event_time": ""}
        for line in lines
        if is_swept(line) and key_of(line) not in changed
    ]
    return sorted(json.dumps(line, sort_keys=True) for line in told + swept)


def table_of(sim, name):
    """The table as the product names it."""
    attributes = [KeyAttribute(*part.split(":")) for part in TABLES[name].split(",")]
    return Table(name, KeySchema(*attributes), sim.table(name).arn)


def assert_same_items(where, found, truth):
    missing, surplus = truth.keys() - found.keys(), found.keys() - truth.keys()
    assert not missing, f"{where} lacks {sorted(missing)}"
    assert not surplus, f"{where} has, though deleted, {sorted(surplus)}"
    for key, item in truth.items():
        assert same_item(found[key], item), f"{where}, {key!r}: {found[key]}, should be {item}"


def assert_complete(where, changes, records, newest_generation):
    """Every record is in the changelog once, with the images that the service gave."""
    wanted = {f"{int(each['dynamodb']['SequenceNumber']):040d}": each for each in records}
    assert len(wanted) == len(records)
    split = [(*each["version"].split(".", 1), each) for each in changes]
    found = collections.Counter(number for _, number, _ in split)
    missing = wanted.keys() - found.keys()
    assert not missing, f"{where}: {len(missing)} of {len(wanted)} lost: {sorted(missing)[:5]}"
    assert not found.keys() - wanted.keys(), f"{where}: versions that never were"
    repeated = {number: times for number, times in found.items() if times > 1}
    assert not repeated, f"{where}: delivered more than once: {repeated}"
    for generation, number, change in split:
        assert re.fullmatch(r"\d{8}", generation)
        assert 1 <= int(generation) <= newest_generation, change
        record = wanted[number]["dynamodb"]
        for image, service in (("old", "OldImage"), ("new", "NewImage")):
            assert same_image(change[image], record.get(service)), change


def same_image(found, wanted):
    return found is wanted is None or (
        found is not None and wanted is not None and same_item(found, wanted)
    )
