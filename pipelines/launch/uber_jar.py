# SPDX-License-Identifier: Apache-2.0
"""Flink's runner for machines without Java: one jar with the graph in it, uploaded by REST.

Beam's own way to do that, `--flink_submit_uber_jar`, drops `--savepoint_path` without a word, since
a job that Flink starts from a jar takes its savepoint from the request that starts it (Beam 2.77,
`flink_uber_jar_job_server.py`; Flink's `FlinkExecutionEnvironments` reads the option for remote
environments only). Here the request says it. It is named to Beam by its path,
`--runner=dynabeam.pipelines.launch.uber_jar.FlinkRunner`.
"""

from __future__ import annotations

import os
from typing import Any

import requests
from apache_beam.options.pipeline_options import FlinkRunnerOptions
from apache_beam.runners.portability import flink_runner, flink_uber_jar_job_server
from apache_beam.runners.portability.portable_runner import JobServiceHandle

from dynabeam.transforms.errors import ConfigurationError
from dynabeam.transforms.flink.rest import FlinkRest

__all__ = ["FlinkRunner"]

_ENTRY = "org.apache.beam.runners.flink.FlinkPipelineRunner"
_UPLOAD_SECONDS = 300
_START_SECONDS = 180


class FlinkRunner(flink_runner.FlinkRunner):
    """Hands a graph to Flink as a jar; its name is that of Beam's, so that options fit both."""

    def default_job_server(self, options: Any) -> Any:
        """The job server, which is a part of this process."""
        flink = options.view_as(FlinkRunnerOptions)
        master = self.add_http_scheme(flink.flink_master)
        # Inside of Flink the address is found by itself; another one would be a second hop.
        flink.flink_master = "[auto]"
        return _JobServer(master, options)

    def create_job_service_handle(self, job_service: Any, options: Any) -> Any:
        """What speaks to the job server; options that only Java knows go with the graph."""
        return JobServiceHandle(job_service, options, retain_unknown_options=True)


class _JobServer(flink_uber_jar_job_server.FlinkUberJarJobServer):
    def create_beam_job(self, job_id: str, job_name: str, pipeline: Any, options: Any) -> Any:
        return _Job(
            self._master_url,
            self.executable_jar(),
            job_id,
            job_name,
            pipeline,
            options,
            artifact_port=self._artifact_port,
        )


class _Job(flink_uber_jar_job_server.FlinkBeamJob):
    def run(self) -> None:
        """Uploads the jar and starts the job, from a savepoint if the options name one."""
        self._stop_artifact_service()
        rest = FlinkRest(self._master_url)
        jar_id = self._uploaded(rest)
        try:
            # Flink translates the graph before it answers.
            answer = rest.post(f"/jars/{jar_id}/run", self._request(), seconds=_START_SECONDS)
            self._flink_job_id = answer["jobid"]
        finally:
            os.unlink(self._jar)
            # The job has a copy of its own by then.
            rest.delete(f"/jars/{jar_id}")

    def _request(self) -> dict[str, Any]:
        savepoint = self._option("savepoint_path")
        if not savepoint:
            return {"entryClass": _ENTRY}
        return {
            "entryClass": _ENTRY,
            "savepointPath": savepoint,
            "allowNonRestoredState": bool(self._option("allow_non_restored_state")),
        }

    def _option(self, name: str) -> Any:
        options = dict(self._pipeline_options)
        return options.get(f"beam:option:{name}:v1") or options.get(name)

    def _uploaded(self, rest: FlinkRest) -> str:
        try:
            with open(self._jar, "rb") as jar:
                answer = requests.post(
                    f"{rest.url}/jars/upload",
                    files={"jarfile": ("dynabeam.jar", jar)},
                    timeout=_UPLOAD_SECONDS,
                )
            answer.raise_for_status()
            return str(answer.json()["filename"]).rpartition("/")[2]
        except (requests.RequestException, KeyError, ValueError) as problem:
            raise ConfigurationError(
                f"Flink does not take the jar: {problem}",
                where=rest.where,
                hint="Is web.submit.enable switched off there, or is a proxy between that limits "
                "the size of a request? Beam's job server, --job_endpoint, is another way",
            ) from problem
