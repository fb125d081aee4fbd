# SPDX-License-Identifier: Apache-2.0
"""Keeps secrets out of the AWS SDK's own log.

At level DEBUG botocore writes whole requests and answers: the session token that each request
carries, the keys that a role gives, an external id. Whoever turns DEBUG on, here or on a worker,
wants to see what happens and not that, so these loggers say nothing below INFO.
"""

from __future__ import annotations

import logging

__all__ = ["keep_secrets_out_of_logs"]

_LOGGERS = ("botocore.auth", "botocore.endpoint", "botocore.parsers")


def keep_secrets_out_of_logs() -> None:
    """Applies to the whole process; repeating it changes nothing."""
    for name in _LOGGERS:
        # The logger keeps a filter once, and keeps it whatever levels are set later.
        logging.getLogger(name).addFilter(_above_debug)


def _above_debug(record: logging.LogRecord) -> bool:
    return record.levelno > logging.DEBUG
