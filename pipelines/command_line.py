# SPDX-License-Identifier: Apache-2.0
"""The command line: `dynabeam COMMAND …`, the same as `python -m pipelines.COMMAND …`."""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import NoReturn

from dynabeam.pipelines import stop_signals
from dynabeam.pipelines.failures import kind_of, meant_for_people
from dynabeam.transforms.errors import DynabeamError
from dynabeam.transforms.printable import printable_lines
from dynabeam.transforms.secrets import masked
from dynabeam.transforms.telemetry.logs import writes_json
from dynabeam.transforms.version_info import __version__

__all__ = ["main"]

_COMMANDS = {
    "replicate": "replicate tables into sinks",
    "launch": "start, watch, change and end jobs on Dataflow and Flink",
    "add": "add tables to a continuous run, while it runs",
    "doctor": "check whether a replication will work, and name the fixes",
    "setup": "print the policies and table settings that are needed, or apply the settings",
    "snapshot": "take a new snapshot of tables, while they are replicated",
    "plan": "estimate what a replication will read, how long it takes, what it costs",
    "dead_letters": "show what could not be handled",
    "retry": "replay dead letters",
    "status": "show the progress of a replication, and what needs attention",
    "audit": "prove that a mirror equals its tables, or show the differences",
    "templates": "print the files that make an image a template of Dataflow",
    "demo": "simulate AWS, replicate changing tables, prove that mirror = table",
}
_USAGE = "usage: dynabeam COMMAND [options] | --version; 'dynabeam COMMAND --help' explains one\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: The words after `dynabeam`; None for those of the process.

    Returns:
        The exit code: 0 done, 1 failed, 2 not understood, 3 done but for some of the tables, 130
        interrupted (SIGINT), 143 ended by SIGTERM. A process of its own that detaches from its job
        does not return but ends.
    """
    put_back = stop_signals.install() if arguments is None else lambda: None
    # What a command writes is data of tables: it is for its owner, whichever library writes it.
    umask = os.umask(0o077)
    try:
        return _main(arguments)
    finally:
        os.umask(umask)
        stop_signals.over()
        put_back()


def _main(arguments: Sequence[str] | None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        sys.stdout.write(_USAGE)
        for name, what in _COMMANDS.items():
            sys.stdout.write(f"  {name:<12} {what}\n")
        return 0
    if words[0] == "--version":
        sys.stdout.write(f"dynabeam {__version__}\n")
        return 0
    if words[0] not in _COMMANDS:
        sys.stderr.write(f"dynabeam: no command {words[0]!r}; there are {', '.join(_COMMANDS)}\n")
        return 2
    # Google's packages warn about the age of Python whenever Beam is imported.
    warnings.filterwarnings("ignore", "You are using a .*Python version", FutureWarning)
    # Beam warns as it is imported of packages that nothing here needs.
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(name)s: %(message)s")
    code = _run(words[0], words[1:])
    if arguments is None and "--detach" in words:
        _leave(code)
    return code


def _module_of(command: str) -> str:
    """The module of a command; `__main__` of its package, where it has one."""
    module = f"dynabeam.pipelines.{command}"
    found = importlib.util.find_spec(module)
    in_package = found is not None and found.submodule_search_locations is not None
    return f"{module}.__main__" if in_package else module


def _leave(code: int) -> NoReturn:
    """Ends the process at once, while a job that it has submitted goes on.

    Beam's result holds open answers of the job server. When the interpreter takes them down at its
    end, gRPC waits now and then, for ever, for a lock that a thread held which is no longer there.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _run(command: str, arguments: Sequence[str]) -> int:
    try:
        module = importlib.import_module(_module_of(command))
        code: int = module.main(arguments)
    except (KeyboardInterrupt, stop_signals.Stopped):
        return _interrupted()
    except Exception as problem:  # noqa: BLE001 - the last resort: shown, never passed over
        if stop_signals.requested():
            # What a library makes of it: DuckDB says "Query interrupted", an import fails.
            return _interrupted()
        error = meant_for_people(problem)
        _tell(command, problem, error)
        return 1
    return code


def _interrupted() -> int:
    sys.stderr.write(stop_signals.GOES_ON)
    return 128 + (stop_signals.requested() or signal.SIGINT)


def _tell(command: str, problem: Exception, error: DynabeamError | None) -> None:
    """Says why a command failed: the error that is meant for people, or all there is."""
    if error is None:
        text, traced = f"failed: {type(problem).__name__}: {problem}", True
    else:
        text, traced = f"{kind_of(error)}: {error}", False
    if writes_json():
        # Whoever reads the log reads nothing else.
        logging.getLogger(f"dynabeam.pipelines.{command}").error("%s", text, exc_info=traced)
        return
    if traced:
        trace = "".join(traceback.format_exception(problem))
        sys.stderr.write(printable_lines(masked(trace)))
    sys.stderr.write(printable_lines(masked(f"dynabeam: {text}\n")))


if __name__ == "__main__":
    sys.exit(main())
