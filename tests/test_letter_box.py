# SPDX-License-Identifier: Apache-2.0
"""Dead letters as they are stored: formats, ids, counts, what a crash between two steps leaves."""

import base64
import dataclasses
import json
import os

import pytest

from transforms import storage
from transforms.dead_letters import DeadLetter, DeadLetterCoder
from transforms.errors import StateError
from transforms.letter_box import LetterBox

LETTER = DeadLetter(
    table="orders",
    stage="stream",
    place="stream arn, shard s, sequence 5",
    reason="no",
    raw=b'{"a":\xff\n',
    error="ValueDecodeError",
    severity="retry",
    origin={"stream_arn": "arn", "shard_id": "s", "sequence": "5"},
    context={"generation": 1},
    first_us=1_000_001,
    last_us=1_000_001,
)
OLD_LINE = (
    b'{"place":"file:3","raw":"bm9uc2Vuc2U=","reason":"no","stage":"export","table":"orders"}\n'
)


def later(letter, us):
    return dataclasses.replace(letter, first_us=us, last_us=us)


@pytest.fixture
def box(tmp_path):
    return LetterBox(str(tmp_path))


def stored(box):
    return sorted(each[len(box.path) + 1 :] for each in storage.list_files(box.path))


class TestForm:
    def test_round_trip(self):
        assert DeadLetter.from_line(LETTER.to_line()) == LETTER
        assert DeadLetterCoder().decode(DeadLetterCoder().encode(LETTER)) == LETTER
        assert json.loads(LETTER.to_line())["format"] == 1

    def test_format_0_is_read(self):
        letter = DeadLetter.from_line(OLD_LINE)
        assert (letter.table, letter.raw, letter.severity) == ("orders", b"nonsense", "severe")
        assert (letter.attempts, letter.first_us) == (1, 0)

    @pytest.mark.parametrize(
        ("line", "match"),
        [(b'{"format":7,"raw":""}', "unknown format"), (b"nonsense", "damaged"), (b"1", "damaged")],
    )
    def test_what_is_none(self, line, match):
        with pytest.raises(StateError, match=match):
            DeadLetter.from_line(line)

    def test_the_id_is_the_record_and_not_what_was_said_of_it(self):
        changed = dataclasses.replace(
            LETTER, reason="else", error="X", severity="severe", place="p", attempts=3, last_us=9
        )
        assert changed.id == LETTER.id
        for other in (
            dataclasses.replace(LETTER, table="other"),
            dataclasses.replace(LETTER, raw=b"other"),
            dataclasses.replace(LETTER, origin={**LETTER.origin, "sequence": "6"}),
        ):
            assert other.id != LETTER.id


class TestBox:
    def test_kept_as_it_is(self, box):
        box.keep(
            [LETTER, later(LETTER, 5), dataclasses.replace(LETTER, severity="severe", raw=b"")]
        )
        assert [each.split("/")[:2] for each in stored(box)] == [
            ["retry", "orders"],
            ["severe", "orders"],
        ]
        assert box.counts() == {"orders": 2}
        assert {each.raw for each in box.read()} == {LETTER.raw, b""}

    def test_a_repeat_counts_once_and_a_new_meeting_counts(self, box):
        for _ in range(3):
            box.keep([LETTER])
        box.keep([later(LETTER, 2_000_000)])
        (letter,) = box.read()
        assert (letter.attempts, letter.first_us, letter.last_us) == (2, 1_000_001, 2_000_000)

    def test_it_is_severe_after_so_many_retries(self, box):
        box.keep([LETTER])
        for retry in range(1, 4):
            box.keep([later(LETTER, 2_000_000 + retry)], max_retries=3)
            (letter,) = box.read()
            assert (letter.attempts, letter.severity) == (
                retry + 1,
                "severe" if retry == 3 else "retry",
            )
        assert len(stored(box)) == 1

    def test_done(self, box):
        box.keep([LETTER])
        for _ in range(2):
            box.done([("orders", LETTER.id), ("orders", "0" * 32)])
        assert stored(box) == [f"done/orders/{LETTER.id}.json"]
        assert box.counts() == {}
        assert not box.is_open(LETTER)

    def test_a_crash_between_write_and_removal(self, box, monkeypatch):
        box.keep([LETTER])
        severe = dataclasses.replace(later(LETTER, 3_000_000), severity="severe")

        def die(*_):
            raise OSError("killed")

        with monkeypatch.context() as patch:
            patch.setattr(storage, "delete", die)
            with pytest.raises(OSError, match="killed"):
                box.keep([severe])
        assert box.counts() == {"orders": 1}
        box.keep([severe])
        (letter,) = box.read()
        assert (letter.attempts, letter.severity, len(stored(box))) == (2, "severe", 1)

    @pytest.mark.parametrize("table", ["..", "...", "a/b", "%2E"])
    def test_names_of_tables_stay_in_the_folder(self, box, table):
        letter = dataclasses.replace(LETTER, table=table)
        box.keep([letter])
        assert box.counts() == {table: 1}
        assert box.load(table, letter.id) == letter
        (path,) = stored(box)
        assert path.count("/") == 2

    def test_old_files_are_counted_read_and_converted(self, box, tmp_path):
        paths = [
            tmp_path / "dead_letters" / "round-0000000003.jsonl",
            tmp_path / "continuous" / "abc" / "dead_letters" / "00ff.jsonl",
        ]
        for number, path in enumerate(paths):
            os.makedirs(path.parent)
            raw = base64.b64encode(b"nonsense%d" % number)
            path.write_bytes(OLD_LINE.replace(b"bm9uc2Vuc2U=", raw))
        assert box.counts() == {"orders": 2}
        for _ in range(2):
            assert sorted(each.raw for each in box.read()) == [b"nonsense0", b"nonsense1"]
            box.convert_old(lambda each: dataclasses.replace(each, context={"x": 1}))
        assert [each.context for each in box.read()] == [{"x": 1}] * 2
        assert not any(path.exists() for path in paths)

    def test_stopped(self, box):
        path = box.stop([LETTER])
        assert os.path.exists(path)
        assert list(box.stopped()) == [LETTER]
        assert (list(box.read()), box.counts()) == ([], {})
        box.go_on()
        box.go_on()
        assert list(box.stopped()) == []
