# SPDX-License-Identifier: Apache-2.0
"""Settings of metrics, endpoint and log for a worker process; they travel with the graph."""

from __future__ import annotations

import dataclasses

from dynabeam.transforms.telemetry.endpoint import serve_once
from dynabeam.transforms.telemetry.logs import LogFormat, set_up_worker_logs
from dynabeam.transforms.telemetry.process_metrics import process_metrics

__all__ = ["Telemetry"]


@dataclasses.dataclass(frozen=True)
class Telemetry:
    """How a process reports on itself.

    Attributes:
        metrics_port: Port of the Prometheus endpoint, 0 for none.
        metrics_host: The address that it listens at, empty for all.
        log_format: `text` or `json`; empty to leave logs as the runner has them.
        log_level: Name of the lowest level that is logged; empty like `log_format`.
    """

    metrics_port: int = 0
    metrics_host: str = ""
    log_format: LogFormat = ""
    log_level: str = ""

    def begin_in_worker(self) -> None:
        """Sets a worker process up; what was done already is not done again."""
        set_up_worker_logs(self.log_format, self.log_level)
        process_metrics().forget_quiet_readers()
        if self.metrics_port:
            serve_once(self.metrics_port, self.metrics_host)
