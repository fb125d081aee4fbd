# SPDX-License-Identifier: Apache-2.0
"""Beam's Flink job server as a process: pipelines go in by its endpoint, jobs come out on Flink."""

from __future__ import annotations

import pathlib

import grpc
from apache_beam.portability.api import beam_job_api_pb2, beam_job_api_pb2_grpc

from tests.runners.flink_parts import JAVA_FLAGS, JOB_SERVER, FlinkParts
from tests.runners.processes import Process, free_ports
from tests.runners.server import Server

__all__ = ["JobServer"]

_JVM = ("-Xmx768m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
_LOGGING = (
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd HH:mm:ss,SSS",
)


class JobServer(Server):
    """A job server; jobs on a cluster outlive it.

    Args:
        parts: An assembled Flink.
        flink: `host:port` of a cluster's REST interface, or `[local]` for a Flink inside of it.
        folder: For its log and for artifacts.
        port: Port of its endpoint; 0 for a free one.
    """

    name = "job server"

    def __init__(
        self, parts: FlinkParts, flink: str, folder: pathlib.Path, *, port: int = 0
    ) -> None:
        self._parts = parts
        self._flink = flink
        self._folder = folder
        self._port, self._artifacts, self._expansion = free_ports(3)
        self._port = port or self._port

    @property
    def endpoint(self) -> str:
        """For `--job_endpoint`."""
        return f"127.0.0.1:{self._port}"

    def launch(self) -> Process:
        self._folder.mkdir(parents=True, exist_ok=True)
        command = [
            *(self._parts.java, *JAVA_FLAGS, *_JVM, *_LOGGING),
            *("-cp", self._parts.job_server_classes, JOB_SERVER),
            f"--flink-master={self._flink}",
            "--job-host=127.0.0.1",
            f"--job-port={self._port}",
            f"--artifact-port={self._artifacts}",
            f"--expansion-port={self._expansion}",
            f"--artifacts-dir={self._folder / 'artifacts'}",
        ]
        return Process(self.name, command, self._folder / "job-server.log")

    def is_up(self) -> bool:
        with grpc.insecure_channel(self.endpoint) as channel:
            service = beam_job_api_pb2_grpc.JobServiceStub(channel)
            try:
                service.GetJobs(beam_job_api_pb2.GetJobsRequest(), timeout=1)
            except grpc.RpcError:
                return False
        return True
