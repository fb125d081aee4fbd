# SPDX-License-Identifier: Apache-2.0
"""Each sink: that it can be reached and written, without making or binding anything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from apache_beam.io.filesystem import BeamIOError

from pipelines.checks.finding import Finding, failure, of_error, ok
from transforms.errors import DynabeamError
from transforms.sinks.registry import RunnerFacts, check_capabilities, open_sink

__all__ = ["sink_findings"]

_WHY = "rows have nowhere to go"


def sink_findings(uris: Sequence[str], facts: RunnerFacts) -> Iterator[Finding]:
    """Findings of the sinks, one by one and together.

    Args:
        uris: As they were given.
        facts: The run that they have to fit.
    """
    sinks = []
    for uri in uris:
        try:
            sink = open_sink(uri)
            sinks.append(sink)
            seen = sink.probe()
        except DynabeamError as error:
            yield of_error("sink", uri, error, why=_WHY)
            continue
        except BeamIOError as error:
            mend = "See the findings of the rights on this folder"
            yield failure("sink", uri, f"it cannot be looked into: {error}", why=_WHY, mend=mend)
            continue
        yield ok("sink", uri, seen or "this kind of sink has nothing to look at beforehand")
    if not sinks or len(sinks) < len(uris):
        return
    try:
        check_capabilities(sinks, facts)
    except DynabeamError as error:
        yield of_error("sink", ", ".join(uris), error, why=_WHY)
