# SPDX-License-Identifier: Apache-2.0
"""What people type: every option is known, or refused with the one that was meant."""

import argparse

import pytest

from dynabeam.pipelines.command_line import main
from dynabeam.pipelines.options.arguments import beam_arguments, is_given, parse_known
from dynabeam.pipelines.options.replicate import parse_replicate
from dynabeam.pipelines.options.runners import continuous_runner
from dynabeam.transforms.errors import ConfigurationError

BASIC = ("--tables=orders", "--sink=duckdb:///m.duckdb", "--snapshot=never")


@pytest.mark.parametrize(
    ("command", "word", "meant"),
    [
        ("replicate", "--gap=heal", "Perhaps you mean --gaps"),
        ("replicate", "--evry=3s", "Perhaps you mean --every"),
        ("replicate", "--exclude_table=x", "Perhaps you mean --exclude_tables"),
        ("replicate", "--paralelism=2", "Perhaps you mean --parallelism"),
        ("replicate", "--checkpoint_interval=1000", "Perhaps you mean --checkpointing_interval"),
        ("replicate", "--xyzzy", "--help lists the options"),
        ("add", "--tabels=x", "Perhaps you mean --tables"),
        ("retry", "--sever", "Perhaps you mean --severe"),
        ("snapshot", "--cancle", "Perhaps you mean --cancel"),
        ("audit", "--reprot=x.html", "Perhaps you mean --report"),
        ("doctor", "--probe_write", "Perhaps you mean --probe_writes"),
        ("plan", "--sampel=5m", "Perhaps you mean --sample"),
        ("setup", "--formt=json", "Perhaps you mean --format"),
        ("status", "--wach=2s", "Perhaps you mean --watch"),
        ("dead_letters", "--shw=1", "Perhaps you mean --show"),
        ("demo", "--second=1", "Perhaps you mean --seconds"),
    ],
)
def test_an_option_that_nobody_knows_is_refused(command, word, meant, capsys, tmp_path):
    state = [] if command == "demo" else [f"--state_dir={tmp_path}/state"]
    basic = [] if command in ("status", "dead_letters", "demo") else [*BASIC, "--region=eu-west-1"]
    assert main([command, *basic, *state, word]) == (2 if command == "audit" else 1)
    said = capsys.readouterr().err
    assert f"{word.partition('=')[0]}: no such option. {meant}" in said
    assert "Traceback" not in said
    assert not list(tmp_path.iterdir())


def test_hyphens_are_underscores():
    found = parse_replicate(
        [
            "--tables=orders",
            "--sink=duckdb:///m.duckdb",
            "--state-dir=here-it-is",
            "--s3-export-bucket",
            "my-bucket",
            "--max-dead-letters=3",
            "--Exclude-Tables=a-b",
            "--sdk-worker-parallelism=2",
        ]
    )
    assert (found.state_dir, found.bucket, found.max_dead_letters) == ("here-it-is", "my-bucket", 3)
    assert found.exclude_tables == ("a-b",)
    assert found.beam_arguments == ("--sdk_worker_parallelism=2",)


def test_what_beam_takes_is_passed_on_in_its_spelling():
    given = ["--runner", "FnApiRunner", "--streaming", "--update=true", "--save_main_session=false"]
    assert beam_arguments(given) == ("--runner=FnApiRunner", "--streaming", "--update")


@pytest.mark.parametrize("runner", ["FlinkRunner", "PortableRunner", "PrismRunner"])
def test_what_a_continuous_run_sets_is_known(runner):
    arguments = continuous_runner([f"--runner={runner}"]).arguments
    assert beam_arguments(arguments) == tuple(arguments)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--runner=FlinkRuner"], "--runner: Beam has no runner of this name.*FlinkRunner"),
        (["--runner"], "--runner: .*needs a value"),
        (["--num_workers=many"], "--num_workers: invalid int value: 'many'"),
        (["--streaming=perhaps"], "--streaming: .*neither true nor false"),
        (["orders"], "not an option; found 'orders'"),
        (["-x"], "not an option; found '-x'"),
    ],
)
def test_what_beam_cannot_take_is_refused(words, said):
    with pytest.raises(ConfigurationError, match=said):
        beam_arguments(words)


def test_an_option_of_the_command_is_suggested_first():
    with pytest.raises(ConfigurationError, match=r"Perhaps you mean --regio or --region\."):
        beam_arguments(["--regioo=x"], ["--regio"])


def test_words_that_are_not_parsed_yet():
    assert is_given(["--tables-file=x", "y"], "--tables", "--tables_file")
    assert not is_given(["--tables_files=x", "tables"], "--tables", "--tables_file")


def test_a_value_keeps_its_hyphens():
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--a_b")
    given, rest = parse_known(parser, ["--a-b", "c-d", "--e-f=g-h"])
    assert (given.a_b, rest) == ("c-d", ["--e-f=g-h"])
