# SPDX-License-Identifier: Apache-2.0
"""Arbitrary DynamoDB values, with the names and texts that break naive decoders."""

import base64

from hypothesis import strategies as st

ODD_TEXTS = [
    "",
    "S",
    "N",
    "M",
    "a",
    "A",
    "a.b",
    "a/b",
    "~1",
    "~0",
    'q"uote',
    "it's",
    "c:olon",
    "new\nline",
    "nul\x00",
    "\x00",
    "$",
    "$.a",
    "#",
    "*",
    "[0]",
    "back\\slash",
    "é",
    "\u2028",
    "😀",
    "\x7f",
    "null",
    "Item",
    "Ångström",
]

texts = st.one_of(
    st.sampled_from(ODD_TEXTS), st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
)
names = texts.filter(bool)
binaries = st.binary(max_size=9)


@st.composite
def number_texts(draw):
    """Numbers within DynamoDB's limits, in any spelling."""
    digits = draw(st.integers(0, 10 ** draw(st.integers(0, 38)) - 1))
    significant = len(str(digits).rstrip("0"))
    size = len(str(digits))
    assert significant <= 38
    exponent = draw(st.one_of(st.integers(-3, 3), st.integers(-130, 126 - size)))
    exponent = max(min(exponent, 126 - size), -130)
    sign = draw(st.sampled_from(["", "-", "+"]))
    spelling = draw(st.integers(0, 3))
    if spelling == 0 or exponent < -20 or exponent > 20:
        return f"{sign}{digits}{draw(st.sampled_from('eE'))}{exponent}"
    if exponent >= 0:
        zeros = "0" * draw(st.integers(0, 2))
        point = draw(st.sampled_from(["", ".0"]))
        return f"{sign}{zeros}{digits}{'0' * exponent}{point}"
    padded = str(digits).rjust(1 - exponent, "0")
    return f"{sign}{padded[:exponent]}.{padded[exponent:]}{'0' * draw(st.integers(0, 2))}"


def base64_text(data):
    return base64.b64encode(data).decode()


scalars = st.one_of(
    texts.map(lambda text: {"S": text}),
    number_texts().map(lambda text: {"N": text}),
    binaries.map(lambda data: {"B": base64_text(data)}),
    st.booleans().map(lambda flag: {"BOOL": flag}),
    st.just({"NULL": True}),
    st.lists(texts, max_size=3, unique=True).map(lambda members: {"SS": members}),
    st.lists(number_texts(), max_size=3).map(lambda members: {"NS": members}),
    st.lists(binaries, max_size=3, unique=True).map(
        lambda members: {"BS": [base64_text(each) for each in members]}
    ),
)

wire_values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda members: {"L": members}),
        st.dictionaries(texts, inner, max_size=3).map(lambda members: {"M": members}),
    ),
    max_leaves=6,
)

items = st.dictionaries(names, wire_values, max_size=5)
