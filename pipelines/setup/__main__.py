# SPDX-License-Identifier: Apache-2.0
"""`dynabeam setup`: the permissions and table settings of a replication, printed or applied.

Takes the options of `replicate`; no sink has to be named. With `--account` and `--region` the
policies are made from the names alone, without AWS.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from collections.abc import Sequence

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from dynabeam.pipelines.options.arguments import parse_known
from dynabeam.pipelines.options.features import export_folders, features_of
from dynabeam.pipelines.options.replicate import ReplicateOptions, duration, parse_replicate
from dynabeam.pipelines.preflight import table_names
from dynabeam.pipelines.setup.apply import Applier
from dynabeam.pipelines.setup.formats import FORMATS, SetupDocument
from dynabeam.pipelines.setup.google import SUBJECT, google_commands
from dynabeam.transforms.aws.permissions import Features, table_arn
from dynabeam.transforms.aws.policies import (
    Federated,
    Principals,
    account_of,
    identity_policies,
    needs_principal,
    principal_of,
    resource_policies,
)
from dynabeam.transforms.aws.roles import NO_ROLE
from dynabeam.transforms.aws.session import AwsAccess, client
from dynabeam.transforms.aws.table_settings import Needs, Pacing
from dynabeam.transforms.errors import ConfigurationError, DynabeamError
from dynabeam.transforms.storage.filesystem import write_atomic

__all__ = ["main"]

_ACCOUNT = re.compile(r"[0-9]{12}")
_PRINCIPAL = re.compile(r"arn:[a-z-]+:(iam|sts)::[0-9]{12}:.+")
_SUBJECT = re.compile(r"[0-9]{15,30}")
_EMAIL = re.compile(r"[\w.:-]+@[\w.-]+\.gserviceaccount\.com")
_KEY = re.compile(r"arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:(key|alias)/.+")


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    parser = _parser()
    given, rest = parse_known(parser, arguments)
    options = parse_replicate(rest, complete=False, command=parser)
    if options.access is None:
        raise ConfigurationError(
            "nothing of AWS is used, so there is nothing to set up",
            where="--tables, --region",
            hint="Name the tables and their region",
        )
    if not options.tables:
        raise ConfigurationError(
            "permissions are granted for tables by name", where="--tables", hint="Give --tables"
        )
    if options.snapshot != "never" and not options.exports and not options.bucket:
        raise ConfigurationError(
            "exports are requested, but there is no bucket for them",
            where="--s3_export_bucket",
            hint="Give --s3_export_bucket, --export, or --snapshot=never for the stream alone",
        )
    _check(given)
    code = 0
    if given.apply:
        code = 0 if _apply(given, options, options.access) else 1
        if not given.output:
            return code
    text = FORMATS[given.format](_document(given, options, options.access))
    if given.output:
        write_atomic(given.output, text.encode(), ConfigurationError)
        sys.stderr.write(f"written to {given.output}\n")
    else:
        sys.stdout.write(text)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dynabeam setup",
        description="Print the policies and table settings that a replication needs, or apply "
        "the table settings.",
        epilog="All other options are those of `dynabeam replicate`.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--format", choices=sorted(FORMATS), default="text")
    add("--output", default="", help="file to write to, instead of standard output")
    add("--account", default="", help="the tables' account; with --region no call of AWS is made")
    add("--principal", default="", help="ARN that Dynabeam runs as; default: this session's")
    add("--google_service_account", default="", help="e-mail of the workers' account at Google")
    add("--google_subject", default="", help="its unique id, 21 digits, for the trust policy")
    add("--kms_key", default="", help="ARN of the key that encrypts the bucket for exports")
    add("--table_kms_key", action="append", default=[], help="ARN of a key that encrypts tables")
    add("--apply", action="store_true", help="turn on streams and point-in-time recovery")
    add("--yes", action="store_true", help="with --apply: do not ask for confirmation")
    add(
        "--replace_streams",
        action="store_true",
        help="with --apply: also replace streams with another view type",
    )
    add("--wait", default="5m", help="with --apply: how long a table's change may take")
    return parser


def _check(given: argparse.Namespace) -> None:
    forms = (
        ("--account", [given.account], _ACCOUNT, "12 digits"),
        ("--principal", [given.principal], _PRINCIPAL, "arn:aws:iam::ACCOUNT:role/NAME"),
        ("--google_subject", [given.google_subject], _SUBJECT, "21 digits"),
        (
            "--google_service_account",
            [given.google_service_account],
            _EMAIL,
            "NAME@PROJECT.iam.gserviceaccount.com",
        ),
        ("--kms_key", [given.kms_key], _KEY, "arn:aws:kms:REGION:ACCOUNT:key/ID"),
        ("--table_kms_key", given.table_kms_key, _KEY, "arn:aws:kms:REGION:ACCOUNT:key/ID"),
    )
    for option, values, form, expected in forms:
        for value in values:
            if value and not form.fullmatch(value):
                raise ConfigurationError(
                    "not of the form that is needed", where=option, expected=expected, found=value
                )
    if not given.apply and (given.yes or given.replace_streams):
        raise ConfigurationError(
            "only --apply changes anything", where="--yes, --replace_streams", hint="Add --apply"
        )


def _apply(given: argparse.Namespace, options: ReplicateOptions, access: AwsAccess) -> bool:
    applier = Applier(
        access=access,
        needs=_needs(options),
        replace_streams=given.replace_streams,
        yes=given.yes,
        ask=_ask if sys.stdin.isatty() else None,
        out=sys.stderr,
        pacing=Pacing(seconds=duration("--wait", given.wait)),
    )
    return applier.apply(table_names(options))


def _ask(question: str) -> bool:
    sys.stderr.write(question)
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _needs(options: ReplicateOptions) -> Needs:
    asked = options.snapshot != "never" and (not options.exports or bool(options.bucket))
    return Needs(stream=options.snapshot != "only", recovery=asked)


def _document(
    given: argparse.Namespace, options: ReplicateOptions, access: AwsAccess
) -> SetupDocument:
    region = access.region or boto3.session.Session().region_name
    if not region:
        raise ConfigurationError(
            "no AWS region is known", where="--region", hint="Give --region, e.g. eu-west-1"
        )
    offline = bool(given.account)
    identity = access.web_identity
    account = (
        given.account
        or account_of(access.role.arn)
        or account_of(identity.role_arn)
        or account_of(_caller(access))
    )
    features = features_of(
        options,
        [table_arn(each, region=region, account=account) for each in options.tables],
        exports=export_folders(options, ask=not offline),
        bucket_key=given.kms_key,
        table_keys=given.table_kms_key,
        apply=given.apply,
    )
    owner = options.bucket_owner
    own = identity.role_arn or given.principal
    principals = Principals(principal_of(own), access.role, access.bucket_role)
    if identity:
        federated = Federated(given.google_subject or SUBJECT, identity.audience)
        principals = dataclasses.replace(principals, federated=federated)
    if not principals.own and not offline:
        alone = dataclasses.replace(access, role=NO_ROLE, bucket_role=NO_ROLE)
        principals = dataclasses.replace(principals, own=principal_of(_caller(alone)))
    _check_principal(features, principals, owner)
    return SetupDocument(
        policies=(
            *identity_policies(features, principals),
            *resource_policies(features, principals, bucket_owner=owner),
        ),
        tables=options.tables,
        needs=_needs(options),
        google=google_commands(options, given.google_service_account) if identity else (),
    )


def _check_principal(features: Features, principals: Principals, owner: str) -> None:
    if needs_principal(features, principals, owner):
        raise ConfigurationError(
            "a policy has to name what Dynabeam runs as, and that is not known",
            where="--principal",
            hint="Give --principal=arn:aws:iam::ACCOUNT:role/NAME",
        )


def _caller(access: AwsAccess) -> str:
    try:
        return str(client(access, "sts").get_caller_identity()["Arn"])
    except (BotoCoreError, ClientError, DynabeamError) as error:
        raise ConfigurationError(
            f"AWS does not say who runs this: {error}",
            where="--account",
            hint=(
                "Check the credentials, or work without AWS: give --account, --region and, where "
                "a policy names it, --principal"
            ),
        ) from error


if __name__ == "__main__":
    from dynabeam.pipelines.command_line import main as command_line

    sys.exit(command_line(["setup", *sys.argv[1:]]))
