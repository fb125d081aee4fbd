# SPDX-License-Identifier: Apache-2.0
"""After a repair the newest row of each key of a changelog is what the table holds."""

import datetime
import gzip
import json
import pathlib
import random

import pytest

from dynabeam.transforms.errors import SinkError
from dynabeam.transforms.model.key_range import KeyRange
from dynabeam.transforms.model.version import encode_version
from dynabeam.transforms.sinks.files import sweep as changelog_sweep
from dynabeam.transforms.sinks.registry import open_sink
from dynabeam.transforms.storage import filesystem
from dynabeam.transforms.values.keys import encode_key
from tests.sinks.changes import NO_ROUND, START, Change, blocks, newest, round_number, table
from tests.sinks.targets import CHANGELOGS, read_back, read_changes, run_round

ORDERS = table()
OTHERS = table("others")


def item(key, value="x"):
    return {"id": {"S": key}, "value": {"S": value}}


def deletes(target, sink, of=ORDERS):
    """The rows that a sweep has appended."""
    return [
        each
        for each in read_changes(target, sink)
        if each["table"] == of.name and each["origin"] == {"reason": "swept"}
    ]


def begun(target, folder, of, changes):
    sink = target.open(folder)
    run_round(sink, [of], blocks(of, changes), round_number(1), NO_ROUND)
    return sink


@pytest.mark.parametrize("target", CHANGELOGS, ids=lambda each: each.id)
@pytest.mark.parametrize("committed", [round_number(1), None], ids=["rounds", "continuous"])
class TestSweeps:
    def test_what_a_newer_generation_did_not_bring(self, target, committed, tmp_path):
        changes = [
            Change(0, item("kept")),
            Change(0, item("gone")),
            Change(5, item("changed", "old")),
            Change(6, item("deleted")),
            Change(9, None, keys={"id": {"S": "deleted"}}),
            Change(7, item("written")),
            Change(0, item("kept"), generation=2),
            Change(0, item("changed", "old"), generation=2),
            Change(3, item("new", "later"), generation=2),
            Change(4, None, keys={"id": {"S": "written"}}, generation=2),
        ]
        sink = begun(target, tmp_path, ORDERS, changes)
        before = datetime.datetime.now(datetime.timezone.utc)
        assert sink.append_swept(ORDERS, 2, committed=committed) == 1
        assert sink.append_swept(ORDERS, 2, committed=committed) == 0
        (row,) = deletes(target, sink)
        assert row["keys"] == {"id": {"S": "gone"}}
        assert (row["op"], row["version"]) == ("d", encode_version(2).decode())
        assert (row["old"], row["new"], row["ttl"]) == (None, None, False)
        assert before <= row["event_time"] <= datetime.datetime.now(datetime.timezone.utc)
        swept = Change(0, None, keys={"id": {"S": "gone"}}, generation=2, op="d")
        assert read_back(target, sink, [ORDERS])["orders"] == newest(ORDERS, [*changes, swept])
        # A change of this generation wins, a late one of an older generation does not.
        late = [Change(8, item("gone", "late")), Change(1, item("gone", "again"), generation=2)]
        for number, change in enumerate(late, 2):
            run_round(
                sink,
                [ORDERS],
                blocks(ORDERS, [change]),
                round_number(number),
                round_number(number - 1),
            )
            held = read_back(target, sink, [ORDERS])["orders"]
            found = held.get(encode_key(change.new, ORDERS.keys))
            assert found == (change.new if change.generation == 2 else None)
        assert sink.append_swept(ORDERS, 2, committed=committed) == 0
        assert sink.append_swept(ORDERS, 3, committed=committed) == 4

    def test_a_heal_sweeps_what_the_stream_brought_since(self, target, committed, tmp_path):
        """Rows that were written before, and snapshot rows, were in no window and stay."""
        changes = [
            Change(0, item("snapshot")),
            Change(10, item("before")),
            Change(20, item("since")),
            Change(21, item("since, healed")),
            Change(1, item("since, healed", "new"), generation=2),
        ]
        sink = begun(target, tmp_path, ORDERS, changes)
        since = START + datetime.timedelta(seconds=20)
        since_us = int(since.timestamp()) * 1_000_000
        assert sink.append_swept(ORDERS, 2, since_us, committed=committed) == 1
        assert [each["keys"]["id"]["S"] for each in deletes(target, sink)] == ["since"]

    def test_only_keys_of_the_range(self, target, committed, tmp_path):
        sink = begun(
            target, tmp_path, ORDERS, [Change(1, item(key)) for key in ("a", "b", "bb", "c", "d")]
        )
        wanted = KeyRange.of("b..c", ORDERS.keys)
        assert sink.append_swept(ORDERS, 2, 0, wanted, committed=committed) == 3
        assert {each["keys"]["id"]["S"] for each in deletes(target, sink)} == {"b", "bb", "c"}

    @pytest.mark.parametrize(
        ("of", "keys"),
        [
            (table("n", ("n", "N")), [{"n": {"N": each}} for each in ("1", "-2.5", "1E+30")]),
            (
                table("old", ("id", "S"), ("old", "S")),
                [
                    {"id": {"S": hash_key}, "old": {"S": sort_key}}
                    for hash_key in ('a"}},"old":', "é😀", "a\x00b", "\u2028\\")
                    for sort_key in ("b", '}},"old":{')
                ],
            ),
            (table("b", ("b", "B"), ("r", "N")), [{"b": {"B": "AP8="}, "r": {"N": "7"}}]),
        ],
        ids=["number", "texts", "binary"],
    )
    def test_keys_of_all_kinds(self, target, committed, tmp_path, of, keys):
        sink = begun(target, tmp_path, of, [Change(at, each) for at, each in enumerate(keys, 1)])
        assert sink.append_swept(of, 2, committed=committed) == len(keys)
        assert sink.append_swept(of, 2, committed=committed) == 0
        assert read_back(target, sink, [of])[of.name] == {}

    def test_other_tables_stay(self, target, committed, tmp_path):
        sink = begun(target, tmp_path, ORDERS, [Change(1, item("a"))])
        run_round(
            sink, [OTHERS], blocks(OTHERS, [Change(1, item("a"))]), round_number(2), round_number(1)
        )
        assert sink.append_swept(OTHERS, 2, committed=committed) == 1
        assert len(read_back(target, sink, [ORDERS, OTHERS])["orders"]) == 1
        assert sink.append_swept(table("unknown"), 2, committed=committed) == 0

    def test_many_keys_in_several_files(self, target, committed, tmp_path, monkeypatch):
        """As many deletes as make several files; each step may be cut off and repeated."""
        monkeypatch.setattr(changelog_sweep, "_BATCH_ROWS", 2_048)
        draw = random.Random(4)
        keys = [f"k{at}" for at in range(7_500)]
        still = set(draw.sample(keys, 2_500))
        sink = begun(target, tmp_path, ORDERS, [Change(1, item(key)) for key in keys])
        again = [Change(0, item(key), generation=2) for key in keys if key in still]
        run_round(sink, [ORDERS], blocks(ORDERS, again), round_number(2), round_number(1))
        at = None if committed is None else round_number(2)
        publish, published = sink._publish_swept, []

        def dying(block, *arguments):
            if published:
                raise KeyboardInterrupt
            published.append(block)
            publish(block, *arguments)

        sink._publish_swept = dying
        with pytest.raises(KeyboardInterrupt):
            sink.append_swept(ORDERS, 2, committed=at)
        del sink._publish_swept
        first = published[0].rows.num_rows
        assert 0 < first < 5_000
        assert sink.append_swept(ORDERS, 2, committed=at) == 5_000 - first
        names = [each["keys"]["id"]["S"] for each in deletes(target, sink)]
        assert len(names) == len(set(names)) == 5_000
        assert still.isdisjoint(names)


class TestRounds:
    @pytest.fixture(params=CHANGELOGS, ids=lambda each: each.id)
    def target(self, request):
        return request.param

    def test_deletes_belong_to_the_round_and_go_with_it(self, target, tmp_path):
        sink = begun(target, tmp_path, ORDERS, [Change(1, item("a"))])
        # A round that brought nothing to this sink, and ended the repair.
        run_round(sink, [ORDERS], [], round_number(2), round_number(1))
        assert sink.append_swept(ORDERS, 2, committed=round_number(2)) == 1
        assert list(pathlib.Path(sink.place).glob("orders/*0000000002/*"))
        sink.recover(round_number(2))
        assert len(deletes(target, sink)) == 1
        # The state was set back to the round before.
        sink.recover(round_number(1))
        assert deletes(target, sink) == []
        assert sink.append_swept(ORDERS, 2, committed=round_number(1)) == 1

    def test_nothing_is_left_staged(self, target, tmp_path):
        sink = begun(target, tmp_path, ORDERS, [Change(1, item("a"))])
        for committed in (round_number(1), None):
            sink.append_swept(ORDERS, 2, committed=committed)
            assert filesystem.list_files(str(pathlib.Path(sink.place) / "_staging")) == []


class TestLines:
    @pytest.mark.parametrize("packed", [False, True])
    def test_images_that_no_parser_takes(self, tmp_path, packed):
        """The keys in front of them are read all the same."""
        sink = open_sink(f"file:///{tmp_path}")
        run_round(sink, [ORDERS], blocks(ORDERS, [Change(1, item("a"))]), round_number(1), NO_ROUND)
        (path,) = tmp_path.rglob("*.jsonl")
        line = path.read_bytes()
        bad = line.replace(b'"id":{"S":"a"}', b'"id":{"S":"b"}', 1).replace(b'"x"', b'"\xff"')
        deep = line.replace(b'"id":{"S":"a"}', b'"id":{"S":"c"}', 1)
        deep = deep.replace(b'{"S":"x"}', b'{"L":[' * 4000 + b"]}" * 4000)
        path.write_bytes(line + bad + deep)
        if packed:
            path.with_suffix(".jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
        assert sink.append_swept(ORDERS, 2) == 3

    @pytest.mark.parametrize("line", [b"no json\n", b'{"table":"orders"}\n', b"[]\n"])
    def test_a_line_that_is_none_of_a_changelog_is_named(self, tmp_path, line):
        sink = open_sink(f"file:///{tmp_path}")
        run_round(sink, [ORDERS], blocks(ORDERS, [Change(1, item("a"))]), round_number(1), NO_ROUND)
        (path,) = tmp_path.rglob("*.jsonl")
        path.write_bytes(path.read_bytes() + line)
        with pytest.raises(SinkError, match=path.name):
            sink.append_swept(ORDERS, 2)


@pytest.mark.parametrize("options", ["", "?compression=gzip", "?format=parquet"])
def test_in_an_object_store(s3, options):
    sink = open_sink(f"s3://bucket/log{options}")
    changes = [Change(1, item("a")), Change(1, item("b")), Change(0, item("b"), generation=2)]
    run_round(sink, [ORDERS], blocks(ORDERS, changes), round_number(1), NO_ROUND)
    assert sink.append_swept(ORDERS, 2, committed=round_number(1)) == 1
    assert sink.append_swept(ORDERS, 2, committed=round_number(1)) == 0
    (path,) = (each for each in filesystem.list_files("s3://bucket/log") if "swept" in each)
    if options == "":
        (line,) = filesystem.read_bytes(path, SinkError).splitlines()
        assert json.loads(line)["keys"] == {"id": {"S": "a"}}
