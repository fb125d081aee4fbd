# SPDX-License-Identifier: Apache-2.0
"""No secret is ever shown or kept: every command runs with marked ones, and all that it leaves is
searched: what it prints, logs of every level, errors, graphs, pipeline options, state directory,
sinks. A command that is not covered here fails the test.
"""

import bz2
import dataclasses
import json
import logging
import subprocess
import sys
import zlib

import apache_beam as beam
import pytest
from apache_beam.transforms.display import DisplayData

from dynabeam.pipelines.command_line import _COMMANDS, main
from dynabeam.pipelines.continuous.run import add_graph, prepare
from dynabeam.pipelines.options.replicate import parse_replicate
from dynabeam.pipelines.options.runners import continuous_runner
from dynabeam.transforms.sinks.registry import open_sink
from dynabeam.transforms.state.state_directory import StateDirectory
from dynabeam.transforms.testing.faults import Faults
from tests.pipelines.runs import World, orders
from tests.sinks.postgres_server import server_for_tests

MARKS = {
    "secret key": "MARKsecretkeyQ1",
    "session token": "MARKsessiontokenQ2",
    "password": "MARKpassword/Q3",
    "other password": "MARKotherpasswordQ4",
    "external id": "MARKexternalidQ5",
    "wrong password": "MARKwrongpasswordQ6",
}
SCHEMA = "secrets"


@dataclasses.dataclass
class Bench:
    """A world with marked secrets, and all that was seen of runs in it."""

    world: World
    capsys: pytest.CaptureFixture
    log: pytest.LogCaptureFixture
    seen: list

    @property
    def sinks(self):
        """One password by an environment variable, one by a file."""
        server = server_for_tests()
        address = f"127.0.0.1:{server.port}/postgres"
        secret = self.world.folder / "elsewhere" / "password"
        return [
            f"--sink=postgresql://marked:${{env:MARKED_PASSWORD}}@{address}?schema={SCHEMA}1",
            f"--sink=postgresql://marked2@{address}?schema={SCHEMA}2&password=${{file:{secret}}}",
            f"--sink=file:///{self.world.changelog}",
        ]

    @property
    def options(self):
        """Options of all commands that speak to AWS."""
        return [
            *self.world.options,
            "--access_key_id=${env:MARKED_KEY_ID}",
            "--secret_key=${env:MARKED_SECRET}",
        ]

    def run(self, *words):
        """Runs a command; gives its exit code, output and errors."""
        self.capsys.readouterr()
        code = main(list(words))
        out, err = self.capsys.readouterr()
        self.seen += [out, err]
        return code, out, err

    def replicate(self, *options):
        """A run of `replicate` over the table."""
        return self.run(
            "replicate",
            "--tables=orders",
            "--s3_export_bucket=exports",
            *self.options,
            *self.sinks,
            f"--state_dir={self.world.state_dir}",
            "--log_level=debug",
            *options,
        )

    def leaks(self):
        """Names of the secrets that are to be found in what was left, with what stands there."""
        places = [*self.seen, self.log.text]
        for folder in (self.world.state_dir, self.world.changelog, self.world.folder / "extra"):
            places += [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
            places += [str(path) for path in folder.rglob("*")]
        places += _of_database()
        return _found(places)


def _found(places):
    found = set()
    for place in places:
        content = place.encode() if isinstance(place, str) else place
        for name, mark in MARKS.items():
            for form in (mark, mark.replace("/", "%2F"), json.dumps(mark)[1:-1]):
                at = content.find(form.encode())
                if at >= 0:
                    found.add((name, content[max(0, at - 80) : at + 80]))
    return found


def _of_database():
    with server_for_tests().connect() as connection:
        tables = connection.execute(
            "SELECT schemaname, tablename FROM pg_tables WHERE schemaname LIKE %s", [f"{SCHEMA}%"]
        ).fetchall()
        for schema, name in tables:
            rows = connection.execute(f'SELECT t::text FROM "{schema}"."{name}" t').fetchall()
            yield "\n".join(row[0] for row in rows)


@pytest.fixture
def bench(tmp_path, capsys, caplog, monkeypatch):
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    # Set by the command from its options; put back when the test ends.
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "simulated")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", MARKS["secret key"])
    monkeypatch.setenv("AWS_SESSION_TOKEN", MARKS["session token"])
    monkeypatch.setenv("AWS_ENDPOINT_URL", "")
    monkeypatch.setenv("MARKED_KEY_ID", "AKIAMARKED")
    monkeypatch.setenv("MARKED_SECRET", MARKS["secret key"])
    monkeypatch.setenv("MARKED_PASSWORD", MARKS["password"])
    monkeypatch.setenv("MARKED_EXTERNAL_ID", MARKS["external id"])
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "password").write_text(MARKS["other password"] + "\n")
    _make_roles()
    caplog.set_level(logging.DEBUG)
    seen = []
    _watch_graphs(monkeypatch, seen)
    world = World(tmp_path, capsys)
    with world.sim:
        world.sim.put_many("orders", orders(3))
        world.catch_up()
        yield Bench(world, capsys, caplog, seen)


def _make_roles():
    with server_for_tests().connect() as connection:
        for role, mark in (("marked", "password"), ("marked2", "other password")):
            connection.execute(
                "DO $$ BEGIN CREATE ROLE with_password; "
                "EXCEPTION WHEN duplicate_object THEN NULL; END $$; "
                f"DO $$ BEGIN CREATE ROLE {role} LOGIN; "
                "EXCEPTION WHEN duplicate_object THEN NULL; END $$; "
                f"GRANT with_password TO {role}; ALTER ROLE {role} PASSWORD '{MARKS[mark]}'; "
                f"GRANT CREATE, TEMPORARY ON DATABASE postgres TO {role}; "
                f"DROP SCHEMA IF EXISTS {SCHEMA}1 CASCADE; DROP SCHEMA IF EXISTS {SCHEMA}2 CASCADE"
            )


def _watch_graphs(monkeypatch, seen):
    """Every graph that is run: as proto, pickled parts unpacked, with display data and options."""
    run = beam.Pipeline.run

    def watched(pipeline, *arguments, **named):
        seen.extend(_graph_texts(pipeline))
        return run(pipeline, *arguments, **named)

    monkeypatch.setattr(beam.Pipeline, "run", watched)


def _graph_texts(pipeline):
    packed, texts = [], []
    with pytest.MonkeyPatch.context() as patch:
        for module in (bz2, zlib):
            compress = module.compress

            def watched(data, *arguments, _compress=compress, **named):
                packed.append(bytes(data))
                return _compress(data, *arguments, **named)

            patch.setattr(module, "compress", watched)
        proto = pipeline.to_runner_api()
    options = pipeline._options
    texts += [proto.SerializeToString(), str(proto), *packed]
    texts += [repr(options.get_all_options()), repr(DisplayData.create_from(options).items)]
    return texts


def _replicate(bench):
    code, _, err = bench.replicate()
    assert code == 0, err
    wrong = MARKS["wrong password"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MARKED_PASSWORD", wrong)
        code, _, err = bench.replicate()
    assert code == 1
    assert "password authentication failed" in err
    for action in ("dynamodb:DescribeTable", "dynamodb:GetRecords"):
        bench.world.sim.faults = Faults(denied_actions={action})
        code, _, err = bench.replicate()
        assert code == 1
        assert f"refused {action}" in err
    bench.world.sim.faults = Faults()
    sinks = [
        "--sink=postgres://u:MARKwrongpasswordQ6@h/d",
        "--sink=postgres://u@h/d?sslpassword=" + wrong,
    ]
    for sink in sinks:
        assert bench.replicate(sink)[0] == 1


def _deploy(bench):
    """What a start of a continuous run writes and hands to its runner."""
    options = parse_replicate(
        [
            *("--mode=continuous", "--tables=orders", "--s3_export_bucket=exports"),
            *bench.options,
            *bench.sinks,
            f"--state_dir={bench.world.state_dir}",
        ]
    )
    sinks = [open_sink(each) for each in options.sinks]
    directory = StateDirectory(options.state_dir)
    with directory.locked():
        state, folder = prepare(
            options, directory, sinks, continuous_runner(["--runner=PrismRunner"])
        )
    pipeline = beam.Pipeline()
    add_graph(pipeline, options, sinks, state.state_id, folder)
    bench.seen.extend(_graph_texts(pipeline))
    bench.seen.append(repr(options))


def _add(bench):
    _deploy(bench)
    bench.world.create("other")
    words = ("--s3_export_bucket=exports", f"--state_dir={bench.world.state_dir}")
    code, out, err = bench.run("add", "--tables=orders,other", *bench.options, *bench.sinks, *words)
    assert code == 0, err
    assert "other: added" in out


def _plan(bench):
    code, _, err = bench.run("plan", "--tables=orders", *bench.options, *bench.sinks)
    assert code == 0, err
    bench.world.sim.faults = Faults(denied_actions={"dynamodb:DescribeTable"})
    assert bench.run("plan", "--tables=orders", *bench.options, *bench.sinks)[0] == 1


def _setup(bench):
    role = "arn:aws:iam::111122223333:role/tables"
    bench.world.sim.sts.add_role(role, external_id=MARKS["external id"])
    as_role = (f"--role_arn={role}", "--external_id=${env:MARKED_EXTERNAL_ID}")
    options = ("--tables=orders", "--s3_export_bucket=exports", *bench.options, *bench.sinks)
    code, out, err = bench.run("setup", *options, *as_role)
    assert code == 0, err
    assert "REPLACE-env-MARKED_EXTERNAL_ID" in out
    assert bench.run("setup", "--apply", "--yes", *options, *as_role)[0] == 0
    bench.world.sim.set_policies("AKIAMARKED", [])
    as_other = ("--role_arn=arn:aws:iam::111122223333:role/other", as_role[1])
    assert bench.run("setup", "--apply", "--yes", *options, *as_other)[0] == 1


def _letters(bench):
    """A mirror refuses a row; then the letters are shown and put back."""
    assert bench.replicate("--snapshot=never")[0] == 0
    with server_for_tests().connect() as connection:
        connection.execute(f'ALTER TABLE {SCHEMA}1."orders$rows" ADD CHECK (total < 5)')
    bench.world.sim.put_many("orders", orders(1, start=7))
    bench.world.age()
    code, out, err = bench.replicate("--snapshot=never")
    assert code == 0, err
    assert "1 dead letters" in out


def _letters_shown_and_put_back(bench):
    _letters(bench)
    place = f"--state_dir={bench.world.state_dir}"
    assert bench.run("dead_letters", place)[0] == 0
    code, out, _ = bench.run("dead_letters", place, "--json")
    assert (code, json.loads(out)["error"]) == (0, "CheckViolation 23514")
    out = bench.run("retry", *bench.options, *bench.sinks, place)[1]
    assert out.startswith("0 dead letters replayed, 1 failed again")


def _snapshot(bench):
    """Ordered, looked at, cancelled; and what cannot be ordered."""
    assert bench.replicate("--snapshot=never")[0] == 0
    words = ("snapshot", f"--state_dir={bench.world.state_dir}", *bench.options, *bench.sinks)
    for more in ((), ("--status",), ("--cancel",)):
        code, _, err = bench.run(*words, "--tables=orders", *more)
        assert code == 0, err
    assert bench.run(*words, "--tables=other")[0] == 1


def _demo(bench):
    """In a process of its own: its simulator would fill the log of this one."""
    folder = bench.world.folder / "extra"
    done = subprocess.run(
        [sys.executable, "-m", "dynabeam.pipelines.demo", "--seconds=0.1", f"--dir={folder}"],
        capture_output=True,
        check=False,
    )
    bench.seen += [done.stdout, done.stderr]
    assert done.returncode == 0, done.stderr


def _doctor(bench):
    words = ("--tables=orders", "--s3_export_bucket=exports", *bench.options, *bench.sinks)
    place = f"--state_dir={bench.world.state_dir}"
    code, out, err = bench.run("doctor", *words, place)
    assert code == 0, out + err
    assert bench.run("doctor", *words, place, "--json")[0] == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MARKED_PASSWORD", MARKS["wrong password"])
        code, out, _ = bench.run("doctor", *words, place)
    assert code == 1
    assert "password authentication failed" in out


def _status(bench):
    assert bench.replicate("--snapshot=never")[0] == 0
    place = f"--state_dir={bench.world.state_dir}"
    assert "orders" in bench.run("status", place)[1]
    assert json.loads(bench.run("status", place, "--json")[1])


def _audit(bench):
    bench.world.age()
    code, _, err = bench.replicate()
    assert code == 0, err
    folder = bench.world.folder / "extra"
    folder.mkdir()
    words = ("--tables=orders", "--s3_export_bucket=exports", *bench.options, bench.sinks[0])
    place = f"--state_dir={bench.world.state_dir}"
    files = (f"--report={folder / 'audit.html'}", f"--json={folder / 'audit.json'}")
    code, out, err = bench.run("audit", *words, place, *files)
    assert code == 0, out + err
    assert len(list(folder.iterdir())) == 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MARKED_PASSWORD", MARKS["wrong password"])
        assert bench.run("audit", *words, place)[0] == 2


def _templates(bench):
    """What is launched with secrets is in `tests.templates.test_main`."""
    for words in (("spec", "--image=registry/p/dynabeam:1"), ("metadata", "--template=rounds")):
        assert bench.run("templates", *words)[0] == 0


def _launch(bench):
    """What is sent, and kept, of secrets is in `tests.launch` and `tests.templates.test_main`."""
    nowhere = f"--state_dir={bench.world.folder / 'nothing launched'}"
    for words in (("status",), ("cancel",), ("savepoint", "--stop")):
        assert bench.run("launch", *words, nowhere)[0] == 1


COVERED = {
    "replicate": _replicate,
    "doctor": _doctor,
    "status": _status,
    "audit": _audit,
    "add": _add,
    "snapshot": _snapshot,
    "plan": _plan,
    "setup": _setup,
    "dead_letters": _letters_shown_and_put_back,
    "retry": _letters_shown_and_put_back,
    "templates": _templates,
    "launch": _launch,
    "demo": _demo,
}


def test_every_command_is_covered():
    assert COVERED.keys() == _COMMANDS.keys(), "say here how a new command is run with secrets"


@pytest.mark.parametrize("runs", dict.fromkeys(COVERED.values()), ids=lambda each: each.__name__)
def test_no_secret_is_shown_or_kept(bench, runs):
    runs(bench)
    assert bench.log.text or runs in (_demo, _templates, _launch)
    assert bench.leaks() == set()


def test_what_is_searched_would_be_found(bench):
    """A secret in any of the places is found, so the other test can fail."""

    class Careless(beam.DoFn):
        def __init__(self, secret):
            self.secret = secret

        def process(self, element):
            yield element

    pipeline = beam.Pipeline()
    _ = pipeline | beam.Create([1]) | beam.ParDo(Careless(MARKS["secret key"]))
    bench.seen.extend(_graph_texts(pipeline))
    logging.getLogger("anybody").debug("token %s", MARKS["session token"])
    bench.world.state_dir.mkdir(parents=True)
    (bench.world.state_dir / "x.json").write_text(json.dumps(MARKS["password"]))
    sys.stdout.write(MARKS["external id"])
    bench.seen.append(bench.capsys.readouterr().out)
    found = {name for name, _ in bench.leaks()}
    assert found == {"secret key", "session token", "password", "external id"}
