# SPDX-License-Identifier: Apache-2.0
"""Each `dynabeam …` in `deploy/` is understood by the command that it starts."""

from __future__ import annotations

import json

import pytest

from dynabeam.pipelines.audit.options import parse_audit
from dynabeam.pipelines.launch.__main__ import main as launch
from dynabeam.pipelines.options.replicate import parse_replicate
from dynabeam.transforms.errors import ConfigurationError
from dynabeam.transforms.sinks.registry import open_sink
from tests.deploy.files import CommandLine, command_lines

LINES = command_lines()


def understand(words):
    """Hands words to the command's own parser, with all that it checks without AWS."""
    command, *options = words
    if command == "replicate":
        parsed = parse_replicate(options)
    elif command == "audit":
        parsed = parse_audit(options).source
    else:
        assert (command, options[0]) == ("launch", "flink")
        return launch([*options, "--dry_run"])
    for each in parsed.sinks:
        open_sink(each)
    return 0


def test_each_way_has_one():
    assert [str(each) for each in LINES] == [
        "kubernetes/continuous, Job, launch",
        "kubernetes/rounds, CronJob, replicate",
        "compose, submit, launch",
        "systemd/dynabeam.service, replicate",
        "airflow, catch_up, replicate",
        "airflow, audit, audit",
    ]


@pytest.mark.parametrize("line", LINES, ids=str)
class TestLine:
    def test_is_understood(self, line: CommandLine, capsys: pytest.CaptureFixture[str]):
        assert understand(line.words) == 0
        if line.words[0] == "launch":
            told = json.loads(capsys.readouterr().out)
            assert "--environment_config=localhost:50000" in json.dumps(told)

    def test_each_option_is_looked_at(self, line: CommandLine):
        """A renamed option is found here: another name in its place is refused."""
        for at, word in enumerate(line.words):
            if word.startswith("--"):
                name, equals, value = word.partition("=")
                renamed = f"{name}_of_old{equals}{value}"
                with pytest.raises(ConfigurationError, match=f"{name}_of_old: no such option"):
                    understand([*line.words[:at], renamed, *line.words[at + 1 :]])

    def test_names_region_state_and_tables(self, line: CommandLine):
        given = {each.partition("=")[0] for each in line.words}
        assert {"--name", "--tables", "--region", "--state_dir", "--sink"} <= given

    def test_secrets_are_references(self, line: CommandLine):
        for each in line.words:
            if each.startswith("--sink=postgresql://"):
                user = each.removeprefix("--sink=postgresql://").split("@")[0]
                assert user.partition(":")[2].startswith(("${env:", "${file:"))


def test_an_upgrade_goes_on_from_a_savepoint(capsys: pytest.CaptureFixture[str]):
    (submit,) = [each for each in LINES if each.place == "kubernetes/continuous, Job"]
    savepoint = "s3://my-lake/flink/savepoints/savepoint-1"
    assert understand([*submit.words, f"--savepoint_path={savepoint}"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert savepoint in json.dumps(told)
