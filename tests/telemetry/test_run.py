# SPDX-License-Identifier: Apache-2.0
"""Metrics of a real run on the simulator, scraped over HTTP while it goes."""

from __future__ import annotations

import threading
import time

import pytest

from dynabeam.transforms.telemetry.endpoint import Endpoint
from dynabeam.transforms.testing.faults import Faults
from tests.pipelines.runs import orders
from tests.runners.processes import free_ports
from tests.telemetry.scraping import scrape, try_scrape

TABLE = "measured"
OLD, NEW, CHILDREN = 40, 30, 3


class Scraper(threading.Thread):
    """Scrapes again and again until it is stopped."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.port = port
        self.found = []
        self._over = threading.Event()

    def run(self):
        while not self._over.wait(0.05):
            found = try_scrape(self.port)
            if found is not None:
                self.found.append(found)

    def stop(self):
        self._over.set()
        self.join()


def test_values_are_what_the_simulator_knows(world):
    world.create(TABLE)
    world.sim.put_many(TABLE, orders(OLD))
    world.catch_up()
    world.sim.put_many(TABLE, orders(NEW, start=OLD))
    world.sim.split(TABLE, CHILDREN)
    world.sim.faults = Faults(throttle=0.3, actions=frozenset({"GetRecords"}))
    (port,) = free_ports(1)
    scraper = Scraper(port)
    scraper.start()
    try:
        ended = world.run(
            f"--tables={TABLE}", "--s3_export_bucket=exports", f"--metrics_port={port}"
        )
    finally:
        scraper.stop()
    assert ended.code == 0, ended.err
    assert try_scrape(port) is None, "the endpoint ends with the run"
    assert scraper.found, "it serves while the run goes"
    with Endpoint(port):
        found = scrape(port)

    def value(name, **labels):
        return found.get(name, table=TABLE, **labels)

    records = world.sim.records(TABLE)
    stats = world.sim.stats
    assert value("changes") == len(records) == OLD + NEW
    assert value("throttles") == sum(stats.errors.values()) > 0
    assert value("stream_pages") + value("empty_polls") == stats.pages
    assert value("children_found") == CHILDREN
    assert value("shards") == CHILDREN
    newest = max(each["dynamodb"]["ApproximateCreationDateTime"] for each in records)
    assert value("newest_event_seconds") == newest
    assert value("caught_up") == 1
    assert value("shards_behind") == 0
    assert value("generation") == 1
    # The snapshot.
    assert value("snapshot_rows") == value("snapshot_expected_rows") == OLD + NEW
    assert value("snapshot_files") == value("snapshot_expected_files") > 0
    assert value("snapshot_bytes") > 0
    # The sinks.
    for sink in world.sinks:
        arrived = value("sink_rows", sink=sink.removeprefix("--sink="))
        assert arrived == 2 * (OLD + NEW) - value("stale_dropped")
    # Ages.
    now = time.time()
    assert now - 60 < value("stored_seconds") <= now
    age = value("unread_age_seconds")
    assert 0 < age < 600
    assert value("time_to_loss_seconds") == pytest.approx(86_400 - age, abs=1)
    assert 0 <= value("lag_seconds") <= age
    by_shard = found.of_table("shard_unread_age_seconds", TABLE)
    assert len(by_shard) == CHILDREN
    assert max(by_shard.values()) == pytest.approx(age, abs=1)
