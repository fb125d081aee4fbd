# SPDX-License-Identifier: Apache-2.0
"""Hostile input of every kind, and one oracle for all of it.

Whatever comes in, one of three things comes out: what a plain decoder reads too, or a dead letter
with the raw bytes, or a typed error that names the place. Never a traceback, never a hang, never
another value, and no other record is lost.

| file | what is hostile | share |
|---|---|---|
| `test_export_lines` | lines of data files: DynamoDB JSON, full and incremental, and Ion | 1.8 |
| `test_export_files` | the gzip around them | 0.5 |
| `test_stream_pages` | answers of GetRecords, parsed, and read by a reader | 1.6 |
| `test_manifests` | both manifests and their checksums, in a local folder | 0.7 |
| `test_stored_documents` | what is kept between runs, element coders, blocks, control files | 2.6 |
| `test_command_line` | words after `dynabeam` | 0.6 |
| `test_sinks` | images that reach a JSON Lines changelog and a DuckDB mirror | 0.2 |

Answers of HTTP endpoints are in `tests/aws/test_get_records_hostile.py`.

`plain_decoder` reads with the standard library (and `amazon.ion`), `hostile` makes the input,
`cases` says how many examples and how long one may take.

The share is of the profile's number of examples: 100 in CI, where the seeds are fixed, and 3,000 in
the deep one, some 23,500 cases in all:

    python -m pytest tests/fuzz --hypothesis-profile=deep
"""
