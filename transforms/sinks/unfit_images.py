# SPDX-License-Identifier: Apache-2.0
"""Rows with images that are no JSON objects in UTF-8, or too deep: what no sink can take.

The service writes none, but an export that somebody has edited, or an answer that somebody forged,
may hold them. A sink looks before it writes (`split_unfit`): what a changelog published would be
read by programs that fail at the first such line, and databases are lenient in ways of their own.
A sink that decodes no image, and so takes deep ones, looks for JSON objects alone
(`split_malformed`): left to themselves, lenient parsers take `[1,]` and `NaN`. What is JSON and
cannot be decoded all the same (a number that no computer holds) is looked for after a sink has
failed (`without_unfit`, `refused_images`).

Looking costs half a microsecond an image: its syntax is checked by a compiled parser that makes
nothing of it, its UTF-8 for a whole column at once.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import NoReturn

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

__all__ = ["refused_images", "split_malformed", "split_unfit", "without_unfit"]

TEXTS = ("old", "new", "envelope")
_skip = msgspec.json.Decoder(msgspec.Raw).decode
_decode = msgspec.json.Decoder().decode
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_LAX = re.compile(rb",\s*[\]}]|nan|inf", re.IGNORECASE)
"""`[1,]`, `{"a":1,}`, `NaN`, `-Infinity`, `inf`: outside of strings no JSON has them."""
_TOO_DEEP = f"nests deeper than {MAX_IMAGE_DEPTH} brackets"
_NOT_JSON = "is not a JSON object in UTF-8"


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
        The block with the rows whose texts are all JSON objects, none too deep; and a report of
        kind `refused` for each of the others.
    """
    wrong: dict[int, str] = {}
    for name in columns:
        for row, reason in _unfit_texts(block.rows.column(name), name).items():
            if not (half_pairs and _is_json_with_half_pairs(block.rows.column(name)[row].as_py())):
                wrong.setdefault(row, reason)
    if not wrong:
        return block, []
    return _without(block, wrong), _refused(block, wrong, sink)


def split_malformed(block: Block, sink: str) -> tuple[Block, list[Report]]:
    """Parts the rows whose new image is a JSON object in UTF-8, however deep, from the others.

    Args:
        block: The block.
        sink: The sink's place.

    Returns:
        The block with the rows that a sink can take which decodes no images; and a report of kind
        `refused` for each of the others.
    """
    images = block.rows.column("new")
    is_text = _is_text(images)
    wrong: dict[int, str] = {}
    for row, image in enumerate(images.to_pylist()):
        if image is None:
            continue
        try:
            _skip(image)
            if image[:1] == b"{" and is_text:
                continue
        except (msgspec.DecodeError, RecursionError):
            pass
        if reason := _why_malformed(image):
            wrong[row] = reason
    if not wrong:
        return block, []
    return _without(block, wrong), _refused(block, wrong, sink)


def without_unfit(block: Block, *, half_pairs: bool = False) -> Block:
    """The block without the rows whose new image is unfit, or holds what nobody can decode.

    Args:
        block: The block.
        half_pairs: The sink takes halves of surrogate pairs, as escapes.
    """
    wrong = _undecodable(block, half_pairs=half_pairs)
    return _without(block, wrong) if wrong else block


def refused_images(block: Block, sink: str, *, half_pairs: bool = False) -> list[Report]:
    """A report of kind `refused` for each row that `without_unfit` leaves out.

    Args:
        block: The block.
        sink: The sink's place.
        half_pairs: It takes halves of surrogate pairs, as escapes.
    """
    return _refused(block, _undecodable(block, half_pairs=half_pairs), sink)


def _without(block: Block, rows: dict[int, str]) -> Block:
    fits = np.ones(block.rows.num_rows, np.bool_)
    fits[list(rows)] = False
    return block.with_rows(block.rows.filter(pa.array(fits)))


def _refused(block: Block, wrong: dict[int, str], sink: str) -> list[Report]:
    return [
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


def _unfit_texts(texts: pa.Array, name: str) -> dict[int, str]:
    """The rows whose text is unfit, with what is wrong."""
    if texts.null_count == len(texts):
        return {}
    is_text = _is_text(texts)
    wrong: dict[int, str] = {}
    for row, text in enumerate(texts.to_pylist()):
        if text is None:
            continue
        try:
            _skip(text)
            if text[:1] == b"{" and is_text and len(text) <= 2 * MAX_IMAGE_DEPTH:
                continue  # so short a text is not deep
        except (msgspec.DecodeError, RecursionError):
            pass
        if reason := _wrong(text, name):
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
