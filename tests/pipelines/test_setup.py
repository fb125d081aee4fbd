# SPDX-License-Identifier: Apache-2.0
"""Contract of `dynabeam setup`: what it prints, for whom, and in which form.

The golden files are what the command prints for `GOLDEN`; read their difference when they change.
"""

import json
import re
from pathlib import Path

import pytest

from dynabeam.pipelines.command_line import main
from dynabeam.transforms.testing.simulator import Simulator

GOLDEN_FILES = Path(__file__).parent / "golden"
ACCOUNT, OTHER = "111122223333", "444455556666"
RUNNER = f"arn:aws:iam::{ACCOUNT}:role/runner"
TABLES = f"arn:aws:iam::{ACCOUNT}:role/tables"
FILES = f"arn:aws:iam::{OTHER}:role/files"
KEY = f"arn:aws:kms:eu-west-1:{OTHER}:key/0a1b"
OFFLINE = (f"--account={ACCOUNT}", "--region=eu-west-1")
GOLDEN = (
    *OFFLINE,
    "--tables=orders,cust_*",
    "--s3_export_bucket=exports",
    "--s3_export_prefix=daily",
    f"--s3_export_bucket_owner={OTHER}",
    f"--principal=arn:aws:sts::{ACCOUNT}:assumed-role/runner/i-0a1b",
    f"--role_arn={TABLES}",
    "--external_id=agreed${HOME}",
    f"--kms_key={KEY}",
    "--state_dir=s3://lake/state",
    "--sink=s3://lake/changes?format=parquet",
)

# The statements of "Requesting a table export in DynamoDB" (DynamoDB developer guide,
# S3DataExport_Requesting.html), without their Sids.
DOCUMENTED_EXPORT = {
    "Effect": "Allow",
    "Action": "dynamodb:ExportTableToPointInTime",
    "Resource": "arn:aws:dynamodb:us-east-1:111122223333:table/my-table",
}
DOCUMENTED_WRITES = {
    "Effect": "Allow",
    "Action": ["s3:AbortMultipartUpload", "s3:PutObject", "s3:PutObjectAcl"],
    "Resource": "arn:aws:s3:::amzn-s3-demo-bucket/*",
}
DOCUMENTED_BUCKET_POLICY = {
    "Effect": "Allow",
    "Principal": {"AWS": "arn:aws:iam::123456789012:user/Dave"},
    "Action": ["s3:AbortMultipartUpload", "s3:PutObject", "s3:PutObjectAcl"],
    "Resource": "arn:aws:s3:::amzn-s3-demo-bucket/*",
}


@pytest.fixture
def setup(capsys, monkeypatch, tmp_path):
    """Runs the command where AWS cannot be reached; gives exit code, output and errors."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))

    def run(*arguments):
        capsys.readouterr()
        code = main(["setup", *arguments])
        return (code, *capsys.readouterr())

    return run


def policies(out):
    return {each["name"]: each for each in json.loads(out)["policies"]}


def statements(policy):
    return {each["Sid"]: each for each in policy["document"]["Statement"]}


class TestWhatAwsDocuments:
    OPTIONS = (
        "--format=json",
        "--region=us-east-1",
        "--tables=my-table",
        "--s3_export_bucket=amzn-s3-demo-bucket",
    )

    def test_an_export_to_an_own_bucket(self, setup):
        code, out, _ = setup(*self.OPTIONS, "--account=111122223333")
        assert code == 0
        assert list(policies(out)) == ["dynabeam"]
        found = statements(policies(out)["dynabeam"])
        assert found["ExportTheTable"] == {"Sid": "ExportTheTable", **DOCUMENTED_EXPORT}
        assert found["WriteTheExport"] == {"Sid": "WriteTheExport", **DOCUMENTED_WRITES}

    def test_an_export_to_a_bucket_of_another_account(self, setup):
        code, out, _ = setup(
            *self.OPTIONS,
            "--account=123456789012",
            "--principal=arn:aws:iam::123456789012:user/Dave",
            "--s3_export_bucket_owner=111122223333",
        )
        assert code == 0
        bucket = policies(out)["dynabeam-bucket"]
        assert bucket["target"] == "amzn-s3-demo-bucket"
        expected = {"Sid": "LetTheExportBeWritten", **DOCUMENTED_BUCKET_POLICY}
        assert statements(bucket)["LetTheExportBeWritten"] == expected
        own = statements(policies(out)["dynabeam"])
        assert own["WriteTheExport"] == {"Sid": "WriteTheExport", **DOCUMENTED_WRITES}


class TestFormats:
    @pytest.mark.parametrize("form", ["json", "terraform", "cloudformation", "text"])
    def test_golden(self, setup, form):
        code, out, _ = setup(*GOLDEN, f"--format={form}")
        assert code == 0
        assert out == (GOLDEN_FILES / f"setup.{form}").read_text("utf-8")

    def test_all_forms_hold_the_same_statements(self, setup):
        as_json = json.loads(setup(*GOLDEN, "--format=json")[1])
        template = json.loads(setup(*GOLDEN, "--format=cloudformation")[1])
        in_template = [
            *(each["Properties"] for each in template["Resources"].values()),
            *template["Metadata"]["PoliciesToAdd"].values(),
        ]
        assert [each["document"] for each in as_json["policies"]] == [
            each["PolicyDocument"] for each in in_template
        ]
        terraform = setup(*GOLDEN, "--format=terraform")[1]
        sids = [
            statement["Sid"]
            for each in as_json["policies"]
            for statement in each["document"]["Statement"]
        ]
        assert re.findall(r"^    sid +=+ \"(\w+)\"$", terraform, re.MULTILINE) == sids

    def test_cloudformation_has_only_what_it_knows(self, setup):
        template = json.loads(setup(*GOLDEN, "--format=cloudformation")[1])
        assert template["AWSTemplateFormatVersion"] == "2010-09-09"
        assert set(template) <= {
            "AWSTemplateFormatVersion",
            "Description",
            "Metadata",
            "Resources",
        }
        for name, resource in template["Resources"].items():
            assert re.fullmatch("[A-Za-z0-9]+", name)
            assert resource["Type"] in ("AWS::IAM::ManagedPolicy", "AWS::S3::BucketPolicy")

    def test_terraform_is_hcl(self, setup):
        text = setup(*GOLDEN, "--format=terraform")[1]
        depth = 0
        for line in text.splitlines():
            # Strings hold braces only as templates, which have to be escaped.
            bare = re.sub(r'"(?:[^"\\]|\\.)*"', '""', line.partition("#")[0])
            assert bare.count('"') % 2 == 0, line
            assert re.fullmatch(
                r"\s*|\s*(?:\w+ )?(?:\"\" ?)*\w* ?\{|\s*\}|\s*\w+ += .+", bare.rstrip()
            ), line
            depth += bare.count("{") - bare.count("}")
            assert depth >= 0, line
        assert depth == 0
        assert "agreed$${HOME}" in text
        labels = re.findall(r'^(?:data|resource) "(\w+)" "(\w+)"', text, re.MULTILINE)
        assert len(labels) == len(set(labels))
        for kind, label in re.findall(r"data\.(\w+)\.(\w+)\.json", text):
            assert (kind, label) in labels

    def test_to_a_file(self, setup, tmp_path):
        code, out, err = setup(*GOLDEN, "--format=json", f"--output={tmp_path}/policies.json")
        assert (code, out) == (0, "")
        assert "policies.json" in err
        assert (tmp_path / "policies.json").read_text() == setup(*GOLDEN, "--format=json")[1]


class TestPrincipals:
    def test_each_role_gets_its_own(self, setup):
        _, out, _ = setup(*GOLDEN, "--format=json", f"--s3_role_arn={FILES}")
        found = policies(out)
        assert found["dynabeam-tables"]["target"] == TABLES
        assert found["dynabeam-buckets"]["target"] == FILES
        assert found["dynabeam-worker"]["target"] == RUNNER
        assert list(statements(found["dynabeam-worker"])) == ["AssumeTheRoles"]
        assert "WriteTheExport" in statements(found["dynabeam-tables"])
        assert "ReadTheExport" in statements(found["dynabeam-buckets"])
        # The reader is of the bucket's own account: the bucket need not name it.
        assert list(statements(found["dynabeam-bucket"])) == ["LetTheExportBeWritten"]
        assert found["dynabeam-trust-buckets"]["target"] == FILES

    def test_a_bucket_of_the_own_account_needs_no_policy(self, setup):
        _, out, _ = setup(
            *OFFLINE,
            "--format=json",
            "--tables=orders",
            "--s3_export_bucket=exports",
            f"--s3_export_bucket_owner={ACCOUNT}",
            f"--principal={RUNNER}",
        )
        assert list(policies(out)) == ["dynabeam"]

    def test_what_runs_is_asked_of_sts(self, setup, monkeypatch):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "simulated")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "simulated")
        with Simulator() as sim:
            code, out, _ = setup(
                f"--endpoint_url={sim.endpoint_url}",
                f"--region={sim.region}",
                "--format=json",
                "--tables=orders",
                "--s3_export_bucket=exports",
                f"--s3_export_bucket_owner={OTHER}",
            )
            assert code == 0
            bucket = statements(policies(out)["dynabeam-bucket"])
            assert bucket["LetTheExportBeWritten"]["Principal"] == {"AWS": sim.user_arn}
            assert f":{sim.account_id}:table/orders" in out

    def test_hundreds_of_tables_are_split_as_aws_limits_policies(self, setup, tmp_path):
        names = [f"a_table_with_quite_a_long_name_{number:03}" for number in range(400)]
        (tmp_path / "tables.csv").write_text("\n".join(names))
        _, out, _ = setup(
            *OFFLINE,
            "--format=json",
            f"--tables_file={tmp_path}/tables.csv",
            "--s3_export_bucket=exports",
        )
        found = policies(out)
        for each in found.values():
            assert len(json.dumps(each["document"], separators=(",", ":"))) <= 6144
            assert len(statements(each)) == len(each["document"]["Statement"])
        described = [
            resource
            for each in found.values()
            for sid, statement in statements(each).items()
            if sid.startswith("DescribeTheTable")
            for resource in statement["Resource"]
        ]
        assert [each.rpartition("/")[2] for each in described] == names


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "named"),
        [
            (["--tables=orders", "--region=eu-west-1"], "--account"),
            (["--tables=orders", f"--account={ACCOUNT}"], "--region"),
            ([*OFFLINE, "--tables=orders", f"--role_arn={TABLES}"], "--principal"),
            ([*OFFLINE, "--tables=orders", "--principal=runner"], "--principal"),
            ([*OFFLINE, "--tables=orders", "--kms_key=0a1b"], "--kms_key"),
            ([*OFFLINE, "--tables=orders", "--yes"], "--apply"),
            ([*OFFLINE, "--tables=orders", "--role_arn=tables"], "--role_arn"),
            ([*OFFLINE, "--tables=orders", "--external_id=mine"], "--role_arn"),
            ([*OFFLINE, "--export=./export", "--endpoint_url=http://x"], "--tables"),
            (["--export=./export"], "--region"),
        ],
    )
    def test_says_what_is_missing(self, setup, arguments, named):
        code, out, err = setup(*arguments, "--s3_export_bucket=exports")
        assert (code, out) == (1, "")
        assert named in err
        assert "Traceback" not in err

    def test_exports_need_a_bucket(self, setup):
        code, _, err = setup(*OFFLINE, "--tables=orders")
        assert code == 1
        assert "--s3_export_bucket" in err
