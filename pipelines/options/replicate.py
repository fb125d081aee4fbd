# SPDX-License-Identifier: Apache-2.0
"""The options of `dynabeam replicate`: parsed, checked and named back in every error."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from dynabeam.pipelines.options.arguments import beam_arguments, option_strings, parse_known
from dynabeam.pipelines.options.aws import checked_endpoint, checked_region, referenced_secret
from dynabeam.pipelines.options.google_cloud import DATAFLOW, named_regions
from dynabeam.pipelines.options.runners import runner_name
from dynabeam.pipelines.options.state import state_path
from dynabeam.pipelines.options.web_identity import (
    ROLE_ARN,
    add_web_identity_options,
    web_identity_of,
)
from dynabeam.transforms.aws.roles import Role
from dynabeam.transforms.aws.session import AwsAccess
from dynabeam.transforms.dead_letters.limit import DEFAULT_LIMIT
from dynabeam.transforms.errors import ConfigurationError
from dynabeam.transforms.export.destination import parse_destination
from dynabeam.transforms.model.gap import GapPolicies, GapPolicy
from dynabeam.transforms.secrets import check_references, resolve_secrets
from dynabeam.transforms.sinks.uri import local_path
from dynabeam.transforms.state.table_reading import ReadingOptions
from dynabeam.transforms.state.table_selection import TableSelection
from dynabeam.transforms.telemetry.endpoint import check_installed
from dynabeam.transforms.telemetry.logs import FORMATS, LEVELS
from dynabeam.transforms.telemetry.worker import Telemetry

__all__ = ["ReplicateOptions", "check_located", "duration", "parse_replicate", "replicate_parser"]

_TABLE_NAME = re.compile(r"[a-zA-Z0-9_.*?\[\]-]{1,255}")
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}
_SIZE = re.compile(r"([0-9]+)\s*(|k|m|g|ki|mi|gi)b?", re.IGNORECASE)
_BYTES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}

DEFAULT_ROUND_BYTES = 64 << 20
_SHORTEST_ID = 2
_SMALLEST_ROUND = 1 << 20
_CONTINUOUS_BUCKETS = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplicateOptions(ReadingOptions):
    """The options of `dynabeam replicate`: how tables are read, and the rest.

    Attributes:
        name: Name of the replication; the default state directory is named after it.
        tables: Names and globs of tables; empty to take them from the exports.
        access: Where and as whom AWS is called; None if AWS is not to be used at all.
        exports: Exports to use again, by location or ARN, or `newest:<seconds>`.
        keys: Values of `--keys`.
        sinks: Sink URIs.
        state_dir: Folder of the position document.
        until: `caught_up` or `forever`.
        every: Seconds between two rounds.
        round_bytes: Bytes that one round reads at most.
        verify: `strict` or `warn`.
        mode: `catch_up` or `continuous`.
        take_over: Go on from a continuous run that may still be running.
        detach: Continuous: do not stay with the job.
        table_tags: Tag key → its values, one of which a table must have.
        exclude_tables: Names and globs of tables to leave out.
        discover_every: Seconds between two checks for new tables; 0 for none.
        verify_chain: Compare each change's old image with the last known new one.
        beam_arguments: What is passed on to Beam.
        max_dead_letters: Once more are open, the run stops; None for no limit.
        telemetry: Metrics endpoint and log.
        drop_sinks: Sinks of the state directory that are not written any more.
    """

    name: str
    tables: tuple[str, ...]
    access: AwsAccess | None
    exports: tuple[str, ...]
    keys: tuple[str, ...]
    sinks: tuple[str, ...]
    state_dir: str
    until: Literal["caught_up", "forever"]
    every: float
    round_bytes: int
    verify: Literal["strict", "warn"]
    mode: Literal["catch_up", "continuous"]
    take_over: bool
    detach: bool
    table_tags: Mapping[str, tuple[str, ...]]
    exclude_tables: tuple[str, ...]
    discover_every: float
    verify_chain: bool
    beam_arguments: tuple[str, ...]
    max_dead_letters: int | None = DEFAULT_LIMIT
    telemetry: Telemetry = dataclasses.field(default_factory=Telemetry)
    drop_sinks: tuple[str, ...] = ()

    @property
    def selection(self) -> TableSelection:
        """Which tables are replicated."""
        return TableSelection(self.tables, self.table_tags, self.exclude_tables)

    @property
    def chain_policy(self) -> Callable[[str], GapPolicy] | None:
        """The policy of each table for changes that are missing; None not to look for them."""
        return self.gaps.of if self.verify_chain else None

    @property
    def discovers(self) -> bool:
        """True if new tables are looked for while the run goes on."""
        lasts = self.mode == "continuous" or self.until == "forever"
        return lasts and self.discover_every > 0 and self.selection.is_open


def parse_replicate(
    arguments: Sequence[str],
    *,
    complete: bool = True,
    command: argparse.ArgumentParser | None = None,
) -> ReplicateOptions:
    """Parses and checks the command line of `replicate`.

    Args:
        arguments: The words after the command.
        complete: They are to be run: a sink, and a bucket or an export, have to be named.
        command: The parser of a command that has taken its own options already; None for none.

    Raises:
        ConfigurationError: There is no such option, one has a value that cannot work, or options
            contradict.
    """
    parser = replicate_parser()
    given, rest = parse_known(parser, arguments)
    names = [*(option_strings(command) if command else []), *option_strings(parser)]
    passed_on = beam_arguments(rest, names)
    on_dataflow = runner_name(passed_on) == DATAFLOW
    given.region, google = named_regions(given, on_dataflow=on_dataflow)
    if google:
        passed_on = (*passed_on, f"--region={google}")
    given.export = [local_path(each) for each in given.export]
    tables, tags = _table_names(given), _table_tags(given.table_tags)
    if not tables and not tags and not given.export:
        raise ConfigurationError(
            "no table is named",
            where="--tables",
            hint=(
                "Give --tables=orders,customers, --tables_file=tables.csv, --table_tags=env=prod, "
                "or --export=PATH"
            ),
        )
    if complete and not given.sink:
        raise ConfigurationError(
            "no sink is named", where="--sink", hint="Give e.g. --sink=duckdb:///mirror.duckdb"
        )
    _set_credentials(given)
    _check_exports(given.export)
    destination = parse_destination(
        given.s3_export_bucket, given.s3_export_prefix, given.s3_export_bucket_owner
    )
    options = ReplicateOptions(
        name=given.name,
        tables=tables,
        access=_access(given, [*tables, *tags]),
        bucket=destination.bucket,
        prefix=destination.prefix,
        bucket_owner=destination.owner,
        exports=tuple(given.export),
        keys=tuple(given.keys),
        snapshot=given.snapshot,
        start=given.start,
        sinks=tuple(given.sink),
        state_dir=state_path(given.state_dir, given.name),
        until=given.until or ("forever" if given.every else "caught_up"),
        every=duration("--every", given.every or "2s"),
        round_bytes=_size("--round_bytes", given.round_bytes),
        gaps=_gap_policies(given.gaps),
        verify=given.verify,
        buckets=_buckets(given, tables),
        readers=_readers(given),
        mode=given.mode,
        take_over=given.take_over,
        detach=given.detach,
        table_tags=tags,
        exclude_tables=_excluded(given.exclude_tables),
        discover_every=duration("--discover_every", given.discover_every),
        verify_chain=given.verify_chain,
        beam_arguments=passed_on,
        max_dead_letters=_max_dead_letters(given),
        telemetry=_telemetry(given),
        drop_sinks=tuple(given.drop_sink),
    )
    for each in options.sinks:
        check_references("--sink", each)
    _check_together(options, complete)
    if complete and on_dataflow and options.access is not None and not options.access.region:
        raise ConfigurationError(
            "Dataflow's workers do not know the AWS region of the tables",
            where="--aws_region",
            expected="such as eu-west-1",
            hint="Give it; with --runner=DataflowRunner, --region is Google's",
        )
    return options


def replicate_parser() -> argparse.ArgumentParser:
    """The options of `replicate`, not yet checked."""
    parser = argparse.ArgumentParser(
        prog="dynabeam replicate",
        description="Replicate DynamoDB tables: export and stream, reconciled, into sinks.",
        epilog="Every other option is passed on to Beam, e.g. --runner=FnApiRunner.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--name", default="dynabeam", help="name of this replication")
    add(
        "--tables",
        "--table_list",
        action="append",
        default=[],
        help="names or globs, comma-separated",
    )
    add("--tables_file", default="", help="CSV without header, one table per row")
    add("--table_tags", action="append", default=[], help="tags of tables, e.g. env=prod,team=x")
    add("--exclude_tables", action="append", default=[], help="names or globs to leave out")
    add("--discover_every", default="30s", help="time between checks for new tables; 0 for never")
    add("--region", default="", help="AWS region, e.g. eu-west-1; on Dataflow, Google's")
    add("--aws_region", default="", help="AWS region, also on Dataflow")
    add("--dataflow_region", default="", help="Google Cloud region of a Dataflow job")
    add("--access_key_id", "--aws_access_key_id", default="", help="value or ${env:NAME}")
    add("--secret_key", "--aws_secret_access_key", default="", help="${env:NAME} or ${file:PATH}")
    add("--role_arn", default="", help="role to assume for the tables, also in another account")
    add("--external_id", default="", help="external id of that role; ${env:NAME} works too")
    add("--s3_role_arn", default="", help="role to assume for S3")
    add("--s3_external_id", default="", help="external id of that role; ${env:NAME} works too")
    add_web_identity_options(parser)
    add("--endpoint_url", default="", help="one endpoint for DynamoDB, its streams and S3")
    add("--s3_export_bucket", "--s3_export_bucket_name", default="", help="bucket for exports")
    add("--s3_export_prefix", default="", help="prefix inside the bucket")
    add(
        "--s3_export_bucket_owner",
        default="",
        help="account id, if the bucket is in another account",
    )
    add("--export", action="append", default=[], help="folder, s3:// URI, ARN or newest:SECONDS")
    add("--keys", action="append", default=[], help="table:hash[,range], for exports without AWS")
    add("--snapshot", choices=["auto", "never", "only"], default="auto")
    add("--start", default="trim_horizon", help="trim_horizon, latest or a time with zone")
    add("--sink", action="append", default=[], help="sink URI; may be given several times")
    add("--drop_sink", action="append", default=[], help="stop writing this sink; repeatable")
    add("--state_dir", default="", help="folder of the position document")
    add("--mode", choices=["catch_up", "continuous"], default="catch_up")
    add(
        "--take_over",
        action="store_true",
        help="continue from a continuous run that may be running",
    )
    add("--detach", action="store_true", help="continuous: leave the job to its runner")
    add("--until", choices=["caught_up", "forever"], default="")
    add("--every", default="", help="pause between rounds, e.g. 2s; implies --until=forever")
    add("--round_bytes", default=str(DEFAULT_ROUND_BYTES), help="bytes read in one round")
    add("--gaps", action="append", default=[], help="fail|continue|heal|resnapshot, or TABLE:…")
    add("--verify_chain", action="store_true", help="compare old images with the last known ones")
    add("--verify", choices=["strict", "warn"], default="strict")
    add("--buckets", default="", help="hash buckets per table; 16, or fewer for many tables")
    add(
        "--max_dead_letters",
        default=str(DEFAULT_LIMIT),
        help="stop when more are open; none for no limit",
    )
    add("--readers", default="", help="stream readers per table; 1, or by the number of shards")
    add("--metrics_port", default="0", help="serve metrics to Prometheus, e.g. 9464; 0 for off")
    add("--metrics_host", default="", help="address that the metrics are served at; all by default")
    add("--log_format", choices=FORMATS, default="text")
    add(
        "--log_level",
        choices=LEVELS,
        default="",
        help="default: warning, or info with --log_format=json",
    )
    return parser


def _table_names(given: argparse.Namespace) -> tuple[str, ...]:
    names = [name.strip() for text in given.tables for name in text.split(",")]
    if given.tables_file:
        names += _names_in_file(given.tables_file)
    names = [name for name in names if name]
    return _checked_names("--tables", names)


def _excluded(given: Sequence[str]) -> tuple[str, ...]:
    names = [name.strip() for text in given for name in text.split(",")]
    return _checked_names("--exclude_tables", [name for name in names if name])


def _checked_names(option: str, names: Sequence[str]) -> tuple[str, ...]:
    for name in names:
        if not _TABLE_NAME.fullmatch(name):
            raise ConfigurationError(
                "not a table name",
                where=option,
                found=name,
                hint="Names have letters, digits and _.- ; globs may use * ? [ ]",
            )
    return tuple(dict.fromkeys(names))


def _table_tags(given: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Key → values; a key that is given again gets another value, one without `=` any value."""
    tags: dict[str, tuple[str, ...]] = {}
    for word in (word.strip() for text in given for word in text.split(",")):
        if not word:
            continue
        key, equals, value = word.partition("=")
        if not key:
            raise ConfigurationError(
                "not a tag", where="--table_tags", found=word, hint="Write KEY=VALUE or KEY"
            )
        tags[key] = (*tags.get(key, ()), *([value] if equals else []))
    return tags


def _names_in_file(path: str) -> list[str]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError) as problem:
        raise ConfigurationError(
            f"the list of tables cannot be read: {problem}", where=f"--tables_file={path}"
        ) from problem
    for number, row in enumerate(rows, 1):
        if len([cell for cell in row if cell.strip()]) > 1:
            raise ConfigurationError(
                "a row names more than one table",
                where=f"--tables_file={path}, row {number}",
                found=",".join(row),
                hint="Write one table per row, without a header",
            )
    return [cell.strip() for row in rows for cell in row if cell.strip()]


def _gap_policies(given: Sequence[str]) -> GapPolicies:
    default, by_table = GapPolicy.FAIL, {}
    for word in (word.strip() for text in given for word in text.split(",")):
        table, colon, name = word.rpartition(":")
        try:
            policy = GapPolicy(name)
        except ValueError as problem:
            raise ConfigurationError(
                "not a policy for gaps",
                where="--gaps",
                expected=[each.value for each in GapPolicy],
                found=word,
                hint="Write a policy for all tables, TABLE:POLICY for one, or both with a comma",
            ) from problem
        if colon:
            by_table[table] = policy
        else:
            default = policy
    return GapPolicies(default, by_table)


def _set_credentials(given: argparse.Namespace) -> None:
    # Only references travel with the pipeline: workers find the keys where boto3 looks for them.
    if bool(given.access_key_id) != bool(given.secret_key):
        raise ConfigurationError(
            "an access key id and a secret key go together",
            where="--access_key_id, --secret_key",
            hint="Give both, or neither and let the environment or a role provide them",
        )
    if given.access_key_id:
        os.environ["AWS_ACCESS_KEY_ID"] = resolve_secrets(
            given.access_key_id, option="--access_key_id"
        )
        os.environ["AWS_SECRET_ACCESS_KEY"] = referenced_secret("--secret_key", given.secret_key)


def _check_exports(given: Sequence[str]) -> None:
    for each in given:
        if each.startswith(("http://", "https://")):
            raise ConfigurationError(
                "an export is not read from the web",
                where="--export",
                found=each,
                hint="Write s3://BUCKET/PREFIX/AWSDynamoDB/ID, a folder, or the export's ARN",
            )


def _access(given: argparse.Namespace, tables: Sequence[str]) -> AwsAccess | None:
    region = given.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    local_only = not tables and not (given.region or given.endpoint_url)
    if local_only and all(
        "://" not in each and not each.startswith("arn:") for each in given.export
    ):
        return None
    return AwsAccess(
        region=checked_region(region or ""),
        endpoint_url=checked_endpoint(given.endpoint_url),
        role=_role("--role_arn", given.role_arn, "--external_id", given.external_id),
        bucket_role=_role(
            "--s3_role_arn", given.s3_role_arn, "--s3_external_id", given.s3_external_id
        ),
        web_identity=web_identity_of(given),
    )


def _role(option: str, arn: str, id_option: str, external_id: str) -> Role:
    if external_id and not arn:
        raise ConfigurationError(
            "an external id goes with a role", where=id_option, hint=f"Give {option} too"
        )
    if external_id and len(external_id) < _SHORTEST_ID:
        raise ConfigurationError(
            "AWS takes no external id of one character", where=id_option, hint="Check the id"
        )
    if arn and not ROLE_ARN.fullmatch(arn):
        raise ConfigurationError(
            "not the ARN of a role",
            where=option,
            expected="arn:aws:iam::ACCOUNT:role/NAME",
            found=arn,
        )
    check_references(id_option, external_id)
    return Role(arn, external_id)


def _check_together(options: ReplicateOptions, complete: bool) -> None:
    if options.mode == "continuous" and (options.access is None or options.snapshot == "only"):
        raise ConfigurationError(
            "a continuous run reads streams, and there is none to read",
            where="--mode=continuous",
            hint="Name --tables and --region, or use --mode=catch_up",
        )
    if options.detach and options.mode != "continuous":
        raise ConfigurationError(
            "rounds run in this process, which cannot leave them", where="--detach"
        )
    if options.snapshot == "never" and options.exports:
        raise ConfigurationError(
            "an export is given, but no snapshot is wanted",
            where="--export, --snapshot=never",
            hint="Drop one of them",
        )
    if complete and options.gaps.repairs and not options.bucket and options.snapshot != "only":
        raise ConfigurationError(
            "a table is healed or snapshotted again from new exports, and there is no bucket",
            where="--gaps, --s3_export_bucket",
            hint="Give --s3_export_bucket, or --gaps=fail or --gaps=continue",
        )
    if complete and options.discovers and options.snapshot != "never" and not options.bucket:
        raise ConfigurationError(
            "tables that appear later need a bucket for their exports",
            where="--s3_export_bucket",
            hint="Give it, or --discover_every=0 to read only the tables that exist now",
        )
    if complete:
        check_located(options)


def check_located(options: ReplicateOptions) -> None:
    """Checks that a snapshot that is wanted has a place to come from.

    Raises:
        ConfigurationError: There is none.
    """
    if options.snapshot != "never" and not options.exports and not options.bucket:
        raise ConfigurationError(
            "there is neither an export to use nor a bucket for a new one",
            where="--s3_export_bucket",
            hint="Give --s3_export_bucket, --export, or --snapshot=never for the stream alone",
        )


def _telemetry(given: argparse.Namespace) -> Telemetry:
    port = _whole("--metrics_port", given.metrics_port, 0, 65_535)
    if port:
        check_installed()
    level = given.log_level or ("info" if given.log_format == "json" else "warning")
    return Telemetry(port, given.metrics_host, given.log_format, level)


def duration(option: str, text: str) -> float:
    """Seconds of a duration such as `500ms`, `2s`, `5m` or `1h`.

    Raises:
        ConfigurationError: It is none; the error names the option.
    """
    match = _DURATION.fullmatch(text)
    if not match:
        raise ConfigurationError(
            "not a duration", where=option, found=text, hint="Write e.g. 500ms, 2s, 5m or 1h"
        )
    return float(match[1]) * _SECONDS[match[2]]


def _size(option: str, text: str) -> int:
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise ConfigurationError(
            "not a size in bytes", where=option, found=text, hint="Write e.g. 67108864 or 64MiB"
        )
    size = int(match[1]) * _BYTES[match[2].lower()]
    if size < _SMALLEST_ROUND:
        raise ConfigurationError(
            "a round needs at least 1 MiB", where=option, expected=_SMALLEST_ROUND, found=size
        )
    return size


def _buckets(given: argparse.Namespace, tables: Sequence[str]) -> int:
    if given.buckets:
        return _whole("--buckets", given.buckets, 1, 1024)
    if given.mode == "catch_up":
        return 16
    # Near the tip blocks are small, and each costs as much as a large one: so together the tables
    # have a few times as many as there are subtasks, and no more.
    return max(1, min(16, _CONTINUOUS_BUCKETS // max(1, len(tables))))


def _readers(given: argparse.Namespace) -> int:
    if given.readers:
        return _whole("--readers", given.readers, 1, 256)
    # In one process several readers of a table would only share its threads.
    return 0 if given.mode == "continuous" else 1


def _max_dead_letters(given: argparse.Namespace) -> int | None:
    text = given.max_dead_letters
    if text == "none":
        return None
    return _whole("--max_dead_letters", text, 0, 10**9)


def _whole(option: str, text: str, lowest: int, highest: int) -> int:
    if not text.isascii() or not text.isdigit() or not lowest <= int(text) <= highest:
        raise ConfigurationError(
            "not a number in its range", where=option, expected=f"{lowest} … {highest}", found=text
        )
    return int(text)
