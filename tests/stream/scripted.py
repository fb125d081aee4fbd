# SPDX-License-Identifier: Apache-2.0
"""A scripted streams client: shards, pages and failures exactly as a test lays them out."""

import dataclasses
import json
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

from botocore.exceptions import ClientError, EndpointConnectionError

from dynabeam.transforms.aws.streams import ShardInfo, StreamDescription
from dynabeam.transforms.model.gap import GapPolicy
from dynabeam.transforms.model.table import Table
from dynabeam.transforms.model.version import decode_version
from dynabeam.transforms.runtime.clock import Clock
from dynabeam.transforms.stream.frontier import Frontier
from dynabeam.transforms.stream.pacing import Pacing
from dynabeam.transforms.stream.page_parser import PageParser
from dynabeam.transforms.stream.reader import SliceReader
from dynabeam.transforms.stream.reader_spec import ReaderSpec
from dynabeam.transforms.stream.scheduler import ShardScheduler
from dynabeam.transforms.stream.shard_requests import RequestPool
from dynabeam.transforms.stream.tracker import FrontierTracker
from dynabeam.transforms.values.key_schema import KeyAttribute, KeySchema

ARN = "arn:aws:dynamodb:eu-west-1:111122223333:table/orders/stream/2026-01-01T00:00:00.000"
TABLE = Table("orders", KeySchema(KeyAttribute("id", "S")))
NOW_US = 1_800_000_000_000_000
HOUR_US = 3_600_000_000
QUICK = Pacing(
    tip_poll=0.0,
    poll=0.001,
    idle_poll=0.002,
    slice=2.0,
    tip_slice=0.02,
    report=0.0,
    sweep_page=0.0,
    child_backoff=0.001,
    backoff=0.001,
    max_backoff=0.002,
)


@dataclasses.dataclass(frozen=True)
class FixedClock(Clock):
    """Wall clock that stands still; the monotonic one runs."""

    wall_us: int = NOW_US

    def now_us(self):
        return self.wall_us


def shard_id(number, hours_ago=1.0):
    created_ms = (NOW_US - int(hours_ago * HOUR_US)) // 1000 + number
    return f"shardId-{created_ms:020d}-{number:08x}"


def record(sequence, key="k", time=None, name="INSERT", **fields):
    image = {"id": {"S": key}, "n": {"N": str(sequence)}}
    change = {
        "ApproximateCreationDateTime": NOW_US // 10**6 - 60 if time is None else time,
        "Keys": {"id": {"S": key}},
        "SequenceNumber": str(sequence),
        "SizeBytes": 12,
        "StreamViewType": "NEW_AND_OLD_IMAGES",
    }
    if name != "REMOVE":
        change["NewImage"] = image
    if name != "INSERT":
        change["OldImage"] = image
    change.update(fields)
    return {
        "eventID": f"{int(sequence):032x}",
        "eventName": name,
        "eventVersion": "1.1",
        "eventSource": "aws:dynamodb",
        "awsRegion": "eu-west-1",
        "dynamodb": change,
    }


@dataclasses.dataclass
class Shard:
    """A shard: pages of records; None in place of a page is an empty page."""

    shard_id: str
    parent_id: str = ""
    pages: list = dataclasses.field(default_factory=list)
    closed: bool = False
    trimmed: int = 0
    listed: bool = True
    exists: bool = True
    empty_tail: bool = False


def api_error(code, status=400, operation="GetRecords"):
    return ClientError(
        {
            "Error": {"Code": code, "Message": "scripted"},
            "ResponseMetadata": {"HTTPStatusCode": status},
        },
        operation,
    )


class ScriptedStreams:
    """Answers from its shards; `failures[operation]` are raised first, in order."""

    def __init__(self, *shards, status="ENABLED", per_page=100):
        self.shards = {each.shard_id: each for each in shards}
        self.status = status
        self.per_page = per_page
        self.failures = {"describe": [], "children": [], "shard_iterator": [], "get_records": []}
        self.calls = []
        self.exists = True
        self.hide_children = 0
        self.dead_iterators = set()
        self.on_records = None
        self._lock = threading.Lock()

    def add(self, *shards):
        self.shards.update((each.shard_id, each) for each in shards)

    def count(self, operation):
        return sum(1 for each in self.calls if each[0] == operation)

    def _begin(self, operation, *arguments):
        with self._lock:
            self.calls.append((operation, *arguments))
            if self.failures[operation]:
                failure = self.failures[operation].pop(0)
                if failure is not None:
                    raise failure

    def describe(self, stream_arn, *, after="", children_of=""):
        self._begin("children" if children_of else "describe", children_of or after)
        if not self.exists:
            raise api_error("ResourceNotFoundException", operation="DescribeStream")
        with self._lock:
            if children_of and self.hide_children:
                self.hide_children -= 1
                return StreamDescription(self.status, "NEW_AND_OLD_IMAGES", ())
            listed = sorted(each for each, shard in self.shards.items() if shard.listed)
        if children_of:
            found = [each for each in listed if self.shards[each].parent_id == children_of]
        else:
            found = [each for each in listed if each > after]
        page = found[: self.per_page]
        infos = tuple(
            ShardInfo(each, self.shards[each].parent_id, self.shards[each].closed) for each in page
        )
        more = page[-1] if len(found) > self.per_page else ""
        return StreamDescription(self.status, "NEW_AND_OLD_IMAGES", infos, next_after=more)

    def begin_records(self, stream_arn, iterator, taken):
        """Leaves all to `get_records`."""
        return False

    def shard_iterator(self, stream_arn, shard_id, *, after="", at_us=0):
        self._begin("shard_iterator", shard_id, after, at_us)
        shard = self._existing(shard_id)
        if after:
            if int(after) < shard.trimmed:
                raise api_error("TrimmedDataAccessException")
            page, place = self._place(shard, lambda r: int(r["SequenceNumber"]) > int(after))
        elif at_us:
            page, place = self._place(
                shard, lambda r: r["ApproximateCreationDateTime"] * 10**6 >= at_us
            )
        else:
            page, place = self._place(shard, lambda r: int(r["SequenceNumber"]) > shard.trimmed)
        return f"{shard_id}|{page}|{place}|{uuid.uuid4().hex}"

    def get_records(self, stream_arn, iterator):
        name, page, place, _ = iterator.split("|")
        self._begin("get_records", name)
        if self.on_records is not None:
            self.on_records(name)
        if iterator in self.dead_iterators:
            raise api_error("ExpiredIteratorException")
        shard = self._existing(name)
        page, place = int(page), int(place)
        found = (shard.pages[page] or [])[place:] if page < len(shard.pages) else []
        answer = {"Records": found}
        last = page + 1 >= len(shard.pages)
        if not (shard.closed and last and not (shard.empty_tail and found)):
            following = min(page + 1, len(shard.pages))
            answer["NextShardIterator"] = f"{name}|{following}|0|{uuid.uuid4().hex}"
        return json.dumps(answer).encode()

    def _existing(self, name):
        if not self.shards[name].exists:
            raise api_error("ResourceNotFoundException")
        return self.shards[name]

    @staticmethod
    def _place(shard, wanted):
        # Behind the last record that is not wanted, so that empty pages before the next one count.
        place = (0, 0)
        for page, records in enumerate(shard.pages):
            for number, each in enumerate(records or []):
                if wanted(each["dynamodb"]):
                    return place
                place = (page, number + 1) if number + 1 < len(records) else (page + 1, 0)
        return place

    def connect(self, access):
        return self


def unreachable():
    return EndpointConnectionError(endpoint_url="http://nowhere")


def source(frontier=None, **changes):
    values = {
        "table": TABLE,
        "stream_arn": ARN,
        "reader": 0,
        "readers": 1,
        "generation": 1,
        "buckets": 4,
        "start": "trim_horizon",
        "frontier": frontier,
        "gap_policy": GapPolicy.FAIL,
        "snapshot_until_us": 0,
        "max_bytes": 0,
        "started_us": NOW_US,
    }
    return ReaderSpec(**{**values, **changes})


@dataclasses.dataclass
class Result:
    """What one call of `process` gave, in order, and where it stands."""

    outputs: list
    tracker: FrontierTracker
    reader: SliceReader
    scheduler: ShardScheduler

    def of(self, kind):
        return [each for each in self.outputs if isinstance(each, kind)]

    @property
    def sequences(self):
        return [
            decode_version(version)[1]
            for block in self.outputs
            if hasattr(block, "rows")
            for version in block.rows.column("version").to_pylist()
        ]

    def reports(self, kind="stream"):
        return [each.fields for each in self.outputs if getattr(each, "kind", "") == kind]


def run(
    client, element=None, *, bounded=True, pacing=QUICK, clock=None, scheduler=None, tracker=None
):
    """One call of `process` without Beam."""
    element = element or source()
    clock = clock or FixedClock()
    tracker = tracker or FrontierTracker(element.first_restriction(), bounded=bounded)
    with ThreadPoolExecutor(pacing.threads) as pool:
        parser = PageParser(element.table, element.generation, element.stream_arn)
        if scheduler is None:
            requests = RequestPool(element.stream_arn, client, parser, clock, pool)
            scheduler = ShardScheduler(requests, tracker.current_restriction().swept_us)
        reader = SliceReader(element, tracker, scheduler, pacing, clock, bounded=bounded)
        return Result(list(reader.read()), tracker, reader, scheduler)


def pages(*numbers, **options):
    return [[record(each, **options) for each in page] if page else None for page in numbers]


def resumed(result, **changes):
    """The source of the run after this one."""
    return source(Frontier.from_json(result.reports()[-1]["frontier"]), **changes)
