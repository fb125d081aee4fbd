# SPDX-License-Identifier: Apache-2.0
"""`dynabeam dead_letters`, `dynabeam retry` and `--max_dead_letters`."""

import base64
import dataclasses
import json
import re
import subprocess
import sys

import apache_beam as beam
import pytest

from dynabeam.pipelines.command_line import main
from dynabeam.pipelines.continuous.deployments import begin
from dynabeam.transforms.continuous.control_folder import ControlFolder
from dynabeam.transforms.continuous.fatal_errors import load_fatal_errors
from dynabeam.transforms.continuous.keep_dead_letters import KeepDeadLetters
from dynabeam.transforms.dead_letters.store import DeadLetterStore
from dynabeam.transforms.model.dead_letter import DeadLetter
from dynabeam.transforms.sinks.registry import open_sink
from dynabeam.transforms.state.state_directory import StateDirectory
from dynabeam.transforms.stream import page_parser
from tests.dead_letters.test_store import LETTER, later
from tests.pipelines.runs import ExportFolder, orders
from tests.pipelines.test_bad_input import spoil
from tests.sinks.postgres_server import server_for_tests
from tests.sinks.targets import postgresql_uri, schema_of

NEVER = ("--tables=orders", "--snapshot=never")


def run(place, command, *options):
    place.capsys.readouterr()
    code = main([command, f"--state_dir={place.state_dir}", *options])
    return code, *place.capsys.readouterr()


def retry(place, *options):
    return run(place, "retry", *place.options, *place.sinks, *options)


def changes_of(place, name):
    """The changes of an item in the changelog."""
    lines = [line for path in place.published() for line in path.read_text().splitlines()]
    return [each for each in map(json.loads, lines) if each["keys"]["id"]["S"] == name]


def states(place):
    box = DeadLetterStore(str(place.state_dir))
    return {each.severity: each for each in box.read()}


@pytest.fixture
def spoiled(world):
    """A run has met one record that it cannot read, `o2`, under a bug that is then fixed."""
    world.sim.put_many("orders", orders(4))
    world.catch_up()
    with pytest.MonkeyPatch.context() as bug:
        bug.setattr(page_parser, "_fast_decoder", lambda _: None)
        parse = page_parser.PageParser._row

        def row(parser, record):
            if b'"o2"' in record:
                raise page_parser.ValueDecodeError("a bug")
            return parse(parser, record)

        bug.setattr(page_parser.PageParser, "_row", row)
        ended = world.run(*NEVER)
    assert ended.code == 0, ended.err
    assert world.rows() == [("o0",), ("o1",), ("o3",)]
    return world


class TestShow:
    def test_list_json_and_payload(self, place, tmp_path):
        bad = [b'{"Item":{"id":{"S":"x"', b"\xff\xfe no json"]
        lines = [json.dumps({"Item": orders(1)[0]}).encode(), *bad]
        export = ExportFolder(tmp_path / "bucket", lines=lines)
        ended = place.run(export.option)
        assert f"2 dead letters are in {place.state_dir}/dead_letters" in ended.out
        code, out, _ = run(place, "dead_letters")
        assert code == 0
        assert out.count("severe") == 2
        assert f"{export.data}:2" in out
        assert re.search(r"1 x  first 20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", out)
        _, out, _ = run(place, "dead_letters", "--json", "--tables=orders")
        found = [json.loads(line) for line in out.splitlines()]
        assert {each["error"] for each in found} == {"ValueDecodeError"}
        assert {each["origin"]["line"] for each in found} == {"2", "3"}
        assert {base64.b64decode(each["raw"]) for each in found} == set(bad)
        assert run(place, "dead_letters", "--json", "--tables=other")[1] == ""
        process = [
            sys.executable,
            "-m",
            "dynabeam.pipelines.dead_letters",
            f"--state_dir={place.state_dir}",
        ]
        shown = {
            subprocess.run(
                [*process, f"--show={each['id']}"], capture_output=True, check=True
            ).stdout
            for each in found
        }
        assert shown == {each + b"\n" for each in bad}

    def test_an_unknown_id(self, place):
        code, _, err = run(place, "dead_letters", "--show=00")
        assert code == 1
        assert "no dead letter has this id" in err


class TestRetry:
    def test_a_record_is_put_back_once_and_an_old_one_loses(self, spoiled):
        world = spoiled
        assert retry(world)[:2] == (0, "0 dead letters replayed, 0 failed again\n")
        code, out, err = retry(world, "--severe")
        assert (code, out) == (0, "1 dead letters replayed, 0 failed again\n"), err
        assert world.rows() == [("o0",), ("o1",), ("o2",), ("o3",)]
        assert len(changes_of(world, "o2")) == 1
        assert world.dead_letters() == []
        assert len(list((world.state_dir / "dead_letters/done").glob("*.jsonl"))) == 1
        ended = world.run(*NEVER)
        assert ended.code == 0, ended.err
        assert "0 dead letters" in ended.out
        assert len(changes_of(world, "o2")) == 1

    def test_an_old_change_put_back_late_replaces_nothing(self, spoiled):
        world = spoiled
        world.sim.put_many("orders", [{"id": {"S": "o2"}, "total": {"N": "99"}}])
        world.age()
        assert world.run(*NEVER).code == 0
        assert retry(world, "--severe")[0] == 0
        assert dict(world.rows(columns="id, total"))["o2"] == 99
        assert len(changes_of(world, "o2")) == 2

    @pytest.mark.parametrize("at", ["commit", "publish", "keep"])
    def test_a_crash(self, spoiled, monkeypatch, at):
        world = spoiled
        place, name = {
            "commit": (StateDirectory, "commit"),
            "publish": (StateDirectory, "keep_dead_letters"),
            "keep": (DeadLetterStore, "done"),
        }[at]

        def die(*_, **__):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(place, name, die)
            assert retry(world, "--severe")[0] == 130
        ended = world.run(*NEVER)
        assert ended.code == 0, ended.err
        assert retry(world, "--severe")[0] == 0
        assert world.rows() == [("o0",), ("o1",), ("o2",), ("o3",)]
        assert len(changes_of(world, "o2")) == 1
        assert world.dead_letters() == []

    def test_what_fails_again_is_counted(self, world):
        world.sim.put_many("orders", orders(2))
        world.catch_up()
        (record,) = spoil(world.sim, b'"o1"')
        assert world.run(*NEVER).code == 0
        for attempts in (2, 3):
            code, out, _ = retry(world, "--severe")
            assert (code, out) == (1, "0 dead letters replayed, 1 failed again\n")
            letter = states(world)["severe"]
            assert (letter.attempts, letter.raw) == (attempts, record)
            assert letter.first_us < letter.last_us
        assert "1 dead letters" in world.run(*NEVER).out

    def test_a_line_of_an_export(self, place, tmp_path):
        good = json.dumps({"Item": orders(1)[0]}).encode()
        export = ExportFolder(tmp_path / "bucket", lines=[good, b'{"Itme":{"id":{"S":"y"}}}'])
        assert place.run(export.option).code == 0
        (path,) = place.state_dir.glob("dead_letters/letters/*.jsonl")
        letter = json.loads(path.read_text())
        # The letter says all that is needed, so a version that can read the line puts it back.
        letter["raw"] = base64.b64encode(b'{"Item":{"id":{"S":"y"}}}').decode()
        path.unlink()
        DeadLetterStore(str(place.state_dir)).keep(
            [DeadLetter.from_line(json.dumps(letter).encode())]
        )
        code, out, err = retry(place, "--severe")
        assert (code, out) == (0, "1 dead letters replayed, 0 failed again\n"), err
        assert place.rows() == [("o0",), ("y",)]

    def test_a_letter_of_an_older_version(self, spoiled):
        world = spoiled
        (path,) = world.state_dir.glob("dead_letters/letters/*.jsonl")
        letter = json.loads(path.read_text())
        path.unlink()
        old = {name: letter[name] for name in ("table", "stage", "place", "reason", "raw")}
        (world.state_dir / "dead_letters/round-0000000001.jsonl").write_text(json.dumps(old) + "\n")
        assert "severe" in run(world, "dead_letters")[1]
        assert retry(world, "--severe")[0] == 0
        assert len(world.rows()) == 4

    def test_left_alone(self, spoiled):
        world = spoiled
        path = world.state_dir / "state.json"
        document = json.loads(path.read_text())
        document["tables"]["orders"]["generation"] = 2
        path.write_text(json.dumps(document))
        code, out, _ = retry(world, "--severe")
        assert code == 0
        assert "1 left alone: table orders was healed or snapshotted again" in out
        assert len(world.dead_letters()) == 1


class TestRowsThatASinkRefuses:
    @pytest.fixture
    def sink(self, world, tmp_path):
        text = postgresql_uri("postgresql://SERVER", tmp_path)
        world.sinks = [f"--sink={text}", f"--sink=file:///{world.changelog}"]
        world.sim.put_many("orders", orders(3))
        world.catch_up()
        assert world.run(*NEVER).code == 0
        self.change(open_sink(text), "ADD CONSTRAINT small CHECK (total < 5)")
        world.sim.put_many("orders", orders(3, start=4))
        world.age()
        return open_sink(text)

    def change(self, sink, what):
        with server_for_tests().connect() as connection:
            connection.execute(f'ALTER TABLE {schema_of(sink)}."orders$rows" {what}')

    def rows(self, sink):
        with server_for_tests().connect() as connection:
            return connection.execute(
                f"SELECT id FROM {schema_of(sink)}.orders ORDER BY 1"
            ).fetchall()

    def test_in_rounds(self, world, sink):
        ended = world.run(*NEVER)
        assert ended.code == 0, ended.err
        assert "2 dead letters" in ended.out
        assert self.rows(sink) == [("o0",), ("o1",), ("o2",), ("o4",)]
        assert retry(world, "--max_retries=2")[1] == "0 dead letters replayed, 2 failed again\n"
        assert states(world).keys() == {"retry"}
        assert retry(world, "--max_retries=2")[1] == "0 dead letters replayed, 2 failed again\n"
        assert states(world).keys() == {"severe"}
        self.change(sink, "DROP CONSTRAINT small")
        code, out, err = retry(world, "--severe")
        assert (code, out) == (0, "2 dead letters replayed, 0 failed again\n"), err
        assert len(self.rows(sink)) == 6
        # The changelog had taken them the first time.
        assert len(changes_of(world, "o5")) == 1

    def test_beside_a_continuous_run(self, world, sink):
        assert world.run(*NEVER).code == 0
        directory = StateDirectory(str(world.state_dir))
        with directory.locked():
            state = directory.load()
            begin(directory, state)
            directory.commit(state)
        self.change(sink, "DROP CONSTRAINT small")
        code, out, err = retry(world)
        assert (code, out) == (0, "2 dead letters replayed, 0 failed again\n"), err
        assert len(self.rows(sink)) == 6
        assert directory.load() == state
        assert world.dead_letters() == []

    def test_a_sink_that_is_not_given_is_left_alone(self, world, sink):
        assert world.run(*NEVER).code == 0
        words = ["retry", *world.options, f"--sink=file:///{world.changelog}", "--severe"]
        code, _, err = run(world, *words)
        drop = f"--drop_sink={sink.name}"
        assert (code, drop in err) == (1, True)
        _, out, _ = run(world, *words, drop)
        assert "2 left alone: refused by postgresql://" in out


class TestLimit:
    def export(self, folder, bad):
        good = json.dumps({"Item": orders(1)[0]}).encode()
        return ExportFolder(folder, lines=[good, *(b"bad%d" % each for each in range(bad))])

    def test_a_round_is_not_committed(self, place, tmp_path):
        export = self.export(tmp_path / "bucket", 3)
        for _ in range(2):
            ended = place.run(export.option, "--max_dead_letters=2")
            assert ended.code == 1
            (line,) = ended.error_lines
            assert "3 dead letters, more than the limit of 2" in line
            assert f"{export.data}:2" in line
            # The mirror is a round ahead, as after a crash; nothing else has moved.
            assert (place.committed(), place.published()) == (None, [])
            assert (
                "3 more of a round that --max_dead_letters stopped" in run(place, "dead_letters")[1]
            )
        ended = place.run(export.option, "--max_dead_letters=3")
        assert ended.code == 0, ended.err
        assert "3 dead letters" in ended.out
        assert "3 dead letters in" in run(place, "dead_letters")[1]
        assert "stopped" not in run(place, "dead_letters")[1]

    def test_a_flood_is_stopped_as_it_comes_or_kept_in_a_few_files(self, place, tmp_path):
        export = self.export(tmp_path / "bucket", 12_000)
        ended = place.run(export.option)
        assert ended.code == 1
        assert "10,001 dead letters, more than the limit of 10,000" in ended.error_lines[0]
        assert place.committed() is None
        ended = place.run(export.option, "--max_dead_letters=none")
        assert ended.code == 0, ended.err
        assert len(place.dead_letters()) == 12_000
        assert len(list(place.state_dir.glob("dead_letters/*/*"))) < 5
        assert place.rows() == [("o0",)]

    def test_not_a_number(self, place, tmp_path):
        ended = place.run(self.export(tmp_path / "b", 0).option, "--max_dead_letters=many")
        assert "--max_dead_letters" in ended.error_lines[0]

    def test_a_continuous_job_fails(self, tmp_path):
        folder = str(tmp_path / "continuous" / "abc")
        letters = [LETTER, later(LETTER, 5)]

        def keep(found):
            with beam.Pipeline(runner="FnApiRunner") as pipeline:
                _ = pipeline | beam.Create(found) | KeepDeadLetters(folder, 1)

        keep(letters)
        with pytest.raises(Exception, match="2 dead letters, more than the limit of 1"):
            keep([*letters, dataclasses.replace(LETTER, raw=b"x")])
        assert DeadLetterStore(str(tmp_path)).counts() == {"orders": 2}
        error = load_fatal_errors(ControlFolder(folder))["orders"]
        assert "2 dead letters, more than the limit of 1" in error
