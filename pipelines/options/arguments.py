# SPDX-License-Identifier: Apache-2.0
"""The words of a command line: our options, Beam's, and what is neither.

Beam ignores an option that it does not know, so a misspelt one would change what a run does without
a word: every option has to be known here. Hyphens and underscores in names are the same.
"""

from __future__ import annotations

import argparse
import difflib
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

from dynabeam.transforms.errors import ConfigurationError

__all__ = [
    "beam_arguments",
    "is_beam_option",
    "is_given",
    "option",
    "option_strings",
    "parse_all",
    "parse_known",
]

_FLINK_VALUES = """
    auto_watermark_interval checkpoint_timeout_millis checkpointing_interval checkpointing_mode
    execution_mode_for_batch execution_retry_delay file_input_split_max_size_mb flink_conf_dir
    job_check_interval_in_secs latency_tracking_interval max_bundle_size max_bundle_time_mills
    min_pause_between_checkpoints num_concurrent_checkpoints number_of_execution_retries
    savepoint_path shutdown_sources_after_idle_ms state_backend state_backend_factory
    state_backend_storage_path
"""
_FLINK_FLAGS = """
    allow_non_restored_state attached_mode auto_balance_write_files_sharding_enabled
    disable_metrics enable_stable_input_drain externalized_checkpoints_enabled
    fail_on_checkpointing_errors faster_copy finish_bundle_before_checkpointing
    force_slot_sharing_group force_unaligned_checkpoint_enabled object_reuse operator_chaining
    re_iterable_group_by_key_result report_checkpoint_duration
    retain_externalized_checkpoints_on_cancellation unaligned_checkpoint_enabled
"""
"""Options of Beam's Flink runner that only its job server knows: the getters of its
`FlinkPipelineOptions` (2.70), less those that Python knows too."""


def parse_known(
    parser: argparse.ArgumentParser, arguments: Sequence[str]
) -> tuple[argparse.Namespace, list[str]]:
    """`parser.parse_known_args`, for which hyphens in the parser's own names are underscores.

    Returns:
        The parser's options, and the words that it does not know.
    """
    names = option_strings(parser)
    words = [_respelt(each, names) for each in arguments]
    return parser.parse_known_args(words)


def parse_all(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Parses the options of a command that takes none of Beam's.

    Raises:
        ConfigurationError: The parser does not know an option.
    """
    given, rest = parse_known(parser, arguments)
    for each in rest:
        _refuse(each, option_strings(parser))
    return given


def beam_arguments(words: Sequence[str], own: Iterable[str] = ()) -> tuple[str, ...]:
    """Checks the words that no parser of ours knows: each has to be an option of Beam.

    Args:
        words: What is left of a command line.
        own: Our options, to suggest one of them.

    Returns:
        The words as Beam wants them: in its spelling, each value after a `=`.

    Raises:
        ConfigurationError: Beam does not know an option, or cannot take its value.
    """
    own = list(own)
    flags = _beam_options()
    found = []
    rest = iter(words)
    for word in rest:
        name, equals, value = _respelt(word, flags).partition("=")
        if name not in flags:
            _refuse(word, [*own, *flags])
        if flags[name]:
            if not equals or value.lower() == "true":
                found.append(name)
            elif value.lower() != "false":
                _refuse_value(name, f"{value!r} is neither true nor false")
            continue
        if not equals:
            value = _value_of(name, rest)
        found.append(f"{name}={value}")
    _check_values(found)
    return tuple(found)


def is_beam_option(name: str) -> bool:
    """Whether Beam has an option of this name, such as `--project`."""
    return name in _beam_options()


def is_given(words: Iterable[str], *names: str) -> bool:
    """Whether one of these options, named with underscores, is among words not yet parsed."""
    return any(_respelt(each, names).partition("=")[0] in names for each in words)


def option(arguments: Sequence[str], name: str) -> str:
    """The last value of `--name=value` or `--name value`; empty if it is not given."""
    found = ""
    for at, each in enumerate(arguments):
        if each.startswith(f"--{name}="):
            found = each.partition("=")[2]
        elif each == f"--{name}" and at + 1 < len(arguments):
            found = arguments[at + 1]
    return found


def option_strings(parser: argparse.ArgumentParser) -> list[str]:
    """All long names of a parser's options, such as `--tables`."""
    # There is no public way to ask a parser for its options.
    return [
        name
        for action in parser._actions
        for name in action.option_strings
        if len(name) > len("-h")
    ]


def _respelt(word: str, names: Iterable[str]) -> str:
    """A word with its option's name in our spelling, if only hyphens and underscores differ."""
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    meant = _plain(name)
    return next((f"{each}{equals}{value}" for each in names if _plain(each) == meant), word)


def _plain(name: str) -> str:
    return name[2:].replace("-", "_").lower()


def _value_of(name: str, rest: Iterator[str]) -> str:
    value = next(rest, "--")
    if value.startswith("--"):
        _refuse_value(name, "it needs a value")
    return value


def _refuse(word: str, names: Sequence[str]) -> NoReturn:
    """Refuses a word, with the options that look like it.

    Raises:
        ConfigurationError: Always.
    """
    if not word.startswith("--"):
        raise ConfigurationError(
            "not an option", found=word, hint="Options look like --tables=orders"
        )
    name = word.partition("=")[0]
    spelt = {_plain(each): each for each in reversed(names)}
    near = difflib.get_close_matches(_plain(name), spelt, n=2, cutoff=0.7)
    meant = " or ".join(spelt[each] for each in near)
    raise ConfigurationError(
        "no such option",
        where=name,
        hint=f"Perhaps you mean {meant}" if meant else "--help lists the options",
    )


def _refuse_value(name: str, why: str) -> NoReturn:
    raise ConfigurationError(f"Beam cannot take the option: {why}", where=name)


@functools.cache
def _beam_options() -> Mapping[str, bool]:
    """Name → whether it is a flag, of all options of Beam and of its Flink runner."""
    options = {
        name: action.nargs == 0
        for action in _beam_parser()._actions
        for name in action.option_strings
        if len(name) > len("-h")
    }
    options |= {f"--{name}": False for name in _FLINK_VALUES.split()}
    return options | {f"--{name}": True for name in _FLINK_FLAGS.split()}


def _check_values(words: Sequence[str]) -> None:
    """Lets Beam's parser look at the values; left to itself it ends the process, with all names."""
    parser = _beam_parser()
    parser.parse_known_args(list(words))
    runner = next(
        (each.partition("=")[2] for each in reversed(words) if each.startswith("--runner=")), ""
    )
    _check_runner(runner)


def _check_runner(name: str) -> None:
    from apache_beam.options.pipeline_options import StandardOptions  # noqa: PLC0415

    short = [each.rpartition(".")[2] for each in StandardOptions.ALL_KNOWN_RUNNERS]
    # Beam takes `direct` for `DirectRunner`, in any case.
    known = {each.lower() for each in short} | {
        each.lower().removesuffix("runner") for each in short
    }
    if not name or "." in name or name.lower() in known:
        return
    near = difflib.get_close_matches(name, short, n=1)
    raise ConfigurationError(
        "Beam has no runner of this name",
        where="--runner",
        expected=" | ".join(short),
        found=name,
        hint=f"Perhaps you mean {near[0]}" if near else "Take one of these",
    )


def _beam_parser() -> argparse.ArgumentParser:
    """Beam's parser of all its options, whose errors do not end the process."""
    # Commands that ask for help need not wait for Beam.
    from apache_beam.options.pipeline_options import (  # noqa: PLC0415
        PipelineOptions,
        _BeamArgumentParser,
    )

    class Refusing(_BeamArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise ConfigurationError(
                f"Beam cannot take the option: {message}", hint="Check its value"
            )

    parser: argparse.ArgumentParser = Refusing(
        allow_abbrev=False, add_help=False, conflict_handler="resolve"
    )
    for each in _kinds(PipelineOptions):
        each._add_argparse_args(parser)
    return parser


def _kinds(base: Any) -> Iterator[Any]:
    for each in base.__subclasses__():
        yield each
        yield from _kinds(each)
