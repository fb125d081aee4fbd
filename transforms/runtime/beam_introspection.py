# SPDX-License-Identifier: Apache-2.0
"""What Beam finds out again and again while it builds and runs a graph, remembered.

A run in rounds builds a graph every few seconds. Beam then asks Python for the signature of each
method of each DoFn, some eight times, and parses the command line again for each access to an
option: 0.38 of the 0.64 seconds of CPU that a small round takes (measured, Beam 2.77). Neither
changes within a process.
"""

from __future__ import annotations

import types
import weakref
from collections.abc import Callable
from typing import Any, TypeVar, cast

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms import core

__all__ = ["RememberingOptions", "remember_signatures"]

_OptionsT = TypeVar("_OptionsT", bound=PipelineOptions)
_Found = tuple[list[str], list[Any]]
_VIEWS = "_remembered_views"


class RememberingOptions(PipelineOptions):
    """Options of a graph, of which each view is made once.

    Views of one object share their values, so that the same view serves all who ask for it.
    """

    def view_as(self, cls: type[_OptionsT]) -> _OptionsT:
        """As of every `PipelineOptions`."""
        views: dict[type[PipelineOptions], PipelineOptions] = self.__dict__.setdefault(_VIEWS, {})
        if cls not in views:
            views[cls] = super().view_as(cls)
        return cast(_OptionsT, views[cls])


class _Signatures:
    """The arguments and defaults of methods, by the functions behind them.

    Args:
        find: Beam's own way to find them.
    """

    def __init__(self, find: Callable[[Any], _Found]) -> None:
        self._find = find
        self._found: weakref.WeakKeyDictionary[Any, _Found] = weakref.WeakKeyDictionary()

    def __call__(self, asked: Any) -> _Found:
        if not isinstance(asked, types.MethodType):
            return self._find(asked)
        function = asked.__func__
        found = self._found.get(function)
        if found is None:
            found = self._found[function] = self._find(asked)
        # Lists of the caller's own, as Beam gives them.
        return list(found[0]), list(found[1])


def remember_signatures() -> None:
    """Sets it for this process; may be repeated."""
    find = core.get_function_args_defaults
    if not isinstance(find, _Signatures):
        core.get_function_args_defaults = _Signatures(find)
