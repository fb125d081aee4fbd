# SPDX-License-Identifier: Apache-2.0
"""The Prometheus endpoint: the metrics of this process, over HTTP.

Each process serves its own: the driver of rounds, or each worker process of a continuous run.
Processes that share a machine take the first free port from the wanted one on, so the targets are
`port`, `port + 1`, … A port that is taken never stops a run: there is a warning, and no endpoint.
"""

from __future__ import annotations

import importlib.util
import logging
import threading
from types import TracebackType
from wsgiref.simple_server import WSGIServer

from dynabeam.transforms.errors import ConfigurationError
from dynabeam.transforms.telemetry.process_metrics import ProcessMetrics, process_metrics

__all__ = ["ALL_ADDRESSES", "PORTS", "Endpoint", "check_installed", "serve_once"]

PORTS = 16
"""How many ports are tried, from the wanted one on."""

ALL_ADDRESSES = "0.0.0.0"  # noqa: S104 - a scraper is another machine

_LOGGER = logging.getLogger(__name__)
_lock = threading.Lock()
_served: dict[tuple[int, str], Endpoint] = {}


def check_installed() -> None:
    """Checks that Prometheus's client is there.

    Raises:
        ConfigurationError: The extra `metrics` is not installed.
    """
    if importlib.util.find_spec("prometheus_client") is None:
        raise ConfigurationError(
            "Prometheus's client is not installed",
            where="--metrics_port",
            hint="pip install 'dynabeam[metrics]'",
        )


class Endpoint:
    """An endpoint, open from its making to `close` or the end of its `with`.

    Args:
        port: The wanted port; 0 for none at all.
        host: The address to listen at.
        source: The metrics; None for those of this process.

    Attributes:
        port: The port that is served, 0 if there is none.
    """

    def __init__(self, port: int, host: str = "", source: ProcessMetrics | None = None) -> None:
        self.port = 0
        self._server = (
            _start(port, host or ALL_ADDRESSES, source or process_metrics()) if port else None
        )
        if self._server is not None:
            self.port = int(self._server.server_port)
            _LOGGER.info("metrics are served at port %d", self.port)

    def close(self) -> None:
        """Ends it."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server, self.port = None, 0

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def serve_once(port: int, host: str = "") -> Endpoint:
    """The endpoint of a worker process, made by the first who asks; it lives as long as that."""
    with _lock:
        if (port, host) not in _served:
            _served[port, host] = Endpoint(port, host)
        return _served[port, host]


def _start(wanted: int, host: str, source: ProcessMetrics) -> WSGIServer | None:
    try:
        from dynabeam.transforms.telemetry import prometheus  # noqa: PLC0415 - an extra
    except ImportError:
        _LOGGER.warning("no metrics are served: the extra `metrics` is not installed here")
        return None
    problem: Exception | None = None
    for port in range(wanted, min(wanted + PORTS, 65_536)):
        try:
            return prometheus.start(port, host, source)
        except OSError as error:
            problem = error
    _LOGGER.warning("no metrics are served: no free port from %d on: %s", wanted, problem)
    return None
