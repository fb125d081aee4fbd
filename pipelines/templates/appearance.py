# SPDX-License-Identifier: Apache-2.0
"""How each option of `dynabeam replicate` appears in a template, and why some do not.

An option's name, help, choices and default are those of the command line. What a form needs in
addition stands here: label, group, the pattern that the service checks before anything is launched,
and another help text where the command line's would be wrong in a form.

Patterns are read by the service's regular expressions and by Python's: only what both know is used.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal, TypeAlias

__all__ = ["APPEARANCES", "BY_LAUNCHER", "LEFT_OUT", "TEMPLATES", "Appearance", "TemplateName"]

TemplateName: TypeAlias = Literal["continuous", "rounds"]
TEMPLATES: tuple[TemplateName, ...] = ("continuous", "rounds")

_CONTINUOUS: tuple[TemplateName, ...] = ("continuous",)
_ROUNDS: tuple[TemplateName, ...] = ("rounds",)

_SOURCE = "Source"
_ACCESS = "Access to AWS"
_SNAPSHOT = "Snapshot"
_TARGET = "Target"
_SAFETY = "Safety"
_TUNING = "Tuning"

_ROLE = r"arn:[a-z-]+:iam::[0-9]{12}:role/[\w+=,.@/-]+"
_GLOB = r"[a-zA-Z0-9_.*?\[\]-]{1,255}"
_GLOBS = rf"\s*{_GLOB}(\s*,\s*{_GLOB})*\s*"
_DURATION = r"[0-9]+(\.[0-9]+)?(ms|s|m|h)?"
_POLICY = r"([^\s,]+:)?(fail|continue|heal|resnapshot)"
_LOGIN = r"([^\s/?:@]*(:\$\{[a-z]+:[^}\s]+\})?@)?"
"""A user, and a password by reference alone: one in clear would be kept with the job, and shown."""
_SINK = rf"(gs|s3|postgres|postgresql)://{_LOGIN}[^\s/?@]*([/?]\S*)?"
_EXPORT = r"(s3://\S+|gs://\S+|arn:[a-z-]+:dynamodb:\S+|newest:\S+)"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Appearance:
    """What a form shows of an option, beyond what the command line says of it.

    Attributes:
        label: Name for people.
        group: Heading that it stands under.
        text: Help in place of the command line's; empty to keep that.
        pattern: What the whole value must match; empty for anything.
        hint: What to write, for the error of a value that does not match.
        required: No launch without it.
        number: It is a whole number, and nothing else.
        spaced: Several values are separated by white space, since they may hold commas.
        templates: Those that have it.
        choices: What each of its choices means; empty if the names say it.
        not_continuous: Choices that only rounds offer.
    """

    label: str
    group: str
    text: str = ""
    pattern: str = ""
    hint: str = ""
    required: bool = False
    number: bool = False
    spaced: bool = False
    templates: tuple[TemplateName, ...] = TEMPLATES
    choices: Mapping[str, str] = dataclasses.field(default_factory=dict)
    not_continuous: tuple[str, ...] = ()


APPEARANCES: Mapping[str, Appearance] = {
    "aws_region": Appearance(
        label="AWS region",
        group=_SOURCE,
        text="AWS region of the tables, e.g. eu-west-1. Where the job runs is the job's own region",
        pattern=r"[a-z0-9]+(-[a-z0-9]+)*",
        hint="Write e.g. eu-west-1",
        required=True,
    ),
    "tables": Appearance(
        label="Tables",
        group=_SOURCE,
        text=(
            "Names of the tables, or globs such as shop_*, separated by commas. Needed, unless "
            "table_tags or export selects them"
        ),
        pattern=_GLOBS,
        hint="Names have letters, digits and _.- ; globs may use * ? [ ]; commas separate them",
    ),
    "table_tags": Appearance(
        label="Tags of tables",
        group=_SOURCE,
        text="Only tables with these tags, e.g. env=prod,team=x; KEY alone for any value",
        pattern=r"\s*[^\s,=][^,]*(,\s*[^\s,=][^,]*)*",
        hint="Write KEY=VALUE or KEY, separated by commas",
    ),
    "exclude_tables": Appearance(
        label="Tables to leave out",
        group=_SOURCE,
        text="Names or globs of tables that are not replicated, separated by commas",
        pattern=_GLOBS,
        hint="Names have letters, digits and _.- ; globs may use * ? [ ]; commas separate them",
    ),
    "discover_every": Appearance(
        label="Check for new tables every",
        group=_SOURCE,
        pattern=_DURATION,
        hint="Write e.g. 30s, 5m or 1h; 0 for none",
        templates=_CONTINUOUS,
    ),
    "start": Appearance(
        label="Begin of the streams",
        group=_SOURCE,
        text="Where streams are begun: trim_horizon, latest or a time with zone",
        pattern=r"trim_horizon|latest|[0-9]{4}-\S+",
        hint="Write trim_horizon, latest or a time such as 2026-05-14T12:00:00Z",
    ),
    "aws_web_identity": Appearance(
        label="Who the workers are to AWS",
        group=_ACCESS,
        text=(
            "google: the workers use AWS as their Google service account, without any key. Empty: "
            "as whatever boto3 finds in the image"
        ),
        pattern="google",
        hint="Write google, or leave it out",
    ),
    "aws_web_identity_role_arn": Appearance(
        label="AWS role of the service account",
        group=_ACCESS,
        text="ARN of the role that trusts the service account; other roles are assumed from it",
        pattern=_ROLE,
        hint="Write arn:aws:iam::ACCOUNT:role/NAME",
    ),
    "aws_audience": Appearance(
        label="Audience that the role trusts",
        group=_ACCESS,
        text="Audience of the token that the role trusts; by default sts.amazonaws.com",
    ),
    "role_arn": Appearance(
        label="AWS role",
        group=_ACCESS,
        text=(
            "ARN of the role that is assumed for the tables. Keys of AWS are no parameters: what a "
            "template is given is kept with the job, for everyone who may see it"
        ),
        pattern=_ROLE,
        hint="Write arn:aws:iam::ACCOUNT:role/NAME",
    ),
    "external_id": Appearance(
        label="External id of the role",
        group=_ACCESS,
        text="External id of the role, or a reference to it",
    ),
    "s3_role_arn": Appearance(
        label="AWS role for S3",
        group=_ACCESS,
        text="ARN of the role that is assumed for S3, if it is another one",
        pattern=_ROLE,
        hint="Write arn:aws:iam::ACCOUNT:role/NAME",
    ),
    "s3_external_id": Appearance(
        label="External id of the role for S3",
        group=_ACCESS,
        text="External id of the role for S3, or a reference to it",
    ),
    "endpoint_url": Appearance(
        label="Endpoint of AWS",
        group=_ACCESS,
        text="One endpoint for DynamoDB, its streams and S3 in place of AWS's public ones",
        pattern=r"https?://[^\s/]+(/\S*)?",
        hint="Write http://HOST:PORT or https://HOST",
    ),
    "s3_export_bucket": Appearance(
        label="Bucket for exports",
        group=_SNAPSHOT,
        text="S3 bucket that tables are exported to. Needed, unless snapshot is never",
        pattern=r"[a-zA-Z0-9._-]{3,255}",
        hint="Write the bucket's name, without s3://",
    ),
    "s3_export_prefix": Appearance(
        label="Prefix in the bucket",
        group=_SNAPSHOT,
    ),
    "s3_export_bucket_owner": Appearance(
        label="Owner of the bucket",
        group=_SNAPSHOT,
        text="Account id of the bucket's owner, if it is another account",
        pattern=r"[0-9]{12}",
        hint="Write the twelve digits of the account",
    ),
    "export": Appearance(
        label="Exports to use",
        group=_SNAPSHOT,
        text=(
            "Exports that exist already: s3:// or gs:// URIs, ARNs, or newest:SECONDS, separated "
            "by blanks"
        ),
        pattern=rf"\s*{_EXPORT}(\s+{_EXPORT})*\s*",
        hint="Write s3://BUCKET/PREFIX/AWSDynamoDB/ID, the export's ARN, or newest:SECONDS",
        spaced=True,
    ),
    "keys": Appearance(
        label="Keys of tables",
        group=_SNAPSHOT,
        text="Keys of exports whose tables are gone: table:hash[,range], separated by blanks",
        pattern=r"\s*[^\s:]+:[^\s,]+(,[^\s,]+)?(\s+[^\s:]+:[^\s,]+(,[^\s,]+)?)*\s*",
        hint="Write TABLE:HASH or TABLE:HASH,RANGE, separated by blanks",
        spaced=True,
        templates=_ROUNDS,
    ),
    "snapshot": Appearance(
        label="Snapshot",
        group=_SNAPSHOT,
        text="What is read of tables that are new: a snapshot, their streams, or both",
        choices={
            "auto": "An export, then the stream",
            "never": "The stream alone",
            "only": "An export alone",
        },
        not_continuous=("only",),
    ),
    "sink": Appearance(
        label="Sinks",
        group=_TARGET,
        text=(
            "Where the rows go: one or several URIs, separated by blanks, such as "
            "gs://BUCKET/changes or postgresql://USER:${secret:projects/P/secrets/S}@HOST/DATABASE"
        ),
        pattern=rf"\s*{_SINK}(\s+{_SINK})*\s*",
        hint=(
            "Write gs://, s3:// or postgresql:// URIs, separated by blanks; a password by "
            "reference alone, USER:${secret:projects/P/secrets/S}@HOST"
        ),
        required=True,
        spaced=True,
    ),
    "drop_sink": Appearance(
        label="Sinks to give up",
        group=_TARGET,
        text="Sinks of the state directory that are written no more, separated by blanks",
        spaced=True,
    ),
    "state_dir": Appearance(
        label="State directory",
        group=_TARGET,
        text=(
            "Folder that positions are kept in, e.g. gs://BUCKET/dynabeam/orders. It is the "
            "replication's identity: a job with the same folder continues where the last stopped"
        ),
        pattern=r"(gs|s3)://[^\s/]+(/.*)?",
        hint="Write gs://BUCKET/FOLDER or s3://BUCKET/FOLDER; a disk of a worker is not kept",
        required=True,
    ),
    "take_over": Appearance(
        label="Take over",
        group=_SAFETY,
        text="Continue from a continuous run that may still be running",
    ),
    "gaps": Appearance(
        label="Lost changes",
        group=_SAFETY,
        text=(
            "What is done when a stream has lost changes: fail, continue, heal or resnapshot; for "
            "one table TABLE:POLICY; separated by commas. The default is fail"
        ),
        pattern=rf"\s*{_POLICY}(\s*,\s*{_POLICY})*\s*",
        hint="Write fail, continue, heal or resnapshot, or TABLE:POLICY, separated by commas",
    ),
    "verify_chain": Appearance(
        label="Verify the chain of changes",
        group=_SAFETY,
        text="Compare the old image of each change with the last known one",
    ),
    "verify": Appearance(
        label="Verification of exports",
        group=_SAFETY,
        text="What follows if an export is not what its manifest says",
        choices={"strict": "The job ends", "warn": "The log tells it"},
    ),
    "max_dead_letters": Appearance(
        label="Most dead letters",
        group=_SAFETY,
        text="The job ends once more are open than this; none for no limit",
        pattern=r"none|[0-9]{1,9}",
        hint="Write a number, or none",
    ),
    "round_bytes": Appearance(
        label="Bytes of a round",
        group=_TUNING,
        text="Bytes that are read in one round at most, e.g. 64MiB",
        pattern=r"\s*[0-9]+\s*([kKmMgG][iI]?)?[bB]?\s*",
        hint="Write e.g. 67108864 or 64MiB",
        templates=_ROUNDS,
    ),
    "buckets": Appearance(
        label="Hash buckets per table",
        group=_TUNING,
        text=(
            "Into how many parts the keys of a table are divided; by default by the number of "
            "tables. Fixed by the first start"
        ),
        pattern=r"[0-9]{1,4}",
        hint="Write a number from 1 to 1024",
        number=True,
    ),
    "readers": Appearance(
        label="Stream readers per table",
        group=_TUNING,
        text="By default by the number of shards. Fixed by the first start",
        pattern=r"[0-9]{1,3}",
        hint="Write a number from 1 to 256",
        number=True,
    ),
    "log_level": Appearance(
        label="Level of the log",
        group=_TUNING,
        text="Lowest level of messages that the log shows; warning by default",
    ),
}
"""Name of a parameter → how it appears, in the order of the form."""

LEFT_OUT: Mapping[str, str] = {
    "name": "it names the state directory and the job, which both have a parameter of their own",
    "tables_file": "it is read from the disk of the machine that launches, which has none",
    "access_key_id": "keys of AWS would be kept with the job; workers assume a role",
    "secret_key": "keys of AWS would be kept with the job; workers assume a role",
    "mode": "each mode has a template of its own",
    "detach": "the launcher never stays with a job",
    "until": "a continuous job ends when it is drained, one of rounds when it has caught up",
    "every": "rounds that are repeated are started by a scheduler",
    "metrics_port": "no port of a worker can be reached; the metrics are in Cloud Monitoring",
    "metrics_host": "no port of a worker can be reached; the metrics are in Cloud Monitoring",
    "log_format": "the service keeps the fields of a message by itself",
}
"""Options of `replicate` that no template has → the reason."""

BY_LAUNCHER: Mapping[str, str] = {
    "region": "it is Google's region there; AWS's is aws_region",
    "dataflow_region": "the launcher calls it region",
    "job_name": "each launch names its job",
}
"""Options of `replicate` that the launcher gives by itself → why they are no parameters."""
