# SPDX-License-Identifier: Apache-2.0
"""Sink URIs: places, options, and secrets that stay references."""

import pickle

import pytest

from transforms.errors import ConfigurationError
from transforms.sinks.uri import parse_sink_uri, resolve_secrets


class TestParsing:
    @pytest.mark.parametrize(
        ("text", "scheme", "authority", "path"),
        [
            ("duckdb:///m.duckdb", "duckdb", "", "m.duckdb"),
            ("duckdb:////data/m.duckdb", "duckdb", "", "/data/m.duckdb"),
            ("S3://Bucket/a/b", "s3", "Bucket", "a/b"),
            ("file:///with%20space", "file", "", "with space"),
        ],
    )
    def test_places(self, text, scheme, authority, path):
        uri = parse_sink_uri(text)
        assert (uri.scheme, uri.authority, uri.path) == (scheme, authority, path)
        assert str(uri) == text

    def test_options(self):
        uri = parse_sink_uri("duckdb:///m?layout=packed&numbers=decimal(10,2)&layout=unpacked&x=")
        assert uri.option("layout", "") == "unpacked"
        assert uri.option("numbers", "") == "decimal(10,2)"
        assert uri.option("x", "default") == ""
        assert uri.option("absent", "default") == "default"

    @pytest.mark.parametrize("text", ["", "m.duckdb", "duckdb:m.duckdb", "/data/out"])
    def test_no_uri(self, text):
        with pytest.raises(ConfigurationError, match="not a sink URI"):
            parse_sink_uri(text)


class TestSecrets:
    def test_a_password_in_clear_is_refused_and_not_repeated(self):
        with pytest.raises(ConfigurationError, match="in clear") as caught:
            parse_sink_uri("postgresql://user:hunter2@host/db")
        assert "hunter2" not in str(caught.value)

    def test_references_stay_references(self):
        text = "postgresql://user:${env:PGPASSWORD}@host/db"
        uri = pickle.loads(pickle.dumps(parse_sink_uri(text)))
        assert uri.text == text
        assert resolve_secrets(uri.authority, {"PGPASSWORD": "s3"}) == "user:s3@host"

    def test_files(self, tmp_path):
        (tmp_path / "secret").write_text("from a file\n")
        assert resolve_secrets(f"x${{file:{tmp_path}/secret}}") == "xfrom a file"

    @pytest.mark.parametrize("reference", ["${env:NOT_SET_ANYWHERE}", "${file:/no/such/file}"])
    def test_missing(self, reference):
        with pytest.raises(ConfigurationError) as caught:
            resolve_secrets(reference, {})
        assert reference in str(caught.value)
