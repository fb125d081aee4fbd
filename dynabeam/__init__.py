# SPDX-License-Identifier: Apache-2.0
"""Dynabeam: DynamoDB tables, exactly and provably, where people analyse data.

```python
import apache_beam as beam
from dynabeam import Changes, ReadFromDynamoDB

with beam.Pipeline() as p:
    read = p | ReadFromDynamoDB(["orders"], region="eu-west-1")
    _ = read.blocks | Changes() | beam.Map(print)
```

Each public name is imported from here, and nowhere else. `dynabeam.testing` has the simulator for
tests. Modules below `dynabeam.transforms` may be used, and may change with any release.

`import dynabeam` imports nothing: Beam, which takes seconds, comes with the first name that needs
it.
"""

import importlib
from typing import TYPE_CHECKING

from dynabeam.transforms.version_info import __version__

if TYPE_CHECKING:
    from dynabeam.transforms.aws.roles import Role
    from dynabeam.transforms.aws.session import AwsAccess
    from dynabeam.transforms.dynamodbio import Change, Changes, ReadFromDynamoDB
    from dynabeam.transforms.errors import (
        AwsAccessError,
        AwsUnreachableError,
        ConfigurationError,
        CredentialsError,
        DynabeamError,
        ExportError,
        ExportIntegrityError,
        GapError,
        SinkError,
        StateError,
        StateInUseError,
        StreamError,
        TableError,
        ValueDecodeError,
    )
    from dynabeam.transforms.model.block import Block
    from dynabeam.transforms.model.dead_letter import DeadLetter
    from dynabeam.transforms.model.gap import GapPolicy
    from dynabeam.transforms.model.report import Report
    from dynabeam.transforms.read_tables import TablesRead
    from dynabeam.transforms.sinks.base import Sink
    from dynabeam.transforms.sinks.refused import SinkOutput
    from dynabeam.transforms.sinks.registry import open_sink
    from dynabeam.transforms.sinks.write_blocks import WriteToChangelog, WriteToMirror
    from dynabeam.transforms.values.plain_json import plain_json
    from dynabeam.transforms.values.python_values import (
        BinarySet,
        NumberSet,
        StringSet,
        decode_item,
    )

__all__ = [
    "AwsAccess",
    "AwsAccessError",
    "AwsUnreachableError",
    "BinarySet",
    "Block",
    "Change",
    "Changes",
    "ConfigurationError",
    "CredentialsError",
    "DeadLetter",
    "DynabeamError",
    "ExportError",
    "ExportIntegrityError",
    "GapError",
    "GapPolicy",
    "NumberSet",
    "ReadFromDynamoDB",
    "Report",
    "Role",
    "Sink",
    "SinkError",
    "SinkOutput",
    "StateError",
    "StateInUseError",
    "StreamError",
    "StringSet",
    "TableError",
    "TablesRead",
    "ValueDecodeError",
    "WriteToChangelog",
    "WriteToMirror",
    "__version__",
    "decode_item",
    "open_sink",
    "plain_json",
]

_MODULES = {
    "aws.roles": ("Role",),
    "aws.session": ("AwsAccess",),
    "dynamodbio": ("Change", "Changes", "ReadFromDynamoDB"),
    "errors": tuple(each for each in __all__ if each.endswith("Error")),
    "model.block": ("Block",),
    "model.dead_letter": ("DeadLetter",),
    "model.gap": ("GapPolicy",),
    "model.report": ("Report",),
    "read_tables": ("TablesRead",),
    "sinks.base": ("Sink",),
    "sinks.refused": ("SinkOutput",),
    "sinks.registry": ("open_sink",),
    "sinks.write_blocks": ("WriteToChangelog", "WriteToMirror"),
    "values.plain_json": ("plain_json",),
    "values.python_values": ("BinarySet", "NumberSet", "StringSet", "decode_item"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


# Hidden from type checkers, for whom it would be every name that there is not.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Imports a public name on first access (PEP 562)."""
        module = _MODULE_OF.get(name)
        if module is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{__name__}.transforms.{module}"), name)
        globals()[name] = value
        return value
