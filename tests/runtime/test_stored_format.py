# SPDX-License-Identifier: Apache-2.0
"""One codec for what is stored or travels: what it writes, what it refuses, and with which hint."""

import dataclasses

import pytest
from apache_beam.coders import TimestampCoder
from apache_beam.utils.timestamp import MAX_TIMESTAMP, MIN_TIMESTAMP, Timestamp

from dynabeam.transforms.errors import DynabeamError, StateError, ValueDecodeError
from dynabeam.transforms.runtime.json_coder import JsonCoder, element_format
from dynabeam.transforms.runtime.poll_tracker import ManualWatermark, advance
from dynabeam.transforms.runtime.stored_format import DocumentFormat, canonical, typed_fields
from dynabeam.transforms.storage.versioned_file import VersionedFile

FILE_FORMAT = DocumentFormat("a thing", number=3, hint="Restore it")
ELEMENT_FORMAT = element_format("a thing", "thing", required=("size",))


@dataclasses.dataclass(frozen=True)
class Thing:
    name: str
    size: int = 0

    def to_json(self):
        return ELEMENT_FORMAT.dump(vars(self))

    @classmethod
    def from_json(cls, document):
        with ELEMENT_FORMAT.load(document) as fields:
            return typed_fields(cls, fields)


class ThingCoder(JsonCoder[Thing]):
    kind = Thing


FILE = VersionedFile(Thing, FILE_FORMAT)


class TestElements:
    def test_equal_ones_have_equal_bytes(self):
        encoded = ThingCoder().encode(Thing("é", 1))
        assert encoded == b'{"format":1,"name":"\\u00e9","size":1}'
        assert ThingCoder().decode(encoded) == Thing("é", 1)
        assert ThingCoder().is_deterministic()
        assert ThingCoder().to_type_hint() is Thing

    def test_what_is_parsed_already_is_read_too_and_stays_as_it_is(self):
        document = Thing("a", 1).to_json()
        assert Thing.from_json(document) == Thing("a", 1)
        assert document == {"format": 1, "name": "a", "size": 1}

    @pytest.mark.parametrize(
        ("encoded", "told"),
        [
            (b'{"format":2}', r"unknown format; expected 1; found 2.*Upgrade Dynabeam on the work"),
            (b'{"format":true,"name":"a","size":1}', "unknown format"),
            (b'{"format":1.0,"name":"a","size":1}', "unknown format"),
            (b'{"format":"1","name":"a","size":1}', "unknown format"),
            (b'{"name":"a","size":1}', "damaged.*format"),
            (b'{"format":1,"name":"a"}', "damaged: .*missing: size"),
            (b'{"format":1,"size":1}', "damaged.*name"),
            (b'{"format":1,"name":1,"size":1}', "damaged.*name"),
            (b'{"format":1,"name":"a","size":1,"more":1}', "newer version.*that wrote it, or a ne"),
            (b'{"format":1', "damaged"),
            (b'{"format":NaN}', "damaged.*NaN"),
            (b"[1]", "damaged"),
            (b"\xff", "damaged"),
            (b"[" * 100_000, "damaged"),
        ],
    )
    def test_what_cannot_be_read_says_why_and_what_to_do(self, encoded, told):
        with pytest.raises(ValueDecodeError, match=told) as caught:
            ThingCoder().decode(encoded)
        assert "thing" in str(caught.value)

    @pytest.mark.parametrize("document", [None, 1, "text", [1]])
    def test_what_is_no_document(self, document):
        with pytest.raises(ValueDecodeError, match="damaged"):
            Thing.from_json(document)

    def test_an_error_of_its_kind_passes_as_it_is(self):
        known = ValueDecodeError("a part is damaged", where="part")
        with pytest.raises(DynabeamError) as caught, ELEMENT_FORMAT.load(Thing("a").to_json()):
            raise known
        assert caught.value is known


class TestFiles:
    def test_they_come_back(self, tmp_path):
        path = str(tmp_path / "thing.json")
        assert FILE.find(path) is None
        FILE.write(path, Thing("a", 2))
        assert (tmp_path / "thing.json").read_bytes() == b'{"format":3,"name":"a","size":2}'
        assert FILE.find(path) == FILE.read(path) == Thing("a", 2)

    @pytest.mark.parametrize(
        ("content", "told"),
        [
            (
                b'{"format":4,"name":"a"}',
                "unknown format; expected 3; found 4.*version of Dynabeam",
            ),
            (b'{"format":3,"name":"a","more":1}', "newer version"),
            (b'{"format":3,"size":1}', "damaged.*Restore it"),
            (b"", "damaged.*Restore it"),
        ],
    )
    def test_errors_name_the_file(self, tmp_path, content, told):
        path = tmp_path / "thing.json"
        path.write_bytes(content)
        with pytest.raises(StateError, match=told) as caught:
            FILE.read(str(path))
        assert str(path) in str(caught.value)

    def test_a_field_with_a_default_may_be_missing(self, tmp_path):
        path = tmp_path / "thing.json"
        path.write_bytes(b'{"format":3,"name":"a"}')
        assert FILE.read(str(path)) == Thing("a")

    def test_canonical_json_is_sorted_and_has_no_spaces(self):
        assert canonical({"b": [1, None], "a": True}) == b'{"a":true,"b":[1,null]}'


class TestWatermark:
    """What is set by hand for splittable DoFns that poll."""

    def test_it_moves_on_and_never_back(self):
        provider = ManualWatermark()
        estimator = provider.create_watermark_estimator(
            provider.initial_estimator_state(None, None)
        )
        assert estimator.current_watermark() == MIN_TIMESTAMP
        for to_us, standing in ((5, 5), (4, 5), (0, 5), (7, 7)):
            advance(estimator, to_us)
            assert estimator.current_watermark() == Timestamp(micros=standing)
        advance(estimator, MAX_TIMESTAMP.micros + 1)
        assert estimator.current_watermark() == MAX_TIMESTAMP

    def test_its_state_is_coded(self):
        assert isinstance(ManualWatermark().estimator_state_coder(), TimestampCoder)
