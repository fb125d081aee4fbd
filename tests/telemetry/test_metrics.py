# SPDX-License-Identifier: Apache-2.0
"""The table of metrics against what exists: values, the dashboard, the README."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dynabeam.transforms.model.dead_letter import DeadLetter
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.stream.frontier import Frontier, ShardPosition
from dynabeam.transforms.stream.progress import SeenReader
from dynabeam.transforms.telemetry.metric_names import METRICS, SHARDS_PER_TABLE, metric
from dynabeam.transforms.telemetry.process_metrics import ProcessMetrics
from dynabeam.transforms.telemetry.prometheus import MetricsCollector

ROOT = Path(__file__).resolve().parent.parent.parent
NAMES = [each.name for each in METRICS]
SECOND = 1_000_000
HOUR = 3600 * SECOND
NOW = 1_700_000_000 * SECOND
SOURCES = {
    path: path.read_text("utf-8")
    for package in ("pipelines", "transforms")
    for path in (ROOT / package).rglob("*.py")
    if path.name != "metric_names.py"
}


def shard(number, low_us=0):
    """A shard that was made 30 hours ago."""
    made_ms = (NOW - 30 * HOUR) // 1000
    return ShardPosition(f"shardId-{made_ms:020d}-{number:08d}", low_us=low_us)


def reader(*shards, number=0, **fields):
    settings = {
        "table": "orders",
        "stream_arn": "arn:stream",
        "readers": 2,
        "behind": 0,
        "caught_up": True,
        "newest_us": NOW - 60 * SECOND,
        "seen_us": NOW - 2 * SECOND,
    }
    frontier = Frontier(shards=tuple(shards))
    return SeenReader(reader=number, frontier=frontier, **{**settings, **fields})


def values_of(source):
    return {(each.name, each.labels): each.value for each in source.samples()}


class TestTable:
    def test_names_are_unique_and_lower_case(self):
        assert len(set(NAMES)) == len(NAMES)
        assert all(re.fullmatch(r"[a-z_]+", name) for name in NAMES)

    @pytest.mark.parametrize("name", NAMES)
    def test_each_is_set_somewhere(self, name):
        setters = [path.name for path, text in SOURCES.items() if f'"{name}"' in text]
        setters += [
            path.name
            for path, text in SOURCES.items()
            # Names that are put together: sink_rows, snapshot_expected_files, …
            if f'f"{name.rpartition("_")[0]}_{{' in text and f'"{name.rpartition("_")[2]}"' in text
        ]
        assert setters


def test_the_readme_lists_each_and_no_other():
    readme = (ROOT / "README.md").read_text("utf-8")
    found = re.findall(r"`(dynabeam_\w+)`", readme)
    assert sorted(found) == sorted(each.prometheus_name for each in METRICS)


class TestDashboard:
    TEXT = (ROOT / "dashboards" / "dynabeam.json").read_text("utf-8")
    EXPRESSIONS = json.loads(TEXT)

    def expressions(self):
        for panel in self.EXPRESSIONS["panels"]:
            yield from (target["expr"] for target in panel["targets"])
        for variable in self.EXPRESSIONS["templating"]["list"]:
            if variable["type"] == "query":
                yield variable["definition"]

    def test_every_name_exists(self):
        known = {each.prometheus_name: each for each in METRICS}
        # Wherever it stands, in a panel within a row or in an alert too.
        assert set(re.findall(r"\bdynabeam_\w+", self.TEXT)) <= set(known)
        for expression in self.expressions():
            found = re.findall(r"\bdynabeam_\w+", expression)
            assert found, expression
            assert set(found) <= set(known), expression
            if "rate(" in expression or "increase(" in expression:
                assert {known[name].kind for name in found} == {"counter"}, expression

    def test_labels_exist(self):
        for expression in self.expressions():
            (name, *_) = re.findall(r"\bdynabeam_(\w+?)(?:_total)?\b", expression)
            grouped = re.findall(r"by \(([^)]*)\)", expression)
            used = {label.strip() for group in grouped for label in group.split(",")}
            used |= {"table"} if "table=~" in expression else set()
            assert used <= {*metric(name).labels, "instance"}, expression

    def test_templates(self):
        names = [each["name"] for each in self.EXPRESSIONS["templating"]["list"]]
        assert names == ["datasource", "instance", "table"]


class TestMetrics:
    @pytest.fixture
    def source(self):
        return ProcessMetrics(lambda: NOW)

    def test_behind_by_the_newest_change_read(self, source):
        source.see(reader(shard(1, NOW - 2 * HOUR), behind=1, caught_up=False))
        source.see(reader(shard(2, NOW - 60 * SECOND), number=1))
        found = values_of(source)
        assert found["lag_seconds", ("orders",)] == 60
        assert found["unread_age_seconds", ("orders",)] == 2 * 3600
        assert found["time_to_loss_seconds", ("orders",)] == 22 * 3600
        assert found["caught_up", ("orders",)] == 0
        assert (found["shards", ("orders",)], found["shards_behind", ("orders",)]) == (2, 1)

    def test_caught_up_is_as_far_behind_as_the_last_look(self, source):
        source.see(reader(shard(1, NOW - 30 * SECOND)))
        assert values_of(source)["lag_seconds", ("orders",)] == 2

    def test_nothing_is_older_than_what_the_stream_keeps(self, source):
        source.see(reader(shard(1)))
        found = values_of(source)
        assert found["unread_age_seconds", ("orders",)] == 24 * 3600
        assert found["time_to_loss_seconds", ("orders",)] == 0

    def test_shards_with_figures_are_bounded(self, source):
        source.see(reader(*(shard(n, NOW - n * SECOND) for n in range(1000))))
        ages = sorted(
            each.value for each in source.samples() if each.name == "shard_unread_age_seconds"
        )
        assert ages == list(range(1000 - SHARDS_PER_TABLE, 1000))

    def test_another_stream_replaces_the_readers(self, source):
        source.see(reader(shard(1, NOW - HOUR)))
        source.see(reader(shard(2, NOW - SECOND), stream_arn="arn:other"))
        assert values_of(source)["unread_age_seconds", ("orders",)] == 1

    def test_a_reader_that_left_is_forgotten_if_told_to(self, source):
        source.see(reader(shard(1, NOW - HOUR), seen_us=NOW - HOUR))
        assert values_of(source)["lag_seconds", ("orders",)] == 3600
        source.forget_quiet_readers()
        assert ("lag_seconds", ("orders",)) not in values_of(source)

    def test_remembered_keys_of_all_buckets_until_they_are_dropped(self, source):
        source.remember("orders/0", "orders", 5, 100)
        source.remember("orders/1", "orders", 7, 140)
        source.forget("orders/0")
        found = values_of(source)
        assert found["remembered_keys", ("orders",)] == 7
        assert found["remembered_bytes", ("orders",)] == 140

    def test_gaps_letters_and_writes(self, source):
        source.take(Report("gap", "orders", {"kind": "trimmed"}))
        source.take_letter(DeadLetter("orders", "export", "f:1", "why", b""))
        counts = {"sink": "s", "rows": 3, "written": 2, "stale": 1}
        source.take(Report("sink", "orders", {**counts, "newest_event_us": NOW - 4 * SECOND}))
        found = values_of(source)
        assert found["gaps", ("orders", "trimmed")] == 1
        assert found["dead_letters", ("orders", "export")] == 1
        assert [
            found[f"sink_{each}", ("orders", "s")] for each in ("rows", "written", "stale")
        ] == [
            3,
            2,
            1,
        ]
        source.take(Report("sink", "orders", {**counts, "unfit_numbers": 5}))
        assert values_of(source)["sink_unfit_numbers", ("orders", "s")] == 5
        assert found["write_lag_seconds", ("orders", "s")] == 4

    def test_samples_have_the_labels_of_the_table(self, source):
        source.see(reader(shard(1), generation=1))
        source.remember("orders/0", "orders", 5, 100)
        source.take(Report("gap", "orders", {"kind": "trimmed"}))
        for sample in source.samples():
            assert len(sample.labels) == len(metric(sample.name).labels), sample

    def test_every_metric_has_a_family(self, source):
        families = list(MetricsCollector(source).collect())
        # The client takes the suffix of counters off and puts it on again.
        assert [each.name for each in families] == [
            each.prometheus_name.removesuffix("_total") for each in METRICS
        ]
