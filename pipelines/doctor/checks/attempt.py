# SPDX-License-Identifier: Apache-2.0
"""What a harmless call says about a permission: AWS checks permissions before anything else.

So a call that is refused for another reason, such as a shard that does not exist, proves the
permission.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection
from typing import Any, Literal

from botocore.exceptions import BotoCoreError, ClientError

from dynabeam.transforms.aws.errors import AwsErrorKind, classify, error_code
from dynabeam.transforms.errors import DynabeamError

__all__ = ["Outcome", "allowed", "attempt", "outcome_of_error", "unknown"]

_PERFORM = re.compile(r"not authorized to perform: ([\w-]+:\w+)")
_REASON = re.compile(r"\b(because no [\w-]+ policy|with an explicit deny in an? [\w-]+ [\w ]+)")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Whether a permission is granted.

    Attributes:
        kind: `unknown` if the call did not show it.
        text: How that was seen, or why it was not.
    """

    kind: Literal["allowed", "denied", "unknown"]
    text: str


def allowed(text: str = "tried") -> Outcome:
    """It is granted."""
    return Outcome("allowed", text)


def unknown(text: str) -> Outcome:
    """It was not seen."""
    return Outcome("unknown", text)


def attempt(
    action: str,
    call: Callable[[], Any],
    *,
    proving: Collection[str] = (),
    hiding: Collection[str] = (),
) -> Outcome:
    """Makes a call and says what it shows.

    Args:
        action: The IAM action, such as `dynamodb:GetRecords`.
        call: Makes the call.
        proving: Error codes that come only after permissions were checked.
        hiding: Other actions whose want makes the service refuse what does not exist: if it is one
            of these that a denial names, this one is granted.
    """
    try:
        call()
    except (BotoCoreError, ClientError) as error:
        return outcome_of_error(action, error, proving, hiding)
    return allowed()


def outcome_of_error(
    action: str,
    error: BaseException,
    proving: Collection[str] = (),
    hiding: Collection[str] = (),
) -> Outcome:
    """What an error says about a permission; see `attempt`."""
    cause = error.__cause__ if isinstance(error, DynabeamError) and error.__cause__ else error
    code = error_code(cause)
    if code in proving:
        return allowed(f"tried: AWS answered {code}, as it does only with the permission")
    if classify(cause) is not AwsErrorKind.FORBIDDEN:
        return unknown(f"the call failed for another reason: {error}")
    named = _PERFORM.search(str(cause))
    if named is not None and named[1].lower() != action.lower():
        if named[1] in hiding:
            return allowed("tried")
        return unknown(f"AWS refused {named[1]} first")
    if named is None and hiding:
        return unknown("S3 answers alike for what is not there and for what is not allowed")
    reason = _REASON.search(str(cause))
    explicit = reason is not None and "explicit" in reason[1]
    return Outcome(
        "denied", f"AWS refuses it {reason[1]}" if reason and explicit else "AWS refuses it"
    )
