# SPDX-License-Identifier: Apache-2.0
"""Shows that data flows: items of each table beside rows of its mirror, until Ctrl-C.

`python watch.py ENDPOINT_URL POSTGRES_URI TABLE…` asks the simulator and PostgreSQL every few
seconds. The two are read one after the other while both change, so a mirror that keeps up shows the
same number, or some changes more or less.
"""

from __future__ import annotations

import argparse
import sys
import time

import boto3
import psycopg
from psycopg import sql

_EVERY = 5.0


def main() -> int:
    """Prints a line per table every few seconds, for ever or `--times` times."""
    parser = argparse.ArgumentParser(prog="watch.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("endpoint_url")
    parser.add_argument("postgres")
    parser.add_argument("tables", nargs="+")
    parser.add_argument("--times", type=int, default=0, help="how often; 0: until it is stopped")
    options = parser.parse_args()
    client = boto3.client("dynamodb", region_name="eu-west-1", endpoint_url=options.endpoint_url)
    turn = 0
    while not options.times or turn < options.times:
        turn += 1
        for table in options.tables:
            items, rows = _items(client, table), _rows(options.postgres, table)
            sys.stdout.write(f"{table:<10} {items:>8,} items {rows}\n")
        sys.stdout.write("\n")
        sys.stdout.flush()
        time.sleep(_EVERY)
    return 0


def _items(client: object, table: str) -> int:
    pages = client.get_paginator("scan").paginate(TableName=table, Select="COUNT")  # type: ignore[attr-defined]
    return sum(page["Count"] for page in pages)


def _rows(uri: str, table: str) -> str:
    """What PostgreSQL says; there is no mirror before its first rows."""
    counting = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier("dynabeam", table))
    try:
        with psycopg.connect(uri, connect_timeout=5) as connection:
            row = connection.execute(counting).fetchone()
    except psycopg.errors.UndefinedTable:
        return "   no mirror yet"
    except psycopg.OperationalError as problem:
        return f"   {problem}"
    return f"{row[0] if row else 0:>8,} rows in its mirror"


if __name__ == "__main__":
    sys.exit(main())
