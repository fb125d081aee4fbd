# SPDX-License-Identifier: Apache-2.0
"""One JobManager's REST interface: requests, answers, and why there is none.

Paths and fields are those of Flink's documentation, "REST API", of Flink 1.20.
"""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from dynabeam.transforms.errors import ConfigurationError

__all__ = ["FlinkRefusedError", "FlinkRest", "FlinkRestError"]

_SECONDS = 10
_OPTION = "--flink_rest"
_CAUSED_BY = "Caused by: "
_LONGEST = 400


class FlinkRestError(ConfigurationError):
    """The JobManager does not answer, or not as it should."""


class FlinkRefusedError(ConfigurationError):
    """The JobManager has answered that it does not do what it was asked.

    Attributes:
        status: The HTTP status.
    """

    status: int = 0


class FlinkRest:
    """One JobManager.

    Args:
        url: Of its REST interface, such as `http://jobmanager:8081`.

    Raises:
        ConfigurationError: It is no such address.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigurationError(
                "not the address of a REST interface",
                where=_OPTION,
                found=url,
                hint="Write e.g. http://jobmanager:8081",
            )

    @property
    def where(self) -> str:
        """The option with its value, for errors."""
        return f"{_OPTION}={self.url}"

    @property
    def address(self) -> str:
        """Host and port, as Beam's `--flink_master` has them."""
        parts = urllib.parse.urlsplit(self.url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        return f"{host}:{parts.port or (443 if parts.scheme == 'https' else 80)}"

    def get(self, path: str) -> Any:
        """The answer to a GET.

        Raises:
            FlinkRestError: There is none, or it is no JSON.
            FlinkRefusedError: Flink has refused; the error says why.
        """
        return self._ask("GET", path)

    def post(self, path: str, body: dict[str, Any], *, seconds: float = _SECONDS) -> Any:
        """The answer to a POST of a JSON object; raises as `get` does.

        Args:
            path: What is asked.
            body: The object.
            seconds: How long the answer may take.
        """
        return self._ask("POST", path, body, seconds)

    def patch(self, path: str) -> Any:
        """The answer to a PATCH; raises as `get` does."""
        return self._ask("PATCH", path)

    def delete(self, path: str) -> Any:
        """The answer to a DELETE; raises as `get` does."""
        return self._ask("DELETE", path)

    def _ask(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        seconds: float = _SECONDS,
    ) -> Any:
        # The scheme was looked at when this was made.
        request = urllib.request.Request(self.url + path, method=method)  # noqa: S310
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=seconds) as answer:  # noqa: S310
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as problem:
            raise self._refused(problem, method, path) from problem
        except (OSError, http.client.HTTPException, ValueError) as problem:
            raise self._silent(problem) from problem

    def _refused(
        self, problem: urllib.error.HTTPError, method: str, path: str
    ) -> ConfigurationError:
        with problem:
            content = problem.read()
        reason = _reason(content)
        if not reason:
            # Whoever answers there is not Flink.
            return self._silent(problem)
        error = FlinkRefusedError(
            f"Flink answers {problem.code} to {method} {path}: {reason}",
            where=self.where,
            hint="The JobManager's log has the whole of it",
        )
        error.status = problem.code
        return error

    def _silent(self, problem: Exception) -> FlinkRestError:
        return FlinkRestError(
            f"Flink's REST interface does not answer: {problem}",
            where=self.where,
            hint="Check the address: it is that of Flink's web page, by default port 8081",
        )


def _reason(content: bytes) -> str:
    """Why Flink refused: the innermost cause of its first error; empty if it says nothing."""
    try:
        errors = json.loads(content)["errors"]
    except (ValueError, KeyError, TypeError):
        return ""
    text = "\n".join(each for each in errors if isinstance(each, str))
    return innermost_cause(text)


def innermost_cause(trace: str) -> str:
    """The line of a Java stack trace that says what was wrong at first, without its class's path.

    Empty for an empty trace.
    """
    lines = [each.strip() for each in trace.splitlines() if each.strip()]
    causes = [each for each in lines if each.startswith(_CAUSED_BY)]
    if not lines:
        return ""
    said = (
        causes[-1].removeprefix(_CAUSED_BY)
        if causes
        else next((each for each in lines if not each.startswith("at ")), lines[0])
    )
    name, colon, text = said.partition(": ")
    plain = f"{name.rpartition('.')[2]}: {text}" if colon and " " not in name else said
    return plain if len(plain) <= _LONGEST else f"{plain[:_LONGEST]}…"
