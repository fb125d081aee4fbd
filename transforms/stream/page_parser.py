# SPDX-License-Identifier: Apache-2.0
"""Pages of stream records to Arrow columns, with as little Python per record as can be.

A body of GetRecords is parsed once, by compiled code, with the images kept as the raw JSON text
that the service sent. The ordinary page takes the fast way: records of exactly the known shape, all
of them good. Whatever differs (a field that is new, a record that is broken) makes the whole page
take the careful way, record by record, on which nothing that a record says is lost and a broken
record becomes a dead letter with its raw bytes while the rest of the page is read.

The `envelope` column is a JSON object with all that a record says beside the columns: `eventID`,
`eventVersion`, `userIdentity` and so on, and the rest of its `dynamodb` (`SizeBytes` …).
`eventName`, the sequence number, the images and the keys are in columns; the time is too, and is
kept in the envelope as well where microseconds cannot hold it.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Iterable
from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, Context, Decimal, InvalidOperation
from typing import Any

import msgspec
import pyarrow as pa

from dynabeam.transforms.errors import StreamError, ValueDecodeError
from dynabeam.transforms.model.block import SCHEMA, event_times, newest_credible_us
from dynabeam.transforms.model.dead_letter import DeadLetter
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.model.version import SEQUENCE_DIGITS, encode_version, encode_versions
from dynabeam.transforms.runtime.clock import now_us
from dynabeam.transforms.values.deep_json import MAX_IMAGE_DEPTH, cut_deep
from dynabeam.transforms.values.keys import encode_key, encode_keys

__all__ = ["Page", "PageParser", "event_time_us", "leaps"]

_OPS = {"INSERT": "c", "MODIFY": "u", "REMOVE": "d"}
_OP_NAMES = ("c", "u", "d")
_OP_CODES = {"INSERT": 0, "MODIFY": 1, "REMOVE": 2}
_NEEDS = {"c": ("NewImage",), "u": ("OldImage", "NewImage"), "d": ("OldImage",)}
_TTL_PRINCIPAL = "dynamodb.amazonaws.com"
_SEQUENCE = re.compile(r"[0-9]{1,40}")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_]+")
_MILLIS_FROM, _MICROS_FROM = 10**11, 10**14
_RECORD_LEVEL = 3  # brackets open in a record of {"Records":[{
_BODY_NAMES = (b'"Records":', b'"NextShardIterator":')
_LEAP_DIGITS = 10
_LEAST_DIGITS = 21
_EXACT = Context(prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN)
"""Rounds nothing; the usual one rounds to 28 digits, up too."""
_LATEST_US = 253_402_300_799 * 10**6

Raw = msgspec.Raw
_NONE = Raw(b"null")


@dataclasses.dataclass(frozen=True)
class Page:
    """One parsed page.

    Attributes:
        rows: A batch with the columns of `transforms.model.block.SCHEMA`, in the page's order.
        dead: Records that could not be parsed.
        last_sequence: The highest sequence number of the page, dead letters' included if they
            name a credible one; empty for none.
        newest_event_us: Up to when the page's times are credible, microseconds since 1970, 0 for
            none: a record's time counts no further than that of the next one.
        next_iterator: Where the shard goes on; empty if this was its last page.
        bytes: Size of the body.
        last_row_sequence: The highest sequence number of `rows`. Positions follow this one: what a
            broken record says of itself must not make later ones look like repeats.
    """

    rows: pa.RecordBatch
    dead: tuple[DeadLetter, ...]
    last_sequence: str
    newest_event_us: int
    next_iterator: str
    bytes: int
    last_row_sequence: str = ""

    @property
    def records(self) -> int:
        """How many records the page held."""
        return int(self.rows.num_rows) + len(self.dead)


class _Body(msgspec.Struct):
    # Required: a response without records has an empty list, and any other body is none of
    # GetRecords, though its status may be 200 (a proxy's, or half of one).
    Records: list[Raw]
    NextShardIterator: str | None = None


_ENVELOPE_NAMES = {
    "event_id": "eventID",
    "event_version": "eventVersion",
    "event_source": "eventSource",
    "aws_region": "awsRegion",
    "user_identity": "userIdentity",
}


class _Envelope(msgspec.Struct, omit_defaults=True, rename=_ENVELOPE_NAMES):
    event_id: str | None = None
    event_version: str | None = None
    event_source: str | None = None
    aws_region: str | None = None
    user_identity: Raw = _NONE
    dynamodb: dict[str, Any] | None = None


_decode_body = msgspec.json.Decoder(_Body)
_decode_fields = msgspec.json.Decoder(dict[str, Raw])
_decode_text = msgspec.json.Decoder(str)
_encode = msgspec.json.Encoder().encode


class PageParser:
    """Parses pages of one table's stream; made once, used by several threads.

    Args:
        table: The table with its key schema.
        generation: The generation that versions get.
        stream_arn: The stream, for the sources of dead letters.
    """

    def __init__(self, table: Table, generation: int, stream_arn: str) -> None:
        self._table = table
        self._generation = generation
        self._stream_arn = stream_arn
        self._fast = _fast_decoder(table)

    def parse(self, body: bytes, shard_id: str) -> Page:
        """Parses the body of one response of GetRecords.

        Args:
            body: JSON text.
            shard_id: The shard, for the sources of dead letters.

        Raises:
            StreamError: If the body as a whole is no response of GetRecords. Then it says nothing
                of where the shard ends.
        """
        self._check_names(body, shard_id)
        fast = self._parse_fast(body)
        return fast if fast is not None else self._parse_carefully(body, shard_id)

    def _check_names(self, body: bytes, shard_id: str) -> None:
        """Refuses a body that says twice which records it has, or where the shard goes on."""
        for name in _BODY_NAMES:
            if body.count(name) > 1 and not _is_said_once(body):
                raise self._not_an_answer("a member comes twice", body, shard_id)

    def _not_an_answer(self, why: str, body: bytes, shard_id: str) -> StreamError:
        return StreamError(
            f"the answer of GetRecords is not what the service sends: {why}",
            where=f"stream {self._stream_arn}, shard {shard_id}",
            found=body[:200],
        )

    def _parse_fast(self, body: bytes) -> Page | None:
        """The page if all of it is of the known shape and good, else None."""
        if self._fast is None:
            return None
        try:
            page = self._fast.decode(body)
            rows = self._columns(page.Records)
        except (
            *(msgspec.MsgspecError, ValueDecodeError, KeyError, UnicodeDecodeError),
            RecursionError,
        ):
            # Not an error yet: the careful way finds out which record it is.
            return None
        if rows is None:
            return None
        sequences = [each.dynamodb.SequenceNumber for each in page.Records]
        if page.NextShardIterator == "" or _leaping(sequences):
            return None
        last = _highest(sequences)
        return _page(rows, (), (last, last), page.NextShardIterator or "", len(body))

    def _columns(self, records: list[Any]) -> pa.RecordBatch | None:
        if not records:
            return _empty_rows()
        inner = [each.dynamodb for each in records]
        codes = [_OP_CODES[each.eventName] for each in records]
        olds = [None if (raw := each.OldImage) is _NONE else bytes(raw) for each in inner]
        news = [None if (raw := each.NewImage) is _NONE else bytes(raw) for each in inner]
        if not _images_are_good(codes, olds, news):
            return None
        times = _Times()
        event_times = [times[bytes(each.ApproximateCreationDateTime)] for each in inner]
        if times.inexact:
            return None
        keys = self._keys([each.Keys for each in inner])
        if keys.null_count:
            return None
        sequences = pa.array([each.SequenceNumber for each in inner], pa.string())
        return pa.RecordBatch.from_arrays(
            [
                keys,
                encode_versions(self._generation, sequences),
                pa.array([_OP_NAMES[each] for each in codes], pa.string()),
                pa.array(event_times, pa.timestamp("us", "UTC")),
                pa.array(olds, pa.binary()),
                pa.array(news, pa.binary()),
                pa.array(_ttl_flags(codes, records), pa.bool_()),
                pa.array([_fast_envelope(each) for each in records], pa.binary()),
            ],
            schema=SCHEMA,
        )

    def _keys(self, keys: list[Any]) -> pa.Array:
        columns = [pa.array([each.k0.v for each in keys], pa.string())]
        if self._table.keys.range is not None:
            columns.append(pa.array([each.k1.v for each in keys], pa.string()))
        return encode_keys(columns, self._table.keys, invalid="null")

    def _parse_carefully(self, body: bytes, shard_id: str) -> Page:
        try:
            page, deep = _decode_page(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise self._not_an_answer(str(error), body, shard_id) from error
        if page.NextShardIterator == "":
            raise self._not_an_answer(
                "an iterator is a text of one character or more", body, shard_id
            )
        rows: list[dict[str, Any]] = []
        dead: list[DeadLetter] = []
        good: list[str] = []
        records = [bytes(raw) for raw in page.Records]
        sequences = [_sequence_of(record) for record in records]
        leaping = _leaping(sequences)
        for number, (record, sequence) in enumerate(zip(records, sequences, strict=True)):
            try:
                if record in deep:
                    record = deep[record].pop(0)  # noqa: PLW2901 - what the service sent
                    raise ValueDecodeError(
                        f"the record nests deeper than {MAX_IMAGE_DEPTH} brackets"
                    )
                row = self._row(record)
                _refuse_leap(sequence, leaping, sequences)
                rows.append(row)
                good.append(sequence)
            except (
                *(msgspec.MsgspecError, ValueDecodeError, UnicodeDecodeError),
                RecursionError,
            ) as error:
                place = f"record {number} of a page" if not sequence else f"sequence {sequence}"
                dead.append(self._dead_letter(record, shard_id, sequence, place, error))
        columns = pa.RecordBatch.from_pylist(rows, schema=SCHEMA) if rows else _empty_rows()
        iterator = page.NextShardIterator or ""
        highest = _highest(each for each in sequences if each not in leaping)
        return _page(columns, tuple(dead), (highest, _highest(good)), iterator, len(body))

    def _dead_letter(
        self, record: bytes, shard_id: str, sequence: str, place: str, error: Exception
    ) -> DeadLetter:
        met_us = now_us()
        return DeadLetter(
            table=self._table.name,
            stage="stream",
            place=f"stream {self._stream_arn}, shard {shard_id}, {place}",
            reason=str(error),
            raw=record,
            error=type(error).__name__,
            origin={"stream_arn": self._stream_arn, "shard_id": shard_id, "sequence": sequence},
            context={"table": self._table.to_json(), "generation": self._generation},
            first_us=met_us,
            last_us=met_us,
        )

    def _row(self, record: bytes) -> dict[str, Any]:
        """One record with all that it says.

        Raises:
            ValueDecodeError: If something that a change needs is missing or malformed.
        """
        outer = _decode_fields.decode(record)
        inner = _decode_fields.decode(_needed(outer, "dynamodb", "record"))
        name = _text(_needed(outer, "eventName", "record"), "eventName")
        op = _OPS.get(name)
        if op is None:
            raise ValueDecodeError("an unknown event", expected=sorted(_OPS), found=name)
        old, new = (_image(inner, each) for each in ("OldImage", "NewImage"))
        for needed, image in (("OldImage", old), ("NewImage", new)):
            if needed in _NEEDS[op] and image is None:
                raise ValueDecodeError(
                    f"a record of event {name} has no {needed}",
                    hint="Give the table's stream the view type NEW_AND_OLD_IMAGES",
                )
        keys = msgspec.json.decode(_needed(inner, "Keys", "dynamodb"))
        if not isinstance(keys, dict):
            raise ValueDecodeError("Keys is not a JSON object", found=keys)
        sequence = _text(_needed(inner, "SequenceNumber", "dynamodb"), "SequenceNumber")
        raw_time = bytes(_needed(inner, "ApproximateCreationDateTime", "dynamodb"))
        event_us, exact = _event_time(raw_time)
        for known in ("OldImage", "NewImage", "Keys", "SequenceNumber"):
            inner.pop(known, None)
        if exact:
            del inner["ApproximateCreationDateTime"]
        identity = outer.get("userIdentity", _NONE)
        del outer["eventName"], outer["dynamodb"]
        if inner:
            outer["dynamodb"] = Raw(_encode(inner))
        return {
            "key": encode_key(keys, self._table.keys),
            "version": encode_version(self._generation, sequence),
            "op": op,
            "event_time": event_us,
            "old": old,
            "new": new,
            "ttl": op == "d" and _is_ttl(identity),
            "envelope": _encode(outer),
        }


def _decode_page(body: bytes) -> tuple[_Body, dict[bytes, list[bytes]]]:
    """The page; and what records were, by what they are now, if they are too deep to be parsed."""
    try:
        return _decode_body.decode(body), {}
    except RecursionError:
        shallow, deep = cut_deep(body, _RECORD_LEVEL, MAX_IMAGE_DEPTH)
        return _decode_body.decode(shallow), deep


def event_time_us(text: str | bytes) -> int:
    """The time of a record in microseconds since 1970, computed without floats.

    Args:
        text: A JSON number as the service writes it, `1464806460` or `1.46480646E9`: seconds,
            or, where its size says so, milliseconds or microseconds. Finer parts are cut off.

    Raises:
        ValueDecodeError: If it is not a number, or not a time that can be.
    """
    return _event_time(text.encode() if isinstance(text, str) else text)[0]


def _event_time(raw: bytes) -> tuple[int, bool]:
    """The time in microseconds, and whether that says all that the number says."""
    try:
        value = Decimal(raw.decode("ascii"))
        if not value.is_finite() or not 0 <= value <= _LATEST_US:
            raise ValueDecodeError("not a time in seconds since 1970", found=raw)
    except (InvalidOperation, UnicodeDecodeError) as error:
        raise ValueDecodeError("not a time in seconds since 1970", found=raw) from error
    digits = 0 if value >= _MICROS_FROM else 3 if value >= _MILLIS_FROM else 6
    scaled = value.scaleb(digits, _EXACT)
    micros = int(scaled)
    if micros > _LATEST_US:
        raise ValueDecodeError("not a time in seconds since 1970", found=raw)
    return micros, micros == scaled


class _Times(dict[bytes, int]):
    """Times of a page: few are different, so each is computed once."""

    inexact = False

    def __missing__(self, raw: bytes) -> int:
        micros, exact = _event_time(raw)
        self.inexact = self.inexact or not exact
        self[raw] = micros
        return micros


def _ttl_flags(codes: list[int], records: list[Any]) -> list[bool]:
    """Whether each record is a delete by the service's time to live; few have an identity."""
    return [
        code == 2 and each.userIdentity is not _NONE and _is_ttl(each.userIdentity)
        for code, each in zip(codes, records, strict=True)
    ]


def _is_ttl(identity: Raw) -> bool:
    who = msgspec.json.decode(identity)
    if not isinstance(who, dict):
        return False
    kind = who.get("type", who.get("Type"))
    principal = who.get("principalId", who.get("PrincipalId"))
    return bool(kind == "Service" and principal == _TTL_PRINCIPAL)


def _images_are_good(codes: list[int], olds: list[bytes | None], news: list[bytes | None]) -> bool:
    for code, old, new in zip(codes, olds, news, strict=True):
        if old is None:
            if code != 0:
                return False
        elif old[:1] != b"{":
            return False
        if new is None:
            if code != 2:
                return False
        elif new[:1] != b"{":
            return False
    return True


def _fast_envelope(record: Any) -> bytes:
    inner = record.dynamodb
    rest = {}
    if inner.SizeBytes is not None:
        rest["SizeBytes"] = inner.SizeBytes
    if inner.StreamViewType is not None:
        rest["StreamViewType"] = inner.StreamViewType
    if inner.ApproximateCreationDateTimePrecision is not None:
        rest["ApproximateCreationDateTimePrecision"] = inner.ApproximateCreationDateTimePrecision
    return _encode(
        _Envelope(
            record.eventID,
            record.eventVersion,
            record.eventSource,
            record.awsRegion,
            record.userIdentity,
            rest or None,
        )
    )


def _needed(fields: dict[str, Raw], name: str, where: str) -> Raw:
    raw = fields.get(name)
    if raw is None:
        raise ValueDecodeError(f"{name} is missing", where=where)
    return raw


def _text(raw: Raw, name: str) -> str:
    try:
        return _decode_text.decode(raw)
    except msgspec.MsgspecError as error:
        raise ValueDecodeError("not a text", where=name, found=bytes(raw)) from error


def _image(fields: dict[str, Raw], name: str) -> bytes | None:
    raw = fields.get(name)
    if raw is None or bytes(raw) == b"null":
        return None
    image = bytes(raw)
    if image[:1] != b"{":
        raise ValueDecodeError("an image is a JSON object", where=name, found=image[:200])
    return image


def _sequence_of(record: bytes) -> str:
    """The sequence number of a record that may be broken elsewhere; empty if it has none."""
    try:
        inner = _decode_fields.decode(_decode_fields.decode(record)["dynamodb"])
        found = _decode_text.decode(inner["SequenceNumber"])
    except (msgspec.MsgspecError, KeyError, UnicodeDecodeError):
        return ""
    return found if _SEQUENCE.fullmatch(found) and len(found) <= SEQUENCE_DIGITS else ""


def _highest(sequences: Iterable[str]) -> str:
    """The highest number, as the service wrote it; empty for none."""
    return max(sequences, key=_rank, default="")


def _rank(digits: str) -> tuple[int, str]:
    # Widths differ, so numbers rank by length first; quicker than making integers of them.
    significant = digits.lstrip("0")
    return len(significant), significant


def _leaping(sequences: list[str]) -> frozenset[str]:
    """Numbers that cannot belong where the others are: more than ten digits longer.

    Numbers of a shard grow together, from 21 digits on. One that leaps (forty nines) would make all
    that follows it look like a repeat. Shorter numbers are not the service's own: no rule is known.
    """
    lengths = {len(each.lstrip("0")) for each in sequences if each}
    if not lengths or max(lengths) - min(lengths) <= _LEAP_DIGITS or min(lengths) < _LEAST_DIGITS:
        return frozenset()
    most = min(lengths) + _LEAP_DIGITS
    return frozenset(each for each in sequences if len(each.lstrip("0")) > most)


def _refuse_leap(sequence: str, leaping: frozenset[str], sequences: list[str]) -> None:
    if sequence in leaping:
        raise ValueDecodeError(
            "a sequence number that leaps away from the others of its page",
            found=sequence,
            expected=f"about {min(filter(None, sequences), key=_rank)}",
        )


def leaps(before: str, after: str) -> bool:
    """True if a number cannot follow the other one in a shard."""
    return after in _leaping([before, after])


def _is_said_once(body: bytes) -> bool:
    """False if a member of the body's own object comes twice: readers differ in which they take."""
    names: list[str] = []

    def see(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names[:] = [name for name, _ in pairs]  # the outermost object is the last to be closed
        return {}

    try:
        json.loads(body, object_pairs_hook=see)
    except (ValueError, RecursionError):
        return True  # no JSON, or none of the service's: the parser says so
    return len(names) == len(set(names))


@functools.cache
def _empty_rows() -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], each.type) for each in SCHEMA], schema=SCHEMA)


def _page(
    rows: pa.RecordBatch,
    dead: tuple[DeadLetter, ...],
    highest: tuple[str, str],
    iterator: str,
    size: int,
) -> Page:
    """The page; `highest` are the highest numbers of all records and of the rows alone."""
    last, last_row = highest
    newest = newest_credible_us(event_times(rows)) if rows.num_rows else 0
    return Page(rows, dead, last, newest, iterator, size, last_row)


@functools.lru_cache(maxsize=1024)
def _fast_decoder(table: Table) -> Any:
    """A decoder of pages whose records have exactly the known shape; None if there can be none."""
    attributes = table.keys.attributes
    if not all(_PLAIN_NAME.fullmatch(each.name) for each in attributes):
        # The compiled decoder cannot rename a field to every name that DynamoDB allows.
        return None
    fields: list[tuple[str, Any]] = []
    for number, each in enumerate(attributes):
        value = msgspec.defstruct(
            f"Key{each.type}", [("v", str)], rename={"v": each.type}, forbid_unknown_fields=True
        )
        fields.append((f"k{number}", value))
    names = {f"k{number}": each.name for number, each in enumerate(attributes)}
    keys = msgspec.defstruct("Keys", fields, rename=names, forbid_unknown_fields=True)
    change = msgspec.defstruct(
        "Change",
        [
            ("ApproximateCreationDateTime", Raw),
            ("Keys", keys),
            ("SequenceNumber", str),
            ("NewImage", Raw, _NONE),
            ("OldImage", Raw, _NONE),
            ("SizeBytes", int | None, None),
            ("StreamViewType", str | None, None),
            ("ApproximateCreationDateTimePrecision", str | None, None),
        ],
        forbid_unknown_fields=True,
        gc=False,
    )
    record = msgspec.defstruct(
        "Record",
        [
            ("eventName", str),
            ("dynamodb", change),
            ("eventID", str | None, None),
            ("eventVersion", str | None, None),
            ("eventSource", str | None, None),
            ("awsRegion", str | None, None),
            ("userIdentity", Raw, _NONE),
        ],
        forbid_unknown_fields=True,
        gc=False,
    )
    page = msgspec.defstruct(
        "FastPage",
        [("Records", list[record]), ("NextShardIterator", str | None, None)],  # type: ignore[valid-type]
    )
    return msgspec.json.Decoder(page)
