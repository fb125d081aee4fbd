# SPDX-License-Identifier: Apache-2.0
"""Rows with images that are no JSON objects in UTF-8, or too deep: what no sink can take.

The service writes none, but an export that somebody has edited, or an answer that somebody forged,
may hold them. A sink looks before it writes (`split_unfit`): what a changelog published would be
read by programs that fail at the first such line, and databases are lenient in ways of their own.
A sink that decodes no image, and so takes deep ones, looks for JSON objects alone
(`split_malformed`): left to themselves, lenient parsers take `[1,]` and `NaN`. What is JSON and
cannot be decoded all the same (a number that no computer holds) is looked for after a sink has
failed (`split_undecodable`). Whichever it looks for, it takes blocks through `fitting`.

Looking costs half a microsecond an image: its syntax is checked by a compiled parser that makes
nothing of it, its UTF-8 for a whole column at once.
"""

from __future__ import annotations

import functools
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NoReturn, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa

from dynabeam.transforms.errors import ValueDecodeError
from dynabeam.transforms.model.block import Block
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.sinks.refused import refused_row
from dynabeam.transforms.values.deep_json import MAX_IMAGE_DEPTH
from dynabeam.transforms.values.nesting import is_deeper_than
from dynabeam.transforms.values.value_texts import object_names

__all__ = ["Split", "fitting", "split_malformed", "split_undecodable", "split_unfit"]

Split: TypeAlias = Callable[[Block, str], tuple[Block, list[Report]]]
"""Parts the rows of a block that the sink at a place can take from those that it cannot: the block
with the former, and a report of kind `refused` for each of the latter."""

TEXTS = ("old", "new", "envelope")
_skip = msgspec.json.Decoder(msgspec.Raw).decode
_decode = msgspec.json.Decoder().decode
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_LAX = re.compile(rb",\s*[\]}]|nan|inf", re.IGNORECASE)
"""`[1,]`, `{"a":1,}`, `NaN`, `-Infinity`, `inf`: outside of strings no JSON has them."""
_TOO_DEEP = f"nests deeper than {MAX_IMAGE_DEPTH} brackets"
_NOT_JSON = "is not a JSON object in UTF-8"


def fitting(
    blocks: Iterable[Block], split: Split, sink: str, refused: list[Report]
) -> Iterator[Block]:
    """What a sink can take of some blocks, one by one; those without rows are left out.

    Args:
        blocks: The blocks.
        split: What parts their rows.
        sink: The sink's place.
        refused: Gets the reports of the rows that are left out.
    """
    for block in blocks:
        fit, others = split(block, sink)
        refused += others
        if fit.rows.num_rows:
            yield fit


def split_unfit(
    block: Block, sink: str, columns: Sequence[str] = TEXTS, *, half_pairs: bool = False
) -> tuple[Block, list[Report]]:
    """Parts the rows that a sink can take from those that it cannot.

    Args:
        block: The block.
        sink: The sink's place.
        columns: The texts that it takes.
        half_pairs: It takes halves of surrogate pairs, as escapes.

    Returns:
        As `Split`. Texts that it takes are JSON objects, none too deep.
    """
    wrong: dict[int, str] = {}
    for name in columns:
        texts = block.rows.column(name)
        found = _wrong_texts(texts, functools.partial(_wrong, name=name), 2 * MAX_IMAGE_DEPTH)
        for row, reason in found.items():
            if not (half_pairs and _is_json_with_half_pairs(texts[row].as_py())):
                wrong.setdefault(row, reason)
    return _parted(block, wrong, sink)


def split_malformed(block: Block, sink: str) -> tuple[Block, list[Report]]:
    """Parts the rows whose new image is a JSON object in UTF-8, however deep, from the others.

    Args:
        block: The block.
        sink: The sink's place.

    Returns:
        As `Split`, for a sink that decodes no images.
    """
    wrong = _wrong_texts(block.rows.column("new"), _why_malformed, sys.maxsize)
    return _parted(block, wrong, sink)


def split_undecodable(
    block: Block, sink: str, *, half_pairs: bool = False
) -> tuple[Block, list[Report]]:
    """Parts the rows whose new image is unfit, or holds what nobody can decode, from the others.

    Args:
        block: The block.
        sink: The sink's place.
        half_pairs: It takes halves of surrogate pairs, as escapes.

    Returns:
        As `Split`.
    """
    return _parted(block, _undecodable(block, half_pairs=half_pairs), sink)


def _parted(block: Block, wrong: dict[int, str], sink: str) -> tuple[Block, list[Report]]:
    if not wrong:
        return block, []
    fits = np.ones(block.rows.num_rows, np.bool_)
    fits[list(wrong)] = False
    return block.with_rows(block.rows.filter(pa.array(fits))), [
        refused_row(
            block,
            at,
            sink=sink,
            reason=wrong[at],
            error=ValueDecodeError.__name__,
            severity="severe",
        )
        for at in sorted(wrong)
    ]


def _wrong_texts(texts: pa.Array, why: Callable[[bytes], str], shallow: int) -> dict[int, str]:
    """The rows whose text is wrong, with what is.

    Args:
        texts: The texts.
        why: What is wrong with one; empty if nothing is.
        shallow: A JSON object of so many bytes at the most is right, without a further look.
    """
    if texts.null_count == len(texts):
        return {}
    is_text = _is_text(texts)
    wrong: dict[int, str] = {}
    for row, text in enumerate(texts.to_pylist()):
        if text is None:
            continue
        try:
            _skip(text)
            if text[:1] == b"{" and is_text and len(text) <= shallow:
                continue
        except (msgspec.DecodeError, RecursionError):
            pass
        if reason := why(text):
            wrong[row] = reason
    return wrong


def _is_text(column: pa.Array) -> bool:
    try:
        column.cast(pa.string())
    except pa.ArrowInvalid:
        return False
    return True


def _undecodable(block: Block, *, half_pairs: bool) -> dict[int, str]:
    wrong: dict[int, str] = {}
    images = block.rows.column("new")
    names = object_names(images).to_pylist()
    for row, image in enumerate(images.to_pylist()):
        reason = "" if image is None else _why_undecodable(image)
        if reason and half_pairs and _is_json_with_half_pairs(image):
            reason = ""
        if not reason and names[row] is not None and len(set(names[row])) < len(names[row]):
            reason = "the image names an attribute twice"
        if reason:
            wrong[row] = reason
    return wrong


def _why_malformed(image: bytes) -> str:
    if is_deeper_than(image, MAX_IMAGE_DEPTH):
        # However deep it nests, a mirror that decodes no Python values can hold it.
        return "" if _is_deep_object(image) else f"the image {_NOT_JSON}"
    return _wrong(image, "new")


def _is_deep_object(image: bytes) -> bool:
    try:
        _skip(image)
    except msgspec.DecodeError:
        return False
    except RecursionError:
        # DuckDB's parser does not recurse, but takes some that is no JSON.
        if _LAX.search(_STRING.sub(b'""', image)):
            return False
    return bool(object_names(pa.array([image]))[0].is_valid)


def _why_undecodable(image: bytes) -> str:
    reason = _why_malformed(image)
    if not reason and not is_deeper_than(image, MAX_IMAGE_DEPTH):
        try:
            _decode(image)
        except (msgspec.DecodeError, RecursionError) as error:
            reason = f"the image cannot be decoded: {error}"
    return reason


def _is_json_with_half_pairs(text: bytes) -> bool:
    # Python's reader is the only strict one that takes them.
    if is_deeper_than(text, MAX_IMAGE_DEPTH):
        return False
    try:
        return isinstance(_python.decode(text.decode()), dict)
    except (ValueError, RecursionError):
        return False


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _finite(text: str) -> str:
    if math.isinf(float(text)):
        raise ValueError(text)
    return text


_python = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)


def _wrong(text: bytes, name: str) -> str:
    what = "the image" if name == "new" else f"{name}, the text of a change,"
    if is_deeper_than(text, MAX_IMAGE_DEPTH):
        return f"{what} {_TOO_DEEP}"
    try:
        text.decode("utf-8")
        _skip(text)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError) as error:
        return f"{what} {_NOT_JSON}: {error}"
    return "" if text.lstrip()[:1] == b"{" else f"{what} is not a JSON object"
