# SPDX-License-Identifier: Apache-2.0
"""What one poll of a shard costs a worker in CPU: by boto3, and by the short way to GetRecords.

    python -m tests.benchmarks.poll_cost [--polls=3000] [--rate=600] [--at_once=16] [--tls]

A poll near the tip mostly brings nothing, so its page is empty here. The service answers from a
process of its own, on loopback; what is counted is user and system time of this one. `--rate` is
how many polls begin in a second, 0 for as many as there can be: a worker does 600.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import queue
import ssl
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

from dynabeam.transforms.aws.streams import Boto3Streams
from tests.aws.services import ARN, PAGE, Authority, answer, client_of, streams_of

ANSWER = answer(
    PAGE,
    "Content-Type: application/x-amz-json-1.0",
    "x-amzn-RequestId: 0123456789ABCDEF0123456789ABCDEF0123456789ABCDEF",
    "x-amz-crc32: 3639491303",
    "Date: Thu, 01 Jan 2026 00:00:00 GMT",
)
ITERATOR = f"{ARN}|1|" + "A" * 400


class _Service(asyncio.Protocol):
    """Answers each request with an empty page."""

    def connection_made(self, transport):
        self._transport, self._received = transport, b""

    def data_received(self, data):
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = self._received[:end].lower()
            length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
            if len(self._received) < end + 4 + length:
                return
            self._received = self._received[end + 4 + length :]
            self._transport.write(ANSWER)


def serve(certificate: str, told: Connection) -> None:
    """Serves until the process is ended."""

    async def run():
        context = None
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(_Service, "localhost", 0, ssl=context)
        told.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


Begin = Callable[[Callable[[object], None]], None]


def by_boto3(streams: Boto3Streams, pool: ThreadPoolExecutor) -> Begin:
    """As the reader leaves a poll to boto3: on one of its threads."""

    def begin(taken):
        pool.submit(lambda: taken(streams.get_records(ARN, ITERATOR)))

    return begin


def by_short_way(streams: Boto3Streams) -> Begin:
    """As the reader asks near the tip."""

    def begin(taken):
        assert streams.begin_records(ARN, ITERATOR, taken)

    return begin


def measure(begin: Begin, polls: int, rate: float, at_once: int) -> tuple[float, float]:
    """Microseconds of CPU of a poll, and polls a second."""
    taken: queue.SimpleQueue[object] = queue.SimpleQueue()
    began_cpu, began = time.process_time(), time.monotonic()
    under_way = 0
    for number in range(polls):
        if rate and (early := began + number / rate - time.monotonic()) > 0:
            time.sleep(early)
        begin(taken.put)
        under_way += 1
        while under_way >= at_once or (under_way and not taken.empty()):
            assert taken.get(timeout=60) == PAGE
            under_way -= 1
    for _ in range(under_way):
        assert taken.get(timeout=60) == PAGE
    cpu, seconds = time.process_time() - began_cpu, time.monotonic() - began
    return cpu / polls * 1e6, polls / seconds


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--polls", type=int, default=3000)
    parser.add_argument("--rate", type=float, default=600.0)
    parser.add_argument("--at_once", type=int, default=16)
    parser.add_argument("--tls", action="store_true")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        authority = Authority(Path(folder))
        certificate = str(authority.files("localhost")) if options.tls else ""
        here, there = multiprocessing.Pipe()
        spawn = multiprocessing.get_context("spawn")
        service = spawn.Process(target=serve, args=(certificate, there), daemon=True)
        service.start()
        url = f"http{'s' if options.tls else ''}://localhost:{here.recv()}"
        streams = streams_of(url, verify=str(authority.bundle))
        streams.get_records(ARN, ITERATOR)
        plain = Boto3Streams(client_of(url, verify=str(authority.bundle)))
        with ThreadPoolExecutor(options.at_once) as pool:
            for name, begin in (
                ("boto3", by_boto3(plain, pool)),
                ("short way", by_short_way(streams)),
            ):
                measure(begin, 100, 0, options.at_once)
                cpu, rate = measure(begin, options.polls, options.rate, options.at_once)
                print(f"{name:>10}: {cpu:7.0f} us of CPU a poll, {rate:6.0f} polls/s")
        service.terminate()
        service.join()


if __name__ == "__main__":
    main(sys.argv[1:])
