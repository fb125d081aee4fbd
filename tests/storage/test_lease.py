# SPDX-License-Identifier: Apache-2.0
"""Leases: one holder, found dead only if it is, and stopped before another one goes on."""

import json
import threading
import time

import pytest

from dynabeam.transforms.errors import StateError, StateInUseError
from dynabeam.transforms.storage import filesystem
from dynabeam.transforms.storage.conditional_writes import read_with_tag
from dynabeam.transforms.storage.lease import Lease, _read, check_unheld
from dynabeam.transforms.testing.faults import Faults
from tests.storage.test_conditional_writes import gcs, own_options, sim, use_s3  # noqa: F401 - fixtures

PATH = "s3://bucket/state/lock.json"
SHORT = 0.6


@pytest.fixture(params=["sim", "gcs"])
def path(request):
    """A lease's document in each object store."""
    request.getfixturevalue(request.param)
    return PATH if request.param == "sim" else PATH.replace("s3://", "gs://")


def lease(path=PATH, name="a", seconds=SHORT, **how):
    return Lease(path, f"process {name}", seconds=seconds, **how)


class TestHolding:
    def test_held_and_given_back(self, path):
        with lease(path).held():
            with pytest.raises(StateInUseError, match="process a"):
                check_unheld(path)
            document = json.loads(read_with_tag(path).content)
            assert (document["format"], document["released"]) == (2, False)
        document = json.loads(read_with_tag(path).content)
        assert (document["released"], document["at"]) == (True, 0)
        check_unheld(path)
        began = time.monotonic()
        with lease(path, "b", seconds=30).held():
            pass
        assert time.monotonic() - began < 5

    def test_a_live_holder_is_left_alone(self, path):
        with (
            lease(path).held(),
            pytest.raises(StateInUseError, match="process a") as caught,
            lease(path, "b").held(),
        ):
            raise AssertionError
        assert path.rpartition("/")[0] in str(caught.value)
        assert "Wait for it or stop it" in caught.value.hint

    @pytest.mark.parametrize("asked", [True, False])
    def test_who_comes_while_it_is_held_is_refused_or_follows(self, path, asked):
        """Two schedules are a mistake; the successor of one that was asked to end is none."""
        waits = threading.Event()
        one = lease(path, seconds=30.0, asked_to_end=lambda: asked)

        def end():
            waits.wait(30)
            one.release()

        one._take()
        ends = threading.Thread(target=end)
        ends.start()
        other = lease(path, "b", seconds=30.0, tell=lambda line: waits.set())
        if asked:
            with other.held():
                assert json.loads(read_with_tag(path).content)["holder"] == "process b"
        else:
            with pytest.raises(StateInUseError, match="process a"), other.held():
                raise AssertionError
        ends.join()

    def test_it_is_renewed(self, path):
        one = lease(path)
        with one.held():
            time.sleep(3 * SHORT)
            one.check()
            assert json.loads(read_with_tag(path).content)["renewal"] >= 3

    @pytest.mark.parametrize("count", [100])
    def test_of_many_starts_at_once_one_holds(self, path, count):
        start, over, held, refused = threading.Barrier(count), threading.Event(), [], []

        def run(number):
            start.wait()
            try:
                with lease(path, number, seconds=6.0).held():
                    held.append(number)
                    over.wait(60)
            except StateInUseError as error:
                refused.append(str(error))

        runs = [threading.Thread(target=run, args=(at,)) for at in range(count)]
        for each in runs:
            each.start()
        deadline = time.monotonic() + 60
        while len(refused) < count - 1 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(held) == 1
        over.set()
        for each in runs:
            each.join()
        assert len(held) == 1
        assert len(refused) == count - 1
        assert all(f"process {held[0]}'" in each for each in refused)


class TestDeadHolders:
    def die(self, path, seconds=SHORT):
        """A lease that nobody renews: its thread is never started, as after kill -9."""
        dead = lease(path, "dead", seconds)
        dead._take()
        return dead

    def test_its_lease_is_waited_for_and_taken(self, path):
        dead, told = self.die(path, 1.5), []
        began = time.monotonic()
        with lease(path, "b", tell=told.append).held():
            waited = time.monotonic() - began
            with pytest.raises(StateInUseError, match="could not be renewed"):
                dead.check()
        assert waited >= 1.5
        assert told == [
            "Waiting for the lease of process dead (up to 2 s)",
            "The lease of process dead was not renewed: taking over",
        ]

    def test_of_two_that_wait_one_takes_it(self, path):
        self.die(path)
        held, refused = [], []
        over = threading.Event()

        def run(name):
            try:
                with lease(path, name).held():
                    held.append(name)
                    over.wait(30)
            except StateInUseError:
                refused.append(name)
                over.set()

        runs = [threading.Thread(target=run, args=(name,)) for name in "bc"]
        for each in runs:
            each.start()
        for each in runs:
            each.join()
        assert sorted([*held, *refused]) == ["b", "c"]
        assert len(held) == 1

    def test_the_service_s_clock_saves_the_wait(self, sim, monkeypatch):  # noqa: F811
        self.die(PATH, 30.0)
        real = read_with_tag

        def old(path):
            found = real(path)
            return found and type(found)(found.content, found.tag, age_seconds=36.0)

        monkeypatch.setattr("dynabeam.transforms.storage.lease.read_with_tag", old)
        check_unheld(PATH)
        began = time.monotonic()
        with lease(PATH, "b").held():
            assert time.monotonic() - began < 10

    def test_its_late_writes_are_refused(self, path, tmp_path):
        """A process that was stopped, and goes on when another one holds the lease."""
        asleep = lease(path, "asleep")
        lost = []
        asleep._on_lost = lost.append
        with asleep.held():
            # Its renewals wait, as if the process was stopped.
            with asleep._guard, lease(path, "b", seconds=30).held():
                with pytest.raises(StateInUseError):
                    filesystem.write_atomic(str(tmp_path / "file"), b"late", StateError)
                with pytest.raises(StateInUseError):
                    filesystem.delete([str(tmp_path)], StateError)
            (tmp_path / "kept").write_text("")
            with pytest.raises(StateInUseError):
                filesystem.move(str(tmp_path / "kept"), str(tmp_path / "gone"), StateError)
        assert (tmp_path / "kept").exists()
        assert not (tmp_path / "file").exists()
        assert len(lost) == 1
        filesystem.write_atomic(str(tmp_path / "file"), b"free again", StateError)


class TestRenewals:
    def test_lost_to_another_one_is_told_at_once(self, path):
        told = threading.Event()
        one = lease(path, seconds=3.0, on_lost=lambda error: told.set())
        with one.held():
            other = lease(path, "b", seconds=30)
            while not other._try(_read(path)):
                pass
            assert told.wait(5)
            with pytest.raises(StateInUseError, match="taken over") as caught:
                one.check()
            assert "process b" in str(caught.value)
        # It does not give back what is not its own.
        assert json.loads(read_with_tag(path).content)["holder"] == "process b"

    def test_an_object_store_that_fails_for_a_while(self, sim):  # noqa: F811
        one = lease(seconds=6.0)
        with one.held():
            sim.faults = Faults(actions=frozenset({"PutObject"}), drop_after=0.5, conflict=0.3)
            time.sleep(6.5)
            one.check()
            sim.faults = Faults()

    def test_an_object_store_that_is_gone(self, sim):  # noqa: F811
        told = threading.Event()
        one = lease(seconds=1.0, on_lost=lambda error: told.set())
        with one.held():
            sim.faults = Faults(denied_actions=frozenset({"s3:PutObject"}))
            assert told.wait(10)
            with pytest.raises(StateInUseError, match="could not be renewed for 1 s"):
                one.check()


class TestDocuments:
    def test_without_conditional_writes(self, sim):  # noqa: F811
        sim.faults = Faults(conditional_writes="ignored")
        with pytest.raises(StateError, match="ignores conditions"), lease().held():
            raise AssertionError

    def test_of_an_older_version(self, sim):  # noqa: F811
        held = {"holder": "process 7 on elsewhere", "at": time.time() - 100}
        sim.s3_put("bucket", "state/lock.json", json.dumps(held).encode())
        with pytest.raises(StateInUseError, match="process 7 on elsewhere"), lease().held():
            raise AssertionError
        sim.s3_put("bucket", "state/lock.json", json.dumps(held | {"at": 1.0}).encode())
        with lease().held():
            pass

    def test_an_older_version_finds_one_that_is_held(self, sim):  # noqa: F811
        """It reads `holder` and `at` only, and believes in 900 s."""
        with lease().held():
            assert time.time() - json.loads(sim.s3_get("bucket", "state/lock.json"))["at"] < 900

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"{", "damaged"),
            (b"[]", "damaged"),
            (b'{"format":2}', "damaged"),
            (b'{"format":3,"id":"x"}', "unknown format"),
            (b'{"format":2,"epoch":7}', "newer version"),
        ],
    )
    def test_odd_ones(self, sim, content, message):  # noqa: F811
        sim.s3_put("bucket", "state/lock.json", content)
        with pytest.raises(StateError, match=message):
            check_unheld(PATH)
