# SPDX-License-Identifier: Apache-2.0
"""A fake Dataflow, and the command line that speaks to it."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest

from dynabeam.pipelines.command_line import main
from dynabeam.pipelines.templates.parameters import replication_parameters
from dynabeam.transforms.storage import conditional_writes
from tests.launch.fake_dataflow import PROJECT, REGION, FakeDataflow, spec

REPLICATE = (
    "--tables=orders,customers",
    "--aws_region=eu-west-1",
    "--snapshot=never",
    "--sink=gs://state/out",
    "--sink=postgresql://replica:${secret:projects/my-project/secrets/loader}@db/shop",
    "--verify_chain",
    "--state_dir=gs://state/orders",
)


@dataclasses.dataclass(frozen=True)
class Said:
    """What a command said.

    Attributes:
        code: The exit code.
        out: Standard output.
        err: Standard error.
    """

    code: int
    out: str
    err: str


class Console:
    """Runs commands against a fake.

    Args:
        fake: The fake.
        capsys: Catches what they say.
    """

    def __init__(self, fake, capsys):
        self.fake = fake
        self._capsys = capsys
        self.where = {
            "--project": PROJECT,
            "--dataflow_region": REGION,
            "--dataflow_endpoint": fake.url,
        }
        self.template = fake.put_spec(spec(replication_parameters()))

    def say(self, *words):
        """Runs `dynabeam launch` with some words."""
        self._capsys.readouterr()
        try:
            code = main(["launch", *words])
        except SystemExit as ended:
            code = ended.code
        return Said(code, *self._capsys.readouterr())

    def launch(self, *more, replicate=REPLICATE, without=()):
        """`dynabeam launch dataflow` with all that it needs; what is given again replaces that."""
        words = [
            *(f"{name}={value}" for name, value in self.where.items()),
            f"--template={self.template}",
            "--staging_location=gs://staging/dynabeam",
            "--name=orders",
            *replicate,
        ]
        given = {each.partition("=")[0] for each in more} | set(without)
        words = [each for each in words if each.partition("=")[0] not in given]
        return self.say("dataflow", "--no_auth", *words, *more)

    def about(self, command, *words):
        """A command about the job of this name."""
        where = [f"{name}={value}" for name, value in self.where.items()]
        return self.say(command, "--no_auth", *where, *words)


@pytest.fixture
def fake(monkeypatch):
    with FakeDataflow() as fake, contextlib.ExitStack() as stack:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", fake.url)
        conditional_writes._gcs_client.cache_clear()
        stack.callback(conditional_writes._gcs_client.cache_clear)
        yield fake


@pytest.fixture
def console(fake, capsys):
    return Console(fake, capsys)
