# SPDX-License-Identifier: Apache-2.0
"""Reports as Beam metrics, and the endpoint of a worker."""

from __future__ import annotations

import logging
import socket

import apache_beam as beam
import pytest
from apache_beam.metrics.metric import MetricsFilter

from dynabeam.transforms.model.dead_letter import DeadLetter
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.runtime.clock import now_us
from dynabeam.transforms.stream.frontier import Frontier, ShardPosition
from dynabeam.transforms.telemetry import endpoint
from dynabeam.transforms.telemetry.beam_metrics import MeterDeadLetters, MeterReports, _BeamMetrics
from dynabeam.transforms.telemetry.endpoint import PORTS, Endpoint, serve_once
from dynabeam.transforms.telemetry.metric_names import BEAM_TABLES, METRICS, NAMESPACE
from dynabeam.transforms.telemetry.process_metrics import ProcessMetrics
from dynabeam.transforms.telemetry.worker import Telemetry
from tests.runners.processes import free_ports
from tests.telemetry.scraping import scrape

HOUR = 3600 * 1_000_000


def stream(table, changes):
    low_us = now_us() - HOUR
    counts = dict.fromkeys(("bytes", "pages", "empty_polls", "throttles", "children"), 1)
    fields = {
        "reader": 0,
        "readers": 1,
        "stream_arn": "arn:s",
        "frontier": Frontier(shards=(ShardPosition("s", low_us=low_us),)).to_json(),
        "caught_up": False,
        "behind": 1,
        "behind_shards": ["s"],
        "at_us": now_us(),
        "newest_event_us": low_us,
    }
    return Report("stream", table, {**fields, **counts, "changes": changes})


LETTERS = [DeadLetter("metered", "stream", "p", "r", b"")]


@pytest.fixture
def served():
    """A free port whose endpoint ends with the test."""
    (port,) = free_ports(1)
    yield port
    endpoint._served.pop((port, "127.0.0.1")).close()


def test_of_all_tables_and_of_each(served):
    telemetry = Telemetry(metrics_port=served, metrics_host="127.0.0.1")
    pipeline = beam.Pipeline(runner="FnApiRunner")
    # Made here: a lag counts on from the moment that it is told of.
    reports = [stream("metered", 3), stream("metered", 4), stream("other", 5)]
    _ = pipeline | "R" >> beam.Create(reports) | "Reports" >> MeterReports(telemetry)
    _ = pipeline | "L" >> beam.Create(LETTERS) | "Letters" >> MeterDeadLetters(telemetry)
    result = pipeline.run()
    result.wait_until_finish()
    found = result.metrics().query(MetricsFilter().with_namespace(NAMESPACE))
    counters = {each.key.metric.name: each.result for each in found["counters"]}
    assert (counters["changes"], counters["changes.metered"], counters["changes.other"]) == (
        12,
        7,
        5,
    )
    assert counters["dead_letters"] == counters["dead_letters.metered"] == 1
    gauges = {each.key.metric.name: each.result.value for each in found["gauges"]}
    assert 3600 <= gauges["lag_seconds.metered"] < 3900
    (lag,) = [
        each.result for each in found["distributions"] if each.key.metric.name == "lag_seconds"
    ]
    assert lag.count == 3
    known = {each.name for each in METRICS if each.beam}
    assert {name.partition(".")[0] for name in [*counters, *gauges]} <= known
    # The same in the worker's endpoint, which its first stage has opened.
    values = scrape(served)
    assert values.get("changes", table="metered") == 7
    assert values.get("dead_letters", table="metered", stage="stream") == 1
    assert values.get("caught_up", table="other") == 0


def test_names_of_tables_are_bounded():
    metrics = _BeamMetrics()
    names = [metrics._names("changes", f"t{n}") for n in range(BEAM_TABLES + 5)]
    assert sum(len(each) == 2 for each in names) == BEAM_TABLES
    assert metrics._names("changes", "t0") == ["changes", "changes.t0"]


class TestEndpoint:
    def test_a_second_process_takes_the_next_free_port(self):
        (port,) = free_ports(1)
        with Endpoint(port, "127.0.0.1", ProcessMetrics()) as first:
            with Endpoint(port, "127.0.0.1", ProcessMetrics()) as second:
                assert first.port == port < second.port < port + PORTS
                assert scrape(second.port).families
            assert scrape(first.port).families

    def test_no_free_port_is_a_warning(self, monkeypatch, caplog):
        monkeypatch.setattr(endpoint, "PORTS", 1)
        logging.getLogger("dynabeam").setLevel(logging.WARNING)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with Endpoint(port, "127.0.0.1", ProcessMetrics()) as made:
                assert made.port == 0
        assert f"no free port from {port} on" in caplog.text

    def test_none_is_wanted(self):
        with Endpoint(0) as made:
            assert made.port == 0

    def test_once_in_a_process(self, served):
        assert serve_once(served, "127.0.0.1") is serve_once(served, "127.0.0.1")
