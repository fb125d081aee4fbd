# SPDX-License-Identifier: Apache-2.0
"""Text of strangers, made safe for a terminal and for a line of a log.

Whoever writes items decides keys, names, values and, through errors, what a tool says of them.
Characters that steer a terminal (ESC, C1 controls), turn the reading direction, or begin a line of
their own are shown as escapes, so that an item can neither clear the screen nor forge a verdict.
"""

from __future__ import annotations

import re

__all__ = ["one_line", "printable", "printable_lines"]

_BREAKS = re.compile(r"\s*[\r\n]+\s*")
_SPACES = "\u00a0\u2007\u202f\u3000"
"""Blanks that Python does not count among the printable characters, and that only take room."""


def printable(text: str) -> str:
    r"""The text, with what is not printable, line breaks too, as `\x1b`, `\n` or `\u202e`."""
    if text.isprintable():
        return text
    return "".join(_shown(each) for each in text)


def printable_lines(text: str) -> str:
    """The same for a text that has lines of its own, such as a traceback; tabs stay too."""
    return "\n".join("\t".join(map(printable, line.split("\t"))) for line in text.split("\n"))


def one_line(text: str) -> str:
    """The text as one printable line: a break, with the blanks around it, is a blank."""
    return printable(_BREAKS.sub(" ", text.strip("\r\n")))


def _shown(character: str) -> str:
    if character.isprintable() or character in _SPACES:
        return character
    return character.encode("unicode_escape").decode("ascii")
