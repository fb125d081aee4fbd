# SPDX-License-Identifier: Apache-2.0
"""Sink URIs: places, options, and secrets that stay references."""

import os
import pickle
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynabeam.transforms.errors import ConfigurationError
from dynabeam.transforms.secrets import resolve_secrets
from dynabeam.transforms.sinks.postgresql.connection import PostgresSettings
from dynabeam.transforms.sinks.registry import open_sink
from dynabeam.transforms.sinks.uri import local_path, parse_sink_uri, uri_of_path


class TestParsing:
    @pytest.mark.parametrize(
        ("text", "scheme", "authority", "path"),
        [
            ("duckdb:///m.duckdb", "duckdb", "", "m.duckdb"),
            ("duckdb:////data/m.duckdb", "duckdb", "", "/data/m.duckdb"),
            ("S3://Bucket/a/b", "s3", "Bucket", "a/b"),
            ("file:///with%20space", "file", "", "/with space"),
            ("file:/out", "file", "", "/out"),
            ("file://localhost/out", "file", "", "/out"),
            ("file:////out", "file", "", "/out"),
            ("file:out", "file", "", "out"),
            ("FILE:./out/", "file", "", "./out/"),
            ("/data/out", "file", "", "/data/out"),
            ("../100% of it", "file", "", "../100% of it"),
            ("file:///data/run#7?format=parquet", "file", "", "/data/run#7"),
            ("s3://bucket/a#b/c", "s3", "bucket", "a#b/c"),
            ("duckdb:///a#b?.duckdb", "duckdb", "", "a#b"),
            ("postgresql://a#b:${file:/run/p@ss?}@host/d#b", "postgresql", None, "d#b"),
        ],
    )
    def test_places(self, text, scheme, authority, path):
        uri = parse_sink_uri(text)
        if authority is None:
            authority = text.removeprefix(f"{scheme}://").removesuffix(f"/{path}")
        assert (uri.scheme, uri.authority, uri.path) == (scheme, authority, path)
        assert str(uri) == text

    def test_options(self):
        uri = parse_sink_uri("duckdb:///m?layout=packed&numbers=decimal(10,2)&layout=unpacked&x=")
        assert uri.option("layout", "") == "unpacked"
        assert uri.option("numbers", "") == "decimal(10,2)"
        assert uri.option("x", "default") == ""
        assert uri.option("absent", "default") == "default"

    @pytest.mark.parametrize(
        "text",
        ["", "m.duckdb", "/data/m.DuckDB", "duckdb:m.duckdb", "s3:bucket/a", "?format=parquet"],
    )
    def test_no_uri(self, text):
        with pytest.raises(ConfigurationError, match="not a sink URI"):
            parse_sink_uri(text)

    @pytest.mark.parametrize(
        "text",
        ["file:///100%", "file:///a%zz", "file:///%FF", "file:///a%00", "duckdb:///m?threads=%"],
    )
    def test_escapes_that_are_none(self, text):
        with pytest.raises(ConfigurationError, match="%25") as caught:
            parse_sink_uri(text)
        assert text in str(caught.value)

    def test_a_plus_is_a_plus(self):
        uri = parse_sink_uri("postgresql://host/a+b?application_name=a+b%20c&options=-c%20x%3D1")
        assert (uri.path, uri.options) == (
            "a+b",
            (("application_name", "a+b c"), ("options", "-c x=1")),
        )

    @pytest.mark.parametrize("text", ["file:///~/out", "~/out", "file:~/out", "duckdb:///~/m.db"])
    def test_a_home_folder(self, text):
        if text == "file:///~/out":
            assert open_sink(text).place == "/~/out"
            return
        with pytest.raises(ConfigurationError, match="~ is not resolved"):
            open_sink(text)


NAMES = st.text(
    st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1, max_size=12
).filter(lambda each: each not in (".", ".."))
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)


class TestRoundTrips:
    @given(path=PATHS, absolute=st.booleans(), query=st.sampled_from(["", "?format=parquet"]))
    def test_any_path_as_a_file(self, path, absolute, query):
        path = f"/{path}" if absolute else path
        uri = parse_sink_uri(uri_of_path(path) + query)
        assert (uri.scheme, uri.authority, uri.path) == ("file", "", path)
        assert uri.option("format", "") == query.removeprefix("?format=")
        assert local_path(uri_of_path(path)) == path
        if not (path == "~" or path.startswith("~/")):
            assert open_sink(uri_of_path(path) + query).place == os.path.realpath(path)

    @given(path=PATHS)
    def test_any_path_that_is_typed_plainly(self, path):
        """Only `%` and `?` have to be escaped by who types a path."""
        typed = path.replace("%", "%25").replace("?", "%3F")
        for text in (f"file:///{typed}", f"file://localhost/{typed}", f"file:/{typed}"):
            assert parse_sink_uri(text).path == f"/{path}"
        assert parse_sink_uri(f"duckdb:////{typed}").path == f"/{path}"
        assert parse_sink_uri(f"s3://bucket/{typed}").path == path

    @given(user=NAMES, database=NAMES)
    def test_any_user_and_database(self, user, database):
        user_typed, database_typed = quote(user, safe=""), quote(database, safe="")
        text = f"postgresql://{user_typed}:${{env:PW}}@host:77/{database_typed}"
        known = dict(PostgresSettings.of(parse_sink_uri(text), "dynabeam", 1).parameters)
        assert (known["user"], known["password"]) == (user, "${env:PW}")
        assert (known["host"], known["port"], known["dbname"]) == ("host", "77", database)


class TestSecrets:
    @pytest.mark.parametrize("rest", ["pa/ss@host/db", "pa?ss@host/db"])
    def test_a_password_with_a_slash_is_not_taken_for_a_port_and_shown(self, rest):
        with pytest.raises(ConfigurationError, match=r"\$\{env:") as caught:
            parse_sink_uri(f"postgresql://user:{rest}")
        assert "pa/" not in str(caught.value)
        assert "ss@" not in str(caught.value)

    @pytest.mark.parametrize(
        "text",
        [
            "postgresql://host:5432/db?user=me@corp",
            "postgresql://a:1,[::1]:2,b/db@2",
            "s3://bucket/mail@host",
            "file:///data/me@host",
        ],
    )
    def test_an_at_sign_that_is_no_password(self, text):
        assert parse_sink_uri(text).text == text

    def test_a_reference_to_a_file_may_hold_slashes(self):
        uri = parse_sink_uri("postgresql://user:${file:/run/secrets/pg}@host/db")
        known = dict(PostgresSettings.of(uri, "dynabeam", 1).parameters)
        assert (known["password"], known["host"], known["dbname"]) == (
            "${file:/run/secrets/pg}",
            "host",
            "db",
        )

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
