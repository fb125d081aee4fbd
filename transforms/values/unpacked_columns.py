# SPDX-License-Identifier: Apache-2.0
"""What images become: a batch of typed columns, and what has no place in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from dynabeam.transforms.values.column_payloads import column_type
from dynabeam.transforms.values.column_types import ColumnTypes, NumberType

__all__ = ["NestedForm", "UnpackedColumns", "batch_of"]

NestedForm = Literal["dynamodb", "plain"]


@dataclass(frozen=True)
class UnpackedColumns:
    """Images as columns, one row per image.

    Args:
        batch: One column per attribute of `ColumnTypes.columns`, in their order.
        other: String: JSON object of what did not fit, null where everything did.
        unknown: Attributes that have no column although they could: merge them into the types and
            unpack again to give them one.
        unfit_numbers: Values that are numbers, or sets of them, as their column is, and stand in
            `other` because the column's decimal type is too narrow.
    """

    batch: pa.RecordBatch
    other: pa.Array
    unknown: ColumnTypes
    unfit_numbers: int = 0


def batch_of(
    columns: Sequence[pa.Array], types: ColumnTypes, numbers: NumberType, count: int
) -> pa.RecordBatch:
    """Join columns, in the order of the types, to a batch of `count` rows; there may be none."""
    if not columns:
        return pa.RecordBatch.from_struct_array(pa.array([{}] * count, pa.struct([])))
    fields = [pa.field(name, column_type(tag, numbers)) for name, tag in types.columns.items()]
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields))
