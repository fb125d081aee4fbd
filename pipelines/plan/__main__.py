# SPDX-License-Identifier: Apache-2.0
"""`dynabeam plan`: what a replication will read, take and cost, before it is started.

Takes the options of `replicate`; neither a sink nor a bucket has to be named. Reads DescribeTable
and DescribeStream, and with `--sample=5m` a few pages of each stream. Nothing is changed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import timedelta

from dynabeam.pipelines.options.arguments import parse_known
from dynabeam.pipelines.options.replicate import ReplicateOptions, duration, parse_replicate
from dynabeam.pipelines.plan.text import write_plan
from dynabeam.pipelines.preflight import table_names
from dynabeam.transforms.aws import dynamodb
from dynabeam.transforms.aws.session import AwsAccess
from dynabeam.transforms.aws.streams import connect
from dynabeam.transforms.errors import ConfigurationError
from dynabeam.transforms.planning.facts import RETENTION_SECONDS, Reading, TableFacts
from dynabeam.transforms.planning.plan import Plan, make_plan
from dynabeam.transforms.planning.prices import parse_prices
from dynabeam.transforms.planning.sample import sample_stream
from dynabeam.transforms.planning.throughput import speeds_for
from dynabeam.transforms.runtime.clock import now_us
from dynabeam.transforms.sinks.uri import parse_sink_uri
from dynabeam.transforms.state.table_reading import READERS
from dynabeam.transforms.stream.shard_listing import list_shards

__all__ = ["main", "plan"]

_LONGEST_SAMPLE = timedelta(hours=1)


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    parser = _parser()
    given, rest = parse_known(parser, arguments)
    made = plan(given, parse_replicate(rest, complete=False, command=parser))
    if given.json:
        json.dump(made.to_json(), sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        write_plan(made, sys.stdout)
    return 0


def plan(given: argparse.Namespace, options: ReplicateOptions) -> Plan:
    """Asks AWS about the tables and reckons the plan.

    Raises:
        DynabeamError: A table is not there, a permission is missing, or an option cannot work.
    """
    if options.access is None:
        raise ConfigurationError(
            "a plan is made from what AWS says of the tables",
            where="--tables, --region",
            hint="Name the tables and their region",
        )
    sample = 0.0 if not given.sample else duration("--sample", given.sample)
    if sample > _LONGEST_SAMPLE.total_seconds():
        raise ConfigurationError(
            "so much would have to be read that it is no sample",
            where="--sample",
            expected="at most 1h",
            found=given.sample,
        )
    prices = parse_prices(given.price)
    speeds = speeds_for(
        [parse_sink_uri(each).scheme for each in options.sinks],
        _number("--rows_per_second", given.rows_per_second),
    )
    runs = _number("--runs_a_day", given.runs_a_day)
    facts = [_facts(options.access, name, sample, options) for name in table_names(options)]
    return make_plan(facts, _readings(facts, options, runs), prices, speeds)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dynabeam plan",
        description="Say what a replication will read, take and cost, before it is started.",
        epilog="Every other option is one of 'dynabeam replicate'.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--json", action="store_true", help="for machines")
    add("--sample", default="", help="sample the stream of the last e.g. 5m; takes a few calls")
    add("--price", action="append", default=[], help="another price, e.g. export_gb=0.12")
    add("--rows_per_second", default="", help="rows a second that you measured")
    add("--runs_a_day", default="24", help="how often a run that ends is started")
    return parser


def _facts(access: AwsAccess, name: str, sample: float, options: ReplicateOptions) -> TableFacts:
    described = dynamodb.describe_table(access, name)
    if not described.stream_enabled or options.snapshot == "only":
        return TableFacts(name, described.item_count, described.size_bytes, 0, 0.0)
    client = connect(access)
    listed = list_shards(client, described.stream_arn)
    shards = [each.shard_id for each in listed.open]
    now = now_us()
    age = min(RETENTION_SECONDS, max(0, now - listed.created_us) / 1_000_000)
    since = min(sample, max(1.0, age))
    rate = sample_stream(client, described.stream_arn, shards, since, now) if sample else None
    return TableFacts(name, described.item_count, described.size_bytes, len(shards), age, rate)


def _readings(
    tables: Sequence[TableFacts], options: ReplicateOptions, runs_a_day: float
) -> dict[str, Reading]:
    """How each table will be read, in rounds or continuously."""
    most = max(1, -(-READERS // max(1, len(tables))))
    readers = {each.name: options.readers or min(max(1, each.open_shards), most) for each in tables}
    every = options.every if options.until == "forever" else 0.0
    parts = len(tables) * ((options.snapshot != "only") + (options.snapshot != "never"))
    return {
        each.name: Reading(
            continuous=options.mode == "continuous",
            every=every if options.mode != "continuous" else 0.0,
            runs_a_day=runs_a_day,
            round_bytes=options.round_bytes // max(1, parts),
            readers=readers[each.name],
            all_readers=sum(readers.values()),
            all_shards=sum(table.open_shards for table in tables),
            snapshot=options.snapshot != "never",
            stream=options.snapshot != "only",
            from_horizon=options.start != "latest",
        )
        for each in tables
    }


def _number(option: str, text: str) -> float:
    try:
        number = float(text or 0)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf") or (text and not number):
        raise ConfigurationError("not a positive number", where=option, found=text)
    return number


if __name__ == "__main__":
    from dynabeam.pipelines.command_line import main as command_line

    sys.exit(command_line(["plan", *sys.argv[1:]]))
