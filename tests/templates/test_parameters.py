# SPDX-License-Identifier: Apache-2.0
"""The parameters of the templates: all options of `replicate`, there and back."""

import re

import pytest

from dynabeam.pipelines.options.replicate import parse_replicate, replicate_parser
from dynabeam.pipelines.templates.appearance import APPEARANCES, BY_LAUNCHER, LEFT_OUT, TEMPLATES
from dynabeam.pipelines.templates.parameters import (
    arguments_of,
    parameters_of,
    replication_parameters,
)
from dynabeam.transforms.errors import ConfigurationError

NEEDED = {
    "aws_region": "eu-west-1",
    "sink": "gs://changes/orders",
    "state_dir": "gs://state/orders",
}
OPTIONS = [
    "--aws_region=eu-west-1",
    "--sink=gs://changes/orders",
    "--state_dir=gs://state/orders",
]
LAUNCHERS = [
    "--job_name=orders",
    "--project=p",
    "--region=europe-west1",
    "--runner=DataflowRunner",
    "--template_location=gs://p/staging/template_launches/1/job_object",
]
ALL = {
    "continuous": {
        "tables": "orders,shop_*",
        "table_tags": "env=prod,team",
        "exclude_tables": "shop_old",
        "discover_every": "2m",
        "start": "latest",
        "aws_web_identity": "google",
        "aws_web_identity_role_arn": "arn:aws:iam::111122223333:role/worker",
        "aws_audience": "dynabeam",
        "role_arn": "arn:aws:iam::111122223333:role/reader",
        "external_id": "${secret:projects/p/secrets/s}",
        "s3_role_arn": "arn:aws:iam::111122223333:role/exports/writer",
        "s3_external_id": "abc",
        "endpoint_url": "http://127.0.0.1:8000",
        "s3_export_bucket": "exports",
        "s3_export_prefix": "a/b",
        "s3_export_bucket_owner": "111122223333",
        "export": "s3://b/AWSDynamoDB/1 newest:3600",
        "snapshot": "auto",
        "drop_sink": "gs://old/one gs://old/two",
        "take_over": "true",
        "gaps": "heal,orders:fail",
        "verify_chain": "true",
        "verify": "warn",
        "max_dead_letters": "none",
        "buckets": "8",
        "readers": "2",
        "log_level": "info",
    },
    "rounds": {"mode": "catch_up", "keys": "orders:id shop:a,b", "round_bytes": "64MiB"},
}
"""A value of each parameter that is not needed; `rounds` has those of `continuous` besides."""
ALL["rounds"] |= {k: v for k, v in ALL["continuous"].items() if k != "discover_every"}


def named(template="continuous"):
    return {each.name: each for each in replication_parameters(template)}


def options_of_replicate():
    """The names of each option, without the dashes."""
    actions = replicate_parser()._actions
    names = [[each.lstrip("-") for each in action.option_strings] for action in actions]
    return [each for each in names if "help" not in each]


class TestTables:
    def test_each_option_is_a_parameter_or_left_out_with_a_reason(self):
        known = [*APPEARANCES, *LEFT_OUT, *BY_LAUNCHER]
        assert len(set(known)) == len(known)
        homeless = [each for each in options_of_replicate() if not set(each) & set(known)]
        assert homeless == []
        assert all(each.strip() for each in (*LEFT_OUT.values(), *BY_LAUNCHER.values()))

    def test_nothing_else_is(self):
        options = {name for names in options_of_replicate() for name in names}
        assert set(APPEARANCES) | set(LEFT_OUT) <= options

    def test_choices_are_explained_as_they_are(self):
        choices = {
            name: set(action.choices)
            for action in replicate_parser()._actions
            for name in (each.lstrip("-") for each in action.option_strings)
            if action.choices
        }
        for name, each in APPEARANCES.items():
            assert set(each.choices) in (set(), choices.get(name, set()))
            assert set(each.not_continuous) <= choices.get(name, set())

    @pytest.mark.parametrize("template", TEMPLATES)
    def test_a_form_can_show_each(self, template):
        for each in replication_parameters(template):
            assert re.fullmatch(r"[a-z][a-z0-9_]*", each.name)
            assert each.label
            assert each.group
            assert re.fullmatch(r"\S.*\.", each.help_text)
            # What a form is filled with is accepted.
            if each.default:
                each.check(each.default)
            if each.pattern:
                assert each.hint

    def test_choices_that_rounds_alone_have(self):
        assert set(named()["snapshot"].choices) == {"auto", "never"}
        assert set(named("rounds")["snapshot"].choices) == {"auto", "never", "only"}

    def test_defaults_are_those_of_the_command_line(self):
        parser = replicate_parser()
        for each in replication_parameters():
            (action,) = [one for one in parser._actions if each.option in one.option_strings]
            given = action.default
            assert each.default == (given if isinstance(given, str) else "false" * (given != []))


GOOD = {
    "aws_region": ["eu-west-1", "us-gov-east-1", "local"],
    "tables": ["a", "a, b", "shop_*,t[12]?", "A.b-c_d"],
    "exclude_tables": ["a,b"],
    "discover_every": ["0", "30s", "500ms", "1.5h"],
    "role_arn": ["arn:aws:iam::111122223333:role/a", "arn:aws-cn:iam::111122223333:role/x/y"],
    "endpoint_url": ["http://h:1", "https://vpce-1.dynamodb.eu-west-1.vpce.amazonaws.com"],
    "s3_export_bucket_owner": ["012345678901"],
    "start": ["trim_horizon", "latest", "2026-05-14T12:00:00Z", "2026-05-14T12:00:00+02:00"],
    "gaps": ["heal", "orders:fail", "continue, a:heal"],
    "buckets": ["1", "16", "1024"],
    "readers": ["1", "256"],
    "max_dead_letters": ["0", "none", "10000"],
    "sink": [
        "gs://b/x",
        "s3://b/x?format=parquet",
        "postgresql://h/d",
        "postgres://u@h1:5432,h2:5433/d?schema=s",
        "postgresql://u:${env:P}@h/d",
        "postgresql:///d?host=h&password=${file:/secret}",
    ],
}
BAD = {
    "aws_region": ["EU West", "eu_west_1"],
    "tables": ["a/b", "a b", "a,,b!"],
    "exclude_tables": ["a/b"],
    "discover_every": ["soon", "1d", "-1s"],
    "role_arn": ["reader", "arn:aws:iam::1:role/a"],
    "endpoint_url": ["localhost:8000", "ftp://h"],
    "s3_export_bucket_owner": ["123"],
    "start": ["yesterday"],
    "gaps": ["pray", "orders:pray", "a:"],
    "buckets": ["x", "-1", "99999"],
    "readers": ["1.5", "1000"],
    "max_dead_letters": ["many", "-1"],
    "sink": ["postgresql://u:geheim@h/d", "nowhere://x"],
}


class TestPatterns:
    """The service refuses what the command line would refuse, and nothing else."""

    def refusal(self, name, value):
        """What the command line says against it; empty if it takes it."""
        values = NEEDED | {"tables": "orders", "s3_export_bucket": "exports"} | {name: value}
        words = [f"--{each}={one}" for each, one in values.items()]
        try:
            parse_replicate(words)
        except ConfigurationError as error:
            return str(error)
        return ""

    @pytest.mark.parametrize(
        ("name", "value"), [(name, value) for name, values in GOOD.items() for value in values]
    )
    def test_good(self, name, value):
        named()[name].check(value)
        assert self.refusal(name, value) == ""

    @pytest.mark.parametrize(
        ("name", "value"), [(name, value) for name, values in BAD.items() for value in values]
    )
    def test_bad(self, name, value):
        parameter = named()[name]
        with pytest.raises(ConfigurationError) as raised:
            parameter.check(value)
        text = str(raised.value)
        assert text.startswith(f"{name}: ")
        assert text.endswith(f"{parameter.hint}.")
        assert repr(value) in text or "geheim" in value
        assert "geheim" not in text
        assert "\n" not in text
        # A sink is opened, and a time read, when tables are looked at.
        assert self.refusal(name, value) or name in ("sink", "start")

    @pytest.mark.parametrize(
        "value",
        ["", "/data/state", "file:///data", "gs://", "C:\\state", "gs:/bucket/state", "gs:// b/x"],
    )
    def test_a_state_directory_is_in_an_object_store(self, value):
        with pytest.raises(ConfigurationError, match=r"^state_dir: .*gs://BUCKET/FOLDER"):
            named()["state_dir"].check(value)

    @pytest.mark.parametrize("value", ["/out", "file:///out", "duckdb:///m.duckdb"])
    def test_a_sink_is_not_on_a_worker(self, value):
        with pytest.raises(ConfigurationError, match=r"^sink: .*gs://, s3://"):
            named()["sink"].check(value)


class TestThereAndBack:
    @pytest.mark.parametrize("template", TEMPLATES)
    def test_every_parameter(self, template):
        values = NEEDED | ALL[template]
        assert set(values) == set(named(template))
        words = arguments_of([f"--{name}={value}" for name, value in sorted(values.items())])
        assert parameters_of(words, template) == values

    def test_spellings_of_the_command_line(self):
        assert parameters_of(
            [
                "--aws-region",
                "eu-west-1",
                "--table_list=a,b",
                "--tables",
                "c",
                "--sink=gs://one/a?types=n:decimal(38,9)",
                "--sink=s3://two/b",
                "--state-dir=gs://state/x",
                "--mode=continuous",
                "--verify_chain",
            ]
        ) == {
            "aws_region": "eu-west-1",
            "tables": "a,b,c",
            "sink": "gs://one/a?types=n:decimal(38,9) s3://two/b",
            "state_dir": "gs://state/x",
            "verify_chain": "true",
        }

    def test_rounds_say_so(self):
        assert parameters_of(OPTIONS, "rounds") == NEEDED | {"mode": "catch_up"}
        assert parameters_of([*OPTIONS, "--mode=catch_up"], "rounds") == NEEDED | {
            "mode": "catch_up"
        }


class TestLauncher:
    def test_exact_flags(self):
        """Sorted, each with a value, empty for what was left empty."""
        flags = [
            *LAUNCHERS,
            "--aws_region=eu-west-1",
            "--sink=gs://one/a\n s3://two/b?types=n:decimal(38,9) ",
            "--state_dir=gs://state/x",
            "--tables=orders",
            "--role_arn=",
            "--take_over=true",
            "--verify_chain=false",
            "--experiments=a",
            "--experiments=b",
            "--num_workers=2",
            "--use_public_ips=false",
        ]
        assert arguments_of(sorted(flags)) == [
            "--experiments=a",
            "--experiments=b",
            "--job_name=orders",
            "--num_workers=2",
            "--project=p",
            "--region=europe-west1",
            "--runner=DataflowRunner",
            "--template_location=gs://p/staging/template_launches/1/job_object",
            "--use_public_ips=false",
            "--aws_region=eu-west-1",
            "--sink=gs://one/a",
            "--sink=s3://two/b?types=n:decimal(38,9)",
            "--state_dir=gs://state/x",
            "--tables=orders",
            "--take_over",
            "--mode=continuous",
        ]

    def test_rounds(self):
        words = arguments_of([*LAUNCHERS, *OPTIONS, "--mode=catch_up", "--keys=a:b c:d,e"])
        assert words[-3:] == ["--mode=catch_up", "--keys=a:b", "--keys=c:d,e"]

    @pytest.mark.parametrize(
        ("value", "words"),
        [("true", ["--take_over"]), ("True", ["--take_over"]), ("False", []), ("", [])],
    )
    def test_booleans(self, value, words):
        found = arguments_of([*OPTIONS, f"--take_over={value}"])
        assert [each for each in found if "take_over" in each] == words

    def test_flags_that_are_none(self):
        with pytest.raises(ConfigurationError, match=r"found 'orders'\. Write --NAME=VALUE"):
            arguments_of([*OPTIONS, "orders"])


class TestRefused:
    @pytest.mark.parametrize("name", ["aws_region", "sink", "state_dir"])
    @pytest.mark.parametrize("how", ["missing", "empty"])
    def test_what_is_needed(self, name, how):
        words = [each for each in OPTIONS if not each.startswith(f"--{name}=")]
        words += [f"--{name}="] * (how == "empty")
        with pytest.raises(ConfigurationError, match=rf"^{name}: .* is not given\. Write"):
            arguments_of(words)
        if how == "missing":
            with pytest.raises(ConfigurationError, match=rf"^{name}: .* is not given\. Write"):
                parameters_of(words)

    @pytest.mark.parametrize("name", LEFT_OUT)
    @pytest.mark.parametrize("template", TEMPLATES)
    def test_options_that_are_no_parameters(self, name, template):
        if name == "mode":
            return
        mode = ["--mode=catch_up"] * (template == "rounds")
        with pytest.raises(ConfigurationError) as raised:
            arguments_of([*OPTIONS, *mode, f"--{name}=1"])
        assert str(raised.value) == (
            f"{name}: no parameter of the template. None has it, since {LEFT_OUT[name]}."
        )

    def test_the_other_mode(self):
        with pytest.raises(ConfigurationError, match="Launch the template 'rounds' for it"):
            parameters_of([*OPTIONS, "--mode=catch_up"])
        with pytest.raises(ConfigurationError, match="Launch the template 'continuous' for it"):
            parameters_of([*OPTIONS, "--mode=continuous"], "rounds")
        with pytest.raises(ConfigurationError, match=r"^mode: .*found 'continuous'"):
            arguments_of([*OPTIONS, "--mode=continuous"])

    def test_what_the_other_template_has(self):
        with pytest.raises(ConfigurationError, match="Only the other template has it"):
            parameters_of([*OPTIONS, "--round_bytes=1MiB"])
        with pytest.raises(ConfigurationError, match="Only the other template has it"):
            arguments_of([*OPTIONS, "--mode=catch_up", "--discover_every=1s"])

    def test_another_name_of_an_option(self):
        with pytest.raises(ConfigurationError, match="The parameter is called tables"):
            arguments_of([*OPTIONS, "--table_list=orders"])

    def test_options_of_beam(self):
        with pytest.raises(ConfigurationError, match=r"^--num_workers: no parameter"):
            parameters_of([*OPTIONS, "--num_workers=3"])

    def test_values_that_would_be_two(self):
        with pytest.raises(ConfigurationError, match=r"^--sink: .*Write %20"):
            parameters_of([*OPTIONS, "--sink=gs://b/a b"])

    @pytest.mark.parametrize("word", ["--snapshot=maybe", "--verify_chain=yes"])
    def test_what_the_parser_refuses(self, word):
        with pytest.raises(ConfigurationError, match=word.partition("=")[0]):
            parameters_of([*OPTIONS, word])
