# SPDX-License-Identifier: Apache-2.0
"""Random work, random faults, random crashes: the mirror is the table, the changelog is complete.

The seed in a test's name decides the workload, the faults, and when the replication is killed. The
replication is a process of its own, so the interleaving is not the same in every run. The deep
profile (`--hypothesis-profile=deep`) tries many more seeds.
"""

import collections
import dataclasses
import random
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import settings

from tests.chief.replication import BUCKET, Replication
from tests.chief.workload import TABLES, Workload
from tests.sinks.targets import Target, read_back, read_changes
from transforms.tables import KeyAttribute, KeySchema, Table
from transforms.testing.clock import SimClock
from transforms.testing.faults import Faults
from transforms.testing.simulator import Simulator
from transforms.values.keys import encode_key
from transforms.values.plain_json import same_item

SEEDS = 300 if settings.get_current_profile_name() == "deep" else 25
MIRROR = Target("duckdb:///FOLDER/m.duckdb")
CHANGELOG = Target("file:///FOLDER/out")
LONGEST_RUN = 90
"""Seconds after which a run to the end counts as hanging; it takes some five."""


@pytest.mark.parametrize("seed", range(SEEDS))
def test_mirror_equals_table_and_changelog_is_complete(seed, tmp_path):
    rng = random.Random(f"chief {seed}")
    with simulator(rng, seed) as sim:
        workload = Workload(sim, seed)
        prepare(sim, workload, rng)
        # No record is lost here: a run that believes so fails, and with it the test.
        verified = ["--verify_chain"] if seed % 2 else []
        replication = Replication(sim, tmp_path, rng.choice([1, 1, 2]), verified)
        sim.faults = faults(rng)
        with workload:
            for _ in range(rng.choice([1, 1, 2])):
                replication.run_and_kill(rng.uniform(1, 4))
        sim.faults = rng.choice([Faults(), milder(sim.faults)])
        replication.run_to_the_end(LONGEST_RUN)
        sim.faults = Faults()
        prove(sim, tmp_path)


def simulator(rng, seed):
    """A simulator ten minutes ago: streams that are too young cannot cover an export's edge."""
    past = SimClock(datetime.now(timezone.utc) - timedelta(minutes=10))
    return Simulator(seed=seed, clock=past, initial_shards=rng.randint(1, 3))


def prepare(sim, workload, rng):
    """Makes tables that have a past, and brings the simulator to the present."""
    for name, key in TABLES.items():
        sim.create_table(name, key)
        sim.client("dynamodb").update_continuous_backups(
            TableName=name, PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": True}
        )
    sim.create_bucket(BUCKET)
    workload.load()
    # Some of it within the minute before the export, whose edge is fuzzy.
    sim.clock.advance(timedelta(minutes=9, seconds=rng.randint(0, 50)))
    for _ in range(rng.randint(0, 30)):
        workload.step()
    sim.clock.set(datetime.now(timezone.utc))
    sim.exports.fuzz = timedelta(seconds=rng.choice([0, 1, 59]))
    sim.exports.export_seconds = rng.choice([0, 0.5, 2])


def faults(rng):
    """Each of them at times, none so often that nothing gets through."""

    def at_times(most):
        return rng.choice([0, rng.uniform(0, most)])

    actions = Faults().actions | rng.choice([frozenset(), {"GetObject"}])
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
        child_filter_empty_asks=rng.randint(0, 2),
        e_notation_times=at_times(0.5),
        roll_after=rng.choice([0, rng.randint(5, 100)]),
        roll_children=rng.randint(1, 2),
    )


def milder(faults):
    """The same kinds of faults at half the rate."""
    halved = {
        field.name: getattr(faults, field.name) / 2
        for field in dataclasses.fields(faults)
        if field.type == "float" and field.name != "slow_seconds"
    }
    return dataclasses.replace(faults, **halved)


def prove(sim, folder):
    """Compares all that was delivered with the simulator's truth."""
    tables = [table_of(sim, name) for name in TABLES]
    mirror, changelog = MIRROR.open(folder), CHANGELOG.open(folder)
    changes = list(read_changes(CHANGELOG, changelog))
    held = {
        "mirror": read_back(MIRROR, mirror, tables),
        "changelog": read_back(CHANGELOG, changelog, tables),
    }
    for table in tables:
        truth = {encode_key(item, table.keys): item for item in sim.items(table.name)}
        for where, found in held.items():
            assert_same_items(f"{where} of {table.name}", found[table.name], truth)
        streamed = [
            each for each in changes if each["table"] == table.name and each["source"] == "stream"
        ]
        assert_complete(table.name, streamed, sim.records(table.name))
    letters = [each.read_text() for each in (folder / "state" / "dead_letters").glob("*")]
    assert not "".join(letters)


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


def assert_complete(name, changes, records):
    """Every record is in the changelog once, with the images that the service gave."""
    found = collections.Counter(each["version"] for each in changes)
    wanted = {f"{1:08d}.{int(each['dynamodb']['SequenceNumber']):040d}": each for each in records}
    assert len(wanted) == len(records)
    missing = wanted.keys() - found.keys()
    assert not missing, f"{name}: {len(missing)} of {len(wanted)} lost: {sorted(missing)[:5]}"
    assert not found.keys() - wanted.keys(), f"{name}: versions that never were"
    repeated = {version: times for version, times in found.items() if times > 1}
    assert not repeated, f"{name}: delivered more than once: {repeated}"
    for change in changes:
        record = wanted[change["version"]]["dynamodb"]
        for image, service in (("old", "OldImage"), ("new", "NewImage")):
            assert same_image(change[image], record.get(service)), change


def same_image(found, wanted):
    return found is wanted is None or (
        found is not None and wanted is not None and same_item(found, wanted)
    )
