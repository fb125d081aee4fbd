# SPDX-License-Identifier: Apache-2.0
"""`dynabeam demo`: a simulated AWS account, tables that change, their replication, and a proof.

Needs no AWS account and no network beyond this machine. The replication is the ordinary
`dynabeam replicate` in a process of its own, given nothing but the simulator's address. The command
ends with 0 only if each mirror equals its table, item by item, and the changelog holds each stream
record exactly once; else with 1 and the first differences.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import random
import shlex
import shutil
import subprocess
import sys
import time
from urllib.parse import quote

from dynabeam.pipelines.demo.proof import Proof, compare_items, compare_records, mirror_items
from dynabeam.pipelines.demo.workload import AGE, BUCKET, TABLES, Counts, Workload, make_tables
from dynabeam.pipelines.options.arguments import parse_all
from dynabeam.transforms.testing.clock import SimClock
from dynabeam.transforms.testing.simulator import Simulator

__all__ = ["main"]

_SEED = 7
_LIMIT_SECONDS = 300
"""A run that takes longer is broken."""
_MARK = ".dynabeam-demo"
"""A folder that holds this file is ours to empty."""
_LOG_LINES = 40


class _DemoError(Exception):
    """The demo cannot go on; the text is for people."""


def main(argv: list[str] | None = None) -> int:
    """Runs the demo.

    Args:
        argv: The options without the program's name; the process's, if not given.

    Returns:
        0 if everything is equal, else 1.
    """
    options = _options(sys.argv[1:] if argv is None else argv)
    began = time.monotonic()
    try:
        folder = _fresh_folder(pathlib.Path(options.dir))
        equal = _run(folder, options.seconds)
    except _DemoError as failure:
        _say("", f"The demo failed: {failure}")
        return 1
    _say("", f"Took {time.monotonic() - began:.0f} s.")
    if equal:
        _closing_hint(folder)
    return 0 if equal else 1


def _options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="dynabeam demo", description=(__doc__ or "").strip(), allow_abbrev=False
    )
    parser.add_argument(
        "--seconds",
        type=_seconds,
        default=5.0,
        help="how long the tables change while they are replicated (default: 5)",
    )
    parser.add_argument(
        "--dir",
        default=os.path.join(".dynabeam", "demo"),
        help="folder for mirror, changelog and state; emptied first (default: .dynabeam/demo)",
    )
    return parse_all(parser, argv)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= 60:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 60, found {text}")
    return seconds


def _fresh_folder(folder: pathlib.Path) -> pathlib.Path:
    """Empties the folder if it is a demo's, and refuses any other."""
    folder = folder.resolve()
    try:
        if folder.exists() and any(folder.iterdir()):
            if not (folder / _MARK).exists():
                raise _DemoError(
                    f"--dir: {folder} holds files that no demo made; name another folder"
                )
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _MARK).touch()
    except OSError as error:
        raise _DemoError(f"--dir: {folder} cannot be used: {error.strerror}") from error
    return folder


def _run(folder: pathlib.Path, seconds: float) -> bool:
    clock = SimClock(offset=-AGE)
    with Simulator(seed=_SEED, clock=clock, initial_shards=2) as sim:
        rng = random.Random(_SEED)  # noqa: S311 - repeatable on purpose
        tables = make_tables(sim, rng)
        total = sum(table.counts.start for table in tables.values())
        _say(f"A simulated AWS account listens on {sim.endpoint_url}, with {len(tables)} tables:")
        for name, table in tables.items():
            _say(f"  {name:<10} {table.counts.start:>5} items   key {TABLES[name]}")
        command = _command(sim, folder)
        _say("", "The replication, an ordinary command:", "", _shown(command, folder), "")

        _say(f"1. First run: snapshot of {total} items by export, and the streams,")
        _say(f"   while the tables change for {seconds:g} s and their shards roll and split ...")
        workload = Workload(tables, seconds)
        workload.start()
        try:
            _replicate(command, folder / "run-1.log")
        except BaseException:
            workload.halt()
            raise
        finally:
            workload.finish()
        _say("2. The tables no longer change. Second run: what was written since ...")
        _replicate(command, folder / "run-2.log")
        _say("3. Comparing, item by item and record by record:", "")
        proofs = [_prove(sim, name, tables[name].counts, folder) for name in tables]
        return all(proofs)


def _command(sim: Simulator, folder: pathlib.Path) -> list[str]:
    return [
        sys.executable,
        "-m",
        "dynabeam.pipelines.command_line",
        "replicate",
        f"--tables={','.join(TABLES)}",
        f"--region={sim.region}",
        f"--endpoint_url={sim.endpoint_url}",
        f"--s3_export_bucket={BUCKET}",
        f"--sink=duckdb:///{quote(str(folder))}/mirror.duckdb",
        f"--sink=file:///{quote(str(folder))}/changes?format=jsonl",
        f"--state_dir={folder / 'state'}",
        "--until=caught_up",
    ]


def _shown(command: list[str], folder: pathlib.Path) -> str:
    options = (
        each.replace(f"{quote(str(folder))}/", "").replace(f"{folder}{os.sep}", "")
        for each in command[4:]
    )
    return "  " + " \\\n      ".join(["dynabeam replicate", *map(shlex.quote, options)])


def _replicate(command: list[str], log: pathlib.Path) -> None:
    began = time.monotonic()
    environment = {
        **os.environ,
        "AWS_ACCESS_KEY_ID": "demo",
        "AWS_SECRET_ACCESS_KEY": "demo",  # the simulator does not look
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    # Real credentials of whoever runs this must not meet the made-up ones.
    for name in ("AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_DEFAULT_PROFILE"):
        environment.pop(name, None)
    root = str(pathlib.Path(__file__).resolve().parent.parent)
    paths = [root, environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    with log.open("wb") as output:
        try:
            status = subprocess.run(  # noqa: S603 - our own command
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=log.parent,
                env=environment,
                timeout=_LIMIT_SECONDS,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired as error:
            raise _DemoError(
                f"`dynabeam replicate` was stopped after {_LIMIT_SECONDS} s; its output: {log}"
            ) from error
    if status != 0:
        last = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:]
        end = "\n".join(f"  {line}" for line in last)
        raise _DemoError(
            f"`dynabeam replicate` ended with {status}. The end of its output ({log}):\n{end}"
        )
    _say(f"   done in {time.monotonic() - began:.1f} s; its output: {log}")


def _prove(sim: Simulator, name: str, counts: Counts, folder: pathlib.Path) -> bool:
    mirror = compare_items(sim.items(name), mirror_items(str(folder / "mirror.duckdb"), name))
    changes = compare_records(name, sim.records(name), str(folder / "changes"))
    shards, generations = _shards(sim, name)
    _say(
        f"  {name}",
        f"    at the start         {counts.start} items",
        f"    while replicating    {counts.inserts} inserts, {counts.updates} updates, "
        f"{counts.deletes} deletes, {counts.expired} deletes by time to live",
        f"    stream               {shards} shards in {generations} generations "
        f"({counts.rolls} rolls, {counts.splits} splits)",
        f"    rows in the mirror   {mirror.found}",
        f"    mirror = table       {_verdict(mirror, 'items')}",
        f"    changelog = stream   {_verdict(changes, 'records')}",
    )
    for proof in (mirror, changes):
        _say(*(f"      {line}" for line in proof.differences))
    return mirror.equal and changes.equal


def _verdict(proof: Proof, what: str) -> str:
    return f"{'yes' if proof.equal else 'NO'} ({proof.compared} {what} compared)"


def _shards(sim: Simulator, name: str) -> tuple[int, int]:
    """How many shards the table's stream has, and how many generations of them."""
    client = sim.client("dynamodbstreams")
    request = {
        "StreamArn": sim.client("dynamodb").describe_table(TableName=name)["Table"][
            "LatestStreamArn"
        ]
    }
    parents: dict[str, str | None] = {}
    while True:
        page = client.describe_stream(**request)["StreamDescription"]
        parents.update({each["ShardId"]: each.get("ParentShardId") for each in page["Shards"]})
        if "LastEvaluatedShardId" not in page:
            break
        request["ExclusiveStartShardId"] = page["LastEvaluatedShardId"]
    return len(parents), max(_depth(shard, parents) for shard in parents)


def _depth(shard: str, parents: dict[str, str | None]) -> int:
    depth = 1
    while (parent := parents.get(shard)) is not None:
        shard, depth = parent, depth + 1
    return depth


def _closing_hint(folder: pathlib.Path) -> None:
    _say(
        "",
        "To see the mirror:",
        f'  {shlex.quote(sys.executable)} -c "import duckdb; duckdb.connect('
        f"'{folder / 'mirror.duckdb'}', read_only=True).sql('FROM orders LIMIT 5').show()\"",
        "Then your own tables:",
        "  dynabeam replicate --help",
    )


def _say(*lines: str) -> None:
    for line in lines:
        sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
