# SPDX-License-Identifier: Apache-2.0
"""No text of an item steers a terminal, or passes for a line of ours."""

import io
import logging
import types
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from dynabeam.pipelines.audit.report import print_result
from dynabeam.pipelines.command_line import main
from dynabeam.pipelines.dead_letters import _write_text
from dynabeam.pipelines.rounds.progress import RoundPrinter, say
from dynabeam.pipelines.status.reading import Status
from dynabeam.pipelines.status.text import as_lines, as_table
from dynabeam.transforms.errors import SinkError
from dynabeam.transforms.model.dead_letter import DeadLetter
from dynabeam.transforms.printable import one_line, printable, printable_lines
from dynabeam.transforms.telemetry.logs import JsonFormatter, TextFormatter

HOSTILE = "k\x1b[2J\x1b[H\rorders: EQUAL  (2 items, 2 rows)\n\x1b]0;x\x07\x9b31m\u202e[red]"
SHOWN = r"k\x1b[2J\x1b[H\rorders: EQUAL  (2 items, 2 rows)\n\x1b]0;x\x07\x9b31m\u202e[red]"


def steering(text, own="\n"):
    return {c for c in text if unicodedata.category(c)[0] == "C" and c not in own}


@given(st.text())
def test_nothing_printable_changes_and_nothing_else_is_left(text):
    shown = printable(text)
    assert not steering(shown, own="")
    assert (shown == text) == all(c.isprintable() or c in "\u00a0\u2007\u202f\u3000" for c in text)
    assert printable(shown) == shown
    assert printable_lines(text).count("\n") == text.count("\n")


def test_escapes():
    assert printable(HOSTILE) == SHOWN
    assert printable("é ß 日本 😀 a\u00a0b") == "é ß 日本 😀 a\u00a0b"
    assert one_line("Conversion Error:\n  LINE 1: x\r\n") == "Conversion Error: LINE 1: x"


def result(example):
    table = types.SimpleNamespace(
        table="orders",
        is_equal=False,
        differences=1,
        items=2,
        rows=2,
        counts={"different": 1},
        examples=[example],
        warnings=[HOSTILE],
    )
    return types.SimpleNamespace(tables=[table])


def test_audit():
    out = io.StringIO()
    example = {
        "kind": "different",
        "key": "pk=" + HOSTILE,
        "note": HOSTILE,
        "truth": {HOSTILE: "S " + HOSTILE},
        "mirror": {HOSTILE: "S x"},
        "attributes": [HOSTILE],
    }
    print_result(result(example), types.SimpleNamespace(report=""), out)
    assert not steering(out.getvalue())
    assert f"    different: pk={SHOWN} ({SHOWN})\n" in out.getvalue()
    assert out.getvalue().count("\n") == 5


def test_dead_letters():
    out = io.StringIO()
    letter = DeadLetter("orders", "sink", HOSTILE, f"refused {HOSTILE}", b"{}", error=HOSTILE)
    _write_text([("retry", letter)], "state/dead_letters", out)
    assert not steering(out.getvalue())
    assert f"    refused {SHOWN}\n" in out.getvalue()
    assert out.getvalue().count("\n") == 4


def test_lines_of_rounds():
    out = io.StringIO()
    RoundPrinter(out).say([f"gap of {HOSTILE}"])
    assert not steering(out.getvalue())
    assert out.getvalue().endswith(f" gap of {SHOWN}\n")
    assert out.getvalue().count("\n") == 1
    say(f"waits for {HOSTILE}", out)
    assert not steering(out.getvalue())


def test_status():
    status = Status("state", "rounds", 1, "", 0, ())
    reasons = [f"orders: the stream lost changes, the last: {HOSTILE}"]
    lines = as_lines(status, None, reasons)
    assert lines[-1] == f"attention: orders: the stream lost changes, the last: {SHOWN}"
    out = io.StringIO()
    Console(file=out, width=200).print(as_table(status, None, reasons))
    assert not steering(out.getvalue())
    assert SHOWN in out.getvalue()


def test_errors():
    error = SinkError(f"refused {HOSTILE}", where=HOSTILE, found=HOSTILE, hint="Do\nthis")
    assert not steering(str(error))
    assert "orders: EQUAL" in str(error)
    assert str(error).count("\n") == 1  # of the hint, which is ours and may hold a statement


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_logs(formatter):
    record = logging.LogRecord("transforms", 30, "f", 1, "refused %s", (HOSTILE,), None)
    assert not steering(formatter.format(record))


def test_the_last_resort(capsys, tmp_path):
    assert main(["status", f"--state_dir={tmp_path}/{HOSTILE[:4]}"]) == 1
    said = capsys.readouterr()
    assert not steering(said.out + said.err)
