# SPDX-License-Identifier: Apache-2.0
"""What Dataflow's launcher runs: the file that `FLEX_TEMPLATE_PYTHON_PY_FILE` names.

The launcher is a small machine of the service. It starts this file with the launch's settings and
parameters, and waits for the job file that `--template_location` names; then it submits the job and
goes away. So what can be known beforehand is looked at here: parameters, sinks, runner, tables,
with the permissions of the worker's service account. What is written here ends up in `console_logs`
beside the job file, which people see as plain text: an error is one line.
"""

from __future__ import annotations

import logging
import sys
import traceback
import warnings
from collections.abc import Sequence

from dynabeam.pipelines.failures import kind_of, meant_for_people
from dynabeam.pipelines.options.arguments import is_beam_option
from dynabeam.pipelines.templates.parameters import launched
from dynabeam.transforms.printable import one_line
from dynabeam.transforms.secrets import masked

__all__ = ["main"]


def main(flags: Sequence[str]) -> int:
    """Writes the job file of a launch.

    Args:
        flags: The launcher's words, each `--name=value`.

    Returns:
        The exit code; the launcher takes all but 0 for a failed launch.
    """
    if "--help" in flags:
        sys.stdout.write("usage: main.py --NAME=VALUE..., as Dataflow's launcher starts it\n")
        return 0
    # Google's packages warn about the age of Python whenever Beam is imported.
    warnings.filterwarnings("ignore", "You are using a .*Python version", FutureWarning)
    # Beam tells the whole job, on one line of some thousand letters, to whoever wants to know more.
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        return _launch(flags)
    except Exception as problem:  # noqa: BLE001 - the last resort: shown, never passed over
        error = meant_for_people(problem)
        if error is None:
            sys.stderr.write(masked("".join(traceback.format_exception(problem))))
            _tell(f"failed: {type(problem).__name__}: {problem}")
        else:
            _tell(f"{kind_of(error)}: {error}")
        return 1


def _launch(flags: Sequence[str]) -> int:
    launch = launched(flags)
    for_beam = _known_to_beam(launch.for_beam)
    if launch.template == "rounds":
        from dynabeam.pipelines.templates.rounds_job import submit_rounds  # noqa: PLC0415

        submit_rounds(launch.words, for_beam)
        return 0
    from dynabeam.pipelines.replicate import main as replicate  # noqa: PLC0415

    return replicate([*for_beam, *launch.words], from_template=True)


def _known_to_beam(words: Sequence[str]) -> list[str]:
    """The launcher's own flags as Beam's parser takes them.

    A flag that is false in the launcher's words is Beam's flag with a `no_` in front. What Beam
    does not know is left out, and said: the launcher is Google's and learns new flags, and what
    people may misspell, the parameters, the service has checked.
    """
    found = []
    for each in words:
        name, _, value = each.partition("=")
        opposite = f"--no_{name.removeprefix('--')}"
        if value.lower() == "false" and is_beam_option(opposite):
            found.append(opposite)
        elif is_beam_option(name):
            found.append(each)
        else:
            sys.stderr.write(
                one_line(f"warning: {name}: neither a parameter nor an option of Beam; left out")
                + "\n"
            )
    return found


def _tell(text: str) -> None:
    sys.stderr.write(one_line(masked(f"dynabeam: {text}")) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
