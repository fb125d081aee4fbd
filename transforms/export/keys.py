# SPDX-License-Identifier: Apache-2.0
r"""The key schema of an exported table, which a full export does not name.

It comes from DescribeTable where AWS is at hand, else from `--keys`, one value per table:

    --keys=orders:customer,order_no

that is the table's name, a colon, the hash attribute, and the range attribute if there is one. An
attribute name that holds a comma, a double quote or a space at an end is written as a JSON string:
`--keys='orders:"name, first"'` (the outer quotes are the shell's). The table's name needs none: it
cannot hold a colon.

Types (`S`, `N` or `B`) are seen in the export's first items.
"""

from __future__ import annotations

import collections
import json
import re
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, cast

from dynabeam.transforms.aws import dynamodb
from dynabeam.transforms.aws.session import AwsAccess
from dynabeam.transforms.errors import (
    ConfigurationError,
    ExportError,
    ExportIntegrityError,
    TableError,
)
from dynabeam.transforms.errors import ValueDecodeError as _BadValue
from dynabeam.transforms.export.distinct import keys_option, repeated_error
from dynabeam.transforms.export.inflate import inflate_start
from dynabeam.transforms.export.manifest import ExportManifest
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.storage import filesystem
from dynabeam.transforms.values.ion_text import ion_lines_to_json
from dynabeam.transforms.values.key_schema import KeyAttribute, KeySchema, KeyType
from dynabeam.transforms.values.keys import encode_key
from dynabeam.transforms.values.python_values import parse_json

__all__ = ["find_keys", "parse_keys"]

_SAMPLE_ITEMS = 1000
_SAMPLE_BYTES = 1 << 20
_FEW_BYTES = 1 << 10
_LONGEST_SAMPLE = 4 << 20
_KEY_TYPES = ("S", "N", "B")
_FORM = (
    "Write --keys=table:hash or --keys=table:hash,range, e.g. --keys=orders:customer,order_no; a "
    "name with a comma or quote as a JSON string: --keys='orders:\"name, first\"'"
)

Item = Mapping[str, Mapping[str, Any]]


def parse_keys(values: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Reads the values of `--keys`.

    Returns:
        Table name → names of the hash attribute and perhaps the range attribute.

    Raises:
        ConfigurationError: A value is not of the form, or names a table again.
    """
    found: dict[str, tuple[str, ...]] = {}
    for value in values:
        table, colon, rest = value.partition(":")
        names = _names(rest, value)
        if not table or not colon or not 1 <= len(names) <= 2 or not all(names):
            raise _not_keys(value, names)
        if table in found:
            raise ConfigurationError(
                "the table has its keys given twice", where="--keys", found=value, hint=_FORM
            )
        found[table] = names
    return found


def find_keys(
    manifest: ExportManifest,
    *,
    access: AwsAccess | None = None,
    given: Mapping[str, tuple[str, ...]] | None = None,
) -> KeySchema:
    """Finds the key schema of the table that an export is of.

    Args:
        manifest: The export.
        access: AWS, or None if it is not at hand.
        given: What `--keys` says, as `parse_keys` gives it.

    Raises:
        TableError: AWS has no such table, and `--keys` does not name it.
        ConfigurationError: Neither AWS nor `--keys` gives the keys, or `--keys` names an attribute
            that cannot be a key; the attributes that could are listed.
        ExportError: There is no item in which to see the types.
        ExportIntegrityError: A few items show that `--keys` names no key.
    """
    names = (given or {}).get(manifest.table_name)
    if access is not None:
        try:
            return dynamodb.describe_table(access, manifest.table_name).table.keys
        except TableError:
            # A table that was deleted still has its exports.
            if names is None:
                raise
    # With the names given only their types are needed, and a few items show these.
    items = _sample(manifest, _SAMPLE_BYTES if names is None else _FEW_BYTES)
    candidates = _candidates(items)
    if names is None:
        raise ConfigurationError(
            "an export does not name the table's key. Every sampled item "
            f"({len(items)}) has these attributes that could be it: {_shown(candidates)}",
            where=f"table {manifest.table_name}",
            hint=f"Give --keys={manifest.table_name}:hash or "
            f"--keys={manifest.table_name}:hash,range, or --region and credentials",
        )
    for name in names:
        if name not in candidates:
            raise _no_candidate(name, names, candidates, manifest.table_name)
    schema = KeySchema(*(KeyAttribute(name, candidates[name]) for name in names))
    if manifest.export_type == "FULL_EXPORT":
        _check_unique(items, Table(manifest.table_name, schema, manifest.table_arn), manifest)
    return schema


def _check_unique(items: list[Item], table: Table, manifest: ExportManifest) -> None:
    """Finds what is no key at once, if a few items show it; all are compared when they are read."""
    keys = collections.Counter(encode_key(each, table.keys) for each in items)
    if len(keys) < len(items):
        raise repeated_error(
            table,
            manifest.location,
            len(items),
            len(keys),
            example=keys.most_common(1)[0][0],
            items=[json.dumps(each).encode() for each in items],
            begun=False,
        )


def _no_candidate(
    name: str, names: tuple[str, ...], candidates: Mapping[str, KeyType], table: str
) -> ConfigurationError:
    hint = "Name the table's hash attribute, and its range attribute if there is one"
    bare = re.sub(r"\s", "", ",".join(names))
    for each in candidates:
        if "," in each and re.sub(r"\s", "", each) == bare:
            # A comma in a name, which parts names if it is not quoted.
            hint = f"If it is the one attribute {each!r}: --keys='{table}:{keys_option([each])}'"
    return ConfigurationError(
        f"the attribute {name!r} cannot be the key: not every item has it as a text, number or "
        f"binary. {_understood(names)}. Those that could be it: {_shown(candidates)}",
        where=f"--keys={table}:{keys_option(names)}",
        expected=sorted(candidates),
        found=name,
        hint=hint,
    )


def _understood(names: tuple[str, ...]) -> str:
    kinds = ("hash attribute", "range attribute")
    names_given = " and ".join(f"{kind} {name!r}" for kind, name in zip(kinds, names, strict=False))
    if len(names) > len(kinds):
        names_given += f" and {len(names) - len(kinds)} more"
    return f"Read as {names_given or 'no attribute'}"


def _names(text: str, value: str) -> tuple[str, ...]:
    """Splits `hash,range`, where each may be a JSON string."""
    names: list[str] = []
    rest = text
    while True:
        if rest.startswith('"'):
            try:
                name, end = json.JSONDecoder().raw_decode(rest)
            except ValueError as problem:
                raise _not_keys(value) from problem
            names.append(name)
            rest = rest[end:]
            if rest and not rest.startswith(","):
                raise _not_keys(value)
        else:
            name, _, _ = rest.partition(",")
            names.append(name.strip())
            rest = rest[len(name) :]
        if not rest:
            return tuple(names)
        rest = rest[1:].lstrip()


def _not_keys(value: str, names: tuple[str, ...] | None = None) -> ConfigurationError:
    what = "not a list of keys"
    if names is not None:
        what += f". {_understood(names)}"
    return ConfigurationError(what, where="--keys", found=value, hint=_FORM)


def _sample(manifest: ExportManifest, most_bytes: int) -> list[Item]:
    """The first items of the first file that has some, at most 1,000."""
    items: list[Item] = []
    for file in manifest.files:
        if not file.item_count:
            continue
        lines = _first_lines(file.path, manifest.export_format, most_bytes)
        # Malformed lines say nothing of the key; the reader makes dead letters of them.
        items += [item for item in map(_item, lines) if item is not None]
        if lines and not items:
            raise ExportIntegrityError(
                "no line is a record of an export", where=file.path, found=lines[0][:200]
            )
        break
    if not items:
        raise ExportError(
            "the export has no items, so the types of the key attributes cannot be seen",
            where=manifest.location,
            hint="Give --region and credentials, so that DescribeTable gives them",
        )
    return items


def _first_lines(path: str, export_format: str, most_bytes: int) -> list[bytes]:
    """The first whole lines of a file: those in some packed bytes, but at least one."""
    while True:
        packed = filesystem.read_start(path, most_bytes, ExportIntegrityError)
        data = inflate_start(packed, path, _LONGEST_SAMPLE)
        end = data.rfind(b"\n") + 1
        if end or len(packed) < most_bytes or len(data) >= _LONGEST_SAMPLE:
            break
        most_bytes *= 4
    data = data[: end or None]
    if export_format == "ION":
        data, _ = ion_lines_to_json(data)
    return list(islice((line for line in data.split(b"\n") if line), _SAMPLE_ITEMS))


def _item(line: bytes) -> Item | None:
    """The item of a full export's line, the key of an incremental one's, None of a malformed."""
    try:
        record = parse_json(line)
    except _BadValue:
        return None
    item = record.get("Item", record.get("Keys")) if isinstance(record, dict) else None
    if not isinstance(item, dict) or not all(isinstance(value, dict) for value in item.values()):
        return None
    return item


def _candidates(items: list[Item]) -> dict[str, KeyType]:
    """The attributes that all items have with one type that a key may have."""
    types: dict[str, str] = {}
    for number, item in enumerate(items):
        here = {name: next(iter(value)) for name, value in item.items() if len(value) == 1}
        if number == 0:
            types = {name: kind for name, kind in here.items() if kind in _KEY_TYPES}
        else:
            types = {name: kind for name, kind in types.items() if here.get(name) == kind}
    return cast("dict[str, KeyType]", types)


def _shown(candidates: Mapping[str, str]) -> str:
    listed = ", ".join(f"{name} ({candidates[name]})" for name in sorted(candidates))
    return listed or "none"
