# SPDX-License-Identifier: Apache-2.0
"""Logs: lines that parse, levels, and no secret in any of them."""

from __future__ import annotations

import io
import json
import logging

import pytest

from dynabeam.transforms.secrets import MASK, masked, resolve_secrets
from dynabeam.transforms.telemetry.logs import set_up_logs, set_up_worker_logs, writes_json

SECRET = "c0rrect/horse battery"
QUOTED = "c0rrect%2Fhorse%20battery"


@pytest.fixture(autouse=True)
def as_before():
    """Gives the process its log back."""
    root, own = logging.getLogger(), [logging.getLogger(n) for n in ("dynabeam",)]
    handlers, levels = list(root.handlers), [each.level for each in (root, *own)]
    yield
    root.handlers[:] = handlers
    for each, level in zip((root, *own), levels, strict=True):
        each.setLevel(level)


@pytest.fixture
def secret():
    """A secret that was resolved in this process."""
    assert resolve_secrets("${env:WORD}", {"WORD": SECRET}) == SECRET


def fail():
    raise ValueError(f"could not connect to postgresql://u:{QUOTED}@db")


def log_all(stream):
    """Logs in every way in which text can get into a record."""
    logger = logging.getLogger("dynabeam.test")
    logger.warning("with %s as %d", "words", 2, extra={"table": "orders", "shard": "shardId-1"})
    logger.warning("the password is %s", SECRET)
    try:
        fail()
    except ValueError:
        logger.exception("no connection")
    return stream.getvalue()


class TestJson:
    def test_fields(self):
        stream = io.StringIO()
        set_up_logs("json", "info", stream)
        lines = [json.loads(line) for line in log_all(stream).splitlines()]
        first, _, failed = lines
        assert first.pop("time").endswith("+00:00")
        assert first == {
            "level": "warning",
            "logger": "dynabeam.test",
            "message": "with words as 2",
            "table": "orders",
            "shard": "shardId-1",
        }
        assert "Traceback" in failed["error"]
        assert writes_json()

    @pytest.mark.usefixtures("secret")
    @pytest.mark.parametrize("log_format", ["text", "json"])
    def test_secrets_are_masked(self, log_format):
        stream = io.StringIO()
        set_up_logs(log_format, "info", stream)
        text = log_all(stream)
        assert SECRET not in text
        assert QUOTED not in text
        assert text.count(MASK) >= 2

    def test_levels(self):
        stream = io.StringIO()
        set_up_logs("json", "warning", stream)
        logging.getLogger("dynabeam.test").info("not this")
        logging.getLogger("apache_beam.test").warning("nor this")
        logging.getLogger("dynabeam.test").warning("this")
        logging.getLogger("apache_beam.test").error("and this")
        found = [json.loads(line)["message"] for line in stream.getvalue().splitlines()]
        assert found == ["this", "and this"]


class RunnerHandler(logging.Handler):
    """Takes records as Beam's handler does: the message formatted, the traceback by itself."""

    def __init__(self):
        super().__init__()
        self.taken = []

    def emit(self, record):
        text = self.format(record)
        if record.exc_info:
            text += "".join(str(each) for each in record.exc_info)
        self.taken.append(text)


@pytest.mark.usefixtures("secret")
@pytest.mark.parametrize("log_format", ["", "json"])
def test_worker_logs_keep_the_runners_handler(log_format):
    handler = RunnerHandler()
    logging.getLogger().addHandler(handler)
    set_up_worker_logs(log_format, "info")
    set_up_worker_logs(log_format, "info")
    log_all(io.StringIO())
    assert len(handler.taken) == 3
    assert SECRET not in str(handler.taken)
    assert QUOTED not in str(handler.taken)
    if log_format:
        assert [json.loads(each)["level"] for each in handler.taken[:2]] == ["warning"] * 2
    assert "could not connect" in handler.taken[2]


@pytest.mark.usefixtures("secret")
def test_masks_what_is_known_only(monkeypatch):
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token-of-today")
    assert masked(f"{SECRET}, token-of-today, tok") == f"{MASK}, {MASK}, tok"


def test_a_run_logs_lines_of_json(world):
    world.sim.put_many("orders", [{"id": {"S": "a"}}])
    world.age()
    world.catch_up()
    ended = world.run("--tables=orders", "--snapshot=never", "--log_format=json")
    assert ended.code == 0, ended.err
    lines = [json.loads(line) for line in ended.err.splitlines()]
    (first, *_) = [each for each in lines if each["message"].startswith("round committed")]
    assert (first["table"], first["changes"], first["round"]) == ("orders", 1, 1)


def test_a_failed_run_says_why_in_json(world):
    ended = world.run("--tables=ordres", "--snapshot=never", "--log_format=json")
    assert ended.code == 1
    (line,) = [json.loads(line) for line in ended.err.splitlines()]
    assert line["level"] == "error"
    assert "TableError" in line["message"]
