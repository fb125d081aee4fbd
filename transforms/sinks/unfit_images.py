# SPDX-License-Identifier: Apache-2.0
"""Rows whose images are no JSON objects in UTF-8: what no mirror can lay out.

The service writes none, but an export that somebody has edited may hold them. They are looked for
only after a sink has failed, because looking costs Python for each row.
"""

from __future__ import annotations

import msgspec
import pyarrow as pa

from transforms.block import Block
from transforms.errors import ValueDecodeError
from transforms.reports import Report
from transforms.sinks.refused import refused_row

__all__ = ["refused_images", "without_unfit"]


def without_unfit(block: Block) -> Block:
    """The block without the rows whose new image is unfit."""
    images = block.rows.column("new").to_pylist()
    fit = [not _wrong(image) for image in images]
    return block if all(fit) else block.with_rows(block.rows.filter(pa.array(fit)))


def refused_images(block: Block, sink: str) -> list[Report]:
    """A report of kind `refused` for each row that `without_unfit` leaves out.

    Args:
        block: The block.
        sink: The sink's place.
    """
    found = []
    for at, image in enumerate(block.rows.column("new").to_pylist()):
        wrong = _wrong(image)
        if wrong:
            found.append(
                refused_row(
                    block,
                    at,
                    sink=sink,
                    reason=wrong,
                    error=ValueDecodeError.__name__,
                    severity="severe",
                )
            )
    return found


def _wrong(image: bytes | None) -> str:
    if image is None:
        return ""
    try:
        image.decode("utf-8")
        document = msgspec.json.decode(image)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError) as error:
        return f"the image is not a JSON object in UTF-8: {error}"
    return "" if isinstance(document, dict) else "the image is not a JSON object"
