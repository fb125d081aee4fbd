# SPDX-License-Identifier: Apache-2.0
"""The version of a change: what orders the changes of one key.

A version is `(generation, sequence number)`. It travels as 49 bytes of ASCII, `%08d.%040d`, so that
byte order is the order and a person can read it. Sequence numbers have 21 to 40 digits
(botocore's service model, `SequenceNumber`), so comparing them as unpadded text would be wrong.
Snapshot rows have sequence number 0, heal rows their write time in microseconds since 1970 (16
digits; 17 from the year 5138): both lose to every stream record of their generation, and of the
heal rows of one key the newest wins, in whichever order the windows of a heal are loaded.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from dynabeam.transforms.errors import ValueDecodeError

__all__ = [
    "GENERATION_DIGITS",
    "SEQUENCE_DIGITS",
    "VERSION_BYTES",
    "constant_versions",
    "decode_version",
    "encode_version",
    "encode_versions",
]

GENERATION_DIGITS = 8
SEQUENCE_DIGITS = 40
VERSION_BYTES = GENERATION_DIGITS + 1 + SEQUENCE_DIGITS

# Up to here Python is quicker than the fixed cost of Arrow's functions, some 70 microseconds.
_FEW = 30
_DIGITS = frozenset("0123456789")


def encode_version(generation: int, sequence: int | str = 0) -> bytes:
    """Encodes one version.

    Args:
        generation: The table's generation, from 1.
        sequence: The sequence number; 0 for snapshot rows, the write time for heal rows.

    Returns:
        49 ASCII bytes whose order is the order of versions.

    Raises:
        ValueDecodeError: If either part is negative, not decimal or too long.
    """
    digits = str(sequence)
    if not digits or not _DIGITS.issuperset(digits) or len(digits) > SEQUENCE_DIGITS:
        raise ValueDecodeError(
            "a sequence number must be 1 to 40 decimal digits", found=digits, where="version"
        )
    return _prefix(generation) + digits.zfill(SEQUENCE_DIGITS).encode("ascii")


def decode_version(version: bytes) -> tuple[int, int]:
    """Splits an encoded version into `(generation, sequence number)`.

    Raises:
        ValueDecodeError: If the bytes are not a version.
    """
    head, dot, tail = version[:GENERATION_DIGITS], version[8:9], version[9:]
    if len(version) != VERSION_BYTES or dot != b"." or not (head + tail).isdigit():
        raise ValueDecodeError("not an encoded version", found=version, where="version")
    return int(head), int(tail)


def encode_versions(generation: int, sequences: pa.StringArray) -> pa.BinaryArray:
    """Encodes the sequence numbers of many records of one generation.

    Args:
        generation: The table's generation.
        sequences: Decimal text, no nulls.

    Returns:
        A binary array of the same length.

    Raises:
        ValueDecodeError: If a sequence number is not 1 to 40 decimal digits.
    """
    prefix = _prefix(generation)
    if len(sequences) == 0:
        return pa.array([], pa.binary())
    if len(sequences) <= _FEW and not sequences.null_count:
        found = sequences.to_pylist()
        return pa.array([encode_version(generation, each) for each in found], pa.binary())
    good = pc.match_substring_regex(sequences, r"^[0-9]{1,40}$")
    if sequences.null_count or not pc.all(good).as_py():
        bad = sequences.filter(pc.invert(pc.fill_null(good, False)))
        found = bad[0].as_py() if len(bad) else None
        raise ValueDecodeError(
            "a sequence number must be 1 to 40 decimal digits", found=found, where="version"
        )
    padded = pc.utf8_lpad(sequences, width=SEQUENCE_DIGITS, padding="0")
    joined = pc.binary_join_element_wise(pa.scalar(prefix.decode("ascii")), padded, "")
    return joined.cast(pa.binary())


def constant_versions(generation: int, rows: int) -> pa.BinaryArray:
    """The versions of `rows` snapshot rows of one generation."""
    return pa.repeat(pa.scalar(encode_version(generation), pa.binary()), rows)


def _prefix(generation: int) -> bytes:
    if not 0 <= generation < 10**GENERATION_DIGITS:
        raise ValueDecodeError(
            "a generation must have at most 8 digits", found=generation, where="version"
        )
    return b"%08d." % generation
