# SPDX-License-Identifier: Apache-2.0
"""What is checked before anything is read: the tables, their streams, recovery, exports and state.

A run that cannot work stops here, with one error that names the mend, and leaves sinks and state as
they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipelines.options import ReplicateOptions
from pipelines.state_directory import State
from pipelines.table_repair import meet_gap, resume_repair
from pipelines.table_state import (
    check_coverage,
    stream_changed,
)
from transforms.aws import dynamodb
from transforms.errors import (
    AwsAccessError,
    ConfigurationError,
    ExportError,
    StateError,
    TableError,
)
from transforms.export.acquire import Acquisition, open_export
from transforms.export.destination import Destination, try_destination
from transforms.export.distinct import keys_option
from transforms.export.keys import find_keys, parse_keys
from transforms.export.location import newest_age_us
from transforms.export.manifest import ExportManifest
from transforms.table_readiness import describe_ready
from transforms.table_reading import new_table_state, open_loads
from transforms.table_selection import is_glob
from transforms.tables import Table

__all__ = ["check_tables", "given_exports", "table_names"]

_SHOWN = 20


def check_tables(options: ReplicateOptions, state: State, *, new: bool = False) -> list[str]:
    """Brings every table asked for into the state, checked.

    Args:
        options: What was asked for.
        state: Changed in place: new tables are added.
        new: The tables may all be new to a state that has others.

    Returns:
        The names of the tables of this run.

    Raises:
        DynabeamError: Something is missing or does not fit; the error names it.
    """
    manifests = given_exports(options)
    names = _names(options, manifests)
    if not names and not options.discovers:
        raise ConfigurationError(
            "no table is left",
            where="--tables, --table_tags, --exclude_tables",
            mend="Leave out fewer tables, or name others",
        )
    if not new and names and state.tables and not set(names) & set(state.tables):
        raise StateError(
            "the state directory is that of other tables",
            where=options.state_dir,
            expected=sorted(names),
            found=sorted(state.tables),
            mend="Give another --state_dir",
        )
    unknown = set(options.gaps.by_table) - set(names) - set(state.tables)
    if unknown and not options.discovers:
        raise ConfigurationError(
            "a policy is given for a table that is not replicated",
            where="--gaps",
            expected=sorted(names),
            found=sorted(unknown),
            mend="Name the table in --tables, or leave its policy out",
        )
    checked = [name for name in names if _check_or_leave(name, options, state, manifests.get(name))]
    _try_destination(options, [state.tables[name] for name in checked])
    return checked


def _try_destination(options: ReplicateOptions, tables: Sequence[dict[str, Any]]) -> None:
    """Tries the bucket if an export is to be requested: one that fails there is paid for."""
    if options.access is None or not options.bucket:
        return
    to_come = [each for state in tables for each in open_loads(state)]
    new = (each for each in to_come if not each["reuse"] or newest_age_us(each["reuse"]))
    if any(load["manifest"] is None for load in new):
        to = Destination(options.bucket, options.prefix, options.bucket_owner)
        try_destination(options.access, to)


def _check_or_leave(
    name: str,
    options: ReplicateOptions,
    state: State,
    given: tuple[str, ExportManifest] | None,
) -> bool:
    """Checks a table; false if it is new, found by pattern, not ready, and discovery waits for it.

    Discovery tells what is the matter, and takes it up when it is mended.
    """
    try:
        _check_table(name, options, state, given)
    except (TableError, AwsAccessError):
        if name in state.tables or name in options.tables or not options.discovers:
            raise
        return False
    return True


def table_names(options: ReplicateOptions) -> list[str]:
    """The tables that the options name, globs resolved; those of given exports are not opened.

    Raises:
        ConfigurationError: A glob matches no table.
        AwsAccessError: `dynamodb:ListTables` is not allowed, and there is a glob.
    """
    return _names(options, {})


def given_exports(options: ReplicateOptions) -> dict[str, tuple[str, ExportManifest]]:
    """The exports that the options name, by table: location and manifest.

    Raises:
        ConfigurationError: Two are of one table.
        ExportError: One cannot be read.
    """
    how = Acquisition(access=options.access, verify=options.verify)
    found: dict[str, tuple[str, ExportManifest]] = {}
    for location in options.exports:
        if newest_age_us(location):
            continue
        manifest = open_export(location, how)
        if manifest.table_name in found:
            raise ConfigurationError(
                "two exports of one table are given",
                where=f"--export={location}",
                found=found[manifest.table_name][0],
                mend="Give one export a table",
            )
        found[manifest.table_name] = (location, manifest)
    return found


def _names(
    options: ReplicateOptions, manifests: dict[str, tuple[str, ExportManifest]]
) -> list[str]:
    selection = options.selection
    found = selection.find(options.access)
    if found.listed is not None and not options.discovers:
        _check_patterns(options, found.listed, found.selected)
    names = list(found.selected)
    if not options.tables and not options.table_tags:
        names = sorted(manifests)
    for table, (location, _) in manifests.items():
        if table not in names:
            raise ExportError(
                "the export is of a table that is not replicated",
                where=f"--export={location}",
                expected=sorted(names),
                found=table,
                mend="Name the table in --tables, or give an export of one that is",
            )
    return names


def _check_patterns(
    options: ReplicateOptions, listed: Sequence[str], selected: Sequence[str]
) -> None:
    """Each glob, and the tags, have to mean a table: a run that ends has no other chance."""
    shown = ", ".join(listed[:_SHOWN]) + (", …" if len(listed) > _SHOWN else "")
    empty = [
        ("--tables", each)
        for each in options.tables
        if is_glob(each) and not options.selection.matches_of(each, listed)
    ]
    if options.table_tags and not selected:
        tags = (f"{key}={'|'.join(values)}" for key, values in options.table_tags.items())
        empty.append(("--table_tags", ",".join(tags)))
    for option, given in empty:
        assert options.access is not None
        raise ConfigurationError(
            f"no table of {options.access.region or 'the default region'} matches",
            where=option,
            found=given,
            mend=f"Check it and --region; the tables there are: {shown or 'none'}",
        )


def _check_table(
    name: str,
    options: ReplicateOptions,
    state: State,
    given: tuple[str, ExportManifest] | None,
) -> None:
    description = _describe(name, options)
    known = state.tables.get(name)
    if known is None:
        table = description.table if description else _table_of_export(options, given)
        known = new_table_state(table, description, options)
        if description is None and table.name in parse_keys(options.keys):
            # Nobody but people says what the key is: it has to tell all items apart.
            known["keys_given"] = True
        _set_export(name, known, options, given)
        state.tables[name] = known
        return
    _check_keys(name, known, options)
    resume_repair(known, options.gaps, options.access)
    if description is not None:
        _check_identity(name, known, description, options)
        stream = known["stream"]
        if stream is not None and stream["arn"] != description.stream_arn:
            gap = stream_changed(name, known, description.stream_arn)
            meet_gap(gap, known, options.gaps, options.access)
            stream["arn"] = description.stream_arn
            stream["frontiers"] = [None] * len(stream["frontiers"])


def _check_keys(name: str, known: dict[str, Any], options: ReplicateOptions) -> None:
    """Rows were written with one key: another one needs other rows."""
    given = parse_keys(options.keys).get(name)
    names = tuple(each.name for each in Table.from_json(known["table"]).keys.attributes)
    if known.get("keys_given") and given is not None and given != names:
        raise StateError(
            "the state directory has read the table with another key",
            where=f"{options.state_dir}, --keys={name}:{keys_option(given)}",
            expected=f"{name}:{keys_option(names)}",
            found=f"{name}:{keys_option(given)}",
            mend="Give the key as before, or a new --state_dir and new sinks",
        )


def _describe(name: str, options: ReplicateOptions) -> dynamodb.TableDescription | None:
    if options.access is None or (options.snapshot == "only" and options.exports):
        return None
    repairs = options.snapshot != "only" and options.gaps.of(name).repairs
    return describe_ready(
        options.access,
        name,
        stream=options.snapshot != "only",
        export=repairs or (options.snapshot != "never" and not options.exports),
    )


def _check_identity(
    name: str,
    known: dict[str, Any],
    description: dynamodb.TableDescription,
    options: ReplicateOptions,
) -> None:
    pairs = (
        ("table ARN", known["table"]["arn"], description.table.arn),
        ("table id", known["table_id"], description.table_id),
    )
    for what, expected, found in pairs:
        if expected and expected != found:
            raise StateError(
                f"the state directory is that of another table of this name: its {what} differs",
                where=f"{options.state_dir}, table {name}",
                expected=expected,
                found=found,
                mend="Give another --state_dir",
            )


def _table_of_export(options: ReplicateOptions, given: tuple[str, ExportManifest] | None) -> Table:
    if given is None:
        raise ConfigurationError(
            "without AWS a table needs an export",
            where="--export",
            mend="Give --region or --export",
        )
    manifest = given[1]
    keys = find_keys(manifest, access=options.access, given=parse_keys(options.keys))
    return Table(manifest.table_name, keys, manifest.table_arn)


def _set_export(
    name: str,
    known: dict[str, Any],
    options: ReplicateOptions,
    given: tuple[str, ExportManifest] | None,
) -> None:
    snapshot = known["snapshot"]
    if given is None:
        newest = [each for each in options.exports if newest_age_us(each)]
        snapshot["reuse"] = newest[0] if newest else ""
        if snapshot["status"] == "pending" and not newest and not options.bucket:
            raise ConfigurationError(
                "the table has no export, and there is no bucket for a new one",
                where=f"table {name}",
                mend="Give --s3_export_bucket, or an --export of this table",
            )
        return
    location, manifest = given
    manifest.check_table(Table.from_json(known["table"]))
    gap = check_coverage(name, known, manifest)
    known["coverage_checked"] = True
    if gap is not None:
        meet_gap(gap, known, options.gaps, options.access)
        if options.gaps.of(name).repairs:
            # A new export takes the place of the one that was given.
            return
    snapshot["reuse"] = location
