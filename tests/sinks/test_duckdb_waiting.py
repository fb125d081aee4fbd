# SPDX-License-Identifier: Apache-2.0
"""Others that hold the DuckDB file: a run waits for them, says so, and names them in the end."""

import contextlib
import os
import subprocess
import sys
import threading
import time

import duckdb
import pytest

from dynabeam.transforms.errors import ConfigurationError, SinkError
from dynabeam.transforms.sinks.duckdb import database as duckdb_database
from dynabeam.transforms.sinks.registry import open_sink
from tests.sinks.changes import NO_ROUND, Change, blocks, round_number, table

ORDERS = table()
HOLDER = """
import duckdb, sys
connection = duckdb.connect(sys.argv[1], read_only=sys.argv[2] == "read")
print(connection.sql("SELECT count(*) FROM orders").fetchall(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path):
    made = tmp_path / "m.duckdb"
    open_sink(f"duckdb:///{made}").check([ORDERS], NO_ROUND)
    return made


@contextlib.contextmanager
def held(path, how):
    """Another process that has the file open until its input ends."""
    command = [sys.executable, "-c", HOLDER, str(path), how]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline().startswith("[(")
        yield process
        process.stdin.close()


def change():
    return blocks(ORDERS, [Change(1, {"id": {"S": "a"}})])


class Sleep:
    """Lets the holder go after some waits."""

    def __init__(self, waits, let_go):
        self.waits = waits
        self.let_go = let_go

    def __call__(self, seconds):
        assert 0 < seconds <= 1
        self.waits -= 1
        if self.waits == 0:
            self.let_go()


@pytest.mark.parametrize("how", ["read", "write"])
def test_a_round_waits_until_the_file_is_free(path, how, monkeypatch, caplog):
    sink = open_sink(f"duckdb:///{path}")
    with held(path, how) as process:

        def let_go():
            process.stdin.close()
            process.wait()

        monkeypatch.setattr(duckdb_database.time, "sleep", Sleep(3, let_go))
        (report,) = sink.apply(change(), round_number(1))
    assert report.fields["written"] == 1
    waiting, free = [each.getMessage() for each in caplog.records]
    assert f"process {process.pid}" in waiting
    assert "waiting up to 300 s" in waiting
    assert sink.name in waiting
    assert "the file is free after" in free


@pytest.mark.parametrize("how", ["read", "write"])
def test_in_the_end_the_error_names_who_holds_it(path, how):
    sink = open_sink(f"duckdb:///{path}?retry_seconds=0.5")
    with held(path, how) as process:
        began = time.monotonic()
        with pytest.raises(SinkError) as caught:
            sink.apply(change(), round_number(1))
        assert time.monotonic() - began >= 0.5
    for said in (f"process {process.pid}", os.path.basename(sys.executable)[:6], "retry_seconds"):
        assert said in str(caught.value)
    assert caught.value.hint
    (report,) = sink.apply(change(), round_number(1))
    assert report.fields["written"] == 1


def test_every_opening_for_writing_waits(path, monkeypatch):
    sink = open_sink(f"duckdb:///{path}")
    steps = [
        lambda: sink.check([ORDERS], NO_ROUND),
        lambda: sink.apply(change(), round_number(1)),
        lambda: sink.remove_older_generations(ORDERS, 2),
    ]
    for step in steps:
        with held(path, "read") as process:

            def let_go(process=process):
                process.stdin.close()
                process.wait()

            sleep = Sleep(1, let_go)
            monkeypatch.setattr(duckdb_database.time, "sleep", sleep)
            step()
            assert sleep.waits == 0


def test_a_connection_of_this_process_is_waited_for(path, caplog):
    sink = open_sink(f"duckdb:///{path}")
    connection = duckdb.connect(str(path), read_only=True)
    timer = threading.Timer(0.6, connection.close)
    timer.start()
    (report,) = sink.apply(change(), round_number(1))
    timer.join()
    assert report.fields["written"] == 1
    assert "a connection of this process" in caplog.text


def test_looking_does_not_wait(path, monkeypatch):
    def never(seconds):
        raise AssertionError(seconds)

    monkeypatch.setattr(duckdb_database.time, "sleep", never)
    with held(path, "read") as process, pytest.raises(SinkError, match=f"process {process.pid}"):
        open_sink(f"duckdb:///{path}").without_waiting().examine([ORDERS], NO_ROUND)


def test_what_is_no_lock_is_not_tried_again(tmp_path, monkeypatch):
    def never(seconds):
        raise AssertionError(seconds)

    monkeypatch.setattr(duckdb_database.time, "sleep", never)
    (tmp_path / "m.duckdb").write_text("id,name\n" * 1000)
    with pytest.raises(SinkError, match="not a DuckDB database"):
        open_sink(f"duckdb:///{tmp_path}/m.duckdb").check([ORDERS], NO_ROUND)


@pytest.mark.parametrize("text", ["soon", "-1", "", "1s", "nan"])
def test_a_time_that_is_none(text):
    with pytest.raises(ConfigurationError, match="retry_seconds"):
        open_sink(f"duckdb:///m.duckdb?retry_seconds={text}")
