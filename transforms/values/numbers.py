# SPDX-License-Identifier: Apache-2.0
"""DynamoDB numbers as canonical text: the same number has one spelling.

The service normalises `N` when it is written and returns plain decimals: `007` is `7`, `1.10` is
`1.1`, `1e3` is `1000`, `-0` is `0`. Emulators, old data and Ion exports spell numbers otherwise, so
every number that takes part in a key or a comparison passes here first.

Limits of the service: 38 significant digits, magnitude 1E-130 to 9.99...E+125, or zero. Everything
here is done on digits: no float and no rounding context is involved.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from dynabeam.transforms.errors import ValueDecodeError

__all__ = [
    "MAX_DIGITS",
    "MAX_EXPONENT",
    "MIN_EXPONENT",
    "normalise_number",
    "normalise_numbers",
]

MAX_DIGITS = 38
"""Significant digits of a DynamoDB number."""
MAX_EXPONENT = 125
"""Largest power of ten of a number's first digit."""
MIN_EXPONENT = -130
"""Smallest power of ten of a number's first digit."""

# RE2, where `$` is the end of the text. Digits and range are not checked by it.
_CANONICAL_NUMBER = r"^(?:0|-?(?:[1-9][0-9]*|(?:0|[1-9][0-9]*)\.[0-9]*[1-9]))$"

# A canonical text of at most this many characters is certainly within digits and range.
_SURELY_IN_RANGE = MAX_DIGITS

# Up to here Python is quicker than the fixed cost of Arrow's functions, some 50 microseconds.
_FEW = 30

_NUMBER = re.compile(
    r"([+-]?)(?:([0-9]+)(?:\.([0-9]*))?|\.([0-9]+))(?:[eE]([+-]?[0-9]{1,20}))?", re.ASCII
)


def normalise_number(text: str) -> str:
    """Return the plain decimal that the service would return for a number.

    Args:
        text: Decimal text: optional sign, digits, optional fraction, optional exponent.

    Returns:
        Plain decimal text without exponent, superfluous zeros, plus sign or negative zero.

    Raises:
        ValueDecodeError: The text is no number (NaN, Infinity, spaces and the empty text are none),
            has more than 38 significant digits or is out of range. A zero may have any exponent.
    """
    match = _NUMBER.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueDecodeError(
            "This is not a DynamoDB number", expected="decimal text", found=_shown(text)
        )
    sign, whole, fraction, bare_fraction, exponent_text = match.groups()
    fraction = bare_fraction or fraction or ""
    leading = ((whole or "") + fraction).lstrip("0")
    digits = leading.rstrip("0")
    if not digits:
        return "0"
    exponent = int(exponent_text or 0) - len(fraction) + (len(leading) - len(digits))
    _check_range(text, digits, exponent)
    plain = _plain(digits, exponent)
    return f"-{plain}" if sign == "-" else plain


def normalise_numbers(
    numbers: pa.Array | pa.ChunkedArray, *, invalid: Literal["raise", "null"] = "raise"
) -> pa.Array:
    """Normalise a column of numbers; rows that are canonical already cost no Python.

    Args:
        numbers: A string array, nulls allowed.
        invalid: What an impossible number becomes: an error, or a null.

    Returns:
        A string array of the same length; nulls stay null. It is the input itself when every
        number was canonical.

    Raises:
        ValueDecodeError: A number is impossible and `invalid` is "raise".
    """
    if isinstance(numbers, pa.ChunkedArray):
        numbers = numbers.combine_chunks()
    if len(numbers) <= _FEW:
        texts = numbers.to_pylist()
        found = [None if text is None else _or_null(text, invalid) for text in texts]
        return numbers if found == texts else pa.array(found, numbers.type)
    odd = pc.invert(
        pc.and_(
            pc.match_substring_regex(numbers, _CANONICAL_NUMBER),
            pc.less_equal(pc.binary_length(numbers), _SURELY_IN_RANGE),
        )
    )
    odd = pc.fill_null(odd, False)
    if not pc.any(odd).as_py():
        return numbers
    return pc.replace_with_mask(
        numbers,
        odd,
        pa.array([_or_null(text, invalid) for text in _texts(numbers, odd)], numbers.type),
    )


def _texts(numbers: pa.Array, odd: pa.Array) -> list[str]:
    texts: list[str] = numbers.filter(odd).to_pylist()
    return texts


def _or_null(text: str, invalid: str) -> str | None:
    try:
        return normalise_number(text)
    except ValueDecodeError:
        if invalid == "raise":
            raise
        return None


def _check_range(text: str, digits: str, exponent: int) -> None:
    if len(digits) > MAX_DIGITS:
        raise ValueDecodeError(
            "A number has more digits than DynamoDB keeps",
            where=_shown(text),
            expected=f"at most {MAX_DIGITS} significant digits",
            found=len(digits),
        )
    magnitude = exponent + len(digits) - 1
    if not MIN_EXPONENT <= magnitude <= MAX_EXPONENT:
        raise ValueDecodeError(
            "A number is out of DynamoDB's range",
            where=_shown(text),
            expected=f"a magnitude from 1E{MIN_EXPONENT} to 9.99E+{MAX_EXPONENT}",
            found=f"1E{magnitude:+}",
        )


def _plain(digits: str, exponent: int) -> str:
    if exponent >= 0:
        return digits + "0" * exponent
    point = len(digits) + exponent
    if point > 0:
        return f"{digits[:point]}.{digits[point:]}"
    return f"0.{'0' * -point}{digits}"


def _shown(text: Any) -> Any:
    return f"{text[:200]}..." if isinstance(text, str) and len(text) > 200 else text
