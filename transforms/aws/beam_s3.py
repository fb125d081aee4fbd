# SPDX-License-Identifier: Apache-2.0
"""Beam's S3 reader over one boto3 client per process instead of one per call.

Beam's S3 filesystem makes a new boto3 session and client for every single operation, which costs
about 100 ms each, a hundred times the request itself; an export has thousands of files. boto3
clients are safe to share between threads; what is not is the download stream that Beam's wrapper
keeps, so every caller gets a wrapper of its own.
"""

from __future__ import annotations

import copy
import threading
from typing import Any

from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions, S3Options

from transforms.aws.log_secrets import keep_secrets_out_of_logs

__all__ = ["s3_io"]

keep_secrets_out_of_logs()

_lock = threading.Lock()
_clients: dict[str, Any] = {}
_last: list[Any] = [None, ""]


def s3_io() -> Any:
    """An `apache_beam.io.aws.s3io.S3IO` for the present pipeline options.

    Endpoint, region and the like come from the options `--s3_…`, credentials from boto3's chain, as
    for Beam's own S3 filesystem.
    """
    # Here, so that whoever does not use S3 does not wait for its imports.
    from apache_beam.io.aws.clients.s3.boto3_client import Client  # noqa: PLC0415
    from apache_beam.io.aws.s3io import S3IO  # noqa: PLC0415

    options = FileSystems.get_filesystem("s3://")._options
    key = _last[1] if _last[0] is options else _settings(options)
    _last[:] = [options, key]
    with _lock:
        if key not in _clients:
            _clients[key] = Client(options)
        shared = _clients[key]
    return S3IO(client=copy.copy(shared))


def _settings(options: Any) -> str:
    if isinstance(options, PipelineOptions):
        options = options.view_as(S3Options).get_all_options(drop_default=True)
    return repr(sorted((name, options[name]) for name in options if name.startswith("s3_")))
