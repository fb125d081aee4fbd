# SPDX-License-Identifier: Apache-2.0
"""What a continuous run prepares, and how others take over from it; its graph."""

import dataclasses
import json
import os
import time

import apache_beam as beam
import pytest

from dynabeam.pipelines.command_line import main
from dynabeam.pipelines.continuous.deployments import current
from dynabeam.pipelines.continuous.graph import build_continuous
from dynabeam.pipelines.continuous.run import prepare
from dynabeam.pipelines.options.replicate import parse_replicate
from dynabeam.pipelines.options.runners import continuous_runner
from dynabeam.pipelines.status.reading import read_status
from dynabeam.transforms.aws.dynamodb import describe_table
from dynabeam.transforms.aws.session import AwsAccess
from dynabeam.transforms.continuous.discovery_plan import DiscoveryPlan
from dynabeam.transforms.continuous.generations import read_generation
from dynabeam.transforms.errors import ConfigurationError, StateError
from dynabeam.transforms.model.report import Report
from dynabeam.transforms.runtime.clock import now_us
from dynabeam.transforms.sinks.registry import open_sink
from dynabeam.transforms.state.state_directory import StateDirectory
from dynabeam.transforms.telemetry.worker import Telemetry
from tests.graphs import labels_of, pickled_places
from tests.pipelines.runs import orders
from tests.sinks.targets import postgresql_uri

LABELS = [
    "DeadLetters",
    "Deployment",
    "DiscoverTables",
    "DiscoverTables/Encoded",
    "DiscoverTables/Poll",
    "KeepDeadLetters",
    "KeepDeadLetters/Keep",
    "MeterDeadLetters",
    "MeterDeadLetters/Count",
    "MeterReports",
    "MeterReports/Count",
    "Refused1",
    "Refused1/Split",
    "Refused2",
    "Refused2/Split",
    "Reports",
    "StorePositions",
    "StorePositions/ByTable",
    "StorePositions/Store",
    "WatchAssignments",
    "WatchAssignments/Watch",
    "Write1_postgresql",
    "Write2_file",
]


def graph(tmp_path):
    pipeline = beam.Pipeline(runner="FnApiRunner")
    sinks = ["postgresql://u@localhost/db", f"file:///{tmp_path}/out?format=parquet"]
    build_continuous(
        pipeline,
        folder=str(tmp_path),
        state_id="s",
        sinks=[open_sink(each) for each in sinks],
        access=AwsAccess(region="eu-west-1"),
        verify="strict",
        telemetry=Telemetry(),
    )
    return pipeline


class TestGraph:
    def test_labels(self, tmp_path):
        """Savepoints find their state by these: a change here is a change of the release line."""
        labels = labels_of(graph(tmp_path))
        assert [each for each in sorted(labels) if each in LABELS] == LABELS
        others = {each.partition("/")[0] for each in labels} - {*LABELS}
        assert others == {"ReadTables"}

    def test_nothing_is_pickled_that_a_savepoint_keeps(self, tmp_path):
        assert pickled_places(graph(tmp_path)) == []


@pytest.fixture
def job(world):
    """Prepares continuous runs on the world's state directory, without a runner."""
    world.sim.put_many("orders", orders(5))
    world.catch_up()

    def start(*arguments, savepoint="", tables="orders", sinks=None):
        options = parse_replicate(
            [
                "--mode=continuous",
                f"--tables={tables}",
                *world.options,
                "--s3_export_bucket=exports",
                *([f"--sink=file:///{world.changelog}"] if sinks is None else sinks),
                f"--state_dir={world.state_dir}",
                *arguments,
            ]
        )
        words = ["--runner=PrismRunner"]
        runner = continuous_runner(
            [*words, f"--savepoint_path={savepoint}"] if savepoint else words
        )
        directory = StateDirectory(options.state_dir)
        with directory.locked():
            return prepare(options, directory, [open_sink(each) for each in options.sinks], runner)

    return start


def assigned(folder):
    found = [folder.read_assignment(path) for path in folder.assignments()]
    return [
        (
            [(each.table.name, each.reader, each.frontier) for each in assignment.sources],
            [each.table.name for each in assignment.requests],
        )
        for assignment in found
    ]


class TestPrepare:
    def test_a_first_start(self, job):
        state, folder = job()
        assert state.deployment
        assert assigned(folder) == [([("orders", 0, None)], ["orders"])]

    def test_a_second_start_is_refused_while_the_first_lives(self, job):
        _, folder = job()
        folder.write_positions("orders", [])
        with pytest.raises(StateError, match="stored positions here"):
            job()
        folder.check_current()

    def test_a_second_start_may_take_over(self, job):
        _, first = job()
        first.write_positions("orders", [])
        state, second = job("--take_over")
        assert second.path != first.path
        assert second.path.endswith(state.deployment)
        with pytest.raises(StateError, match="taken over"):
            first.check_current()

    def test_a_deployment_that_has_gone_quiet_is_followed(self, job):
        _, first = job()
        first.write_positions("orders", [])
        for name in os.listdir(f"{first.path}/positions"):
            old = time.time() - 600
            os.utime(f"{first.path}/positions/{name}", (old, old))
        _, second = job()
        assert second.path != first.path

    def test_a_savepoint_goes_on_with_its_deployment(self, job):
        _, first = job()
        first.write_positions("orders", [])
        _, again = job(savepoint="/savepoint-1")
        assert again.path == first.path
        assert len(assigned(again)) == 1

    def test_a_savepoint_and_another_table(self, job, world):
        job()
        world.create("other")
        _, again = job(savepoint="/savepoint-1", tables="orders,other")
        assert [names for _, names in assigned(again)] == [["orders"], ["other"]]

    def test_a_savepoint_of_nothing(self, job):
        with pytest.raises(StateError, match="no continuous deployment"):
            job(savepoint="/savepoint-1")


class TestBackToRounds:
    def test_positions_counts_and_dead_letters_are_taken_over(self, job, world):
        log = world.sinks[1:]
        ended = world.run("--tables=orders", "--snapshot=never", sinks=log)
        assert ended.code == 0, ended.err
        stored = json.loads((world.state_dir / "state.json").read_text())
        frontier = stored["tables"]["orders"]["stream"]["frontiers"][0]
        _, folder = job("--snapshot=never")
        (source,), _ = assigned(folder)[0]
        assert source[2].to_json() == frontier
        moved = {**frontier, "swept_us": frontier["swept_us"] + 1}
        counts = dict.fromkeys(("changes", "bytes", "pages", "empty_polls", "throttles"), 7)
        fields = {
            "reader": 0,
            "readers": 1,
            "stream_arn": stored["tables"]["orders"]["stream"]["arn"],
            "frontier": moved,
            "newest_event_us": 5,
            **counts,
        }
        folder.write_positions("orders", [Report("stream", "orders", fields)])
        refused = world.run("--tables=orders", "--snapshot=never", sinks=log)
        assert refused.code == 1
        assert "--take_over" in refused.err
        world.sim.put_many("orders", orders(2, start=90))
        ended = world.run("--tables=orders", "--snapshot=never", "--take_over", sinks=log)
        assert ended.code == 0, ended.err
        after = json.loads((world.state_dir / "state.json").read_text())
        assert after["deployment"] == ""
        assert after["tables"]["orders"]["totals"]["changes"] == 5 + 7 + 2
        with pytest.raises(StateError, match="taken over: catch-up rounds"):
            folder.check_current()


class TestSinks:
    """A start, cold or from a savepoint, has the sinks of its state directory."""

    def second(self, world):
        return f"--sink=file:///{world.folder}/second"

    def test_one_that_is_left_out(self, job, world):
        job(self.second(world))
        document = (world.state_dir / "state.json").read_text()
        with pytest.raises(ConfigurationError, match="--drop_sink=file:///"):
            job()
        assert (world.state_dir / "state.json").read_text() == document
        state, _ = job(self.second(world).replace("--sink", "--drop_sink"))
        states = {place: each.state for place, each in state.sinks.items()}
        assert states == {str(world.changelog): "active", f"{world.folder}/second": "dropped"}
        assert [each.position for each in state.sinks.values()] == [1, 0]

    def test_a_mirror_of_rounds_cannot_be_left_out_either(self, job, world):
        assert world.run("--tables=orders", "--snapshot=never").code == 0
        with pytest.raises(ConfigurationError, match="--drop_sink=duckdb:///"):
            job()

    def test_a_changelog_that_is_new(self, job, world):
        job()
        state, _ = job(self.second(world))
        known = state.sinks[f"{world.folder}/second"]
        assert (known.state, len(known.lacks), known.lacks[0].through_round) == ("active", 1, 0)
        marker = json.loads((world.folder / "second" / "_dynabeam.json").read_text())
        assert marker["lacks"][0]["text"].startswith("what continuous runs read")

    def test_a_mirror_that_is_new_is_loaded(self, job, world, tmp_path):
        sink = f"--sink={postgresql_uri('postgresql://SERVER', tmp_path)}"
        job()
        state, folder = job(sink)
        (known,) = [each for each in state.sinks.values() if each.kind == "mirror"]
        assert (known.state, known.loading) == ("loading", ("orders",))
        at = read_generation(folder, "orders")
        assert (at.generation, at.step) == (2, "loading")
        # Every sink gets it: the job has one stream of blocks.
        assert state.tables["orders"].repair.sinks is None
        status = read_status(StateDirectory(str(world.state_dir)), now_us())
        (mirror,) = [each for each in status.sinks if each.kind == "mirror"]
        assert mirror.text.startswith("loading orders")
        # The job has loaded and swept it.
        dataclasses.replace(at, step="settled").write(folder, "orders")
        status = read_status(StateDirectory(str(world.state_dir)), now_us())
        assert {each.state for each in status.sinks} == {"active"}
        state, _ = job(sink)
        assert {each.state for each in state.sinks.values()} == {"active"}
        assert state.tables["orders"].generation == 2

    def test_a_mirror_whose_load_was_not_ended(self, job, world, tmp_path):
        sink = f"--sink={postgresql_uri('postgresql://SERVER', tmp_path)}"
        job()
        job(sink)
        state, folder = job(sink)
        (known,) = [each for each in state.sinks.values() if each.kind == "mirror"]
        assert (known.state, known.loading) == ("loading", ("orders",))
        assert read_generation(folder, "orders").step == "loading"

    @pytest.mark.parametrize("how", ["fewer", "more", "another order", "dropped"])
    def test_a_savepoint_and_other_sinks(self, job, world, how):
        second = self.second(world)
        first = f"--sink=file:///{world.changelog}"
        _, folder = job(*([] if how == "more" else [second]))
        options = {
            "fewer": [],
            "more": [second],
            "another order": [second],
            "dropped": [second.replace("--sink", "--drop_sink")],
        }[how]
        if how == "another order":
            with pytest.raises(ConfigurationError, match="bound to the sinks"):
                job(savepoint="/savepoint-1", sinks=[second, first])
            return
        with pytest.raises(ConfigurationError, match="bound to the sinks"):
            job(*options, savepoint="/savepoint-1")
        folder.check_current()
        if how == "fewer":
            _, again = job(second, savepoint="/savepoint-1")
            assert again.path == folder.path


class TestAdd:
    def run(self, world, *options, tables="orders,other"):
        world.capsys.readouterr()
        code = main(
            [
                "add",
                f"--tables={tables}",
                *world.options,
                "--s3_export_bucket=exports",
                f"--sink=file:///{world.changelog}",
                f"--state_dir={world.state_dir}",
                *options,
            ]
        )
        return code, *world.capsys.readouterr()

    def test_a_new_table_is_assigned(self, job, world):
        state, _ = job()
        world.create("other")
        code, out, err = self.run(world)
        assert code == 0, err
        assert "other: added" in out
        assert "orders" not in out
        folder = current(StateDirectory(str(world.state_dir)), state)
        assert [names for _, names in assigned(folder)] == [["orders"], ["other"]]

    def test_nothing_new(self, job, world):
        job()
        assert self.run(world, tables="orders")[1].startswith("Nothing to add")

    def test_without_a_deployment(self, world):
        code, _, err = self.run(world, tables="orders")
        assert code == 1
        assert "no continuous deployment" in err

    def test_a_table_that_is_not_there_adds_nothing(self, job, world):
        state, folder = job()
        code, _, err = self.run(world, tables="nope")
        assert code == 1
        assert "nope" in err
        assert len(folder.assignments()) == 1
        assert list(state.tables) == ["orders"]


class TestDiscoveredTables:
    def test_the_deployment_is_told_and_its_tables_are_taken_over(self, job, world):
        _, folder = job(tables="ord*")
        plan = DiscoveryPlan.read(folder)
        assert plan.selection.patterns == ("ord*",)
        assert plan.every_seconds == 30
        # As the run does it, when nobody is there.
        world.create("ordinary")
        access = AwsAccess(region=world.sim.region, endpoint_url=world.sim.endpoint_url)
        plan.begin(folder, access, describe_table(access, "ordinary"), 2)
        _, again = job(tables="ord*", savepoint="/savepoint-1")
        # Neither the resumed run nor a person assigns it a second time.
        arguments = ["add", "--tables=ordinary", *world.options, "--s3_export_bucket=exports"]
        assert (
            main(
                [*arguments, f"--sink=file:///{world.changelog}", f"--state_dir={world.state_dir}"]
            )
            == 0
        )
        assert [names for _, names in assigned(again)] == [["orders"], ["ordinary"]]
        state, _ = job("--take_over", tables="ord*")
        assert sorted(state.tables) == ["orders", "ordinary"]

    def test_a_run_of_names_is_told_nothing(self, job):
        _, folder = job()
        assert DiscoveryPlan.read(folder) is None
