# SPDX-License-Identifier: Apache-2.0
"""Processes that are forked, spawned or ended while polls are under way."""

import os
import pickle
import subprocess
import sys
import textwrap

import pytest

from dynabeam.transforms.aws.session import AwsAccess
from tests.aws.services import Service

PREFIX = """
    import multiprocessing, os, sys, threading, time, warnings
    warnings.simplefilter("ignore")
    from tests.aws.services import ARN, PAGE, ask, short, streams_of
    url = sys.argv[1]
"""


@pytest.fixture
def service():
    with Service() as made:
        yield made


def run(service, text, seconds=60):
    """Runs a program with the service's URL; it has to end by itself."""
    source = textwrap.dedent(PREFIX) + textwrap.dedent(text)
    found = subprocess.run(
        [sys.executable, "-c", source, service.url],
        capture_output=True,
        text=True,
        timeout=seconds,
        cwd=os.getcwd(),
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        check=False,
    )
    assert found.stderr == ""
    return found.returncode, found.stdout


class TestEnd:
    def test_a_process_ends_with_open_connections(self, service):
        assert run(service, "s = streams_of(url); ask(s); ask(s); print('done')") == (0, "done\n")

    def test_a_process_ends_while_requests_are_under_way(self, service):
        program = """
            s = streams_of(url)
            ask(s)
            for _ in range(200):
                s.begin_records(ARN, "it-1", lambda found: None)
            print("done")
        """
        for _ in range(3):
            assert run(service, program) == (0, "done\n")

    def test_a_process_ends_while_credentials_are_renewed(self, service):
        program = """
            s = streams_of(url)
            ask(s)
            s._short._learned.credentials._signer = type("Slow", (), {
                "_credentials": None, "get_auth_instance": lambda *_: time.sleep(600)})()
            s.begin_records(ARN, "it-1", lambda found: None)
            time.sleep(0.2)
            print("done")
        """
        assert run(service, program) == (0, "done\n")


class TestChildren:
    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
    @pytest.mark.parametrize("end", ["os._exit(code)", "sys.exit(code)"])
    def test_a_forked_process_asks_over_connections_of_its_own(self, service, end):
        program = f"""
            s = streams_of(url)
            ask(s)
            ask(s)
            child = os.fork()
            if child == 0:
                code = 0 if [short(s) for _ in range(3)] == [PAGE] * 3 else 1
                {end}
            _, status = os.waitpid(child, 0)
            print(os.waitstatus_to_exitcode(status), [short(s) for _ in range(3)] == [PAGE] * 3)
        """
        assert run(service, program) == (0, "0 True\n")
        assert service.connections == 2

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
    def test_a_process_forked_while_others_poll_asks_as_well(self, service):
        program = """
            s = streams_of(url)
            ask(s)
            over = threading.Event()
            def poll():
                while not over.is_set():
                    ask(s)
            threads = [threading.Thread(target=poll, daemon=True) for _ in range(3)]
            for each in threads:
                each.start()
            codes = []
            for _ in range(5):
                child = os.fork()
                if child == 0:
                    os._exit(0 if [short(s) for _ in range(3)] == [PAGE] * 3 else 1)
                codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            over.set()
            for each in threads:
                each.join()
            print(codes)
        """
        assert run(service, program) == (0, "[0, 0, 0, 0, 0]\n")

    def test_a_spawned_process_takes_the_access_along(self, service):
        access = AwsAccess(region="eu-west-1", endpoint_url=service.url)
        assert pickle.loads(pickle.dumps(access)) == access
        program = f"""
            import pickle
            os.environ.update(AWS_ACCESS_KEY_ID="a", AWS_SECRET_ACCESS_KEY="b")
            from dynabeam.transforms.aws.streams import connect
            s = connect(pickle.loads({pickle.dumps(access)!r}))
            print([ask(s) for _ in range(2)] == [PAGE] * 2)
        """
        assert run(service, program) == (0, "True\n")
