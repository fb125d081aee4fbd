# SPDX-License-Identifier: Apache-2.0
"""A state directory knows its sinks: left out, dropped, given again, new."""

import json
from datetime import timedelta

import pytest

from dynabeam.pipelines.command_line import main
from dynabeam.transforms.sinks.duckdb.mirror import DuckDBMirror
from dynabeam.transforms.sinks.files.changelog import FileChangelog
from dynabeam.transforms.state.state_directory import StateDirectory
from dynabeam.transforms.stream import page_parser
from dynabeam.transforms.values.keys import encode_key
from tests.pipelines.member_runs import KEPT_LOG, KEPT_MIRROR, NEW_MIRROR, ORDERS, away, begun
from tests.pipelines.runs import ExportFolder, orders
from tests.sinks.targets import Target, published, read_back

MIRRORS = [NEW_MIRROR, Target("postgresql://SERVER")]
CHANGELOGS = [Target("file:///FOLDER/new"), Target("file:///FOLDER/new?format=parquet")]


@pytest.fixture
def world(credentials, tmp_path, capsys, monkeypatch):
    with begun(tmp_path, capsys, monkeypatch) as world:
        yield world


class TestLeftOut:
    @pytest.mark.parametrize("target", [MIRRORS[0], CHANGELOGS[0]], ids=lambda each: each.id)
    def test_refused_before_anything_is_read_and_named(self, world, target):
        uri = world.uri(target)
        world.ok(extra=[uri])
        world.work()
        before = (
            world.document(),
            world.held(target),
            published(KEPT_LOG, KEPT_LOG.open(world.folder)),
        )
        ended = world.replicate()
        assert ended.code == 1
        (line,) = ended.error_lines
        assert f"--sink={uri}" in line
        assert f"--drop_sink={uri}" in line
        assert "left out" in line
        after = (
            world.document(),
            world.held(target),
            published(KEPT_LOG, KEPT_LOG.open(world.folder)),
        )
        assert after == before
        code, _, err = world.command(
            "retry", *world.options, *(f"--sink={each}" for each in world.kept)
        )
        assert (code, f"--drop_sink={uri}" in err) == (1, True)
        # All of them, in another spelling and order: the same sinks.
        path = f"{world.folder}/./x/.."
        respelt = [each.replace(str(world.folder), path) for each in [uri, *world.kept]]
        world.ok(sinks=respelt)
        world.assert_equal()

    def test_a_typo_in_a_path_is_a_sink_that_is_left_out(self, world):
        world.ok()
        typo = world.kept[1].replace("/out", "/uot")
        ended = world.replicate(sinks=[world.kept[0], typo])
        assert ended.code == 1
        assert f"--sink={world.kept[1]}" in ended.err
        assert typo in ended.err
        assert not (world.folder / "uot").exists()

    def test_dropped_for_good_and_told(self, world):
        target = CHANGELOGS[0]
        uri = world.uri(target)
        world.ok(extra=[uri])
        before = world.changes(target)
        world.work()
        ended = world.ok(f"--drop_sink={uri}")
        assert f"{uri}: dropped after round" in ended.err
        assert f"not written to {uri}: dropped" in ended.out
        sinks, reasons = world.status()
        assert (sinks[uri]["state"], reasons) == ("dropped", [])
        for options in [(), (f"--drop_sink={uri}",)]:
            world.work()
            ended = world.ok(*options)
            assert "dropped after" not in ended.err
        assert world.changes(target) == before

    def test_moved(self, world):
        """Both say themselves whose they are and how far: nothing is loaded again."""
        world.ok()
        world.work()
        names = [("kept.duckdb", "moved.duckdb"), ("out", "log")]
        for old, new in names:
            (world.folder / old).rename(world.folder / new)
        old = world.kept
        new = [each.replace(a, b) for each, (a, b) in zip(old, names, strict=True)]
        assert "also if it was moved" in world.replicate(sinks=new).err
        ended = world.ok(*(f"--drop_sink={each}" for each in old), sinks=new)
        assert ended.err.count("moved from") == 2
        assert "dropped after round" not in ended.err + ended.out
        sinks, reasons = world.status()
        assert (sorted(sinks), reasons) == (sorted(new), [])
        assert {(each["state"], each["text"]) for each in sinks.values()} == {("active", "whole")}
        assert world.document()["tables"]["orders"]["generation"] == 1
        moved = Target("duckdb:///FOLDER/moved.duckdb")
        assert world.held(moved) == world.truth()

    def test_what_cannot_be_dropped(self, world):
        world.ok()
        for uri, said in [("file:nowhere", "no such sink"), (world.kept[0], "given and dropped")]:
            ended = world.replicate(f"--drop_sink={uri}")
            assert (ended.code, said in ended.err) == (1, True), ended.err


class TestBroughtUp:
    @pytest.mark.parametrize("target", MIRRORS, ids=lambda each: each.id)
    @pytest.mark.parametrize("how", ["new", "dropped"])
    def test_a_mirror_gets_a_snapshot_of_its_own(self, world, target, how):
        uri = world.uri(target)
        if how == "dropped":
            world.ok(extra=[uri])
            assert "gone while away" in {each["id"]["S"] for each in world.held(target).values()}
            away(world, f"--drop_sink={uri}")
        else:
            world.ok()
            away(world)
        before = world.changes(KEPT_LOG)
        world.put("in the last run", value=3)
        world.delete("stays")
        world.work()
        ended = world.ok(extra=[uri])
        assert "generation 2" in ended.err
        assert f"{uri}: whole: every table is loaded to it" in ended.err
        world.assert_equal(target)
        after = world.changes(KEPT_LOG)
        assert set(before) <= set(after)
        assert len(after) == len(set(after))
        assert [each for each in set(after) - set(before) if each[2] == "r"] == []
        sinks, reasons = world.status()
        assert {each["state"] for each in sinks.values()} == {"active"}
        assert reasons == []
        world.delete("in the last run", "k1")
        world.work()
        world.ok(extra=[uri])
        world.assert_equal(target)

    @pytest.mark.parametrize("target", CHANGELOGS, ids=lambda each: each.id)
    def test_a_changelog_is_told_what_it_lacks(self, world, target):
        uri = world.uri(target)
        world.ok()
        first = world.document()["round"]
        world.work()
        known = set(world.changes(KEPT_LOG))
        ended = world.ok(extra=[uri])
        said = f"whole from round {first + 1} ("
        assert f"{uri}: new: {said}" in ended.err
        assert said in ended.out
        assert set(world.changes(target)) == set(world.changes(KEPT_LOG)) - known
        marker = json.loads((world.folder / "new" / "_dynabeam.json").read_text())
        assert (marker["whole_from"], len(marker["lacks"])) == (first + 1, 1)
        assert (marker["lacks"][0]["after_round"], marker["lacks"][0]["through_round"]) == (
            0,
            first,
        )
        held = world.document()["round"]
        away(world, f"--drop_sink={uri}")
        missed = set(world.changes(KEPT_LOG))
        last = world.document()["round"]
        world.work()
        ended = world.ok(extra=[uri])
        lacks = f"rounds {held + 1} to {last}"
        assert lacks in ended.err
        for _ in range(2):
            sinks, reasons = world.status()
            assert said not in sinks[uri]["text"]
            assert f"whole from round {last + 1}" in sinks[uri]["text"]
            assert [
                f"rounds 1 to {first}" in sinks[uri]["lacks"][0],
                lacks in sinks[uri]["lacks"][1],
            ] == [True, True]
            assert reasons == []
            marker = json.loads((world.folder / "new" / "_dynabeam.json").read_text())
            assert [each["through_round"] for each in marker["lacks"]] == [first, last]
            world.work()
            world.ok(extra=[uri])
        had = set(world.changes(target))
        assert had.isdisjoint(missed - had)
        assert set(world.changes(KEPT_LOG)) - missed <= had
        world.assert_equal()

    @pytest.mark.parametrize("options", [("--snapshot=never", "no bucket"), ("no bucket",)])
    def test_nothing_to_load_from(self, world, options):
        world.ok(*((options[0], "no bucket") if len(options) > 1 else ()))
        before = world.document()
        uri = world.uri(MIRRORS[0])
        world.work()
        old = ExportFolder(world.folder / "old")
        given = (*options, old.option) if len(options) == 1 else options
        ended = world.replicate(*given, extra=[uri])
        assert ended.code == 1
        (line,) = ended.error_lines
        assert f"--sink={uri}" in line
        assert "--s3_export_bucket" in line
        assert world.document() == before
        assert not (world.folder / "new.duckdb").exists()

    def test_from_an_export_that_is_given_again(self, place, export, tmp_path):
        """Without a stream and without AWS."""
        assert place.run(export.option, sinks=place.sinks[1:]).code == 0
        before = sorted(place.published())
        ended = place.run(export.option)
        assert ended.code == 0, ended.err
        assert len(place.rows()) == 40
        assert sorted(place.published()) == before
        assert place.run(export.option).code == 0
        newer = ExportFolder(tmp_path / "newer", orders(20, start=10))
        uri = f"duckdb:///{tmp_path}/third.duckdb"
        ended = place.run(newer.option, sinks=[*place.sinks, f"--sink={uri}"])
        assert ended.code == 0, ended.err
        third = Target("duckdb:///FOLDER/third.duckdb")
        held = read_back(third, third.open(tmp_path), [ORDERS])["orders"]
        assert held == {encode_key(each, ORDERS.keys): each for each in orders(20, start=10)}

    @pytest.mark.parametrize("taken", ["before", "after"])
    def test_from_an_export_that_was_taken_by_hand(self, world, taken):
        """It has to show all that was read: what came after it comes by the stream."""
        client, uri = world.sim.client("dynamodb"), world.uri(MIRRORS[0])
        world.ok()
        arn = client.describe_table(TableName="orders")["Table"]["TableArn"]

        def export():
            world.time.let_pass(timedelta(minutes=3))
            made = client.export_table_to_point_in_time(TableArn=arn, S3Bucket="exports")
            world.time.let_pass(timedelta(minutes=30))
            return made["ExportDescription"]["ExportArn"]

        if taken == "before":
            old = export()
            away(world)
            ended = world.replicate(f"--export={old}", extra=[uri])
            assert ended.code == 1
            assert "an --export of the table of a time after" in ended.err
            return
        away(world)
        new = export()
        world.delete("stays")
        world.put("after the export")
        world.work()
        world.ok(f"--export={new}", extra=[uri])
        world.assert_equal(MIRRORS[0])

    def test_killed_between_all_steps(self, world, monkeypatch):
        """Dies before and after each commit, check and sweep, and ends the same."""
        target = MIRRORS[0]
        uri = world.uri(target)
        world.ok(extra=[uri])
        away(world, f"--drop_sink={uri}")
        steps = [
            (StateDirectory, "commit"),
            (DuckDBMirror, "check"),
            (FileChangelog, "publish"),
            (DuckDBMirror, "remove_older_generations"),
        ]
        for owner, name in steps:
            for when in ("before", "after"):
                real = getattr(owner, name)

                def die(self, *given, when=when, real=real, **more):
                    if when == "after":
                        real(self, *given, **more)
                    raise KeyboardInterrupt

                with monkeypatch.context() as patch:
                    patch.setattr(owner, name, die)
                    world.put(f"{name} {when}")
                    world.work()
                    assert world.replicate(extra=[uri]).code == 130
        world.ok(extra=[uri])
        world.assert_equal(target)
        changes = world.changes(KEPT_LOG)
        assert len(changes) == len(set(changes))
        assert world.document()["sinks"][str(world.folder / "new.duckdb")]["state"] == "active"


class TestDeadLetters:
    def test_put_back_to_who_lacks_them(self, world):
        """What a snapshot of its own has shown already is not put back to that mirror."""
        target = MIRRORS[0]
        uri = world.uri(target)
        world.ok()
        with pytest.MonkeyPatch.context() as bug:
            bug.setattr(page_parser, "_fast_decoder", lambda _: None)
            parse = page_parser.PageParser._row

            def row(parser, record):
                if b'"letter' in record:
                    raise page_parser.ValueDecodeError("a bug")
                return parse(parser, record)

            bug.setattr(page_parser.PageParser, "_row", row)
            world.put("letter", "letter, deleted since", "letter, put since", value=1)
            world.work()
            world.ok()
        assert len(world.dead_letters()) == 3
        world.delete("letter, deleted since")
        world.put("letter, put since", value=2)
        world.work()
        world.ok(extra=[uri])
        assert world.held(target) == world.truth()
        assert world.held(KEPT_MIRROR) != world.truth()
        sinks = [f"--sink={each}" for each in [*world.kept, uri]]
        code, out, err = world.command("retry", "--severe", *world.options, *sinks)
        assert (code, out) == (0, "3 dead letters replayed, 0 failed again\n"), err
        world.assert_equal(target)
        changes = world.changes(KEPT_LOG)
        assert len(changes) == len(set(changes))
        assert sum(name.startswith("letter") for name, *_ in changes) == 5
        world.work()
        world.ok(extra=[uri])
        world.assert_equal(target)


class TestTold:
    """Status and audit while a mirror is loaded, and once one is dropped."""

    def test_status_while_it_is_loaded(self, world, monkeypatch):
        uri = world.uri(MIRRORS[0])
        world.ok()
        world.work()

        def die(*_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(FileChangelog, "publish", die)
            assert world.replicate(extra=[uri]).code == 130
        sinks, reasons = world.status()
        assert (sinks[uri]["state"], sinks[uri]["loading"]) == ("loading", ["orders"])
        assert reasons == [f"{uri}: loading orders: not whole yet"]
        code, out, _ = world.command("status", "--max_quiet=0")
        assert (code, f"mirror {uri}: loading orders" in out) == (1, True)
        # It is a sink like any other already.
        assert f"--drop_sink={uri}" in world.replicate().err
        world.ok(extra=[uri])
        world.assert_equal(MIRRORS[0])
        assert world.command("status", "--max_quiet=0")[0] == 0

    def test_audit(self, place, export):
        assert place.run(export.option).code == 0

        def audit():
            place.capsys.readouterr()
            words = [*place.options, export.option, "--snapshot=only", place.sinks[0]]
            main(["audit", *words, f"--state_dir={place.state_dir}"])
            return "".join(place.capsys.readouterr())

        assert "the sink is" not in audit()
        path = place.state_dir / "state.json"
        document = json.loads(path.read_text())
        known = document["sinks"][str(place.mirror)]
        known |= {"state": "loading", "loading": ["orders"]}
        path.write_text(json.dumps(document))
        assert "the sink is loading orders: not whole yet" in audit()
        known |= {"state": "dropped", "loading": []}
        path.write_text(json.dumps(document))
        assert "the sink is dropped after round" in audit()
        del document["sinks"][str(place.mirror)]
        path.write_text(json.dumps(document))
        assert "does not know this sink" in audit()


class TestOldMeaning:
    """Up to 0.1 `file:///x` was relative."""

    def test_a_changelog_at_the_old_place_is_named(self, place, export, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        name = f"dynabeam-test-{tmp_path.name}"
        assert place.run(export.option, sinks=[f"--sink=file:{name}/orders"]).code == 0
        new = [f"--sink=file:///{name}/orders"]
        ended = place.run(export.option, sinks=new)
        assert (ended.code, f"--drop_sink=file:{name}/orders" in ended.err) == (1, True)
        path = place.state_dir / "state.json"
        document = json.loads(path.read_text())
        del document["sinks"]
        path.write_text(json.dumps(document))
        ended = place.run(export.option, sinks=new)
        assert ended.code == 1
        (line,) = ended.error_lines
        assert f"{tmp_path}/{name}/orders" in line
        assert f"expected '/{name}/orders'" in line
        assert f"Write --sink=file:{name}/orders" in line
        assert json.loads(path.read_text()) == document
        ended = place.run(export.option, sinks=[f"--sink=./{name}/orders"])
        assert ended.code == 0, ended.err
        assert f"written to ./{name}/orders ({tmp_path}/{name}/orders)" in ended.out
