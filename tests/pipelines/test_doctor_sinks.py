# SPDX-License-Identifier: Apache-2.0
"""What the doctor says of a sink is what a run says: the same verdict, in the same words."""

import hashlib
import json
import os
import subprocess
import sys

import duckdb
import pytest

from dynabeam.pipelines.command_line import main
from dynabeam.transforms.sinks import registry
from dynabeam.transforms.sinks.registry import SINKS, SinkModule
from tests.pipelines.test_doctor import closed_port
from tests.sinks.postgres_server import server_for_tests


def doctor(place, *words):
    """Exit code and the findings of sinks."""
    place.capsys.readouterr()
    code = main(["doctor", "--json", *place.options, *words, f"--state_dir={place.state_dir}"])
    document = json.loads(place.capsys.readouterr().out)
    return code, [each for each in document["findings"] if each["check"] == "sink"]


def assert_same_verdict(place, source, sinks, *, good=False):
    """Doctor and run refuse in the same words, or both do not."""
    words = [f"--sink={each}" for each in sinks]
    code, findings = doctor(place, source, *words)
    failed = [each for each in findings if each["status"] == "failure"]
    ended = place.run(source, sinks=words)
    assert ended.code == (0 if good else 1), ended.err
    assert code == ended.code, findings
    if good:
        assert failed == []
        return ""
    (line,) = ended.error_lines
    assert "Traceback" not in ended.err
    # Some of it names a connection, a process or a new state directory: another one each time.
    first = failed[0]["text"].partition(": ")[0].partition("; expected")[0]
    assert first in line, (failed, line)
    assert failed[0]["hint"] in line
    return line


def database(path):
    return f"duckdb:///{path}/m.duckdb"


def with_rows(place, export, uri):
    """The sink belongs to another state directory then."""
    other = type(place)(place.folder / "other", place.capsys, place.options)
    ended = other.run(export.option, sinks=[f"--sink={uri}"])
    assert ended.code == 0, ended.err
    return uri


def postgresql(path, **more):
    schema = "v" + hashlib.sha256(str(path).encode()).hexdigest()[:16]
    options = "&".join(f"{name}={value}" for name, value in {"schema": schema, **more}.items())
    return f"{server_for_tests().uri()}?{options}"


class TestGood:
    @pytest.mark.parametrize("name", ["a b", "a#b", "a%b", "ü", "a&b", "it's", "a+b", "[x]*", "~"])
    @pytest.mark.parametrize("scheme", ["duckdb", "file"])
    def test_folders_that_are_not_there_and_odd_names(self, place, export, tmp_path, scheme, name):
        path = f"{tmp_path}/{name}/deeper/{name}"
        uri = f"{scheme}:///{path.replace('%', '%25')}"
        assert_same_verdict(place, export.option, [uri], good=True)
        assert os.path.exists(path)
        assert sorted(os.listdir(tmp_path)) == sorted(["bucket", name, "state"])
        assert_same_verdict(place, export.option, [uri], good=True)

    def test_state_and_export_by_uri(self, place, export, tmp_path):
        """A `file:` URI is a path wherever one is asked for."""
        words = [f"--sink={database(tmp_path)}"]
        for state in (f"file:///{tmp_path}/a%23b/state", f"{tmp_path}/a#b/state"):
            ended = place.run(f"--export=file://{export.root}", sinks=words, state_dir=state)
            assert ended.code == 0, ended.err
        assert json.loads((tmp_path / "a#b/state/state.json").read_text())["round"] > 0
        with duckdb.connect(f"{tmp_path}/m.duckdb", read_only=True) as connection:
            assert connection.execute("SELECT count(*) FROM orders").fetchone() == (40,)

    def test_a_question_mark(self, place, export, tmp_path):
        uri = f"file:{tmp_path}/what%3F?format=parquet"
        assert_same_verdict(place, export.option, [uri], good=True)
        assert list((tmp_path / "what?").rglob("*.parquet"))


class TestRefused:
    def test_no_database(self, place, export, tmp_path):
        (tmp_path / "m.duckdb").write_text("not a database, and long enough to be looked at" * 200)
        line = assert_same_verdict(place, export.option, [database(tmp_path)])
        assert "not a DuckDB database" in line

    def test_held_by_another_process(self, place, export, tmp_path):
        code = (
            "import duckdb, sys; connection = duckdb.connect(sys.argv[1]);"
            "print('open', flush=True); sys.stdin.read()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code, f"{tmp_path}/m.duckdb"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout.readline() == "open\n"
            # A run waits for the file, by default 300 s.
            uri = f"{database(tmp_path)}?retry_seconds=0"
            line = assert_same_verdict(place, export.option, [uri])
            process.communicate("")
        assert "another process holds the file" in line

    def test_of_a_newer_version(self, place, export, tmp_path):
        uri = database(tmp_path)
        assert_same_verdict(place, export.option, [uri], good=True)
        with duckdb.connect(f"{tmp_path}/m.duckdb") as connection:
            connection.execute("UPDATE _dynabeam.last_round SET format = 99")
        assert "Upgrade Dynabeam" in assert_same_verdict(place, export.option, [uri])

    def test_a_changelog_of_a_newer_version(self, place, export, tmp_path):
        uri = f"file:///{tmp_path}/out"
        assert_same_verdict(place, export.option, [uri], good=True)
        (tmp_path / "out" / "_dynabeam.json").write_text('{"format": 99}')
        assert "Upgrade Dynabeam" in assert_same_verdict(place, export.option, [uri])

    def test_a_folder_where_a_file_goes(self, place, export, tmp_path):
        (tmp_path / "m.duckdb").mkdir()
        line = assert_same_verdict(place, export.option, [database(tmp_path)])
        assert "a mirror is a file" in line

    @pytest.mark.parametrize("scheme", ["duckdb", "file"])
    def test_a_file_where_a_folder_goes(self, place, export, tmp_path, scheme):
        (tmp_path / "plain").write_text("")
        for path in ("plain/there", *(["plain"] if scheme == "file" else [])):
            line = assert_same_verdict(place, export.option, [f"{scheme}:///{tmp_path}/{path}"])
            assert "a file is in the way" in line

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    @pytest.mark.parametrize("scheme", ["duckdb", "file"])
    def test_a_folder_that_may_not_be_written(self, place, export, tmp_path, scheme):
        (tmp_path / "locked").mkdir(mode=0o500)
        assert_same_verdict(place, export.option, [f"{scheme}:///{tmp_path}/locked/there"])

    @pytest.mark.parametrize("kind", ["duckdb", "file", "postgresql"])
    def test_of_another_state_directory(self, place, export, tmp_path, kind):
        uri = {
            "duckdb": database(tmp_path),
            "file": f"file:///{tmp_path}/out",
            "postgresql": postgresql(tmp_path),
        }[kind]
        with_rows(place, export, uri)
        line = assert_same_verdict(place, export.option, [uri])
        assert "belongs to state directory" in line

    def test_with_other_options(self, place, export, tmp_path):
        uri = database(tmp_path)
        assert_same_verdict(place, export.option, [uri], good=True)
        line = assert_same_verdict(place, export.option, [f"{uri}?layout=packed"])
        assert "another options" in line

    def test_a_server_that_does_not_answer(self, place, export):
        uri = f"postgresql://nobody@127.0.0.1:{closed_port()}/db?retry_seconds=1"
        assert "See that the server runs" in assert_same_verdict(place, export.option, [uri])

    def test_a_login_that_is_refused(self, place, export, tmp_path):
        uri = postgresql(tmp_path, user="no-such-role")
        assert "no-such-role" in assert_same_verdict(place, export.option, [uri])

    def test_a_role_without_permissions(self, place, export, tmp_path):
        server = server_for_tests()
        name = "r" + hashlib.sha256(str(tmp_path).encode()).hexdigest()[:16]
        server.create_database(name)
        with server.connect(name) as connection:
            connection.execute(
                f"REVOKE ALL ON DATABASE {name} FROM PUBLIC; CREATE ROLE {name} LOGIN;"
                f"GRANT CONNECT ON DATABASE {name} TO {name}"
            )
        assert "GRANT" in assert_same_verdict(place, export.option, [server.uri(name, name)])

    @pytest.mark.parametrize(
        ("uri", "said"),
        [
            ("mongo:///m", "no sink has this scheme"),
            ("duckdb:///m.duckdb?colour=blue", "unknown option"),
            ("file:out?format=csv", "unknown value"),
            ("file://out", "names no folder"),
            ("file:///100%", "%25"),
            ("mirror.duckdb", "not a sink URI"),
            ("~/out", "~ is not resolved"),
        ],
    )
    def test_uris(self, place, export, uri, said):
        assert said in assert_same_verdict(place, export.option, [uri])

    def test_a_package_that_is_missing(self, place, export, monkeypatch):
        entry = SinkModule("a_driver_that_nobody_has", "Sink", extra="driver")
        monkeypatch.setattr(registry, "SINKS", {**SINKS, "odd": entry})
        line = assert_same_verdict(place, export.option, ["odd://host"])
        assert "pip install 'dynabeam[driver]'" in line

    def test_no_sink(self, place, export):
        code, findings = doctor(place, export.option)
        assert (code, findings[0]["status"]) == (1, "failure")
        assert "--sink" in findings[0]["text"] + findings[0]["subject"]
        assert place.run(export.option, sinks=[]).code == 1

    def test_one_that_is_left_out(self, place, export):
        uris = [each.removeprefix("--sink=") for each in place.sinks]
        assert_same_verdict(place, export.option, uris, good=True)
        line = assert_same_verdict(place, export.option, uris[:1])
        assert f"--drop_sink={uris[1]}" in line


class TestKnown:
    def test_new_behind_loading_and_dropped(self, world):
        """Each is told, and none is a failure: the next run brings it up."""
        source = "--tables=orders"
        words = [source, "--s3_export_bucket=exports"]
        world.sim.put_many("orders", [{"id": {"S": "a"}}])
        world.catch_up()
        assert world.run(*words, sinks=world.sinks[:1]).code == 0
        code, findings = doctor(world, *words, *world.sinks)
        assert (code, [each["status"] for each in findings]) == (0, ["ok", "warning"])
        assert "new: whole from round" in findings[1]["text"]
        assert world.run(*words).code == 0
        code, findings = doctor(world, *words, *world.sinks)
        assert (code, "lacks rounds 1 to" in findings[1]["text"]) == (0, True)
        drop = world.sinks[1].replace("--sink", "--drop_sink")
        assert world.run(*words, drop, sinks=world.sinks[:1]).code == 0
        code, findings = doctor(world, *words, *world.sinks[:1])
        assert (code, "dropped after round" in findings[1]["text"]) == (0, True)
        world.mirror.unlink()
        code, findings = doctor(world, *words, *world.sinks[:1])
        assert (code, findings[0]["status"]) == (0, "warning")
        assert "created again" in findings[0]["text"]
        assert not world.mirror.exists()


class TestObjectStore:
    @pytest.mark.parametrize(
        "uri", ["s3://no-such-bucket/a", "s3://no-such-bucket", "s3://no-such-bucket/a#b/c d"]
    )
    def test_a_bucket_that_is_not_there(self, world, tmp_path, uri):
        world.catch_up()
        options = ["--tables=orders", "--snapshot=never"]
        code, findings = doctor(world, *options, f"--sink={uri}")
        failed = [each for each in findings if each["status"] == "failure"]
        assert (code, "the bucket does not exist" in failed[0]["text"]) == (1, True)
        ended = world.run(*options, sinks=[f"--sink={uri}"])
        assert ended.code == 1
        (line,) = ended.err.splitlines()
        assert "the bucket does not exist" in line
        assert uri.partition("://")[2].partition("/")[0] in line
        assert "aws s3 mb s3://no-such-bucket" in line
        assert world.committed() is None

    @pytest.mark.parametrize("name", ["a#b", "a%20b", "a b", "a+b", "ü&", "a?b"])
    def test_odd_prefixes(self, world, name):
        world.sim.create_bucket("lake")
        world.sim.put_many("orders", [{"id": {"S": "a"}}])
        world.catch_up()
        uri = f"s3://lake/{name.replace('%', '%25').replace('?', '%3F')}"
        options = ["--tables=orders", "--snapshot=never"]
        for _ in range(2):
            ended = world.run(
                *options,
                sinks=[f"--sink={uri}?compression=gzip"],
                state_dir=f"s3://lake/state#{name.replace('?', '')}",
            )
            assert ended.code == 0, ended.err
        (key,) = world.sim.objects.keys("lake", f"{name}/orders/")
        assert key.endswith(".jsonl.gz")
        assert world.sim.objects.keys("lake", f"state#{name.replace('?', '')}/state.json")
