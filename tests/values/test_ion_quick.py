# SPDX-License-Identifier: Apache-2.0
"""Contract of the quick way: what it says the exact parser says, and it knows the usual form."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynabeam.transforms.errors import ValueDecodeError
from dynabeam.transforms.testing.ion_text import ion_struct
from dynabeam.transforms.values.ion_quick import quick_line
from dynabeam.transforms.values.ion_text import _Parser

from .strategies import items


def exact(text):
    """What the exact parser says, or None if it refuses."""
    try:
        return _Parser(text).line()
    except ValueDecodeError:
        return None


def alike(text):
    found = quick_line(text)
    if found is not None:
        expected = exact(text)
        assert found == expected
        # Members keep their order, which the rewritten line shows.
        assert repr(found) == repr(expected)
    return found


@given(items)
def test_the_writers_lines(item):
    text = f"$ion_1_0 {{Item:{ion_struct(item)}}}"
    assert exact(text) is not None
    alike(text)


@given(items, st.data())
@settings(max_examples=300)
def test_changed_lines(item, data):
    text = f"$ion_1_0 {{Item:{ion_struct(item)}}}"
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        put = data.draw(st.sampled_from([*"{}[],:.\"'\\-d0a$ \t", "::", "null", "''", "{{", "}}"]))
        text = text[:at] + put + text[at + data.draw(st.integers(0, 2)) :]
    alike(text)


@pytest.mark.parametrize(
    "text",
    [
        '$ion_1_0 {Item:{id:"a",n:6d2,f:-1.50,i:7,b:{{aGk=}},y:true,z:null}}',
        '{Item: {\'a b\': "x", m: {k: [1., "y", {}]}, l: []}}',
        '{Item:{s:$dynamodb_SS::["a"],n:$dynamodb_NS::[1.,2d1],c:$dynamodb_BS::[{{aA==}}]}}',
        '$ion_1_0 {Metadata:{WriteTimestampMicros:1.},Keys:{id:"a"},NewImage:{id:"a"}} \r',
        "{Item:{}}",
    ],
)
def test_the_services_form_takes_the_quick_way(text):
    assert alike(text) is not None


@pytest.mark.parametrize(
    "text",
    [
        '{Item:{a:"x\\n"}}',
        "{Item:{a:'''x'''}}",
        "{Item:{a:1,a:2}}",
        "{Item:{a:1,}}",
        "{Item:{null:1}}",
        "{Item:{$10:1}}",
        "{Item:{a:1e5}}",
        "{Item:{a:null.int}}",
        "{Item:{a:b}}",
        "{Item:{a:c::1}}",
        "{Item:{a:{{aG}}}}",
        "{Item:{a:1}} {}",
        "{Item:{a:$dynamodb_SS::[1]}}",
        "{Item:{a:[1}}",
        "{Item:{a:[1]]}",
        "{Other:{a:1}}",
        "{Item:{a:" + "[" * 40 + "]" * 40 + "}}",
        "{Item:{a:0" + "1" * 40 + "}}",
        "{Item:{a:" + "1" * 40 + ".}}",
        "",
    ],
)
def test_all_else_is_left_to_the_exact_parser(text):
    assert quick_line(text) is None
