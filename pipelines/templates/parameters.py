# SPDX-License-Identifier: Apache-2.0
"""The parameters of the templates: the options of `dynabeam replicate`, one value each.

A Flex Template has one value per name, and no flags. So a flag is a parameter of the type BOOLEAN,
and an option that may be given several times is one parameter, whose values are separated by white
space: sinks are URIs, which hold commas (`decimal(38,9)`) but never blanks. Options whose values
are lists by themselves (`tables`) keep their commas.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

from dynabeam.pipelines.options.arguments import parse_known
from dynabeam.pipelines.options.replicate import replicate_parser
from dynabeam.pipelines.templates.appearance import (
    APPEARANCES,
    BY_LAUNCHER,
    LEFT_OUT,
    Appearance,
    TemplateName,
)
from dynabeam.transforms.errors import ConfigurationError

__all__ = [
    "Launched",
    "Parameter",
    "arguments_of",
    "check_required",
    "launched",
    "parameters_of",
    "replication_parameters",
]

ParameterKind: TypeAlias = Literal["TEXT", "NUMBER", "BOOLEAN", "ENUM"]
"""Those types of Google's `ParameterType` that are used."""

_SHOWN = 60
"""Letters of a value that an error shows; it may hold what should not have been in it."""
_CLEAR_PASSWORD = re.compile(r"(://[^\s/?:@]*:)(?!\$\{)[^\s/?@]*(?=@)")


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A parameter of a template.

    Attributes:
        name: Its name, as in `--parameters=NAME=VALUE`.
        option: The option of `replicate` that it stands for, such as `--sink`.
        label: Its name for people.
        help_text: One or two sentences.
        group: The heading that it stands under.
        kind: Google's type of it.
        required: No launch without it.
        pattern: What a whole value has to match; empty for anything.
        default: What holds if it is not given; empty if that depends on others.
        choices: Its values, if it is an ENUM, and what each means.
        spaced: It may have several values, separated by white space.
        hint: What to write, for an error.
    """

    name: str
    option: str
    label: str
    help_text: str
    group: str
    kind: ParameterKind
    required: bool
    pattern: str
    default: str
    choices: Mapping[str, str]
    spaced: bool
    hint: str

    def check(self, value: str) -> None:
        """Checks a value, as the service does before it launches anything.

        Raises:
            ConfigurationError: It does not match; the error names parameter, value and hint.
        """
        if self.pattern and not re.fullmatch(self.pattern, value):
            raise ConfigurationError(
                f"not a value for the parameter '{self.label}'",
                where=self.name,
                found=_shown(value),
                hint=self.hint,
            )


def replication_parameters(template: TemplateName = "continuous") -> tuple[Parameter, ...]:
    """The parameters of a template, in the order of its form.

    Args:
        template: `continuous` for a job that never ends, `rounds` for one that catches up.
    """
    actions = _actions(replicate_parser())
    found = [
        _parameter(name, actions[name], appearance, template)
        for name, appearance in APPEARANCES.items()
        if template in appearance.templates
    ]
    return (*found, _MODE_OF_ROUNDS) if template == "rounds" else tuple(found)


_MODE_OF_ROUNDS = Parameter(
    name="mode",
    option="--mode",
    label="Mode",
    help_text=("Always catch_up: both templates use one image, which learns its kind by this."),
    group="Template",
    kind="ENUM",
    required=True,
    pattern="catch_up",
    default="catch_up",
    choices={"catch_up": "Catch up once, then end"},
    spaced=False,
    hint="Write catch_up, or take the template for continuous jobs",
)


def parameters_of(
    arguments: Sequence[str], template: TemplateName = "continuous"
) -> dict[str, str]:
    """A command line of `replicate` as parameters of a template.

    Args:
        arguments: The words after `dynabeam replicate`; none of Beam's.
        template: The template that is to be launched.

    Returns:
        Name of each parameter that is given → its value.

    Raises:
        ConfigurationError: An option is no parameter of the template, has a value that it refuses,
            or one that is needed is missing.
    """
    parser = replicate_parser()
    for action in parser._actions:
        # What is not given is not in the result.
        action.default = argparse.SUPPRESS
    parser.exit_on_error = False
    try:
        given, rest = parse_known(parser, arguments)
    except argparse.ArgumentError as problem:
        raise ConfigurationError(
            str(problem.message), where=problem.argument_name or "", hint="Check its value"
        ) from problem
    if rest:
        raise ConfigurationError(
            "no parameter of the template",
            where=rest[0].partition("=")[0],
            hint="Parameters are options of 'dynabeam replicate'; number and kind of its "
            "workers are options of the service",
        )
    names = {action.dest: name for name, action in _actions(parser).items()}
    parameters = {each.name: each for each in replication_parameters(template)}
    values = {}
    for dest, value in vars(given).items():
        name = names[dest]
        if name == "mode":
            _check_mode(value, template)
            continue
        if name not in parameters:
            raise _no_parameter(f"--{name}", name, template)
        values[name] = _as_text(parameters[name], value)
    if "mode" in parameters:
        values["mode"] = parameters["mode"].default
    for name, text in values.items():
        parameters[name].check(text)
    check_required(values, template)
    return values


def arguments_of(flags: Sequence[str]) -> list[str]:
    """The flags that Dataflow's launcher gives as a command line of `replicate`.

    Args:
        flags: The launcher's words; see `launched`.

    Raises:
        ConfigurationError: As `launched`.
    """
    found = launched(flags)
    return [*found.for_beam, *found.words]


@dataclasses.dataclass(frozen=True)
class Launched:
    """What the launcher was told, apart.

    Attributes:
        template: Which template was launched.
        words: Options of `replicate`.
        for_beam: Everything else: the launcher's own flags, which are options of Beam.
    """

    template: TemplateName
    words: Sequence[str]
    for_beam: Sequence[str]


def launched(flags: Sequence[str]) -> Launched:
    """Reads the flags that Dataflow's launcher starts `main.py` with.

    The launcher sorts its flags, writes each as `--name=value` (flags too: `--take_over=true`), and
    gives an empty value for a parameter that was left empty in a form. What is neither a parameter
    nor an option of `replicate` is for Beam and stays as it is.

    Args:
        flags: The launcher's words.

    Raises:
        ConfigurationError: A parameter has a value that it refuses, or one that is needed is
            missing, or an option is given that no template has.
    """
    pairs = [_pair(each) for each in flags]
    template: TemplateName = "rounds" if _is_rounds(pairs) else "continuous"
    parameters = {each.name: each for each in replication_parameters(template)}
    known = {
        alias.removeprefix("--"): name
        for name, action in _actions(replicate_parser()).items()
        for alias in action.option_strings
    }
    given: dict[str, str] = {}
    for_beam = []
    for name, value in pairs:
        if not value:
            continue
        if name in parameters:
            parameters[name].check(value)
            given[name] = value
        elif name in known and name not in BY_LAUNCHER:
            raise _no_parameter(name, known[name], template)
        else:
            for_beam.append(f"--{name}={value}")
    check_required(given, template)
    words = [word for name, value in given.items() for word in _words(parameters[name], value)]
    if template == "continuous":
        words.append("--mode=continuous")
    return Launched(template, words, for_beam)


def check_required(given: Mapping[str, str], template: TemplateName) -> None:
    """Checks that the parameters are there that no job can do without.

    Raises:
        ConfigurationError: One is missing.
    """
    for each in replication_parameters(template):
        if each.required and not given.get(each.name):
            raise ConfigurationError(
                f"the parameter '{each.label}' is not given",
                where=each.name,
                hint=each.hint,
            )


def _actions(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """Name of each option in a template → the option; by its first name if it is in none."""
    found = {}
    for action in parser._actions:
        names = [each[2:] for each in action.option_strings if each.startswith("--")]
        if "help" not in names:
            found[next((each for each in names if each in APPEARANCES), names[0])] = action
    return found


def _parameter(
    name: str, action: argparse.Action, appearance: Appearance, template: TemplateName
) -> Parameter:
    hidden = appearance.not_continuous if template == "continuous" else ()
    choices = {
        each: appearance.choices.get(each, "")
        for each in action.choices or ()
        if each not in hidden
    }
    kind: ParameterKind = "NUMBER" if appearance.number else "TEXT"
    pattern, hint = appearance.pattern, appearance.hint
    if action.nargs == 0:
        # People write either; the service's own form says `true`.
        kind, pattern, hint = "BOOLEAN", "[tT]rue|[fF]alse", "Write true or false"
    elif choices:
        kind, pattern, hint = "ENUM", "|".join(choices), f"Write {' or '.join(choices)}"
    return Parameter(
        name=name,
        option=f"--{name}",
        label=appearance.label,
        help_text=_sentence(appearance.text or action.help or ""),
        group=appearance.group,
        kind=kind,
        required=appearance.required,
        pattern=pattern,
        default=_default(action),
        choices=choices,
        spaced=appearance.spaced,
        hint=hint,
    )


def _default(action: argparse.Action) -> str:
    if action.nargs == 0:
        return "false"
    return action.default if isinstance(action.default, str) else ""


def _sentence(text: str) -> str:
    """A help text of the command line as a sentence."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}." if text else ""


def _as_text(parameter: Parameter, value: object) -> str:
    """A parsed option as one value.

    Raises:
        ConfigurationError: One of several values holds white space, which would separate them.
    """
    if value is True:
        return "true"
    if not isinstance(value, list):
        return str(value)
    if not parameter.spaced:
        return ",".join(value)
    for each in value:
        if re.search(r"\s", each):
            raise ConfigurationError(
                "a value with blanks in it cannot be distinguished from two",
                where=parameter.option,
                found=_shown(each),
                hint="Write %20 for a blank in a URI",
            )
    return " ".join(value)


def _words(parameter: Parameter, value: str) -> list[str]:
    if parameter.kind == "BOOLEAN":
        return [parameter.option] if value.lower() == "true" else []
    values = value.split() if parameter.spaced else [value]
    return [f"{parameter.option}={each}" for each in values]


def _pair(flag: str) -> tuple[str, str]:
    """Name and value of a flag of the launcher; a flag without value is a true one.

    Raises:
        ConfigurationError: It is no flag.
    """
    if not flag.startswith("--"):
        raise ConfigurationError(
            "not a flag of Dataflow's launcher", found=_shown(flag), hint="Write --NAME=VALUE"
        )
    name, equals, value = flag[2:].partition("=")
    return name, value if equals else "true"


def _is_rounds(pairs: Sequence[tuple[str, str]]) -> bool:
    return any(name == "mode" and value for name, value in pairs)


def _check_mode(mode: str, template: TemplateName) -> None:
    wanted = "continuous" if template == "continuous" else "catch_up"
    if mode != wanted:
        other = "rounds" if template == "continuous" else "continuous"
        raise ConfigurationError(
            f"the template '{template}' has another mode",
            where="--mode",
            expected=wanted,
            found=mode,
            hint=f"Launch the template '{other}' for it",
        )


def _no_parameter(where: str, name: str, template: TemplateName) -> ConfigurationError:
    """The error for an option of `replicate`, named in a template, that this template has not."""
    reason = LEFT_OUT.get(name) or BY_LAUNCHER.get(name)
    if reason is None and template in APPEARANCES[name].templates:
        hint = f"The parameter is called {name}"
    elif reason is None:
        hint = f"Only the other template has it, '{template}' does not"
    else:
        hint = f"None has it, since {reason}"
    return ConfigurationError("no parameter of the template", where=where, hint=hint)


def _shown(value: str) -> str:
    """A value for an error: short, and without what may be a password."""
    value = _CLEAR_PASSWORD.sub(r"\1***", value)
    return value if len(value) <= _SHOWN else f"{value[:_SHOWN]}…"
