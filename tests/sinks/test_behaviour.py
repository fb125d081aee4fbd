# SPDX-License-Identifier: Apache-2.0
"""What every sink must do, whatever its options. A mirror is read as it is; a changelog is read by
the rule in its documentation: per key the highest version counts.
"""

import dataclasses
import pathlib
import tempfile

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynabeam.transforms.errors import SinkError
from dynabeam.transforms.model.key_range import KeyRange
from dynabeam.transforms.sinks.base import SinkPosition
from dynabeam.transforms.sinks.membership import Lack
from dynabeam.transforms.sinks.registry import open_sink
from dynabeam.transforms.values.keys import encode_key
from dynabeam.transforms.values.plain_json import same_item
from tests.sinks.changes import (
    NO_ROUND,
    Change,
    blocks,
    newest,
    round_number,
    table,
)
from tests.sinks.hostile_names import HOSTILE_NAMES, KEY_NAMES
from tests.sinks.targets import TARGETS, deliver, read_back, run_round
from tests.values.strategies import items

pytestmark = pytest.mark.parametrize("target", TARGETS, ids=lambda each: each.id)


@pytest.fixture(autouse=True)
def _as_many(target, no_rows_are_few):
    if target.many:
        no_rows_are_few()


ORDERS = table()
BY_NUMBER = table("by.number-1", ("n", "N"), ("b", "B"))

NUMBERS = [
    "0",
    "-1",
    "1e3",
    "1.50",
    "12345678901234567890123456789012345678",
    "-99999999999999999999999999999.999999999",
    "0.0000000001",
    "9" * 38 + "0" * 87,
    "1E-130",
]
VALUES = {
    "text": {"S": "héllo 😀"},
    "empty text": {"S": ""},
    "nul": {"S": "a\x00b\x00"},
    "control": {"S": 'quote" back\\ new\nline tab\t \x1f\x7f\u2028'},
    "binary": {"B": "AAEC/w=="},
    "empty binary": {"B": ""},
    "true": {"BOOL": True},
    "false": {"BOOL": False},
    "null": {"NULL": True},
    "SS": {"SS": ["b", "", "a\x00"]},
    "NS": {"NS": ["1", "2.5", "-3e2"]},
    "wide NS": {"NS": ["1", "1E-130"]},
    "BS": {"BS": ["AA==", ""]},
    "list": {"L": [{"N": "1"}, {"L": []}, {"M": {}}, {"NULL": True}]},
    "empty list": {"L": []},
    "map": {"M": {"a.b": {"S": "x"}, "": {"N": "1E-130"}, "SS": {"SS": ["\x00"]}}},
    "empty map": {"M": {}},
    **{f"number {text}": {"N": text} for text in NUMBERS},
}
ODD_NAMES = [
    "a.b",
    "a-b",
    'q"uote',
    "it's",
    "x y",
    "Ångström",
    "😀",
    "nul\x00",
    "S",
    "select",
    "$",
    "/~1",
]
TAKEN_NAMES = ["_version", "_OTHER", "_key", "_Deleted", "rowid", "item", "_new", "_keys", "ID"]


def item(name="a", /, **attributes):
    return {"id": {"S": name}, **attributes}


def assert_holds(target, sink, expected):
    """`expected`: `{table: changes}`."""
    held = read_back(target, sink, list(expected))
    for of, changes in expected.items():
        wanted = newest(of, changes)
        assert held[of.name].keys() == wanted.keys()
        for key, newest_image in wanted.items():
            found = held[of.name][key]
            if target.nested_is_plain and target.is_mirror:
                assert same_item(without_nested(found), without_nested(newest_image))
            else:
                assert same_item(found, newest_image)


def without_nested(image):
    return {name: each for name, each in image.items() if not each.keys() & {"L", "M"}}


def once(target, folder, of, changes):
    sink = target.open(folder)
    run_round(sink, [of], blocks(of, changes), round_number(1), NO_ROUND)
    assert_holds(target, sink, {of: changes})
    return sink


class TestValues:
    def test_every_type_in_one_item_and_alone(self, target, tmp_path):
        together = Change(1, item("all", **VALUES))
        alone = [Change(2, item(name, value=each)) for name, each in VALUES.items()]
        once(target, tmp_path, ORDERS, [together, *alone])

    def test_an_attribute_of_many_types(self, target, tmp_path):
        """The column has one type; what is of another is not lost."""
        changes = [
            Change(3, item(f"{order}-{name}", value=each))
            for order in (1, 2)
            for name, each in sorted(VALUES.items(), reverse=order == 2)
        ]
        once(target, tmp_path, ORDERS, changes)

    @pytest.mark.parametrize("names", [ODD_NAMES, TAKEN_NAMES], ids=["odd", "taken"])
    def test_names(self, target, tmp_path, names):
        changes = [
            Change(1, item("all", **{name: {"S": name} for name in names})),
            *(Change(1, item(name, **{name: {"N": "7"}})) for name in names),
        ]
        once(target, tmp_path, ORDERS, changes)

    def test_hostile_names(self, target, tmp_path):
        """All in one item, then each in an item of its own, in the other order, then no longer."""
        changes = [
            Change(1, item("all", **{name: {"S": name} for name in HOSTILE_NAMES})),
            *(Change(1, item(f"{name} alone", **{name: {"S": "x"}})) for name in HOSTILE_NAMES),
        ]
        sink = once(target, tmp_path, ORDERS, changes)
        more = [
            Change(2, item(f"{name} alone", **{name: {"N": "7"}, "of all": {"BOOL": True}}))
            for name in reversed(HOSTILE_NAMES)
        ]
        more.append(Change(2, item("all")))
        run_round(sink, [ORDERS], blocks(ORDERS, more), round_number(2), round_number(1))
        assert_holds(target, sink, {ORDERS: changes + more})

    def test_hostile_names_one_by_one(self, target, tmp_path):
        """Each is met alone first: in rounds that each bring a few."""
        changes, sink = [], target.open(tmp_path)
        for number in range(4):
            more = [
                Change(1, item(name, **{name: {"N": "1"}})) for name in HOSTILE_NAMES[number::4]
            ]
            committed = round_number(number) if number else NO_ROUND
            run_round(sink, [ORDERS], blocks(ORDERS, more), round_number(number + 1), committed)
            changes += more
        assert_holds(target, sink, {ORDERS: changes})

    def test_names_that_differ_in_case(self, target, tmp_path):
        pairs = {"Name": {"S": "N"}, "name": {"S": "n"}, "NAME": {"N": "1"}}
        changes = [Change(1, item("both", **pairs))]
        changes += [Change(1, item(name, **{name: each})) for name, each in pairs.items()]
        once(target, tmp_path, ORDERS, changes)

    def test_an_attribute_that_was_only_null_and_then_has_a_value(self, target, tmp_path):
        changes = [Change(1, item("a", later={"NULL": True}))]
        sink = once(target, tmp_path, ORDERS, changes)
        more = [Change(2, item("b", later={"N": "5"})), Change(2, item("c", later={"NULL": True}))]
        run_round(sink, [ORDERS], blocks(ORDERS, more), round_number(2), round_number(1))
        assert_holds(target, sink, {ORDERS: changes + more})

    def test_more_attributes_than_columns(self, target, tmp_path):
        many = {f"attribute {at}": {"N": str(at)} for at in range(600)}
        once(target, tmp_path, ORDERS, [Change(1, item("a", **many)), Change(1, item("b"))])

    @given(images=st.lists(items, min_size=1, max_size=8))
    @settings(max_examples=max(1, settings.default.max_examples // 20))
    def test_any_item(self, target, images):
        changes = [Change(1, {**each, "id": {"S": str(at)}}) for at, each in enumerate(images)]
        with tempfile.TemporaryDirectory() as folder:
            once(target, folder, ORDERS, changes)


class TestKeys:
    def test_numbers_and_bytes(self, target, tmp_path):
        """A number that the column's type cannot hold is a key like any other."""
        changes = [
            Change(1, {"n": {"N": number}, "b": {"B": data}, "v": {"S": f"{number} {data}"}})
            for number in NUMBERS
            for data in ("AA==", "/wD/")
        ]
        sink = once(target, tmp_path, BY_NUMBER, changes)
        gone = [
            Change(2, None, keys={"n": {"N": number}, "b": {"B": "AA=="}}) for number in NUMBERS
        ]
        run_round(sink, [BY_NUMBER], blocks(BY_NUMBER, gone), round_number(2), round_number(1))
        assert_holds(target, sink, {BY_NUMBER: changes + gone})

    def test_two_spellings_of_one_number(self, target, tmp_path):
        key = {"b": {"B": "AA=="}}
        changes = [
            Change(1, {"n": {"N": "1000"}, **key}),
            Change(2, {"n": {"N": "1e3"}, **key, "x": {"N": "2"}}),
        ]
        sink = once(target, tmp_path, BY_NUMBER, changes)
        (rows,) = read_back(target, sink, [BY_NUMBER]).values()
        assert len(rows) == 1

    def test_texts(self, target, tmp_path):
        names = ["\x00", "a\x00", "a", 'q"uote', "back\\", "new\nline", "é", "😀", " "]
        once(target, tmp_path, ORDERS, [Change(1, item(name)) for name in names])

    def test_names_of_key_attributes(self, target, tmp_path):
        """A name that no column can have, as hash key, as range key and as both."""
        sink = target.open(tmp_path)
        forms = [lambda name: [name], lambda name: [name, name + "2"], lambda name: ["pk", name]]
        keys = [forms[at % 3](name) for at, name in enumerate(KEY_NAMES)]
        keys += [["_key", "_version"], ["_other", "item"], ["pk", "_key"]]
        given_tables = {}
        for at, names in enumerate(keys):
            kinds = "SN" if at % 2 else "BS"
            of = table(f"odd-{at}", *zip(names, kinds, strict=False))
            one, two = (
                {name: {kind: value[kind]} for name, kind in zip(names, kinds, strict=False)}
                for value in (
                    {"S": "a\x00", "N": "1", "B": "AA=="},
                    {"S": "b", "N": "2", "B": "/w=="},
                )
            )
            given_tables[of] = [
                Change(1, {"x": {"S": "y"}, **one}),
                Change(2, {**two, "x\x00": {"L": []}}),
                Change(3, None, keys=two),
                Change(4, {"_key": {"N": "5"}, "_other": {"BOOL": True}, **one}),
            ]
        tables = list(given_tables)
        given_blocks = [
            block for of, changes in given_tables.items() for block in blocks(of, changes[:2])
        ]
        run_round(sink, tables, given_blocks, round_number(1), NO_ROUND)
        assert_holds(target, sink, {of: changes[:2] for of, changes in given_tables.items()})
        given_blocks = [
            block for of, changes in given_tables.items() for block in blocks(of, changes[2:])
        ]
        run_round(sink, tables, given_blocks, round_number(2), round_number(1))
        assert_holds(target, sink, given_tables)
        removed = [sink.remove_older_generations(of, 2) for of in tables]
        assert removed == [1 if target.is_mirror else 0] * len(tables)
        if target.is_mirror:
            assert_holds(target, sink, {of: [] for of in tables})


class TestVersions:
    def test_older_after_newer(self, target, tmp_path):
        self.in_two_rounds(target, tmp_path, [Change(9, item(x={"N": "9"}))], [Change(3, item())])

    def test_snapshot_after_stream(self, target, tmp_path):
        self.in_two_rounds(target, tmp_path, [Change(9, item(x={"N": "9"}))], [Change(0, item())])

    def test_older_after_delete(self, target, tmp_path):
        self.in_two_rounds(target, tmp_path, [Change(9, None, old=item())], [Change(3, item())])

    def test_delete_of_an_unknown_key_then_older_insert(self, target, tmp_path):
        gone = [Change(9, None, keys=item("never seen"))]
        self.in_two_rounds(target, tmp_path, gone, [Change(3, item("never seen"))])

    def test_insert_after_delete(self, target, tmp_path):
        back = [Change(12, item(y={"S": "back"}))]
        self.in_two_rounds(target, tmp_path, [Change(9, None, old=item())], back)

    def test_newer_generation_beats_higher_sequence(self, target, tmp_path):
        healed = [Change(0, item(x={"S": "healed"}), generation=2)]
        self.in_two_rounds(target, tmp_path, [Change(10**39, item())], healed)

    def test_sequences_of_different_length(self, target, tmp_path):
        long, short = Change(10**39, item(x={"N": "1"})), Change(9 * 10**20, item())
        self.in_two_rounds(target, tmp_path, [long], [short])
        assert newest(ORDERS, [long, short]) == newest(ORDERS, [long])

    def test_many_changes_of_one_key_in_one_round(self, target, tmp_path):
        changes = [Change(at, item(x={"N": str(at)})) for at in (5, 2, 9, 9, 1)]
        self.in_two_rounds(target, tmp_path, changes, [Change(7, item())])

    def in_two_rounds(self, target, folder, first, second):
        sink = once(target, folder, ORDERS, first)
        run_round(sink, [ORDERS], blocks(ORDERS, second), round_number(2), round_number(1))
        assert_holds(target, sink, {ORDERS: first + second})

    @given(data=st.data())
    @settings(max_examples=max(1, settings.default.max_examples // 16))
    def test_order_repetition_and_rounds_do_not_matter(self, target, data):
        """Versions of a key say what counts; when, how often and with what they arrive does not."""
        sequences = st.lists(st.integers(0, 12), min_size=1, max_size=5, unique=True)
        history = [
            Change(at, *([None, item(key)] if data.draw(st.booleans()) else [item(key, x=value)]))
            for key in ("a", "b", "c")
            for at in data.draw(sequences)
            for value in [data.draw(st.sampled_from([{"N": str(at)}, {"S": "t"}, {"NULL": True}]))]
        ]
        repeats = data.draw(st.lists(st.sampled_from(history), max_size=6))
        arriving = data.draw(st.permutations(history + repeats))
        cut = data.draw(st.integers(0, len(arriving)))
        with tempfile.TemporaryDirectory() as folder:
            sink = target.open(folder)
            for number, part in enumerate([arriving[:cut], arriving[cut:]], start=1):
                committed = NO_ROUND if number == 1 else round_number(1)
                # Block by block in the order drawn: a block can hold any number of changes.
                given_blocks = [each for one in part for each in blocks(ORDERS, [one])]
                run_round(sink, [ORDERS], given_blocks, round_number(number), committed)
            assert_holds(target, sink, {ORDERS: history})


class TestRanges:
    """A range of keys was snapshotted again: of it, what the new snapshot has not is gone."""

    @pytest.mark.parametrize(
        ("kind", "sort", "keys", "text"),
        [
            ("S", None, ["a", "b", "b\x00", "bb", "c", "c\x00", "d"], "b..c"),
            ("S", "N", ["a", "b", "b\x00", "bb", "c", "c\x00", "d"], "b..c"),
            # Longer than any index can hold.
            ("S", "S", ["a" * 2040, "b" * 2040, "d" * 2040], "b..c"),
            ("N", None, ["-10", "9", "10", "11", "100", "1E+30"], "10..100"),
            ("N", "B", ["-10", "9", "10", "11", "100"], "..10"),
            ("B", None, ["YQ==", "YgA=", "Yw==", "/w=="], "Yg==.."),
        ],
    )
    def test_only_rows_of_the_range_are_removed(self, target, tmp_path, *, kind, sort, keys, text):
        of = table("parts", ("h", kind), *([("r", sort)] if sort else []))
        value = {"S": "x" * 900, "N": "7", "B": "AA=="}
        items_of = [
            {"h": {kind: each}, **({"r": {sort: value[sort]}} if sort else {})} for each in keys
        ]
        wanted = KeyRange.of(text, of.keys)
        inside = wanted.holds(
            pa.array([encode_key(each, of.keys) for each in items_of])
        ).to_pylist()
        assert 0 < sum(inside) < len(inside)
        first = [Change(at, each) for at, each in enumerate(items_of, start=1)]
        # The first key of the range is still in the table.
        still = Change(0, items_of[inside.index(True)], generation=2)
        sink = once(target, tmp_path, of, [*first, still])
        removed = sink.remove_older_generations(of, 2, 0, wanted)
        assert removed == (sum(inside) - 1 if target.is_mirror else 0)
        assert sink.remove_older_generations(of, 2, 0, wanted) == 0
        swept = [
            Change(0, None, keys=each, generation=2, op="d")
            for each, was in zip(items_of, inside, strict=True)
            if was and each != still.new and target.is_mirror
        ]
        assert_holds(target, sink, {of: [*first, still, *swept]})


class TestTables:
    def test_several_tables_in_two_rounds(self, target, tmp_path):
        names = ["orders", "or.ders-2", "select", "_private", "a" * 200, "2026"]
        tables = [table(name) for name in names] + [BY_NUMBER]
        sink = target.open(tmp_path)
        first = {of: [Change(1, self.key(of, at)) for at in range(3)] for of in tables}
        given_blocks = [block for of, changes in first.items() for block in blocks(of, changes)]
        run_round(sink, tables, given_blocks, round_number(1), NO_ROUND)
        assert_holds(target, sink, first)
        second = {of: [Change(2, None, keys=self.key(of, 1))] for of in tables[:3]}
        given_blocks = [block for of, changes in second.items() for block in blocks(of, changes)]
        run_round(sink, tables, given_blocks, round_number(2), round_number(1))
        assert_holds(target, sink, {of: first[of] + second.get(of, []) for of in tables})

    def test_a_table_that_no_check_has_seen(self, target, tmp_path):
        sink = target.open(tmp_path)
        sink.check([], NO_ROUND)
        run_round(sink, [], blocks(ORDERS, [Change(1, item())]), round_number(1), NO_ROUND)
        assert_holds(target, sink, {ORDERS: [Change(1, item())]})

    def test_a_table_without_items(self, target, tmp_path):
        sink = target.open(tmp_path)
        run_round(sink, [ORDERS], [], round_number(1), NO_ROUND)
        assert_holds(target, sink, {ORDERS: []})

    @staticmethod
    def key(of, at):
        values = {"S": f"k{at}", "N": str(at), "B": "AA=="}
        return {each.name: {each.type: values[each.type]} for each in of.keys.attributes}


class TestCheck:
    """`Sink.check`: what is missing is made, and what is refused is left as it was."""

    HELD = (Change(1, item("held")),)

    def test_what_is_missing_is_made(self, target, tmp_path):
        sink = target.open(tmp_path)
        for _ in range(2):
            sink.check([ORDERS], NO_ROUND)
            assert sink.position(NO_ROUND) == SinkPosition(NO_ROUND.state_id, 0)

    @pytest.mark.parametrize("joins", [False, True])
    def test_another_state_directory_leaves_it_as_it_was(self, target, tmp_path, joins):
        sink = once(target, tmp_path, ORDERS, self.HELD)
        for number in (0, 1):
            other = dataclasses.replace(round_number(number), state_id="state-2")
            for refused in (sink.check, sink.examine):
                told = "belongs to state directory state-1; expected 'state-2'; found 'state-1'"
                with pytest.raises(SinkError, match=told):
                    refused([ORDERS, BY_NUMBER], other, joins=joins)
        assert sink.position(round_number(1)) == SinkPosition(NO_ROUND.state_id, 1)
        assert_holds(target, sink, {ORDERS: self.HELD})

    def test_rounds_that_it_has_never_seen_make_nothing(self, target, tmp_path):
        sink = target.open(tmp_path)
        for refused in (sink.check, sink.examine):
            with pytest.raises(SinkError, match="round 3"):
                refused([ORDERS], round_number(3))
            assert sink.position(NO_ROUND) is None

    @pytest.mark.parametrize("number", [0, 1, 2, 9])
    def test_who_joins_is_at_the_committed_round(self, target, tmp_path, number):
        sink = once(target, tmp_path, ORDERS, self.HELD)
        committed = round_number(number) if number else NO_ROUND
        sink.check([ORDERS], committed, joins=True)
        sink.recover(committed)
        assert sink.position(committed) == SinkPosition(committed.state_id, number)
        sink.check([ORDERS], committed)

    def test_a_place_that_cannot_be_written(self, target, tmp_path):
        (tmp_path / "file").write_text("")
        sink = (
            open_sink("postgresql://127.0.0.1:1/none?retry_seconds=1")
            if target.is_postgresql
            else target.open(tmp_path / "file" / "below")
        )
        for refused in (sink.check, sink.examine):
            with pytest.raises(SinkError):
                refused([ORDERS], NO_ROUND)


class TestMembership:
    """Left out, given again, brought up: what the driver does, by the sink's own methods."""

    FIRST = (Change(5, item("stays", x={"N": "1"})), Change(6, item("gone while away")))
    MISSED = (
        Change(7, None, keys=item("gone while away")),
        Change(8, item("new while away")),
        Change(9, item("stays", x={"N": "2"})),
    )
    # What an export of after that shows, at the next generation.
    LOADED = (
        Change(0, item("stays", x={"N": "2"}), generation=2),
        Change(0, item("new while away"), generation=2),
    )
    LATER = (Change(20, None, keys=item("new while away"), generation=2),)

    def test_how_far_it_is(self, target, tmp_path):
        sink = target.open(tmp_path)
        assert sink.position(NO_ROUND) is None
        sink.examine([ORDERS], NO_ROUND)
        assert sink.position(NO_ROUND) is None
        sink.check([ORDERS], NO_ROUND)
        assert sink.position(NO_ROUND) == SinkPosition(NO_ROUND.state_id, 0)
        run_round(sink, [ORDERS], blocks(ORDERS, self.FIRST), round_number(1), NO_ROUND)
        assert sink.position(round_number(1)) == SinkPosition(NO_ROUND.state_id, 1)
        deliver(sink, blocks(ORDERS, self.MISSED), round_number(2))
        # Committed, and the process died before it was published.
        assert sink.position(round_number(2)) == SinkPosition(NO_ROUND.state_id, 2)

    def test_looking_changes_nothing(self, target, tmp_path):
        sink = once(target, tmp_path, ORDERS, self.FIRST)
        others = [BY_NUMBER, table("another")]
        for joins in (False, True):
            sink.examine([ORDERS, *others], round_number(1), joins=joins)
            sink.examine([ORDERS, *others], round_number(9 if joins else 1), joins=joins)
        assert sink.position(round_number(1)) == SinkPosition(NO_ROUND.state_id, 1)
        sink.check([ORDERS], round_number(1))
        assert_holds(target, sink, {ORDERS: self.FIRST})

    def test_left_out_and_given_again(self, target, tmp_path):
        sink = once(target, tmp_path, ORDERS, self.FIRST)
        assert sink.newest_generation(ORDERS) == (1 if target.is_mirror else 0)
        committed = round_number(4)
        if target.is_mirror:
            with pytest.raises(SinkError, match="behind"):
                sink.check([ORDERS], committed)
            with pytest.raises(SinkError, match="behind"):
                sink.examine([ORDERS], committed)
        sink.check([ORDERS], committed, joins=True)
        sink.recover(committed)
        sink.check([ORDERS], committed)
        if target.is_mirror:
            run_round(sink, [ORDERS], blocks(ORDERS, self.LOADED), round_number(5), committed)
            assert sink.newest_generation(ORDERS) == 2
            assert sink.remove_older_generations(ORDERS, 2) == 1
            expected = self.FIRST + self.MISSED + self.LOADED
        else:
            lack = Lack(1, 4, 1_000_000, 2_000_000)
            sink.tell_lacks([lack], 5, 2_000_000)
            run_round(sink, [ORDERS], [], round_number(5), committed)
            marker = sink.files().read_marker()
            assert (marker.lacks, marker.whole_from) == ((lack,), 5)
            expected = self.FIRST
        run_round(sink, [ORDERS], blocks(ORDERS, self.LATER), round_number(6), round_number(5))
        assert_holds(target, sink, {ORDERS: expected + self.LATER})
        if not target.is_mirror:
            assert sink.files().read_marker().lacks == (lack,)

    def test_new_to_a_state_directory_with_rounds(self, target, tmp_path):
        sink, committed = target.open(tmp_path), round_number(7)
        for refused in (sink.check, sink.examine):
            with pytest.raises(SinkError, match="round 7"):
                refused([ORDERS], committed)
        sink.examine([ORDERS], committed, joins=True)
        assert sink.position(committed) is None
        sink.check([ORDERS], committed, joins=True)
        sink.recover(committed)
        assert sink.position(committed) == SinkPosition(committed.state_id, 7)
        run_round(sink, [ORDERS], blocks(ORDERS, self.LOADED), round_number(8), committed)
        assert_holds(target, sink, {ORDERS: self.LOADED})

    def test_ahead_of_a_state_directory_that_was_set_back(self, target, tmp_path):
        sink = once(target, tmp_path, ORDERS, self.FIRST)
        for number in (2, 3):
            part = blocks(ORDERS, self.MISSED[number - 2 :: 2])
            run_round(sink, [ORDERS], part, round_number(number), round_number(number - 1))
        committed = round_number(1)
        aside = sink.set_back(committed)
        assert bool(aside) is not target.is_mirror
        sink.check([ORDERS], committed, joins=True)
        sink.recover(committed)
        assert sink.position(committed) == SinkPosition(committed.state_id, 1)
        # What was read then is read again.
        again = blocks(ORDERS, self.MISSED)
        run_round(sink, [ORDERS], again, round_number(2, "again"), committed)
        assert_holds(target, sink, {ORDERS: self.FIRST + self.MISSED})
        if not target.is_mirror:
            assert len(list(pathlib.Path(aside).rglob("part-*"))) == 2
            seen = [
                each
                for each in pathlib.Path(sink.place).rglob("part-*")
                if "_staging" not in each.parts
            ]
            assert len(seen) == 2

    def test_another_state_directory_even_if_it_joins(self, target, tmp_path):
        sink = once(target, tmp_path, ORDERS, self.FIRST)
        other = dataclasses.replace(round_number(1), state_id="state-2")
        for refused in (sink.check, sink.examine):
            with pytest.raises(SinkError, match="belongs to state directory"):
                refused([ORDERS], other, joins=True)
