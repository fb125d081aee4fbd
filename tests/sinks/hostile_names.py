# SPDX-License-Identifier: Apache-2.0
"""Names of attributes that a column cannot have, or that would be taken for another one."""

from dynabeam.transforms.sinks.postgresql.names import column_name

__all__ = ["HOSTILE_NAMES", "KEY_NAMES"]

HOSTILE_NAMES = [
    # Ours, of every sink, and such as we might have taken.
    *("_key", "_version", "_op", "_event_time", "_ttl", "_deleted", "_deleted_at", "_raw"),
    *("_other", "item", "_new", "_old", "_keys", "_source", "_origin", "_envelope", "_table"),
    *(
        "round",
        "dynabeam_round",
        "Dynabeam_Round",
        "_round",
        "table",
        "file",
        "filename",
        "file_row_number",
        "bucket",
        "c0",
        "key0",
    ),
    *("_KEY", "_Other", "ITEM", "Round", "Ctid", "_VERSION", "_RAW", "_DELETED_AT"),
    # Of the databases.
    *("tableoid", "xmin", "cmin", "xmax", "cmax", "ctid", "oid", "rowid", "rowId"),
    *("__index_level_0__", "schema", "element", "list", "struct", "duckdb_schema", "input"),
    # Words and signs of SQL, of formats and of paths.
    *("select", "order", "user", "null", "true", "NULL", "excluded", "r", "default", "*"),
    *('"', '""', "'", "''", "`", "\\", "$1", "$$", "%s", "%", "{}", "{0}", ";--", "/*", "?", ":a"),
    *("a.b", "a[0]", "$.a", "/", "~", "~0", "~1", "/a~1", "a=b", "round=0000000001", "../x", "#"),
    *(
        " ",
        "  ",
        "a ",
        " a",
        "\t",
        "\n",
        "a\nb",
        "\r\n",
        "\x00",
        "a\x00",
        "a\x00b",
        "\x1b[2J",
        "\x7f",
    ),
    # Letters that are not what they seem.
    *(
        "İ",
        "i̇",
        "ß",
        "SS",
        "\u017f",
        "s",
        "K",
        "k",
        "é",
        "e\u0301",
        "\ufeff",
        "\ufeffx",
        "\u202ea",
        "😀",
    ),
    # Longer than 63 bytes, alike up to there, cut inside a letter, or looking as if cut already.
    *("x" * 63, "x" * 64, "x" * 64 + "y", "X" * 64, "é" * 31, "é" * 32, "é" * 40, "x" + "é" * 40),
    "x" * 64 + "db3c00d1820f85c3",  # these two have the first 64 bits of their SHA-256 in common
    "x" * 64 + "840ce10139fa1ef8",
    *(column_name("x" * 64), column_name(column_name("x" * 64)), "x" * 46 + "~" + "0" * 16),
    *("😀" * 63, "n" * 255),
]
KEY_NAMES = [
    *("_key", "_version", "_op", "_event_time", "_ttl", "_deleted", "_deleted_at", "_raw"),
    *("_other", "_OTHER", "item", "ITEM", "_new", "_old", "_keys", "_source", "_origin", "round"),
    *("_Key", "xmin", "ctid", "tableoid", "CTID", "oid", "rowid", "select", 'q"', "a.b", "a/~b"),
    *("a\x00b", "\n", "'", "%s", "$1", "İ", "é" * 40, "k" * 63, "k" * 64, "k" * 255),
]
