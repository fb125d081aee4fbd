# SPDX-License-Identifier: Apache-2.0
"""A standalone Flink on this machine: one JobManager and TaskManagers, each a process to kill."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import shlex
import subprocess
import threading
from collections.abc import Iterator, Mapping
from typing import Literal

from tests.runners.flink_parts import JAVA_FLAGS, FlinkParts
from tests.runners.flink_rest import FlinkRest
from tests.runners.parts import AssemblyError
from tests.runners.processes import Process, free_ports
from tests.runners.server import Server

__all__ = ["ClusterSettings", "FlinkCluster", "StateBackend"]

StateBackend = Literal["rocksdb", "hashmap"]

_JOBMANAGER = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
_TASKMANAGER = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
_SHELL = "org.apache.flink.runtime.util.bash.BashJavaUtils"
_SHELL_RESULT = "BASH_JAVA_UTILS_EXEC_RESULT:"
# Small heaps fill slowly with the serial collector; quick starts count more than peak speed.
_JVM = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")
_POLL = 0.2

_LOGGING = """
rootLogger.level = INFO
rootLogger.appenderRef.console.ref = Console
appender.console.name = Console
appender.console.type = CONSOLE
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{yyyy-MM-dd HH:mm:ss,SSS} %-5p %-60c %x - %m%n
logger.pekko.name = org.apache.pekko
logger.pekko.level = ERROR
"""


@dataclasses.dataclass(frozen=True)
class ClusterSettings:
    """What a cluster is like.

    Attributes:
        taskmanagers: TaskManagers at the start.
        slots: Slots of each: subtasks of a pipeline that run side by side.
        memory: Memory of one TaskManager's whole process, in Flink's spelling. Python workers
            come on top.
        state_backend: Where keyed state lives; rocksdb with incremental checkpoints.
        restart_attempts: Failures of a job in a row of the fixed-delay restart strategy.
        restart_delay: Before a restart, in Flink's spelling.
        heartbeat_ms: After how long a silent TaskManager is given up; killed ones are noticed
            sooner, by their closed connections.
        rest_port: Port of the REST interface and the web page; 0 for a free one.
        extra: More Flink settings, which win over all above.
    """

    taskmanagers: int = 1
    slots: int = 2
    memory: str = "1400m"
    state_backend: StateBackend = "rocksdb"
    restart_attempts: int = 1000
    restart_delay: str = "500 ms"
    heartbeat_ms: int = 10_000
    rest_port: int = 0
    extra: Mapping[str, str | int | bool] = dataclasses.field(default_factory=dict)


class FlinkCluster(Server):
    """A cluster: the JobManager as the server, and its TaskManagers.

    Args:
        parts: An assembled Flink.
        folder: For configuration, logs, checkpoints and savepoints; made if need be.
        settings: What it is like.
        variables: Environment variables of its processes, which Python workers of the PROCESS
            environment inherit.
    """

    name = "JobManager"

    def __init__(
        self,
        parts: FlinkParts,
        folder: pathlib.Path,
        settings: ClusterSettings | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self._parts = parts
        self.settings = settings or ClusterSettings()
        self.folder = folder
        self.checkpoints = folder / "checkpoints"
        self.savepoints = folder / "savepoints"
        self._variables = dict(variables or {})
        self._configuration = folder / "conf"
        self._rest_port, self._rpc_port, self._blob_port = free_ports(3)
        self._rest_port = self.settings.rest_port or self._rest_port
        self.rest = FlinkRest(f"http://127.0.0.1:{self._rest_port}")
        self.taskmanagers: list[Process] = []
        self._started = 0
        self._supervised = False
        self._memory_flags: tuple[list[str], list[str]] | None = None

    @property
    def address(self) -> str:
        """`host:port` of the REST interface, for the job server."""
        return f"127.0.0.1:{self._rest_port}"

    def start(self) -> None:
        """Starts everything; does not wait."""
        self._configure()
        super().start()
        for _ in range(self.settings.taskmanagers):
            self._launch_taskmanager()

    def wait_ready(self) -> None:
        """Waits until the JobManager answers and every TaskManager is registered with it."""
        needed = [] if self._supervised else self.taskmanagers
        self.wait_for(self.is_up, self.name, *needed)

        def registered() -> bool:
            # By name: one that was killed a moment ago may still be listed.
            wanted = {process.name for process in self.taskmanagers}
            return wanted <= self.rest.taskmanagers()

        self.wait_for(registered, "registered TaskManagers", *needed)

    def stop(self) -> None:
        """Ends all processes; checkpoints, savepoints and logs stay."""
        while self.taskmanagers:
            self.taskmanagers.pop().stop()
        super().stop()

    def is_up(self) -> bool:
        return self.rest.is_up()

    def start_taskmanager(self) -> Process:
        """Starts one more TaskManager, and waits until it is registered."""
        process = self._launch_taskmanager()
        self.wait_ready()
        return process

    def kill_taskmanager(self, index: int = 0, *, with_children: bool = False) -> None:
        """SIGKILL to a TaskManager.

        Args:
            index: Which one, in the order of their starts.
            with_children: Also to Python workers of the PROCESS environment that it started.
        """
        process = self.taskmanagers.pop(index)
        process.kill(with_children=with_children)
        process.stop()

    @contextlib.contextmanager
    def supervised(self) -> Iterator[list[Process]]:
        """Starts a TaskManager in place of each that ends by itself, as what runs clusters does.

        When a JobManager is lost, a task that is torn down now and then closes its RocksDB while
        Beam still writes there for a Python worker: the process ends by SIGABRT or SIGSEGV.

        Yields:
            Those that ended by themselves, so far.
        """
        ended: list[Process] = []
        over = threading.Event()

        def supervise() -> None:
            while not over.wait(_POLL):
                for process in [each for each in self.taskmanagers if not each.is_alive]:
                    with contextlib.suppress(ValueError):  # it has just been killed
                        self.taskmanagers.remove(process)
                        process.stop()
                        ended.append(process)
                        self._launch_taskmanager()

        thread = threading.Thread(target=supervise, name="supervisor", daemon=True)
        self._supervised = True
        thread.start()
        try:
            yield ended
        finally:
            over.set()
            thread.join()
            self._supervised = False

    def start_jobmanager(self) -> None:
        """Starts a killed JobManager at its old address; it knows nothing of earlier jobs."""
        super().start()
        self.wait_ready()

    def kill_jobmanager(self) -> None:
        """SIGKILL to the JobManager. There is no high availability: jobs are lost with it."""
        self.kill()

    def retained_checkpoint(self, job: str) -> pathlib.Path | None:
        """The newest complete checkpoint of a job on disk, for `--savepoint_path`.

        It asks no JobManager, so it tells what a killed one has left.
        """
        found = (self.checkpoints / job).glob("chk-*/_metadata")
        return max(
            (path.parent for path in found),
            key=lambda path: int(path.name.removeprefix("chk-")),
            default=None,
        )

    def _configure(self) -> None:
        for folder in (self._configuration, self.checkpoints, self.savepoints, self.folder / "tmp"):
            folder.mkdir(parents=True, exist_ok=True)
        # JSON strings are YAML strings too.
        lines = [
            f"{json.dumps(key)}: {json.dumps(value)}\n" for key, value in self._flink().items()
        ]
        (self._configuration / "config.yaml").write_text("".join(lines))
        (self._configuration / "log4j.properties").write_text(_LOGGING)

    def _flink(self) -> dict[str, str | int | bool]:
        settings = self.settings
        return {
            "jobmanager.rpc.address": "127.0.0.1",
            "jobmanager.rpc.port": self._rpc_port,
            "jobmanager.bind-host": "127.0.0.1",
            "jobmanager.execution.failover-strategy": "region",
            "blob.server.port": self._blob_port,
            "rest.address": "127.0.0.1",
            "rest.bind-address": "127.0.0.1",
            "rest.port": self._rest_port,
            "taskmanager.host": "127.0.0.1",
            "taskmanager.bind-host": "127.0.0.1",
            "taskmanager.numberOfTaskSlots": settings.slots,
            "taskmanager.memory.process.size": settings.memory,
            # Beam's runner has one long-lived class loader per job; the default is too tight.
            "taskmanager.memory.jvm-metaspace.size": "256m",
            "state.backend.type": settings.state_backend,
            "state.backend.incremental": settings.state_backend == "rocksdb",
            "state.checkpoints.dir": self.checkpoints.absolute().as_uri(),
            "state.savepoints.dir": self.savepoints.absolute().as_uri(),
            "state.checkpoints.num-retained": 3,
            "restart-strategy.type": "fixed-delay",
            "restart-strategy.fixed-delay.attempts": settings.restart_attempts,
            "restart-strategy.fixed-delay.delay": settings.restart_delay,
            "heartbeat.interval": max(500, settings.heartbeat_ms // 5),
            "heartbeat.timeout": settings.heartbeat_ms,
            "io.tmp.dirs": str(self.folder / "tmp"),
            **settings.extra,
        }

    def launch(self) -> Process:
        command = [*self._java("-Xmx512m"), _JOBMANAGER, "--configDir", str(self._configuration)]
        log = self.folder / "jobmanager.log"
        return Process(self.name, command, log, self._variables)

    def _launch_taskmanager(self) -> Process:
        flags, dynamic = self._memory()
        self._started += 1
        name = f"taskmanager-{self._started}"
        command = [
            *self._java(*flags),
            *(_TASKMANAGER, "--configDir", str(self._configuration), *dynamic),
            f"-Dtaskmanager.resource-id={name}",
        ]
        log = self.folder / f"{name}.log"
        self.taskmanagers.append(Process(name, command, log, self._variables))
        return self.taskmanagers[-1]

    def _java(self, *flags: str) -> list[str]:
        logging = f"-Dlog4j.configurationFile={self._configuration / 'log4j.properties'}"
        # Else it writes what is left of a crash where it was started: into the sources.
        crash = f"-XX:ErrorFile={self.folder / 'crash-%p.log'}"
        classes = ["-cp", self._parts.cluster_classes]
        return [self._parts.java, *JAVA_FLAGS, *_JVM, *flags, crash, logging, *classes]

    def _memory(self) -> tuple[list[str], list[str]]:
        """Flags of the Java machine, and settings that a TaskManager insists on being told."""
        if self._memory_flags is None:
            command = [self._parts.java, "-cp", self._parts.shell_classes, _SHELL]
            command += ["GET_TM_RESOURCE_PARAMS", "--configDir", str(self._configuration)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            found = [
                shlex.split(line.removeprefix(_SHELL_RESULT))
                for line in done.stdout.splitlines()
                if line.startswith(_SHELL_RESULT)
            ]
            if len(found) != 2:
                raise AssemblyError(f"{_SHELL} gave no memory flags:\n{done.stdout}{done.stderr}")
            self._memory_flags = (found[0], found[1])
        return self._memory_flags
