# SPDX-License-Identifier: Apache-2.0
"""Schemes, missing packages and the start-up comparison of sinks and run."""

import pickle
import subprocess
import sys

import pytest

from dynabeam.transforms.errors import ConfigurationError, SinkError
from dynabeam.transforms.sinks import registry
from dynabeam.transforms.sinks.registry import (
    SINKS,
    RunnerFacts,
    SinkModule,
    check_capabilities,
    open_sink,
    schemes,
)

LOCAL = RunnerFacts("FnApiRunner", continuous=False, shares_disk=True)


@pytest.fixture
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


class TestOpening:
    @pytest.mark.parametrize(
        ("text", "place"),
        [
            ("duckdb:///m.duckdb", "{cwd}/m.duckdb"),
            ("duckdb:////data/m.duckdb?threads=1", "/data/m.duckdb"),
            ("file:///out", "/out"),
            ("file:out", "{cwd}/out"),
            ("./out/?format=parquet", "{cwd}/out"),
            ("/data/../out", "/out"),
            ("FILE:////data/out/?format=parquet", "/data/out"),
            ("file://localhost/data/out", "/data/out"),
            ("s3://bucket/some/prefix/?compression=gzip", "s3://bucket/some/prefix"),
            ("s3://bucket", "s3://bucket"),
            ("gs://bucket/prefix", "gs://bucket/prefix"),
        ],
    )
    def test_by_scheme(self, text, place, tmp_path, in_tmp_path):
        sink = open_sink(text)
        assert sink.place == place.format(cwd=tmp_path)
        assert sink.name == text
        assert pickle.loads(pickle.dumps(sink)).place == sink.place

    def test_unknown_scheme_lists_the_known_ones(self):
        with pytest.raises(ConfigurationError) as caught:
            open_sink("mongodb://host/db")
        for scheme in schemes():
            assert scheme in str(caught.value)
        assert "'mongodb'" in str(caught.value)

    def test_missing_package_names_the_extra(self, monkeypatch):
        entry = SinkModule("a_driver_that_nobody_has", "Sink", extra="driver")
        monkeypatch.setattr(registry, "SINKS", {"odd": entry})
        with pytest.raises(SinkError, match=r"pip install 'dynabeam\[driver\]'") as caught:
            open_sink("odd://host")
        assert "a_driver_that_nobody_has" in str(caught.value)

    def test_a_bug_in_a_sink_is_not_a_missing_package(self, monkeypatch):
        entry = SinkModule("dynabeam.transforms.sinks.no_such_module", "Sink", extra="driver")
        monkeypatch.setattr(registry, "SINKS", {"odd": entry})
        with pytest.raises(ModuleNotFoundError):
            open_sink("odd://host")

    def test_nothing_is_imported_before_use(self):
        code = (
            "import sys, transforms.sinks.registry as registry;"
            "print([each.module for each in registry.SINKS.values() if each.module in sys.modules])"
        )
        run = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        assert run.stdout.strip() == "[]"

    @pytest.mark.parametrize("scheme", sorted(SINKS))
    def test_every_line_is_a_sink(self, scheme):
        place = "bucket/out" if scheme in ("s3", "gs") else "/out"
        assert open_sink(f"{scheme}://{place}").capabilities.kind in ("mirror", "changelog")


class TestOptions:
    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("duckdb:///m.duckdb?layuot=packed", "layuot"),
            ("duckdb:///m.duckdb?layout=flat", "packed | unpacked"),
            ("duckdb:///m.duckdb?numbers=float", "decimal"),
            ("duckdb:///m.duckdb?numbers=decimal(39,1)", "decimal(39,1)"),
            ("duckdb:///m.duckdb?memory_limit=lots", "512MB"),
            ("duckdb:///m.duckdb?threads=0", "threads"),
            ("duckdb:///", "duckdb:////folder"),
            ("duckdb://m.duckdb", "duckdb:////folder"),
            ("file:///out?format=csv", "jsonl | parquet"),
            ("file:///out?compression=zstd", "gzip | none"),
            ("file:///out?format=parquet&compression=gzip", "none | snappy | zstd"),
            ("file:///out?layout=packed", "parquet only"),
            ("file:///out?max_file_bytes=0", "max_file_bytes"),
            ("file://out", "file:///folder"),
            ("s3:///prefix", "s3://bucket"),
        ],
    )
    def test_wrong_ones_are_refused_with_the_hint(self, text, said):
        with pytest.raises(ConfigurationError) as caught:
            open_sink(text)
        assert said in str(caught.value)
        assert text in str(caught.value)


class TestCapabilities:
    def check(self, *texts, facts=LOCAL):
        check_capabilities([open_sink(text) for text in texts], facts)

    def test_different_places(self):
        self.check("duckdb:///a.duckdb", "duckdb:///b.duckdb", "file:///out", "s3://bucket/out")

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("duckdb:///a.duckdb", "duckdb:///./a.duckdb?layout=packed"),
            ("file:///out", "file:///out/?format=parquet"),
            ("file:out", "./out"),
            ("file:///data/out", "file:////data/x/../out"),
            ("s3://bucket/out", "s3://bucket/out/?format=parquet"),
        ],
    )
    def test_two_sinks_on_one_place(self, one, other):
        with pytest.raises(ConfigurationError, match="one place") as caught:
            self.check(one, other)
        assert one in str(caught.value)
        assert other in str(caught.value)

    def test_two_paths_to_one_file(self, tmp_path, in_tmp_path):
        (tmp_path / "link").symlink_to(tmp_path)
        with pytest.raises(ConfigurationError, match="one place"):
            self.check("duckdb:///a.duckdb", "duckdb:///link/a.duckdb")

    def test_none(self):
        with pytest.raises(ConfigurationError, match="no sink"):
            self.check()

    def test_rounds_in_a_continuous_run(self):
        facts = RunnerFacts("FlinkRunner", continuous=True, shares_disk=True)
        with pytest.raises(ConfigurationError, match="catch_up"):
            self.check("duckdb:///a.duckdb", facts=facts)

    def test_a_disk_that_workers_do_not_see(self):
        facts = RunnerFacts("DataflowRunner", continuous=False, shares_disk=False)
        self.check("s3://bucket/out", facts=facts)
        for text in ("duckdb:///a.duckdb", "file:///out"):
            with pytest.raises(ConfigurationError, match="DataflowRunner"):
                self.check(text, facts=facts)
