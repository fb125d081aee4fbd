# SPDX-License-Identifier: Apache-2.0
"""States of tables, as tests need them."""

import dataclasses

from dynabeam.transforms.export.manifest import DataFile, ExportManifest
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.state.table_state import NO_TOTALS, LoadState, TableState
from dynabeam.transforms.values.key_schema import KeyAttribute, KeySchema

ARN = "arn:aws:dynamodb:eu-west-1:111122223333:table/orders"
TABLE = Table("orders", KeySchema(KeyAttribute("id", "S")), ARN)


def state_of(**fields):
    """The state of the table `orders`: nothing is read of it, and nothing is to be loaded."""
    plain = TableState(TABLE, "id", 1, None, LoadState.new("none"), NO_TOTALS)
    return dataclasses.replace(plain, **fields)


def manifest_of(*files, **fields):
    """A manifest of files of ten items."""
    return ExportManifest(
        **{
            "location": "/x/manifest-summary.json",
            "export_arn": "arn",
            "table_arn": ARN,
            "table_id": "id",
            "export_type": "FULL_EXPORT",
            "export_format": "DYNAMODB_JSON",
            "view": "",
            "from_us": 0,
            "export_time_us": 5,
            "item_count": 10 * len(files),
            "files": tuple(DataFile(path, 10, "md5") for path in files),
            **fields,
        }
    )
