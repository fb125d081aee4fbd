# SPDX-License-Identifier: Apache-2.0
"""Reports and dead letters of a round: there, and whole, or an error; never taken for "none"."""

from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from dynabeam.transforms.errors import StateError
from dynabeam.transforms.model.dead_letter import DeadLetter
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.state.round_outputs import (
    WriteDeadLetters,
    WriteReports,
    read_dead_letters,
    read_kept_dead_letters,
    read_reports,
)

REPORTS = [Report("stream", "orders", {"reader": at}) for at in range(3)]
LETTERS = [
    DeadLetter("orders", "stream", f"place {at}", "why", b'{"end":{"lines":9}}\n') for at in "ab"
]


def run(elements, kind, write, *options):
    arguments = ["--runner=FnApiRunner", *options]
    with beam.Pipeline(options=PipelineOptions(arguments)) as pipeline:
        created = pipeline | beam.Create(elements).with_output_types(kind)
        _ = created | "Write" >> write


@pytest.fixture(params=[0, 1, 3])
def reports(request, tmp_path):
    """A file with some reports, as a round writes it."""
    path = str(tmp_path / "attempts" / "a" / "reports.jsonl")
    run(REPORTS[: request.param], Report, WriteReports(path))
    return path, REPORTS[: request.param]


class TestReports:
    def test_what_was_written_is_read(self, reports):
        path, written = reports
        assert sorted(read_reports(path), key=lambda each: each.fields["reader"]) == written

    def test_absent(self, tmp_path):
        with pytest.raises(StateError, match="did not arrive whole") as caught:
            read_reports(str(tmp_path / "reports.jsonl"))
        assert "found 'none'" in str(caught.value)
        assert "every worker sees" in caught.value.hint

    def test_cut_anywhere(self, reports, tmp_path):
        path, _ = reports
        content = Path(path).read_bytes()
        for size in range(len(content)):
            cut = tmp_path / "cut.jsonl"
            cut.write_bytes(content[:size])
            with pytest.raises(StateError, match="did not arrive whole"):
                read_reports(str(cut))

    def test_a_line_too_few_or_too_many(self, tmp_path):
        path = tmp_path / "reports.jsonl"
        run(REPORTS, Report, WriteReports(str(path)))
        lines = path.read_bytes().splitlines(keepends=True)
        for odd in (lines[1:], lines[:1] + lines, [*lines, lines[0]], [*lines, lines[-1]]):
            path.write_bytes(b"".join(odd))
            with pytest.raises(StateError, match="did not arrive whole"):
                read_reports(str(path))

    def test_several_workers(self, tmp_path):
        path = str(tmp_path / "reports.jsonl")
        options = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
        run([], Report, WriteReports(path), *options)
        assert read_reports(path) == []


class TestDeadLetters:
    @pytest.mark.parametrize("count", [0, 1, 2])
    def test_what_was_written_is_read(self, tmp_path, count):
        path = str(tmp_path / "dead_letters.jsonl")
        run(LETTERS[:count], DeadLetter, WriteDeadLetters(path))
        found = sorted(read_dead_letters(path), key=lambda each: each.place)
        assert found == LETTERS[:count]
        assert sorted(read_kept_dead_letters(path), key=lambda each: each.place) == found

    def test_absent_or_cut(self, tmp_path):
        path = tmp_path / "dead_letters.jsonl"
        with pytest.raises(StateError, match="did not arrive whole"):
            list(read_dead_letters(str(path)))
        run(LETTERS, DeadLetter, WriteDeadLetters(str(path)))
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
        with pytest.raises(StateError, match="did not arrive whole"):
            list(read_dead_letters(str(path)))

    def test_of_a_committed_round_they_may_be_kept_already_or_of_an_older_version(self, tmp_path):
        path = tmp_path / "dead_letters.jsonl"
        assert list(read_kept_dead_letters(str(path))) == []
        path.write_bytes(b"".join(each.to_line() for each in LETTERS))
        assert list(read_kept_dead_letters(str(path))) == LETTERS
