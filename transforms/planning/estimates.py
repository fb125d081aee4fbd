# SPDX-License-Identifier: Apache-2.0
"""An estimate of a plan: a number that shows how it came about, and how people read it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

__all__ = ["GIB", "Estimate", "Unit", "shown"]

Unit = Literal["bytes", "count", "USD", "seconds", "per second", "per day", "USD per month"]
GIB = 1 << 30
"""The GB of AWS's bills."""

_SIZES = (("TiB", 1 << 40), ("GiB", GIB), ("MiB", 1 << 20), ("KiB", 1 << 10))
_TIMES = (("d", 86_400), ("h", 3_600), ("min", 60))


@dataclasses.dataclass(frozen=True)
class Estimate:
    """One number of a plan.

    Attributes:
        name: Its name in JSON; stable.
        title: Its name for people.
        value: The number; None if an input is not known.
        unit: What it counts.
        formula: How it is reckoned, in the names of `inputs`.
        inputs: The values that went in.
        note: What else to know, such as how far it may be off.
        instead: What people read if there is no value.
    """

    name: str
    title: str
    value: float | int | None
    unit: Unit
    formula: str
    inputs: Mapping[str, float | int | str | None]
    note: str = ""
    instead: str = "not known"

    @property
    def text(self) -> str:
        """The value for people."""
        return self.instead if self.value is None else shown(self.value, self.unit)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "value": self.value,
            "unit": self.unit,
            "formula": self.formula,
            "inputs": dict(self.inputs),
            "note": self.note,
        }


def shown(value: float | int, unit: Unit) -> str:
    """A number with its unit, as short as people read it."""
    if unit == "bytes":
        return next(
            (f"{value / size:,.1f} {name}" for name, size in _SIZES if value >= size),
            f"{value:,.0f} B",
        )
    if unit == "seconds":
        return next(
            (f"{value / size:,.1f} {name}" for name, size in _TIMES if value >= size),
            f"{value:,.1f} s",
        )
    if unit in ("USD", "USD per month"):
        amount = f"${value:,.2f}" if value >= 0.01 or not value else "< $0.01"
        return amount if unit == "USD" else f"{amount} a month"
    number = f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:,.2g}"
    return {"per second": f"{number}/s", "per day": f"{number} a day"}.get(unit, number)
