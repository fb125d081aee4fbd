# SPDX-License-Identifier: Apache-2.0
"""Contract of the control plane's client: frozen answers, typed errors, from real HTTP calls."""

from datetime import timedelta

import pytest
from botocore.exceptions import ClientError

from dynabeam.transforms.aws import dynamodb
from dynabeam.transforms.aws.dynamodb import (
    ExportOrder,
    continuous_backups,
    describe_export,
    describe_table,
    list_exports,
    request_export,
)
from dynabeam.transforms.aws.session import AwsAccess
from dynabeam.transforms.errors import AwsAccessError, ExportError, TableError
from dynabeam.transforms.testing.faults import Faults
from dynabeam.transforms.testing.simulator import Simulator
from dynabeam.transforms.values.key_schema import KeyAttribute, KeySchema


@pytest.fixture
def sim(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "simulated")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "simulated")
    with Simulator(seed=1) as simulator:
        simulator.create_bucket("exports")
        yield simulator


@pytest.fixture
def access(sim):
    return AwsAccess(region=sim.region, endpoint_url=sim.endpoint_url)


@pytest.fixture
def orders(sim):
    """ARN of a table with point-in-time recovery."""
    arn = sim.create_table("orders", "customer:S,number:N")
    sim.client("dynamodb").update_continuous_backups(
        TableName="orders", PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": True}
    )
    return arn


class TestTables:
    def test_described_by_name_or_arn(self, sim, access, orders):
        for name in ("orders", orders):
            found = describe_table(access, name)
            assert found.table.name == "orders"
            assert found.table.arn == orders
            assert found.table.keys == KeySchema(
                KeyAttribute("customer", "S"), KeyAttribute("number", "N")
            )
            assert found.status == "ACTIVE"
            assert found.stream_enabled
            assert found.stream_view_type == "NEW_AND_OLD_IMAGES"
            assert found.stream_arn.startswith(f"{orders}/stream/")
            assert found.table_id

    def test_without_a_stream(self, sim, access):
        sim.create_table("still", "id:S", stream=None)
        found = describe_table(access, "still")
        assert (found.stream_arn, found.stream_enabled, found.stream_view_type) == ("", False, "")

    def test_missing(self, access):
        for ask in (describe_table, continuous_backups):
            with pytest.raises(
                TableError, match=r"table nope: there is no such table in eu-west-1"
            ):
                ask(access, "nope")

    def test_forbidden(self, sim, access, orders):
        sim.faults = Faults(
            denied_actions=frozenset(
                {"dynamodb:DescribeTable", "dynamodb:DescribeContinuousBackups"}
            )
        )
        for ask in (describe_table, continuous_backups):
            with pytest.raises(AwsAccessError, match='"Effect": "Allow"'):
                ask(access, "orders")

    def test_recovery(self, sim, access, orders):
        sim.create_table("other", "id:S")
        on, off = continuous_backups(access, "orders"), continuous_backups(access, "other")
        assert (on.enabled, on.days) == (True, 35)
        assert on.latest_us >= on.earliest_us > 1_700_000_000_000_000
        assert off == dynamodb.RecoveryWindow(False, 0, 0, 0)


class TestExports:
    def order(self, arn, **changes):
        return ExportOrder(arn, "exports", **{"client_token": "t", **changes})

    def test_from_request_to_end(self, sim, access, orders):
        first = request_export(access, self.order(orders, prefix="p"))
        assert (first.status, first.export_type) == ("IN_PROGRESS", "FULL_EXPORT")
        assert (first.bucket, first.prefix) == ("exports", "p")
        assert first.started_us == first.export_time_us
        assert (first.manifest_key, first.ended_us, first.failure_code) == ("", 0, "")
        assert not first.filtered
        last = describe_export(access, first.arn)
        assert (last.status, last.table_arn) == ("COMPLETED", orders)
        assert last.manifest_key.startswith("p/AWSDynamoDB/")
        assert last.ended_us >= last.started_us

    def test_incremental(self, sim, access, orders):
        start = continuous_backups(access, "orders").earliest_us
        sim.clock.advance(timedelta(hours=1))
        window = {"from_us": start, "to_us": start + 1_800_000_000}
        found = request_export(access, self.order(orders, **window))
        assert found.export_type == "INCREMENTAL_EXPORT"
        assert (found.from_us, found.to_us) == (window["from_us"], window["to_us"])

    def test_a_window_that_is_too_short(self, sim, access, orders):
        start = continuous_backups(access, "orders").earliest_us
        sim.clock.advance(timedelta(hours=1))
        with pytest.raises(ExportError, match=r"time is not possible.*window of point-in-time"):
            request_export(access, self.order(orders, from_us=start, to_us=start + 60_000_000))

    def test_all_pages_are_listed(self, sim, access, orders):
        arns = {
            request_export(access, self.order(orders, client_token=f"t{n}")).arn for n in range(60)
        }
        listed = list(list_exports(access, orders))
        assert {each.arn for each in listed} == arns
        assert len(listed) == 60
        assert {each.export_type for each in listed} == {"FULL_EXPORT"}

    def broken(self, monkeypatch, code):
        """Lets every call fail with an error code, without the retries of a real client."""
        answer = {"Error": {"Code": code, "Message": "odd"}, "ResponseMetadata": {}}

        class Broken:
            def fail(self, **arguments):
                raise ClientError(answer, "Operation")

            describe_export = export_table_to_point_in_time = fail

        monkeypatch.setattr(dynamodb, "client", lambda access, service: Broken())

    def test_unknown_errors_are_not_dressed_up(self, monkeypatch):
        self.broken(monkeypatch, "Odd")
        with pytest.raises(ClientError, match="Odd"):
            describe_export(AwsAccess(), "arn")

    def test_too_many_at_once(self, monkeypatch):
        self.broken(monkeypatch, "LimitExceededException")
        with pytest.raises(ExportError, match=r"too many exports.*300"):
            request_export(AwsAccess(), self.order("arn"))

    @pytest.mark.parametrize("code", ["ValidationException", "ExportNotFoundException"])
    def test_both_answers_to_an_unknown_export(self, monkeypatch, code):
        self.broken(monkeypatch, code)
        with pytest.raises(ExportError, match="no such export"):
            describe_export(AwsAccess(), "arn")
