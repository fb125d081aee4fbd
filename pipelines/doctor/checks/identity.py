# SPDX-License-Identifier: Apache-2.0
"""Who we are and where, and whether this machine's clock is one that AWS accepts."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone

from botocore.exceptions import BotoCoreError, ClientError

from dynabeam.pipelines.doctor.checks.examination import Examination
from dynabeam.pipelines.doctor.checks.finding import Finding, failure, of_error, ok, warning
from dynabeam.transforms.errors import DynabeamError

__all__ = ["clock_finding", "identity_findings"]

_REFUSED_SECONDS = 300
"""AWS refuses signatures of another time than its own by more than this."""
_NOTABLE_SECONDS = 30


def identity_findings(examination: Examination) -> Iterator[Finding]:
    """Identity, region and clock; a failure means that no other request to AWS can succeed."""
    region = examination.access.region or "the default region"
    try:
        who = examination.identity()
    except DynabeamError as error:
        yield of_error("identity", region, error, why="AWS answers only identities that it knows")
        return
    except (BotoCoreError, ClientError) as error:
        yield failure(
            "identity",
            region,
            f"AWS does not say who we are: {error}",
            why="AWS answers only identities that it knows",
            hint="Check the network, AWS_PROFILE and the AWS_* variables, renew an expired "
            "session, and try: aws sts get-caller-identity",
        )
        return
    yield ok("identity", who.arn, f"account {who.account}, region {who.region}")
    if who.said_at is not None:
        yield clock_finding(who.said_at, datetime.now(timezone.utc))


def clock_finding(theirs: datetime, ours: datetime) -> Finding:
    """Compares AWS's clock with this machine's."""
    seconds = abs((ours - theirs).total_seconds())
    text = f"{seconds:.0f} s from AWS's clock"
    hint = "Set the clock: sudo timedatectl set-ntp true"
    if seconds > _REFUSED_SECONDS:
        why = "AWS refuses signatures that are five minutes off"
        return failure("clock", "this machine", text, why=why, hint=hint)
    if seconds > _NOTABLE_SECONDS:
        why = "ages and lags are reckoned by this clock, and AWS refuses five minutes"
        return warning("clock", "this machine", text, why=why, hint=hint)
    return ok("clock", "this machine", text)
