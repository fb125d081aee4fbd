# SPDX-License-Identifier: Apache-2.0
"""Beam's cache weighs state without a look at every module, and finds the same weight."""

import importlib
import inspect
import pkgutil

import apache_beam as beam
import objsize
import pytest
from apache_beam.runners.worker.statecache import get_deep_size
from apache_beam.transforms.userstate import is_stateful_dofn

import dynabeam.transforms
from dynabeam.transforms.runtime.state_cache import skip_deep_sizing

CELLS = [[b"x" * 5000, b"y"], [7], [], [b""]]


@pytest.fixture
def settings(monkeypatch):
    """What objsize does by itself, put back at the end."""
    fresh = objsize.ObjSizeSettings()
    monkeypatch.setattr(objsize, "default_settings", fresh)
    return fresh


def stateful():
    """The classes of transforms that have state."""
    found = []
    for each in pkgutil.walk_packages(dynabeam.transforms.__path__, "dynabeam.transforms."):
        if each.name.endswith("__main__"):
            continue
        module = importlib.import_module(each.name)
        for _, kind in inspect.getmembers(module, inspect.isclass):
            own = issubclass(kind, beam.DoFn) and kind.__module__ == each.name
            if own and is_stateful_dofn(object.__new__(kind)):
                found.append(kind)
    return found


def test_the_weight_is_the_same(settings, monkeypatch):
    before = [get_deep_size(each) for each in CELLS]
    looked = []
    monkeypatch.setattr(objsize.traverse, "_iter_modules_globals", lambda: looked.append(1) or ())
    get_deep_size(CELLS[0])
    assert looked, "objsize looks another way at modules by now"
    looked.clear()
    skip_deep_sizing()
    assert [get_deep_size(each) for each in CELLS] == before
    assert not looked


def test_every_transform_with_state_sets_it(settings):
    kinds = stateful()
    assert len(kinds) >= 4
    for each in kinds:
        settings.update(exclude_modules_globals=True)
        object.__new__(each).setup()
        assert not settings.exclude_modules_globals, each
