# SPDX-License-Identifier: Apache-2.0
"""What `dynabeam setup` prints: policies and table settings, for people, programs and IaC tools.

CloudFormation's templates are written as JSON, which it takes as well as YAML.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from dynabeam.transforms.aws.policies import Policy
from dynabeam.transforms.aws.table_settings import VIEW_TYPE, Needs
from dynabeam.transforms.state.table_selection import is_glob

__all__ = ["FORMATS", "SetupDocument"]

_WHERE = {
    "identity": "Attach it to",
    "bucket": "Put it on the bucket",
    "key": "Add it to the policy of the key",
    "trust": "Make it the trust policy of",
}


@dataclasses.dataclass(frozen=True)
class SetupDocument:
    """All that is to be set up.

    Attributes:
        policies: The policies.
        tables: Names and globs of the tables.
        needs: What has to be on at each table.
        google: Commands that give Google's service account its roles.
    """

    policies: tuple[Policy, ...]
    tables: tuple[str, ...]
    needs: Needs
    google: tuple[str, ...] = ()

    def table_settings(self) -> dict[str, Any]:
        """Properties of each table, as UpdateTable and CloudFormation name them."""
        found: dict[str, Any] = {}
        if self.needs.stream:
            found["StreamSpecification"] = {"StreamViewType": VIEW_TYPE}
        if self.needs.recovery:
            found["PointInTimeRecoverySpecification"] = {"PointInTimeRecoveryEnabled": True}
        return found


def as_text(setup: SetupDocument) -> str:
    """For people: each policy under a heading, then the commands for the tables."""
    parts = []
    for each in setup.policies:
        parts.append(
            f"# {each.name}: {each.purpose}\n# {_WHERE[each.kind]} {each.target}\n"
            f"{json.dumps(each.document, indent=2)}\n"
        )
    commands = list(_commands(setup))
    if commands:
        parts.append(
            "# Settings that the tables need; `dynabeam setup --apply` checks and applies them:\n"
            + "".join(f"{line}\n" for line in commands)
        )
    if setup.google:
        parts.append("".join(f"{line}\n" for line in setup.google))
    return "\n".join(parts)


def _commands(setup: SetupDocument) -> Iterator[str]:
    for table in setup.tables:
        if is_glob(table):
            yield f"# … and at every table that matches {table}"
            continue
        if setup.needs.stream:
            yield (
                f"aws dynamodb update-table --table-name '{table}' --stream-specification "
                f"StreamEnabled=true,StreamViewType={VIEW_TYPE}"
            )
        if setup.needs.recovery:
            yield (
                f"aws dynamodb update-continuous-backups --table-name '{table}' "
                "--point-in-time-recovery-specification PointInTimeRecoveryEnabled=true"
            )


def as_json(setup: SetupDocument) -> str:
    """For programs: one JSON document."""
    policies = [
        {
            "name": each.name,
            "kind": each.kind,
            "target": each.target,
            "purpose": each.purpose,
            "document": each.document,
        }
        for each in setup.policies
    ]
    tables = {each: setup.table_settings() for each in setup.tables}
    document = {"policies": policies, "tables": tables}
    if setup.google:
        document["google"] = [each for each in setup.google if not each.startswith("#")]
    return json.dumps(document, indent=2) + "\n"


def as_cloudformation(setup: SetupDocument) -> str:
    """A CloudFormation template; what it has no resource for is in its metadata."""
    resources: dict[str, Any] = {}
    by_hand: dict[str, Any] = {}
    for each in setup.policies:
        logical = "".join(word.capitalize() for word in each.name.split("-"))
        if each.kind == "identity":
            properties = {
                "ManagedPolicyName": each.name,
                "Description": f"{each.purpose} Attach it to {each.target}"[:1000],
                "PolicyDocument": each.document,
            }
            resources[logical] = {"Type": "AWS::IAM::ManagedPolicy", "Properties": properties}
        elif each.kind == "bucket":
            properties = {"Bucket": each.target, "PolicyDocument": each.document}
            resources[logical] = {"Type": "AWS::S3::BucketPolicy", "Properties": properties}
        else:
            by_hand[logical] = {
                "Purpose": each.purpose,
                "Target": each.target,
                "PolicyDocument": each.document,
            }
    metadata: dict[str, Any] = {}
    if setup.tables and setup.table_settings():
        metadata["TableProperties"] = {each: setup.table_settings() for each in setup.tables}
    if by_hand:
        metadata["PoliciesToAdd"] = by_hand
    if setup.google:
        metadata["Google"] = list(setup.google)
    template = {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": "What Dynabeam needs; deploy it with CAPABILITY_NAMED_IAM",
        "Metadata": metadata,
        "Resources": resources,
    }
    return json.dumps(template, indent=2) + "\n"


def as_terraform(setup: SetupDocument) -> str:
    """Terraform: policy documents with the resources that use them, tables as a comment."""
    parts = ["".join(f"{line}\n" for line in _terraform_policy(each)) for each in setup.policies]
    if setup.tables and setup.table_settings():
        lines = [f'# Add to the resource "aws_dynamodb_table" of each of {_list(setup.tables)}:']
        if setup.needs.stream:
            lines += ["#   stream_enabled   = true", f'#   stream_view_type = "{VIEW_TYPE}"']
        if setup.needs.recovery:
            lines += ["#   point_in_time_recovery {", "#     enabled = true", "#   }"]
        parts.append("".join(f"{line}\n" for line in lines))
    if setup.google:
        parts.append("".join(f"# {line.removeprefix('# ')}\n" for line in setup.google))
    return "\n".join(parts)


def _terraform_policy(policy: Policy) -> Iterator[str]:
    label = policy.name.replace("-", "_")
    yield f"# {policy.purpose}"
    yield f"# {_WHERE[policy.kind]} {policy.target}"
    yield f'data "aws_iam_policy_document" "{label}" {{'
    for number, statement in enumerate(policy.statements):
        if number:
            yield ""
        yield from _terraform_statement(statement)
    yield "}"
    document = f"data.aws_iam_policy_document.{label}.json"
    if policy.kind == "identity":
        yield from (
            "",
            f'resource "aws_iam_policy" "{label}" {{',
            f"  name   = {_text(policy.name)}",
            f"  policy = {document}",
            "}",
        )
    elif policy.kind == "bucket":
        yield from (
            "",
            f'resource "aws_s3_bucket_policy" "{label}" {{',
            f"  bucket = {_text(policy.target)}",
            f"  policy = {document}",
            "}",
        )


def _terraform_statement(statement: Mapping[str, Any]) -> Iterator[str]:
    yield "  statement {"
    yield f"    sid     = {_text(statement['Sid'])}"
    yield f"    effect  = {_text(statement['Effect'])}"
    yield f"    actions = {_list(statement['Action'])}"
    if "Resource" in statement:
        yield f"    resources = {_list(statement['Resource'])}"
    if "Principal" in statement:
        yield "    principals {"
        for kind, identifiers in statement["Principal"].items():
            yield f"      type        = {_text(kind)}"
            yield f"      identifiers = {_list(identifiers)}"
        yield "    }"
    for test, variables in statement.get("Condition", {}).items():
        for variable, value in variables.items():
            yield "    condition {"
            yield f"      test     = {_text(test)}"
            yield f"      variable = {_text(variable)}"
            yield f"      values   = {_list(value)}"
            yield "    }"
    yield "  }"


def _list(values: Any) -> str:
    texts = [values] if isinstance(values, str) else values
    return "[" + ", ".join(_text(each) for each in texts) + "]"


def _text(value: str) -> str:
    # In HCL, ${ and %{ begin a template also within a plain string.
    return json.dumps(value).replace("${", "$${").replace("%{", "%%{")


FORMATS: Mapping[str, Callable[[SetupDocument], str]] = {
    "text": as_text,
    "json": as_json,
    "terraform": as_terraform,
    "cloudformation": as_cloudformation,
}
