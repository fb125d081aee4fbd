# SPDX-License-Identifier: Apache-2.0
"""Contract of simulated point-in-time recovery: its window, and what resets it."""

from datetime import timedelta

import pytest

from dynabeam.transforms.testing.api_error import ApiError
from tests.testing.conftest import NOW
from tests.testing.exports.conftest import HOUR, MINUTE, switch
from tests.testing.reading import error_of


class TestRecovery:
    def status(self, dynamodb):
        answer = dynamodb.describe_continuous_backups(TableName="orders")
        return answer["ContinuousBackupsDescription"]["PointInTimeRecoveryDescription"]

    def test_off_at_first(self, sim, dynamodb):
        sim.create_table("orders", "id:S")
        assert self.status(dynamodb) == {"PointInTimeRecoveryStatus": "DISABLED"}

    def test_the_window_grows_to_its_days(self, sim, dynamodb):
        sim.create_table("orders", "id:S")
        switch(dynamodb, RecoveryPeriodInDays=2)
        begin = NOW.replace(microsecond=0)
        said = self.status(dynamodb)
        assert said["EarliestRestorableDateTime"] == said["LatestRestorableDateTime"] == begin
        sim.clock.advance(HOUR)
        said = self.status(dynamodb)
        assert said["EarliestRestorableDateTime"] == begin
        assert said["LatestRestorableDateTime"] == begin + HOUR - 5 * MINUTE
        sim.clock.advance(timedelta(days=5))
        said = self.status(dynamodb)
        assert said["EarliestRestorableDateTime"] == begin + HOUR + timedelta(days=3)
        assert said["RecoveryPeriodInDays"] == 2

    def test_off_and_on_forgets_the_past(self, sim, dynamodb, table):
        switch(dynamodb, on=False)
        assert self.status(dynamodb) == {"PointInTimeRecoveryStatus": "DISABLED"}
        switch(dynamodb)
        assert self.status(dynamodb)["EarliestRestorableDateTime"] == (
            sim.clock.now().replace(microsecond=0)
        )

    def test_on_when_on_keeps_the_past(self, dynamodb, table):
        switch(dynamodb, RecoveryPeriodInDays=7)
        said = self.status(dynamodb)
        assert said["EarliestRestorableDateTime"] == NOW.replace(microsecond=0)
        assert said["RecoveryPeriodInDays"] == 7

    def test_a_table_made_anew_starts_without(self, sim, dynamodb, table):
        dynamodb.delete_table(TableName="orders")
        sim.create_table("orders", "id:S")
        assert self.status(dynamodb) == {"PointInTimeRecoveryStatus": "DISABLED"}

    @pytest.mark.parametrize("days", [0, 36])
    def test_days_out_of_range(self, sim, days):
        sim.create_table("orders", "id:S")
        # Not by the client, which would refuse 0 itself.
        wanted = {"PointInTimeRecoveryEnabled": True, "RecoveryPeriodInDays": days}
        with pytest.raises(ApiError, match="ValidationException"):
            sim.exports.handle(
                "UpdateContinuousBackups",
                {"TableName": "orders", "PointInTimeRecoverySpecification": wanted},
            )

    def test_a_table_that_is_not_there(self, dynamodb):
        code, message, _ = error_of(dynamodb.describe_continuous_backups, TableName="none")
        assert (code, message) == ("TableNotFoundException", "Table not found: none")
