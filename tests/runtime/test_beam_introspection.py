# SPDX-License-Identifier: Apache-2.0
"""What Beam finds out is remembered, and is what it would find out each time."""

import copy
import gc
import inspect

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import (
    DebugOptions,
    DirectOptions,
    PipelineOptions,
    StandardOptions,
)
from apache_beam.transforms import core
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec, get_dofn_specs

from dynabeam.transforms.runtime.beam_introspection import (
    RememberingOptions,
    _Signatures,
    remember_signatures,
)

_CELL = ReadModifyWriteStateSpec("cell", beam.coders.BytesCoder())


class _Keeps(beam.DoFn):
    def process(self, element, cell=beam.DoFn.StateParam(_CELL), *others, also=1):
        yield element


class _KeepsNothing(_Keeps):
    def process(self, element, cell=None):
        yield element


@pytest.fixture
def plain(monkeypatch):
    """Beam's own way, whatever other tests have set."""
    found = core.get_function_args_defaults
    own = found._find if isinstance(found, _Signatures) else found
    monkeypatch.setattr(core, "get_function_args_defaults", own)
    return own


class TestSignatures:
    def test_are_those_that_beam_finds(self, plain):
        remember_signatures()
        for fn in (_Keeps(), _KeepsNothing(), beam.DoFn()):
            for name in dir(fn):
                method = getattr(fn, name)
                if inspect.ismethod(method):
                    for _ in range(2):
                        assert core.get_function_args_defaults(method) == plain(method), name

    def test_a_subclass_has_its_own(self, plain):
        remember_signatures()
        assert get_dofn_specs(_Keeps())[0] == {_CELL}
        assert get_dofn_specs(_KeepsNothing())[0] == set()

    def test_who_changes_a_list_changes_his_own(self, plain):
        remember_signatures()
        method = _Keeps().process
        for each in core.get_function_args_defaults(method):
            each.clear()
        assert core.get_function_args_defaults(method) == plain(method)

    def test_each_function_is_looked_at_once(self, plain, monkeypatch):
        asked = []
        monkeypatch.setattr(
            core, "get_function_args_defaults", lambda f: asked.append(f) or plain(f)
        )
        remember_signatures()
        remember_signatures()
        for _ in range(3):
            core.get_function_args_defaults(_Keeps().process)
        assert len(asked) == 1

    def test_functions_are_not_kept(self, plain):
        remember_signatures()

        def of_its_own():
            class Passing(beam.DoFn):
                def process(self, element):
                    yield element

            core.get_function_args_defaults(Passing().process)

        before = len(core.get_function_args_defaults._found)
        of_its_own()
        gc.collect()
        assert len(core.get_function_args_defaults._found) == before


class TestOptions:
    def test_views_are_made_once_and_say_what_beam_says(self):
        flags = ["--runner=DirectRunner", "--direct_num_workers=3", "--experiments=one"]
        ours, beams = RememberingOptions(flags), PipelineOptions(flags)
        for kind in (StandardOptions, DirectOptions, DebugOptions):
            assert ours.view_as(kind) is ours.view_as(kind)
            ours_all, beams_all = ours.view_as(kind), beams.view_as(kind)
            for name in beams_all._visible_option_list():
                assert getattr(ours_all, name) == getattr(beams_all, name), name
        assert ours.get_all_options() == beams.get_all_options()

    def test_what_is_set_in_one_view_is_set_in_all(self):
        options = RememberingOptions([])
        options.view_as(DebugOptions).experiments = ["one"]
        assert options.view_as(StandardOptions).view_as(DebugOptions).experiments == ["one"]

    def test_a_copy_has_views_of_its_own(self):
        options = RememberingOptions(["--experiments=one"])
        options.view_as(DebugOptions)
        copied = copy.deepcopy(options)
        copied.view_as(DebugOptions).experiments.append("two")
        assert copied.view_as(DebugOptions).experiments == ["one", "two"]
        assert options.view_as(DebugOptions).experiments == ["one"]
