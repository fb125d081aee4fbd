# SPDX-License-Identifier: Apache-2.0
"""Dead letters as they are stored: formats, ids, counts, what a crash between two steps leaves."""

import base64
import dataclasses
import json
import os
import pickle

import pytest

from dynabeam.transforms.dead_letters import store as letter_box
from dynabeam.transforms.dead_letters.store import DeadLetterStore
from dynabeam.transforms.errors import StateError
from dynabeam.transforms.model.dead_letter import DeadLetter, DeadLetterCoder
from dynabeam.transforms.storage import filesystem

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
    return DeadLetterStore(str(tmp_path))


def stored(box):
    return sorted(each[len(box.path) + 1 :] for each in filesystem.list_files(box.path))


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
        assert [each.split("/")[0] for each in stored(box)] == ["letters"]
        assert [len(box.names(each)) for each in ("retry", "severe")] == [1, 1]
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
        assert box.names("retry") == []
        assert box.names("severe") == [("orders", LETTER.id)]

    def test_done(self, box):
        box.keep([LETTER])
        for _ in range(2):
            box.done([("orders", LETTER.id), ("orders", "0" * 32)])
        (path,) = [each for each in stored(box) if each.startswith("done/")]
        assert filesystem.read_bytes(f"{box.path}/{path}", StateError) == LETTER.to_line()
        assert box.counts() == {}
        assert not box.is_open(LETTER)
        # The same meeting told again, as after a crash, opens nothing; a new one does.
        assert box.keep([LETTER]) == 0
        assert box.counts() == {}
        assert box.keep([later(LETTER, 9_000_000)]) == 1
        (letter,) = box.read()
        assert (letter.attempts, letter.first_us) == (1, 9_000_000)

    @pytest.mark.parametrize("at", ["done", "letters"])
    def test_a_crash_while_a_letter_is_set_aside(self, box, monkeypatch, at):
        box.keep([LETTER])
        write = filesystem.write_atomic

        def die(path, *rest):
            if f"/{at}/" in path:
                raise OSError("killed")
            write(path, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(filesystem, "write_atomic", die)
            with pytest.raises(OSError, match="killed"):
                box.done([("orders", LETTER.id)])
        assert box.counts() == {"orders": 1}
        DeadLetterStore(box._state_dir).done([("orders", LETTER.id)])
        assert box.counts() == {}

    @pytest.mark.parametrize("table", ["..", "...", "a/b", "%2E"])
    def test_names_of_tables_stay_in_the_folder(self, box, table):
        letter = dataclasses.replace(LETTER, table=table)
        box.keep([letter])
        assert box.counts() == {table: 1}
        assert box.load(table, letter.id) == letter
        (path,) = stored(box)
        assert path.count("/") == 1

    def test_files_of_a_letter_each_are_read_and_become_part_of_a_piece(self, box, monkeypatch):
        for severity, letter in (
            ("retry", LETTER),
            ("severe", dataclasses.replace(LETTER, raw=b"other", severity="severe")),
        ):
            folder = f"{box.path}/{severity}/orders"
            os.makedirs(folder)
            filesystem.write_atomic(f"{folder}/{letter.id}.json", letter.to_line(), StateError)
        assert box.counts() == {"orders": 2}
        assert box.load("orders", LETTER.id) == LETTER
        box.keep([later(LETTER, 2_000_000)])
        assert {each.attempts for each in box.read()} == {1, 2}
        monkeypatch.setattr(letter_box, "_PIECES", 1)
        box.done([("orders", LETTER.id)])
        assert [each.raw for each in DeadLetterStore(box._state_dir).read()] == [b"other"]
        assert {each.split("/")[0] for each in stored(box)} == {"letters", "done"}

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


def numbered(n):
    return dataclasses.replace(LETTER, origin={**LETTER.origin, "sequence": str(n)})


class TestPieces:
    def test_many_letters_are_a_few_files(self, box):
        box.keep(numbered(n) for n in range(5000))
        assert len(stored(box)) == 1
        assert box.counts() == {"orders": 5000}
        assert {each.origin["sequence"] for each in box.read()} == set(map(str, range(5000)))

    def test_a_piece_is_bounded(self, box, monkeypatch):
        monkeypatch.setattr(letter_box, "_PIECE_BYTES", 4000)
        box.keep(numbered(n) for n in range(100))
        assert 5 < len(stored(box)) < 30
        assert all(os.path.getsize(f"{box.path}/{each}") < 5000 for each in stored(box))
        assert len(list(box.read())) == 100

    def test_writers_side_by_side(self, tmp_path, monkeypatch):
        """Two workers keep letters, each makes pieces one, a third sets aside: nothing is lost."""
        monkeypatch.setattr(letter_box, "_PIECES", 3)
        boxes = [DeadLetterStore(str(tmp_path)) for _ in range(3)]
        for n in range(40):
            boxes[n % 2].keep([numbered(n)])
            if n % 5 == 4:
                boxes[2].done([("orders", numbered(n - 2).id)])
        open_ones = {str(n) for n in range(40)} - {str(n - 2) for n in range(4, 40, 5)}
        for box in (*boxes, DeadLetterStore(str(tmp_path))):
            assert {each.origin["sequence"] for each in box.read()} == open_ones
        assert len(filesystem.list_files(f"{boxes[0].path}/letters")) <= 4

    def test_a_crash_while_pieces_become_one(self, box, monkeypatch):
        monkeypatch.setattr(letter_box, "_PIECES", 2)

        def die(*_):
            raise OSError("killed")

        box.keep([numbered(1)])
        box.done([("orders", numbered(1).id)])
        with monkeypatch.context() as patch:
            patch.setattr(filesystem, "delete", die)
            with pytest.raises(OSError, match="killed"):
                box.keep([numbered(2)])
        again = DeadLetterStore(box._state_dir)
        again.keep([numbered(2)])
        assert [each.origin["sequence"] for each in again.read()] == ["2"]
        assert [each.attempts for each in again.read()] == [1]

    def test_it_travels_without_what_it_has_read(self, box):
        box.keep([LETTER])
        other = pickle.loads(pickle.dumps(box))
        assert list(other.read()) == [LETTER]
