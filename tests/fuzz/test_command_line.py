# SPDX-License-Identifier: Apache-2.0
"""Words after `dynabeam`: understood, or refused in a few lines; no traceback, no call, no file."""

import os
import socket

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dynabeam.pipelines.audit.options import parse_audit
from dynabeam.pipelines.command_line import main
from dynabeam.pipelines.options.replicate import parse_replicate
from dynabeam.transforms.errors import DynabeamError
from tests.fuzz.cases import cases

COMMANDS = [
    "replicate",
    "add",
    "doctor",
    "setup",
    "snapshot",
    "plan",
    "dead_letters",
    "retry",
    "status",
    "audit",
]
OPTIONS = [
    *(
        "--tables",
        "--sink",
        "--state_dir",
        "--export",
        "--region",
        "--gaps",
        "--start",
        "--readers",
    ),
    *(
        "--exclude_tables",
        "--tables_tagged",
        "--snapshot",
        "--verify",
        "--mode",
        "--max_dead_letters",
    ),
    *(
        "--buckets",
        "--runner",
        "--round_bytes",
        "--endpoint_url",
        "--export_bucket",
        "--keys",
        "--help",
    ),
    *(
        "--table",
        "--sinks",
        "--sta",
        "--",
        "-",
        "-x",
        "--\u00e9",
        "--sink\x00",
        "--TABLES",
        "--no-such",
    ),
    *("--streaming", "--save_main_session", "--job_name", "--temp_location", "--experiments"),
]
VALUES = [
    *(
        "",
        " ",
        "orders",
        "*",
        "[",
        "a,b",
        ",",
        "orders,",
        "-1",
        "0",
        "1e9",
        "NaN",
        "9" * 400,
        "\u0661",
    ),
    *(
        "file:///nowhere/x",
        "file:",
        "duckdb:///",
        "duckdb:////x?threads=0",
        "postgresql://h:x/",
        "s3://",
    ),
    *(
        "file:///x?format=\x00",
        "file:///x#f",
        "http://[",
        "duckdb:///m?a=1&a=2",
        "x://y",
        "://",
        "a:b",
    ),
    *(
        "orders=id:S",
        "orders=id",
        "t:heal",
        "heal",
        "t:heal,t:fail",
        "latest",
        "2026-13-01T00:00:00Z",
    ),
    *(
        "2026-01-01T00:00:00",
        "\x00",
        "a\nb",
        "\x1b[31m",
        "\u202e",
        "\ud800",
        "\U0001f600",
        "../..",
        "~",
    ),
    *("%s", "{0}", "$(x)", "`x`", "'", '"', "\\", "arn:aws:dynamodb:eu-west-1:1:table/x", "true"),
]

words = st.one_of(
    st.sampled_from(OPTIONS),
    st.builds(
        lambda name, value: f"{name}={value}", st.sampled_from(OPTIONS), st.sampled_from(VALUES)
    ),
    st.sampled_from(VALUES),
    st.text(max_size=12),
    st.text(max_size=8).map(lambda text: f"--{text}"),
)


class _ForbiddenError(Exception):
    """Nothing that is refused calls anybody."""


@pytest.fixture(scope="module", autouse=True)
def _nowhere(tmp_path_factory):
    """An empty folder, no credentials, no network."""
    patch = pytest.MonkeyPatch()

    def refuse(*arguments, **named):
        raise _ForbiddenError(arguments)

    patch.setattr(socket.socket, "connect", refuse)
    patch.setattr(socket, "getaddrinfo", refuse)
    for name in [each for each in os.environ if each.startswith("AWS_")]:
        patch.delenv(name)
    patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    patch.chdir(tmp_path_factory.mktemp("here"))
    yield
    patch.undo()


def check_line(text):
    assert "\n" not in text.rstrip()


def check_code(code):
    assert code in (0, 2)


@cases(0.3)
@given(given_words=st.lists(words, max_size=6), audit=st.booleans())
@example(given_words=["--sink=file:///x?format=\x00", "--tables=a"], audit=False)
@example(
    given_words=["--start=2026-13-01T00:00:00Z", "--tables=a", "--sink=file:///o"], audit=False
)
@example(given_words=["--tables=\ud800", "--sink=file:///o", "--state_dir=s"], audit=False)
def test_parsers(given_words, audit, capsys):
    parse = parse_audit if audit else parse_replicate
    try:
        parse(given_words)
    except DynabeamError as error:
        check_line(str(error))
    except SystemExit as end:
        check_code(end.code)
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    assert not os.listdir(".")


@cases(0.3)
@given(
    command=st.sampled_from(COMMANDS) | st.text(max_size=8),
    given_words=st.lists(words, max_size=5),
    bad=st.sampled_from(["--no-such-option", "--readers=x", "--sink=x://y", "extra"]),
)
def test_commands_that_cannot_be_understood(command, given_words, bad, capsys):
    """A word that no command takes is always among them, so that nothing is begun."""
    try:
        code = main([command, *given_words, bad])
    except SystemExit as end:
        code = end.code
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    helped = {"--help", "-h"} & {command, *given_words} or command == "help"
    assert code in ((0, 1, 2) if helped else (1, 2)), (code, said)
    assert said.err or helped
    assert not os.listdir(".")
