# SPDX-License-Identifier: Apache-2.0
"""`dynabeam launch status`: how a launched job is, as its runner tells it.

Exit code: 0 it runs and nothing failed last, 1 anything else. How far tables are is told by
`dynabeam status`, which reads the state directory.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from dynabeam.pipelines.launch.waiting import console_logs, failure_hint
from dynabeam.pipelines.launch.which_job import (
    DataflowTarget,
    FlinkTarget,
    add_job_options,
    target,
)
from dynabeam.pipelines.options.arguments import parse_all
from dynabeam.transforms.flink.job import OVER, last_failure, read_job
from dynabeam.transforms.printable import printable

__all__ = ["main"]

_MOST_ERRORS = 5


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="dynabeam launch status",
        description="Show how a launched job is; exit code 1 if it does not run well.",
        allow_abbrev=False,
    )
    add_job_options(parser)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    given = parse_all(parser, arguments)
    found = target(given)
    told = _flink(found) if isinstance(found, FlinkTarget) else _dataflow(found)
    if given.json:
        sys.stdout.write(f"{json.dumps(told)}\n")
    else:
        sys.stdout.writelines(f"{printable(line)}\n" for line in _lines(told))
    return 0 if told["healthy"] else 1


def _flink(found: FlinkTarget) -> dict[str, Any]:
    job = read_job(found.rest.url, found.job_id)
    failure = last_failure(found.rest, found.job_id)
    checkpoint, over = job.checkpoint, job.state in OVER
    told: dict[str, Any] = {
        "runner": "flink",
        "job_id": job.job,
        "job_name": job.name,
        "state": job.state,
        "state_seconds": round(job.uptime_seconds),
        "restarts": job.restarts,
        "parallelism": max((each.parallelism for each in job.vertices), default=0),
        "failed_checkpoints": job.failed_checkpoints,
        "errors": [failure] if failure else [],
        "healthy": job.state == "RUNNING",
        "page": f"{found.rest.url}/#/job/{'completed' if over else 'running'}/{job.job}/overview",
    }
    if checkpoint is not None:
        at = datetime.fromtimestamp(checkpoint.completed_us / 1e6, timezone.utc)
        told["checkpoint"] = {
            "number": checkpoint.number,
            "at": at.isoformat(timespec="seconds"),
            "bytes": checkpoint.state_bytes,
            "path": checkpoint.path,
        }
    if found.record is not None and found.record.savepoint:
        told["savepoint"] = found.record.savepoint
    return told


def _dataflow(found: DataflowTarget) -> dict[str, Any]:
    from dynabeam.transforms.dataflow.jobs import (  # noqa: PLC0415 - an extra
        read_counters,
        read_errors,
        read_job,
    )

    service = found.service
    job = read_job(service, found.job_id)
    errors = read_errors(service, job.id, _MOST_ERRORS)
    staging = (found.record.staging if found.record else "") or job.staging
    log = console_logs(staging, job.id)
    told: dict[str, Any] = {
        "runner": "dataflow",
        "job_id": job.id,
        "job_name": job.name,
        "state": job.state,
        "sdk": job.sdk,
        "errors": [f"{each.at.isoformat(timespec='seconds')} {each.text}" for each in errors],
        "counters": read_counters(service, job.id),
        "healthy": job.state == "RUNNING",
        "log": log,
        "page": f"https://console.cloud.google.com/dataflow/jobs/{service.region}/{job.id}"
        f"?project={service.project}",
    }
    if job.since is not None:
        passed = datetime.now(timezone.utc) - job.since
        told["state_seconds"] = max(0, round(passed.total_seconds()))
    for name, limit in zip(("min_num_workers", "max_num_workers"), job.workers, strict=True):
        if limit:
            told[name] = limit
    if job.replaced_by:
        told["replaced_by"] = job.replaced_by
    if job.state == "FAILED":
        told["hint"] = failure_hint("; ".join(each.text for each in errors), log)
    return told


def _lines(told: dict[str, Any]) -> list[str]:
    since = f" since {told['state_seconds']} s" if "state_seconds" in told else ""
    runner = {"flink": "Flink", "dataflow": "Dataflow"}[told["runner"]]
    lines = [f"{runner}: {told['job_name']} is {told['state']}{since}, job {told['job_id']}"]
    if told["runner"] == "flink":
        lines.append(
            f"  parallelism {told['parallelism']}, {told['restarts']} restarts, "
            f"{told['failed_checkpoints']} failed checkpoints"
        )
    at = told.get("checkpoint")
    if at:
        lines.append(
            f"  checkpoint {at['number']} at {at['at']}, {at['bytes']:,} bytes: {at['path']}"
        )
    if "savepoint" in told:
        lines.append(f"  savepoint {told['savepoint']}")
    for name, what in (("min_num_workers", "at least"), ("max_num_workers", "at most")):
        if name in told:
            lines.append(f"  {what} {told[name]} workers")
    if told.get("sdk"):
        lines.append(f"  {told['sdk']}")
    if "replaced_by" in told:
        lines.append(f"  replaced by job {told['replaced_by']}")
    lines += [f"  {name} {value:,}" for name, value in sorted(told.get("counters", {}).items())]
    lines += [f"  error: {each}" for each in told["errors"]]
    if "log" in told:
        lines.append(f"  launcher's log: {told['log']}")
    lines.append(f"  page: {told['page']}")
    if "hint" in told:
        lines.append(f"  {told['hint']}")
    return lines
