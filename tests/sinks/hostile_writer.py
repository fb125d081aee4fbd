# SPDX-License-Identifier: Apache-2.0
"""Writes hostile or heavy items to a DuckDB mirror in this process, whose memory is bounded.

    python -m tests.sinks.hostile_writer CASE FOLDER

Writes a line of JSON: rows in the mirror, rows whose item is exactly the one that was written,
columns, and the peak of the process in MiB. Texts are compared, never parsed by a parser that
recurses.
"""

import base64
import json
import random
import resource
import sys

import duckdb
import pyarrow as pa

from dynabeam.transforms.model.block import SCHEMA, Block, BlockHeader
from dynabeam.transforms.model.version import encode_version
from dynabeam.transforms.sinks.registry import open_sink
from tests.sinks.changes import NO_ROUND, round_number, table

ADDRESS_SPACE = 4 << 30
ORDERS = table()
BLOCK_ROWS = 50


def encoded(value):
    return json.dumps(value, separators=(",", ":"))


def attributes(names):
    return {name: encoded({"S": "v"}) for name in names}


def long_names(length):
    """390 KB of names in each item, each name once."""
    number = 0
    while number < 600:
        here = range(number, number + 390_000 // length)
        number = here.stop
        yield attributes(f"{at:06d}".ljust(length, "n") for at in here)


def many_attributes():
    for row in range(40):
        yield attributes(f"a{(row * 131 + at) % 4000}" for at in range(2500))


def ever_new_names():
    for row in range(400):
        yield attributes(f"{row}-{at}".ljust(60, "x") for at in range(25))


def long_names_that_are_null():
    for row in range(60):
        yield {f"{row:03d}{at:03d}".ljust(250, "x"): '{"NULL":true}' for at in range(1000)}


def nested(levels):
    for kind in ('{"M":{"a":', '{"L":['):
        end = "}}" if "M" in kind else "]}"
        yield {"deep": kind * levels + '{"S":"}]\\"{["}' + end * levels}


def large(make, count):
    dice = random.Random(7)
    for _ in range(count):
        yield {"v": encoded(make(dice))}


def text(dice, size):
    return dice.randbytes(size // 2).hex()


def map_of(dice, size):
    return {"M": {f"a{at}": {"S": text(dice, 40)} for at in range(size // 56)}}


def numbers(dice):
    return {"L": [{"N": str(dice.randrange(10**6))} for _ in range(20_000)]}


def binary(dice):
    return {"B": base64.b64encode(dice.randbytes(290_000)).decode()}


def text_set(dice):
    return {"SS": sorted({text(dice, 30) for _ in range(10_000)})}


def number_set(dice):
    return {"NS": [str(each) for each in dice.sample(range(10**6), 10_000)]}


CASES = {
    "names-255": lambda: long_names(255),
    "names-10000": lambda: long_names(10_000),
    "names-65000": lambda: long_names(65_000),
    "many-attributes": many_attributes,
    "ever-new-names": ever_new_names,
    "null-names": long_names_that_are_null,
    "nested-31": lambda: nested(31),
    "nested-200": lambda: nested(200),
    "nested-500": lambda: nested(500),
    "nested-1000": lambda: nested(1000),
    "map-40KB": lambda: large(lambda dice: map_of(dice, 40_000), 1000),
    "map-400KB": lambda: large(lambda dice: map_of(dice, 390_000), 60),
    "list-400KB": lambda: large(numbers, 60),
    "text-400KB": lambda: large(lambda dice: {"S": text(dice, 390_000)}, 200),
    "binary-400KB": lambda: large(binary, 100),
    "text-set": lambda: large(text_set, 60),
    "number-set": lambda: large(number_set, 60),
}


def blocks(case):
    """Blocks of the case's items, never all at once."""
    rows = []
    for at, values in enumerate(CASES[case]()):
        rows.append(
            {
                "key": b"Sk%d" % at,
                "version": encode_version(1, at + 1),
                "op": "c",
                "event_time": 0,
                "new": image(at, values),
                "ttl": False,
            }
        )
        if len(rows) == BLOCK_ROWS:
            yield block(rows)
            rows = []
    yield block(rows)


def block(rows):
    header = BlockHeader(ORDERS, 0, 1, 1, "stream", {})
    return Block(header, pa.RecordBatch.from_pylist(rows, schema=SCHEMA))


def image(at, values):
    members = {"id": encoded({"S": f"k{at}"}), **values}
    return ("{" + ",".join(f"{encoded(k)}:{v}" for k, v in members.items()) + "}").encode()


def held(path):
    """How many rows there are, and how many are exactly as written; columns of attributes."""
    with duckdb.connect(path, read_only=True) as connection:
        connection.execute("SET memory_limit = '1GB'")
        (columns,) = connection.execute(
            "SELECT attributes FROM _dynabeam.tables WHERE name = 'orders'"
        ).fetchone()
        tags = {name: tag for name, tag in json.loads(columns) if tag != "NULL"}
        (count,) = connection.execute("SELECT count(*) FROM orders").fetchone()
        rows = connection.execute("SELECT * FROM orders")
        names = [each[0] for each in rows.description]
        found = {}
        with duckdb.connect() as parser:
            while row := rows.fetchone():
                cells = dict(zip(names, row, strict=True))
                found[cells["id"]] = fingerprint(cells, tags, parser)
    return count, found, len(tags)


def fingerprint(cells, tags, parser):
    """The hash of each value by name: columns of their tag, and the members of `_other`."""
    values = {}
    for name, tag in tags.items():
        cell = cells[name]
        if cell is not None:
            values[name] = hash(value_text(tag, cell))
    if cells["_other"]:
        members = "SELECT key, value::VARCHAR FROM json_each(?)"
        for name, value in parser.execute(members, [cells["_other"]]).fetchall():
            assert name not in values, name
            values[name] = hash(value)
    return values


def value_text(tag, cell):
    if tag in ("L", "M"):
        return f'{{"{tag}":{cell}}}'
    if tag == "B":
        cell = base64.b64encode(cell).decode()
    if tag == "NS":
        cell = [format(each, "f").rstrip("0").rstrip(".") for each in cell]
    return encoded({tag: cell})


def main():
    case, folder = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    path = f"{folder}/m.duckdb"
    sink = open_sink(f"duckdb:///{path}")
    sink.check([ORDERS], NO_ROUND)
    reports = sink.apply_what_fits(lambda: blocks(case), round_number(1))
    assert [each.kind for each in reports] == ["sink"], reports
    # `ru_maxrss` of a child begins with what its parent had when it forked.
    with open("/proc/self/status") as status:
        (peak,) = (int(line.split()[1]) >> 10 for line in status if line.startswith("VmHWM"))
    count, stored, columns = held(path)
    exact = 0
    for at, values in enumerate(CASES[case]()):
        expected = {"id": encoded({"S": f"k{at}"}), **values}
        exact += stored[f"k{at}"] == {name: hash(value) for name, value in expected.items()}
    found = {"rows": count, "exact": exact, "columns": columns, "peak": peak}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
