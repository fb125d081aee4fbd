# SPDX-License-Identifier: Apache-2.0
"""What is checked before anything is read: the tables, their streams, recovery, exports and state.

A run that cannot work stops here, with one error that names the hint, and leaves sinks and state as
they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from dynabeam.pipelines.options.replicate import ReplicateOptions
from dynabeam.pipelines.table_findings import TableFindings, finding_of
from dynabeam.pipelines.table_sequels import ended_error
from dynabeam.transforms.aws import dynamodb
from dynabeam.transforms.errors import (
    AwsAccessError,
    ConfigurationError,
    ExportError,
    StateError,
    TableError,
)
from dynabeam.transforms.export.acquire import Acquisition, given_exports
from dynabeam.transforms.export.destination import Destination, try_destination
from dynabeam.transforms.export.distinct import keys_option
from dynabeam.transforms.export.keys import find_keys, parse_keys
from dynabeam.transforms.export.location import newest_age_us
from dynabeam.transforms.export.manifest import ExportManifest
from dynabeam.transforms.model.gap import GapPolicy
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.state.merge_reports import (
    check_coverage,
    raise_or_record,
    stream_changed,
)
from dynabeam.transforms.state.sink_membership import LoadingMirrors
from dynabeam.transforms.state.state_directory import State
from dynabeam.transforms.state.stream_successor import Sequel, find_sequel
from dynabeam.transforms.state.table_readiness import (
    readiness_problem,
    recovery_problem,
    stream_problem,
)
from dynabeam.transforms.state.table_reading import new_table_state
from dynabeam.transforms.state.table_repair import meet_gap, resume_repair, switch_stream
from dynabeam.transforms.state.table_selection import is_glob
from dynabeam.transforms.state.table_state import TableState

__all__ = ["check_tables", "loading_mirrors", "table_names"]

_SHOWN = 20


def check_tables(
    options: ReplicateOptions,
    state: State,
    *,
    new: bool = False,
    findings: TableFindings | None = None,
) -> list[str]:
    """Brings every table asked for into the state, checked.

    Args:
        options: What was asked for.
        state: Changed in place: new tables are added.
        new: The tables may all be new to a state that has others.
        findings: Takes up what is the matter with single tables, while the others go on; without
            it that is an error.

    Returns:
        The names of the tables of this run.

    Raises:
        DynabeamError: Something is missing or does not fit, or there is no table that can be read;
            the error names it.
    """
    manifests = given_exports(options.exports, _how(options))
    names = _names(options, manifests)
    names += _ended_tables(names, options, state)
    if not names and not options.discovers:
        raise ConfigurationError(
            "no table is left",
            where="--tables, --table_tags, --exclude_tables",
            hint="Leave out fewer tables, or name others",
        )
    if not new and names and state.tables and not set(names) & set(state.tables):
        raise StateError(
            "the state directory is that of other tables",
            where=options.state_dir,
            expected=sorted(names),
            found=sorted(state.tables),
            hint="Give another --state_dir",
        )
    unknown = set(options.gaps.by_table) - set(names) - set(state.tables)
    if unknown and not options.discovers:
        raise ConfigurationError(
            "a policy is given for a table that is not replicated",
            where="--gaps",
            expected=sorted(names),
            found=sorted(unknown),
            hint="Name the table in --tables, or leave its policy out",
        )
    taken = TableFindings() if findings is None else findings
    read = [
        name for name in names if _check_or_leave(name, options, state, manifests.get(name), taken)
    ]
    problems = taken.of(names)
    if problems and (findings is None or not (read or options.discovers)):
        raise next(iter(problems.values()))
    _try_destination(options, [state.tables[name] for name in read])
    return read


def _try_destination(options: ReplicateOptions, tables: Sequence[TableState]) -> None:
    """Tries the bucket if an export is to be requested: one that fails there is paid for."""
    if options.access is None or not options.bucket:
        return
    to_come = [each for state in tables for each in state.open_loads]
    new = (each for each in to_come if not each.reuse or newest_age_us(each.reuse))
    if any(load.manifest is None for load in new):
        to = Destination(options.bucket, options.prefix, options.bucket_owner)
        try_destination(options.access, to)


def _ended_tables(names: Sequence[str], options: ReplicateOptions, state: State) -> list[str]:
    """Tables of the state that were found by pattern and are listed no longer.

    What their streams still hold is read; one that is read to its end is left out.
    """
    selection = options.selection
    if not selection.is_open:
        return []
    return [
        name
        for name, each in state.tables.items()
        if name not in names
        and not selection.excludes(name)
        and selection.has_name(name)
        and not (each.end and each.is_over)
    ]


def _check_or_leave(
    name: str,
    options: ReplicateOptions,
    state: State,
    given: tuple[str, ExportManifest] | None,
    findings: TableFindings,
) -> bool:
    """Checks a table; false if nothing of it can be read now, which is a finding.

    Of one that is new and not ready discovery, if there is one, tells what is the matter, and takes
    it up when it is fixed.
    """
    description = None
    if name not in state.tables and _describes(options):
        assert options.access is not None
        try:
            description = dynamodb.describe_table(options.access, name)
        except (TableError, AwsAccessError):
            # A name that no table has was mistyped rather than deleted: it stops the run.
            if options.discovers:
                return False
            raise
    try:
        if name in state.tables:
            return _check_known(name, options, state, findings)
        _check_new(name, options, state, given, description)
    except (TableError, AwsAccessError, ExportError) as problem:
        empty = given is not None and not given[1].item_count
        if isinstance(problem, ExportError) and not empty:
            raise
        if name in state.tables or not options.discovers:
            findings.add(finding_of(name, "not_ready", problem), problem)
        return False
    return True


def loading_mirrors(options: ReplicateOptions) -> LoadingMirrors:
    """What mirrors that lack rounds can be loaded from."""
    return LoadingMirrors(_how(options), options.bucket, options.exports)


def _how(options: ReplicateOptions) -> Acquisition:
    return Acquisition(access=options.access, verify=options.verify)


def table_names(options: ReplicateOptions) -> list[str]:
    """The tables that the options name, globs resolved; those of given exports are not opened.

    Raises:
        ConfigurationError: A glob matches no table.
        AwsAccessError: `dynamodb:ListTables` is not allowed, and there is a glob.
    """
    return _names(options, {})


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
                hint="Name the table in --tables, or give an export of one that is",
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
            hint=f"Check it and --region; the tables there are: {shown or 'none'}",
        )


def _check_new(
    name: str,
    options: ReplicateOptions,
    state: State,
    given: tuple[str, ExportManifest] | None,
    description: dynamodb.TableDescription | None,
) -> None:
    if description is not None:
        assert options.access is not None
        problem = readiness_problem(
            options.access,
            description,
            stream=options.snapshot != "only",
            export=_needs_exports(name, options),
        )
        if problem is not None:
            raise problem
    table = description.table if description else _table_of_export(options, given)
    known = new_table_state(table, description, options)
    if description is None and table.name in parse_keys(options.keys):
        # Nobody but people says what the key is: it has to tell all items apart.
        known = dataclasses.replace(known, keys_given=True)
    state.tables[name] = _with_export(known, options, given)


def _check_keys(name: str, known: TableState, options: ReplicateOptions) -> None:
    """Rows were written with one key: another one needs other rows."""
    given = parse_keys(options.keys).get(name)
    names = tuple(each.name for each in known.table.keys.attributes)
    if known.keys_given and given is not None and given != names:
        raise StateError(
            "the state directory has read the table with another key",
            where=f"{options.state_dir}, --keys={name}:{keys_option(given)}",
            expected=f"{name}:{keys_option(names)}",
            found=f"{name}:{keys_option(given)}",
            hint="Give the key as before, or a new --state_dir and new sinks",
        )


def _describes(options: ReplicateOptions) -> bool:
    """False if exports are all that is read."""
    return options.access is not None and not (options.snapshot == "only" and options.exports)


def _needs_exports(name: str, options: ReplicateOptions) -> bool:
    repairs = options.snapshot != "only" and options.gaps.of(name).repairs
    return repairs or (options.snapshot != "never" and not options.exports)


def _check_known(
    name: str, options: ReplicateOptions, state: State, findings: TableFindings
) -> bool:
    """Checks a table that was read before; its identity before anything is done about it.

    What its stream still holds is read in any case, also if the table was deleted meanwhile, or
    its stream was switched off: what comes behind it is found when it is read to its end.
    """
    known, access = state.tables[name], options.access
    stream = known.stream
    _check_keys(name, known, options)
    if access is None or not _describes(options):
        state.tables[name] = resume_repair(known, options.gaps, access)
        return True
    sequel = find_sequel(access, name, known.table_id, stream.arn if stream else "")
    if sequel.description is not None:
        _check_arn(name, known, sequel.description, options)
    first = not known.end
    known = dataclasses.replace(known, end=sequel.end)
    if not known.end:
        known = resume_repair(known, options.gaps, access)
    if not sequel.readable and stream is not None and not stream.is_over:
        known = _pass_unread(known, sequel, options, first=first)
    state.tables[name] = known
    if known.end:
        error = ended_error(known, sequel, options.state_dir)
        findings.add(finding_of(name, known.end, error), error)
        # Without a stream there is nothing to be read, and nobody to ask what follows.
        return stream is not None and (sequel.readable or known.end == "recreated")
    problem = None
    if sequel.kind == "off" and stream is not None and sequel.description is not None:
        problem = stream_problem(name, sequel.description)
        if problem is not None:
            findings.add(finding_of(name, "stream_off", problem), problem)
    if _needs_exports(name, options):
        problem = recovery_problem(name, dynamodb.continuous_backups(access, name))
        if problem is not None:
            findings.add(finding_of(name, "not_ready", problem), problem)
            return not known.open_loads
    return True


def _pass_unread(
    known: TableState, sequel: Sequel, options: ReplicateOptions, *, first: bool
) -> TableState:
    """The stream is gone before it was read to its end.

    Args:
        known: The table's state.
        sequel: What follows the stream.
        options: What was asked for.
        first: It was not known before that the table has ended.

    Raises:
        GapError: The policy is `fail`, and the table goes on.
    """
    policy = options.gaps.of(known.name)
    latest = sequel.description.stream_arn if sequel.description is not None else ""
    gap = stream_changed(known, latest)
    if sequel.next_stream is not None:
        known, _ = switch_stream(known, sequel.next_stream, gap, policy, options.access)
    elif not known.end:
        known = raise_or_record(gap, known, policy)
    elif first:
        known = raise_or_record(gap, known, GapPolicy.CONTINUE)
    stream = known.stream
    if sequel.kind in ("off", "recreated") and stream is not None:
        # Nothing is left of it, and it never comes back: what follows is asked for.
        over = {
            reader: dataclasses.replace(stream.seen_by(reader), over=True)
            for reader in range(len(stream.frontiers))
        }
        known = dataclasses.replace(known, stream=dataclasses.replace(stream, seen=over))
    return known


def _check_arn(
    name: str,
    known: TableState,
    description: dynamodb.TableDescription,
    options: ReplicateOptions,
) -> None:
    expected, found = known.table.arn, description.table.arn
    if expected and expected != found:
        raise StateError(
            "the state directory is that of another table of this name: its table ARN differs",
            where=f"{options.state_dir}, table {name}",
            expected=expected,
            found=found,
            hint="Give another --state_dir",
        )


def _table_of_export(options: ReplicateOptions, given: tuple[str, ExportManifest] | None) -> Table:
    if given is None:
        raise ConfigurationError(
            "without AWS a table needs an export",
            where="--export",
            hint="Give --region or --export",
        )
    manifest = given[1]
    keys = find_keys(manifest, access=options.access, given=parse_keys(options.keys))
    return Table(manifest.table_name, keys, manifest.table_arn)


def _with_export(
    known: TableState, options: ReplicateOptions, given: tuple[str, ExportManifest] | None
) -> TableState:
    """A new table's state with the export that it begins with."""
    if given is None:
        newest = [each for each in options.exports if newest_age_us(each)]
        if known.snapshot.status == "pending" and not newest and not options.bucket:
            raise ConfigurationError(
                "the table has no export, and there is no bucket for a new one",
                where=f"table {known.name}",
                hint="Give --s3_export_bucket, or an --export of this table",
            )
        return _reusing(known, newest[0] if newest else "")
    location, manifest = given
    manifest.check_table(known.table)
    gap = check_coverage(known, manifest)
    known = dataclasses.replace(known, coverage_checked=True)
    if gap is not None:
        known = meet_gap(gap, known, options.gaps, options.access)
        if options.gaps.of(known.name).repairs:
            # A new export takes the place of the one that was given.
            return known
    return _reusing(known, location)


def _reusing(known: TableState, export: str) -> TableState:
    return dataclasses.replace(known, snapshot=dataclasses.replace(known.snapshot, reuse=export))
