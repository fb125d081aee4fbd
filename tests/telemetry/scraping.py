# SPDX-License-Identifier: Apache-2.0
"""Scrapes of a metrics endpoint over HTTP, read with the official client's parser."""

from __future__ import annotations

import urllib.error
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from dynabeam.transforms.telemetry.metric_names import NAMESPACE

__all__ = ["Scrape", "scrape", "try_scrape"]


class Scrape:
    """What an endpoint said.

    Args:
        text: The answer.
    """

    def __init__(self, text):
        self.families = {each.name: each for each in text_string_to_metric_families(text)}
        self._values = {
            (sample.name.removeprefix(f"{NAMESPACE}_").removesuffix("_total"), label_set(sample)): (
                sample.value
            )
            for family in self.families.values()
            for sample in family.samples
        }

    def get(self, name, **labels):
        """One value; None if there is none."""
        return self._values.get((name, frozenset(labels.items())))

    def of_table(self, name, table):
        """All values of a metric with this table, by their other labels."""
        return {
            tuple(sorted((k, v) for k, v in labels if k != "table")): value
            for (found, labels), value in self._values.items()
            if found == name and ("table", table) in labels
        }


def label_set(sample):
    return frozenset(sample.labels.items())


def scrape(port):
    """Scrapes the endpoint at a port of this machine."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        assert answer.status == 200
        return Scrape(answer.read().decode())


def try_scrape(port):
    """The same; None if nothing listens there."""
    try:
        return scrape(port)
    except (urllib.error.URLError, ConnectionError):
        return None
