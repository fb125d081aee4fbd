# SPDX-License-Identifier: Apache-2.0
"""Flink, Beam's job server and Python workers together: `python -m tests.runners.flink`.

As a command it starts them, prints where they are and the Beam options to use, and waits for
Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import pathlib
import shlex
import signal
import sys
import tempfile
import threading
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from tests.runners.flink_cluster import ClusterSettings, FlinkCluster, StateBackend
from tests.runners.flink_parts import FlinkParts, flink_parts, job_server_jar
from tests.runners.flink_rest import FlinkError, FlinkRest
from tests.runners.job_server import JobServer
from tests.runners.parts import AssemblyError, MissingToolError
from tests.runners.processes import Process, wait_until
from tests.runners.worker_pool import WorkerPool, Workers

__all__ = ["Environment", "Flink", "streaming_options"]

Environment = Literal["EXTERNAL", "PROCESS", "LOOPBACK"]
_SUBMIT = 120


def streaming_options(
    *, checkpoint_ms: int = 2000, parallelism: int = 2, state_cache_mb: int = 64
) -> list[str]:
    """The options without which a streaming pipeline on Flink is unsafe, or slow to answer.

    Args:
        checkpoint_ms: Between checkpoints; Beam's default is none at all.
        parallelism: Subtasks of every step; a cluster needs as many slots.
        state_cache_mb: The workers' cache of keyed state.
    """
    return [
        "--streaming",
        f"--checkpointing_interval={checkpoint_ms}",
        "--finish_bundle_before_checkpointing",
        "--externalized_checkpoints_enabled",
        "--retain_externalized_checkpoints_on_cancellation",
        "--max_bundle_size=1000",
        "--max_bundle_time_mills=100",
        f"--parallelism={parallelism}",
        "--max_parallelism=128",
        f"--max_cache_memory_usage_mb={state_cache_mb}",
    ]


class Flink:
    """A cluster, a job server and workers; a context manager that starts and stops them.

    Args:
        parts: An assembled Flink.
        folder: For everything that they write.
        settings: What the cluster is like.
        environment: Where Python code runs. `EXTERNAL`: in workers of `pool`, as beside the
            TaskManagers of a real cluster; `PROCESS`: in workers that TaskManagers start;
            `LOOPBACK`: in the submitting process, with which the job ends.
        variables: Environment variables of all of them, such as credentials.
        job_port: Port of the job server; 0 for a free one.
    """

    def __init__(
        self,
        parts: FlinkParts,
        folder: pathlib.Path,
        settings: ClusterSettings | None = None,
        environment: Environment = "EXTERNAL",
        variables: Mapping[str, str] | None = None,
        job_port: int = 0,
    ) -> None:
        self.folder = folder
        self.environment = environment
        self._parts = parts
        self._variables = dict(variables or {})
        self.cluster = FlinkCluster(parts, folder / "cluster", settings, self._variables)
        self.job_server = JobServer(
            parts, self.cluster.address, folder / "job-server", port=job_port
        )
        self.workers = Workers(folder / "workers")
        self.pool = WorkerPool(self.workers, folder / "worker-pool.log", self._variables)
        self._stack = contextlib.ExitStack()

    @property
    def rest(self) -> FlinkRest:
        """The cluster's REST interface."""
        return self.cluster.rest

    def __enter__(self) -> Flink:
        with contextlib.ExitStack() as stack:
            # All at once: each takes seconds to come up.
            if self.environment == "EXTERNAL":
                stack.callback(self.pool.stop)
                self.pool.start()
            stack.callback(self.job_server.stop)
            self.job_server.start()
            stack.enter_context(self.cluster)
            self.job_server.wait_ready()
            if self.environment == "EXTERNAL":
                self.pool.wait_ready()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self.workers.kill()

    def connection_options(self) -> list[str]:
        """Beam options that say where Flink is and where Python runs."""
        options = ["--runner=PortableRunner", f"--job_endpoint={self.job_server.endpoint}"]
        if self.environment == "EXTERNAL":
            return options + self.pool.options
        if self.environment == "PROCESS":
            return options + self.workers.process_options()
        return [*options, "--environment_type=LOOPBACK"]

    def runner_options(self) -> list[str]:
        """The same for `--runner=FlinkRunner`, which starts a job server of its own."""
        jar = job_server_jar(self._parts, self.folder)
        options = ["--runner=FlinkRunner", f"--flink_master={self.cluster.address}"]
        return [*options, f"--flink_job_server_jar={jar}", *self.pool.options]

    def start_pipeline(
        self,
        function: str,
        arguments: Mapping[str, Any],
        options: Sequence[str] = (),
        *,
        savepoint: str | pathlib.Path | None = None,
    ) -> str:
        """Submits a pipeline from a process that then ends.

        Args:
            function: `MODULE:FUNCTION`, see `tests.runners.submit`.
            arguments: Its arguments.
            options: Beam options, after `streaming_options()` and `connection_options()`.
            savepoint: A savepoint or retained checkpoint to begin with.

        Returns:
            Flink's id of the job, whose tasks all run.

        Raises:
            FlinkError: The submission failed or the job ended.
        """
        words = [function, json.dumps(dict(arguments)), *streaming_options()]
        words += [*self.connection_options(), *options]
        if savepoint:
            words.append(f"--savepoint_path={savepoint}")
        submit = [sys.executable, "-X", "faulthandler", "-m", "tests.runners.submit"]
        return self.start_command([*submit, *words])

    def start_command(self, command: Sequence[str]) -> str:
        """Runs a command that submits one job and ends; `--job_name` is added to it.

        Returns:
            Flink's id of the job, whose tasks all run.

        Raises:
            FlinkError: The command failed or the job ended.
        """
        submission, name = self.submit(command)
        try:
            status = submission.wait(_SUBMIT)
        finally:
            submission.stop()
        if status:
            raise FlinkError(f"the submission ended with {status}:\n{submission.tail()}")
        return self._running_job(name, [])

    def follow_command(self, command: Sequence[str]) -> tuple[Process, str]:
        """Runs a command that submits one job and stays; `--job_name` is added to it.

        Returns:
            The command, for the caller to stop, and Flink's id of the job, whose tasks all run.

        Raises:
            ChildProcessError: The command ended.
            FlinkError: The job ended.
        """
        submission, name = self.submit(command)
        try:
            return submission, self._running_job(name, [submission])
        except BaseException:
            submission.stop()
            raise

    def submit(self, command: Sequence[str]) -> tuple[Process, str]:
        """Runs a command that submits one job; returns it and the `--job_name` that is added."""
        name = f"job-{uuid.uuid4().hex[:12]}"
        log = self.folder / f"{name}.log"
        return Process("submission", [*command, f"--job_name={name}"], log, self._variables), name

    def _running_job(self, name: str, needed: list[Process]) -> str:
        server = self.job_server.process
        assert server is not None
        # Submission is asynchronous: the job server may still be sending jars to Flink.
        needed = [*needed, server]
        job = wait_until(lambda: self.rest.job_named(name), f"job {name}", _SUBMIT, needed)
        self.rest.wait_running(job)
        return job


def main(arguments: list[str] | None = None) -> int:
    """Starts all, prints where they are, waits; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.runners.flink", description=__doc__)
    parser.add_argument("--taskmanagers", type=int, default=1)
    parser.add_argument("--slots", type=int, default=2, help="of each TaskManager")
    parser.add_argument("--memory", default="1400m", help="of each TaskManager")
    parser.add_argument("--state_backend", choices=get_args(StateBackend), default="rocksdb")
    parser.add_argument("--environment", choices=get_args(Environment), default="EXTERNAL")
    parser.add_argument("--rest_port", type=int, default=8081, help="0: any free one")
    parser.add_argument("--job_port", type=int, default=8099, help="0: any free one")
    parser.add_argument("--folder", help="for logs, checkpoints, savepoints (a temporary one)")
    options = parser.parse_args(arguments)
    settings = ClusterSettings(
        taskmanagers=options.taskmanagers,
        slots=options.slots,
        memory=options.memory,
        state_backend=options.state_backend,
        rest_port=options.rest_port,
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = pathlib.Path(options.folder or tempfile.mkdtemp(prefix="dynabeam-flink-"))
    try:
        parts = flink_parts()
    except (MissingToolError, AssemblyError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    server = Flink(parts, folder, settings, options.environment, job_port=options.job_port)
    with contextlib.suppress(KeyboardInterrupt), server as flink:
        words = flink.connection_options() + streaming_options(
            checkpoint_ms=10_000, parallelism=options.taskmanagers * options.slots
        )
        sys.stdout.write(
            f"Flink       {flink.rest.url}\n"
            f"Job server  {flink.job_server.endpoint}\n"
            f"Folder      {folder}\n"
            f"Options     {shlex.join(words)}\n"
            "Ctrl-C ends it.\n"
        )
        sys.stdout.flush()
        threading.Event().wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
