# SPDX-License-Identifier: Apache-2.0
"""The result of an audit as one HTML page: no scripts, no other files, every value escaped."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from dynabeam.transforms.audit.html_picture import COLOURS, WORDS, bucket_grid, counts_bar
from dynabeam.transforms.audit.html_style import STYLE
from dynabeam.transforms.audit.result import AuditResult, TableResult
from dynabeam.transforms.audit.verdict import KINDS

__all__ = ["html_page"]

_VALUE_CHARACTERS = 600
_OPEN = 6
_LIKE, _UNLIKE = "<tr>", '<tr class="unlike">'


def html_page(result: AuditResult) -> str:
    """The page."""
    differing = [each for each in result.tables if not each.is_equal]
    if differing:
        many = f"{len(differing)} of {len(result.tables)} tables differ"
        verdict = f'<h1 class="bad">{many if len(result.tables) > 1 else "The mirror differs"}</h1>'
    else:
        verdict = '<h1 class="good">The mirror equals the table</h1>'
        if len(result.tables) > 1:
            verdict = f'<h1 class="good">All {len(result.tables)} tables are equal</h1>'
    items = sum(each.items for each in result.tables)
    facts = {
        "mirror": result.sink,
        "compared": f"{items:,} items in {result.seconds:,.1f} s, "
        f"{result.passes} pass{'es' if result.passes > 1 else ''}",
        "begun": result.began,
    }
    body = "".join(_table(each) for each in result.tables)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'\">"
        f"<title>Dynabeam audit</title><style>{STYLE}</style></head><body><main>"
        f'<header><p class="eyebrow">Dynabeam audit</p>{verdict}{_facts(facts)}</header>'
        f"{body}{_FOOT}</main></body></html>\n"
    )


def _table(found: TableResult) -> str:
    mark = '<span class="mark good">equal</span>'
    if not found.is_equal:
        many = "s" if found.differences > 1 else ""
        mark = f'<span class="mark bad">{found.differences:,} difference{many}</span>'
    warnings = "".join(f'<p class="note">{_text(each)}</p>' for each in found.warnings)
    sizes = f"{found.items:,} items in the table, {found.rows:,} rows in the mirror"
    return (
        f"<section><h2>{_text(found.table)} {mark}</h2>"
        f'<p class="sizes">{sizes}</p>{warnings}'
        f"{bucket_grid(found)}{counts_bar(found)}{_legend(found)}"
        f"{_examples(found)}"
        f"<details><summary>How it was compared</summary>{_facts(found.how)}</details>"
        "</section>"
    )


def _legend(found: TableResult) -> str:
    entries = "".join(
        f'<li><i style="background:{COLOURS[kind]}"></i><b>{count:,}</b> {WORDS[kind]}</li>'
        for kind, count in found.counts.items()
        if count or kind == "equal"
    )
    return f'<ul class="legend">{entries}</ul>'


def _examples(found: TableResult) -> str:
    if not found.examples:
        return ""
    shown = sorted(found.examples, key=lambda each: KINDS.index(each["kind"]))
    told = [_example(each, is_open=at < _OPEN) for at, each in enumerate(shown)]
    left = found.differences - len(shown)
    more = f'<p class="sizes">{left:,} more are not shown</p>' if left > 0 else ""
    return f"<h3>Examples</h3>{''.join(told)}{more}"


def _example(example: Mapping[str, Any], *, is_open: bool) -> str:
    kind = example["kind"]
    sides = [
        (title, example[side], example[f"{side}_version"])
        for title, side in (("in the table", "truth"), ("in the mirror", "mirror"))
        if example[side] is not None
    ]
    unlike = set(example["attributes"]) if len(sides) == 2 else set()
    names = {name for _, item, _ in sides for name in item}
    rows = "".join(
        f"{_UNLIKE if name in unlike else _LIKE}<th>{_text(name)}</th>"
        f"{_values(name, [item for _, item, _ in sides])}</tr>"
        # What differs comes first.
        for name in sorted(names, key=lambda name: (name not in unlike, name))
    )
    heads = "".join(
        f"<th>{title}<small>{_version(version)}</small></th>" for title, _, version in sides
    )
    note = f" · {_text(example['note'])}" if example["note"] else ""
    return (
        f'<details class="example"{" open" if is_open else ""}>'
        f'<summary><i style="background:{COLOURS[kind]}"></i>'
        f"<b>{kind}</b> {_text(example['key'])}{note}"
        f'<span class="bucket">bucket {example["bucket"]}</span></summary>'
        f'<div class="scroll"><table><thead><tr><th></th>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div></details>"
    )


def _values(name: str, items: Sequence[Mapping[str, str]]) -> str:
    texts = [each.get(name) for each in items]
    others = reversed(texts) if len(texts) == 2 else [None]
    return "".join(_value(text, other) for text, other in zip(texts, others, strict=True))


def _value(text: str | None, other: str | None) -> str:
    if text is None:
        return '<td class="none">not there</td>'
    tag, _, value = text.partition(" ")
    if text.startswith("sha256:"):
        tag, value = "", text
    shown = _text(value[:_VALUE_CHARACTERS]) + ("…" if len(value) > _VALUE_CHARACTERS else "")
    if other is not None and other != text:
        shown = _marked(value, other.partition(" ")[2])
    return f'<td><span class="tag">{_text(tag)}</span> {shown or "<em>empty text</em>"}</td>'


def _marked(value: str, other: str) -> str:
    """The value with the part marked that the two do not share at both ends."""
    front = 0
    shorter = min(len(value), len(other))
    while front < shorter and value[front] == other[front]:
        front += 1
    back = 0
    while back < shorter - front and value[-1 - back] == other[-1 - back]:
        back += 1
    middle = value[front : len(value) - back]
    before = value[max(0, front - 80) : front]
    after = value[len(value) - back :][:80]
    return (
        f"{'…' if front > 80 else ''}{_text(before)}"
        f"<mark>{_text(middle[:_VALUE_CHARACTERS])}</mark>"
        f"{_text(after)}{'…' if back > 80 else ''}"
        if middle
        else f"{_text(before)}<mark></mark>{_text(after)}"
    )


def _version(version: str) -> str:
    head, _, tail = version.partition(".")
    generation, sequence = head.lstrip("0"), tail.lstrip("0")
    if not sequence:
        return f"snapshot row, generation {_text(generation or '0')}"
    return f"generation {_text(generation)}, sequence {_text(sequence)}"


def _facts(facts: Mapping[str, str]) -> str:
    entries = "".join(
        f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in facts.items()
    )
    return f"<dl>{entries}</dl>"


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)


_FOOT = (
    "<footer><p>Every cell is a hash bucket of keys. The table's items, as its export and its "
    "stream give them, were laid out as the mirror stores them; a bucket is equal if both sides "
    "have as many rows and the same sum of 128-bit digests of all stored columns. Other buckets "
    "were compared item by item.</p></footer>"
)
