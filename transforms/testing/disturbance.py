# SPDX-License-Identifier: Apache-2.0
"""What is drawn for one request before it is carried out: an error, a delay, a cut connection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from dynabeam.transforms.testing.api_error import ApiError

if TYPE_CHECKING:
    from dynabeam.transforms.testing.simulator import Simulator

__all__ = ["Disturbance", "as_faulty", "draw", "resource_of"]

CALLS_PER_SECOND = {"DescribeStream": 10, "ListStreams": 5}
"""The account's limits, which `Faults.rate_limits` switches on."""

_THROTTLES = {
    "GetRecords": (
        "ProvisionedThroughputExceededException",
        "LimitExceededException",
        "ThrottlingException",
    ),
    "DescribeStream": ("ThrottlingException", "LimitExceededException"),
    "ListStreams": ("ThrottlingException", "LimitExceededException"),
    "GetShardIterator": ("ThrottlingException",),
}
_ITEM_THROTTLES = ("ProvisionedThroughputExceededException", "ThrottlingException")
_ITEM_ACTIONS = ("Item", "Scan", "Query")
_MESSAGES = {
    "ProvisionedThroughputExceededException": (
        "The level of configured provisioned throughput for the table was exceeded. Consider"
        " increasing your provisioning level with the UpdateTable API."
    ),
    "LimitExceededException": "Too many operations for a given subscriber",
    "ThrottlingException": "Rate exceeded",
}


@dataclass(frozen=True)
class Disturbance:
    """What happens to one request.

    Attributes:
        error: Answered instead of a result; the call is not carried out.
        delay: Real seconds to wait first.
        drop: When the connection is cut.
        share: How much of the answer is sent before it is cut.
    """

    error: ApiError | None = None
    delay: float = 0.0
    drop: Literal["", "before", "after"] = ""
    share: float = 0.0

    def refuse(self) -> None:
        """Raise the error, if there is one."""
        if self.error is not None:
            raise self.error


def draw(
    simulator: Simulator,
    action: str,
    service: Literal["dynamodb", "s3"],
    resource: Callable[[], str],
) -> Disturbance:
    """Decide what happens to a request.

    Args:
        simulator: Its faults, its draws, and its count of recent calls.
        action: The operation, such as `GetRecords` or, of S3, `GetObject`.
        service: As permissions name it: streams and exports belong to `dynamodb`.
        resource: Gives the ARN of what the request is about, if it is needed.
    """
    faults, dice = simulator.faults, simulator.dice
    if f"{service}:{action}" in faults.denied_actions:
        simulator.stats.count_fault("denied")
        return Disturbance(error=_denied(simulator, service, action, resource()))
    if faults.rate_limits and _over_limit(simulator, action):
        simulator.stats.count_fault("rate_limit")
        return Disturbance(error=ApiError("ThrottlingException", "Rate of requests exceeded"))
    if not faults.hits(action):
        return Disturbance()
    delay = faults.slow_seconds if dice.chance(faults.slow) else 0.0
    if delay:
        simulator.stats.count_fault("slow")
    kind = _kind(simulator)
    if not kind:
        return Disturbance(delay=delay)
    simulator.stats.count_fault(kind)
    if kind == "throttle":
        return Disturbance(_throttle(simulator, action, s3=service == "s3"), delay)
    if kind == "internal_error":
        code = "InternalError" if service == "s3" else "InternalServerError"
        return Disturbance(ApiError(code, "We encountered an internal error.", 500), delay)
    if kind == "drop_before":
        return Disturbance(None, delay, "before")
    return Disturbance(None, delay, "after", 0.5 * dice.between(0, 1))


def as_faulty(simulator: Simulator, headers: dict[str, str]) -> dict[str, str]:
    """The headers of a conditional write, as an endpoint with the simulator's faults sees them.

    Raises:
        ApiError: It is not carried out.
    """
    faults = simulator.faults
    if simulator.dice.chance(faults.conflict):
        simulator.stats.count_fault("conflict")
        text = "The conditional request cannot succeed due to a conflicting operation"
        raise ApiError("ConditionalRequestConflict", f"{text} against this resource.", 409)
    if faults.conditional_writes == "unsupported":
        text = "A header you provided implies functionality that is not implemented"
        raise ApiError("NotImplemented", text, 501)
    if faults.conditional_writes == "ignored":
        conditions = ("if-match", "if-none-match")
        return {name: each for name, each in headers.items() if name.lower() not in conditions}
    return headers


def _kind(simulator: Simulator) -> str:
    """At most one of the faults that replace or cut an answer."""
    faults = simulator.faults
    for kind in ("drop_before", "throttle", "internal_error", "drop_after"):
        if simulator.dice.chance(getattr(faults, kind)):
            return kind
    return ""


def _throttle(simulator: Simulator, action: str, *, s3: bool) -> ApiError:
    if s3:
        return ApiError("SlowDown", "Please reduce your request rate.", 503)
    codes = _THROTTLES.get(action)
    if codes is None:
        codes = _ITEM_THROTTLES if action.endswith(_ITEM_ACTIONS) else ("ThrottlingException",)
    code = simulator.dice.pick(codes)
    return ApiError(code, _MESSAGES[code])


def _over_limit(simulator: Simulator, action: str) -> bool:
    most = CALLS_PER_SECOND.get(action)
    if most is None:
        return False
    now = simulator.clock.micros()
    with simulator.lock:
        recent = simulator.recent_calls.setdefault(action, [])
        recent[:] = [at for at in recent if at > now - 1_000_000]
        if len(recent) >= most:
            return True
        recent.append(now)
    return False


def _denied(simulator: Simulator, service: str, action: str, arn: str) -> ApiError:
    message = (
        f"User: {simulator.user_arn} is not authorized to perform: {service}:{action} on resource:"
        f" {arn} because no identity-based policy allows the {service}:{action} action"
    )
    if service == "s3":
        return ApiError("AccessDenied", message, 403)
    return ApiError("AccessDeniedException", message)


def resource_of(simulator: Simulator, body: dict[str, Any]) -> str:
    """The ARN that a request to DynamoDB or its streams is about, as far as it names one."""
    for name in ("StreamArn", "TableArn", "ExportArn"):
        if name in body:
            return str(body[name])
    if "ShardIterator" in body:
        return str(body["ShardIterator"]).rsplit("|", 2)[0]
    table = str(body.get("TableName", "*"))
    if table.startswith("arn:"):
        return table
    return f"arn:aws:dynamodb:{simulator.region}:{simulator.account_id}:table/{table}"
