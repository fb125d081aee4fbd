# SPDX-License-Identifier: Apache-2.0
"""Contract of simulated incremental exports: windows, net changes, and their replay."""

from datetime import timedelta
from itertools import pairwise

import pytest

from tests.testing.exports.conftest import MINUTE, items


class TestIncremental:
    def window(self, sim, **more):
        now = sim.clock.now().replace(microsecond=0)
        return {
            "ExportType": "INCREMENTAL_EXPORT",
            "IncrementalExportSpecification": {
                "ExportFromTime": now - 30 * MINUTE,
                "ExportToTime": now,
                **more,
            },
        }

    def change(self, sim):
        """One insert, one update, one delete, and one item that comes and goes."""
        sim.put_many("orders", items("new", "short"))
        sim.put_many("orders", items("a", x={"S": "1"}))
        sim.put_many("orders", items("a", x={"S": "2"}))
        sim.delete_many("orders", [{"id": {"S": "b"}}, {"id": {"S": "short"}}])
        sim.clock.advance(20 * MINUTE)

    def test_net_changes_with_both_images(self, export, exported, describe, sim):
        self.change(sim)
        started = export(**self.window(sim))
        assert started["ExportType"] == "INCREMENTAL_EXPORT"
        assert "ExportTime" not in started
        assert started["IncrementalExportSpecification"]["ExportViewType"] == "NEW_AND_OLD_IMAGES"
        read = exported(started)
        assert read.summary["outputView"] == "NEW_AND_OLD_IMAGES"
        rows = {row["Keys"]["id"]["S"]: row for row in read.rows}
        assert rows.keys() == {"a", "b", "new"}
        assert "OldImage" not in rows["new"]
        assert "NewImage" not in rows["b"]
        assert "x" not in rows["a"]["OldImage"]
        assert rows["a"]["NewImage"]["x"] == {"S": "2"}
        micros = int(rows["a"]["Metadata"]["WriteTimestampMicros"]["N"])
        assert micros in {change.micros for change in sim.table("orders").history}
        assert describe(started["ExportArn"])["BilledSizeBytes"] == 10_000_000

    def test_new_images_only(self, export, exported, sim):
        self.change(sim)
        read = exported(export(**self.window(sim, ExportViewType="NEW_IMAGE")))
        assert read.summary["outputView"] == "NEW_IMAGE"
        assert not any("OldImage" in row for row in read.rows)
        assert next(row for row in read.rows if row["Keys"]["id"]["S"] == "b").keys() == {
            "Metadata", "Keys",
        }  # fmt: skip

    def test_the_end_may_be_left_out(self, export, sim):
        self.change(sim)
        window = self.window(sim)
        del window["IncrementalExportSpecification"]["ExportToTime"]
        end = export(**window)["IncrementalExportSpecification"]["ExportToTime"]
        assert end == sim.clock.now().replace(microsecond=0)

    @pytest.mark.parametrize(
        ("begin", "end", "message"),
        [
            (timedelta(minutes=-5), timedelta(), "less than 15 minutes"),
            (timedelta(), timedelta(minutes=-30), "less than 15 minutes"),
            (timedelta(hours=-25), timedelta(), "greater than 24 hours"),
            (timedelta(minutes=-30), timedelta(minutes=1), "greater than the current time"),
            (timedelta(days=-30), timedelta(days=-29.5), "less than the table creation time"),
        ],
    )
    def test_windows_that_cannot_be(self, refused, sim, begin, end, message):
        sim.clock.advance(timedelta(days=2))
        now = sim.clock.now().replace(microsecond=0)
        code, said = refused(**self.window(sim, ExportFromTime=now + begin, ExportToTime=now + end))
        assert code == "InvalidExportTimeException"
        assert message in said

    @pytest.mark.parametrize("minutes", [15, 24 * 60])
    def test_the_shortest_and_the_longest_window(self, export, sim, minutes):
        sim.clock.advance(timedelta(days=2))
        begin = sim.clock.now().replace(microsecond=0) - minutes * MINUTE
        assert export(**self.window(sim, ExportFromTime=begin))["ExportStatus"] == "IN_PROGRESS"

    def test_type_and_window_belong_together(self, refused, sim):
        window = self.window(sim)
        for arguments, message in (
            ({"ExportType": "INCREMENTAL_EXPORT"}, "Specification expected"),
            ({**window, "ExportType": "FULL_EXPORT"}, "should not be provided"),
            (
                {"ExportType": "INCREMENTAL_EXPORT", "IncrementalExportSpecification": {}},
                "ExportFromTime must be provided",
            ),
            (
                {"IncrementalExportSpecification": window["IncrementalExportSpecification"]},
                "expected to be Incremental",
            ),
        ):
            code, said = refused(**arguments)
            assert code == "ValidationException"
            assert message in said

    def test_a_full_export_and_two_windows_replay_to_the_table(self, export, exported, sim):
        start = sim.clock.now().replace(microsecond=0)
        state = {row["id"]["S"]: row for row in exported(export()).items}
        bounds = [start]
        for round_number in range(2):
            sim.clock.advance(timedelta(seconds=1, milliseconds=500))
            sim.put_many("orders", items("a", f"n{round_number}", r={"N": str(round_number)}))
            sim.delete_many("orders", [{"id": {"S": "b"}}, {"id": {"S": f"n{round_number - 1}"}}])
            sim.clock.advance(20 * MINUTE)
            bounds.append(sim.clock.now().replace(microsecond=0))
        for begin, end in pairwise(bounds):
            window = self.window(sim, ExportFromTime=begin, ExportToTime=end)
            for row in exported(export(**window)).rows:
                key = row["Keys"]["id"]["S"]
                assert state.pop(key, None) == row.get("OldImage")
                if "NewImage" in row:
                    state[key] = row["NewImage"]
        assert sorted(state) == ["a", "n1"]
        assert state == {row["id"]["S"]: row for row in sim.items("orders")}
