# SPDX-License-Identifier: Apache-2.0
"""The result of an audit on a terminal."""

from __future__ import annotations

from typing import TextIO

from dynabeam.pipelines.audit.options import AuditOptions
from dynabeam.transforms.audit.result import AuditResult, TableResult
from dynabeam.transforms.printable import printable

__all__ = ["print_result"]

_SHOWN = 5
_WIDTH = 60
_WORDS = {
    "missing": "missing in the mirror",
    "extra": "in the mirror, not in the table",
    "stale": "an older version of the item",
    "different": "other than the item",
    "newer": "newer than what was read: not compared",
    "pending": "not yet replicated: not compared",
}


def print_result(result: AuditResult, options: AuditOptions, out: TextIO) -> None:
    """Prints a verdict per table, what differs, and a few examples."""
    for each in result.tables:
        _print_table(each, out)
    if options.report:
        out.write(f"Report: {options.report}\n")


def _print_table(found: TableResult, out: TextIO) -> None:
    verdict = "EQUAL" if found.is_equal else f"{found.differences:,} DIFFERENCES"
    out.write(f"{found.table}: {verdict}  ({found.items:,} items, {found.rows:,} rows)\n")
    for kind, count in found.counts.items():
        if count and kind != "equal":
            out.write(f"  {kind:<10} {count:>10,}  {_WORDS[kind]}\n")
    for example in found.examples[:_SHOWN]:
        note = f" ({example['note']})" if example["note"] else ""
        out.write(printable(f"    {example['kind']}: {example['key']}{note}") + "\n")
        if example["truth"] is None or example["mirror"] is None:
            continue
        for name in example["attributes"]:
            table, mirror = (example[side].get(name) for side in ("truth", "mirror"))
            line = f"      {name}: table {_short(table)}, mirror {_short(mirror)}"
            out.write(printable(line) + "\n")
    if len(found.examples) > _SHOWN:
        out.write("    …\n")
    for warning in found.warnings:
        out.write(printable(f"  note: {warning}") + "\n")


def _short(text: str | None) -> str:
    if text is None:
        return "nothing"
    return text if len(text) <= _WIDTH else text[:_WIDTH] + "…"
