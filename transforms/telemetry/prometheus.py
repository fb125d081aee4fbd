# SPDX-License-Identifier: Apache-2.0
"""Metrics for Prometheus, with the official client (extra `metrics`)."""

from __future__ import annotations

from collections.abc import Iterator
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from dynabeam.transforms.telemetry.metric_names import METRICS, Metric
from dynabeam.transforms.telemetry.process_metrics import ProcessMetrics, Sample

__all__ = ["MetricsCollector", "start"]


class MetricsCollector(Collector):
    """Gives the metrics as they are at the moment of a scrape.

    Args:
        source: The metrics.
    """

    def __init__(self, source: ProcessMetrics) -> None:
        self._source = source

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """One family for each metric, whether it has values or not."""
        found: dict[str, list[Sample]] = {}
        for sample in self._source.samples():
            found.setdefault(sample.name, []).append(sample)
        for each in METRICS:
            yield _family(each, found.get(each.name, []))


def start(port: int, host: str, source: ProcessMetrics) -> WSGIServer:
    """Serves the metrics on a thread of its own.

    Args:
        port: The port.
        host: The address to listen at.
        source: The metrics.

    Returns:
        The server, for `shutdown` and `server_close`.

    Raises:
        OSError: The port is taken, or may not be used.
    """
    registry = CollectorRegistry()
    registry.register(MetricsCollector(source))
    server, _ = start_http_server(port, host, registry)
    return server


def _family(metric: Metric, samples: list[Sample]) -> CounterMetricFamily | GaugeMetricFamily:
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    text = f"{metric.meaning} ({metric.unit})"
    family = kind(metric.prometheus_name, text, labels=metric.labels)
    for sample in sorted(samples):
        family.add_metric(sample.labels, sample.value)
    return family
