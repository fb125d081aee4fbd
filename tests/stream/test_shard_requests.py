# SPDX-License-Identifier: Apache-2.0
"""Requests of a reader: each is answered once, on the calling thread, whatever its client does."""

from concurrent.futures import ThreadPoolExecutor

from dynabeam.transforms.stream.frontier import ShardPosition
from dynabeam.transforms.stream.page_parser import PageParser
from dynabeam.transforms.stream.shard_requests import ReadPage, RequestPool
from tests.stream.scripted import ARN, NOW_US, TABLE, FixedClock, shard_id


class RaisingClient:
    """Raises before it has begun."""

    def begin_records(self, stream_arn, iterator, taken):
        raise RuntimeError("not even begun")


def test_a_request_that_cannot_be_begun_is_an_answer_and_nothing_is_raised_where_it_is_sent():
    position = ShardPosition(
        shard_id(1), kind="after", sequence="1", iterator="it", polled_us=NOW_US
    )
    with ThreadPoolExecutor(1) as pool:
        parser = PageParser(TABLE, 1, ARN)
        requests = RequestPool(ARN, RaisingClient(), parser, FixedClock(), pool)
        requests.begin(ReadPage(position))
        answer = requests.next_response(20)
    assert answer is not None
    assert answer.request == ReadPage(position)
    assert str(answer.error) == "not even begun"
    assert (requests.in_flight, requests.next_response(0.0)) == (0, None)
