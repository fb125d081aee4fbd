# SPDX-License-Identifier: Apache-2.0
"""Which features of AWS the options of a replication use: input of the catalogue of permissions."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dynabeam.pipelines.options.replicate import ReplicateOptions
from dynabeam.transforms.aws import dynamodb
from dynabeam.transforms.aws.permissions import Features, S3Folder
from dynabeam.transforms.errors import ConfigurationError
from dynabeam.transforms.export.location import SUMMARY_NAME, is_export_arn, newest_age_us
from dynabeam.transforms.sinks.uri import parse_sink_uri
from dynabeam.transforms.state.table_selection import is_glob

__all__ = ["export_folders", "features_of"]

_SECRET = re.compile(r"\$\{secret:(arn:[^}#]+)")


def features_of(
    options: ReplicateOptions,
    table_arns: Sequence[str],
    *,
    exports: Sequence[S3Folder] | None = None,
    bucket_key: str = "",
    table_keys: Sequence[str] = (),
    apply: bool = False,
) -> Features:
    """What a replication with these options asks of AWS.

    Args:
        options: The options, as `replicate` takes them.
        table_arns: ARNs of the tables, with wildcards for globs.
        exports: Where the exports lie that `--export` names (`export_folders`); None for those
            that are named by their place.
        bucket_key: ARN of the KMS key of the exports' bucket, or empty.
        table_keys: ARNs of customer managed keys that encrypt the tables.
        apply: Streams and recovery are to be turned on too.
    """
    access, given = options.access, options.exports
    newest = any(newest_age_us(each) for each in given)
    fixed = [each for each in given if not newest_age_us(each)]
    if exports is None:
        in_s3 = [each for each in fixed if each.startswith("s3://")]
        exports = [S3Folder.of(each.removesuffix(SUMMARY_NAME)) for each in in_s3]
    lacking = len(fixed) < max(1, len(table_arns)) and bool(options.bucket)
    heals = options.gaps.repairs and bool(options.bucket) and options.snapshot != "only"
    # Some table may have no export that is given; and a gap is healed by another one.
    requests = (options.snapshot != "never" and lacking) or heals
    # Where an export is given, another one is requested without a check. Tables that appear later,
    # and the gaps and orders that a job meets, are looked at all the same.
    later = heals or options.discovers or options.mode == "continuous"
    only_exports = options.snapshot == "only" and bool(fixed) and bool(options.keys)
    return Features(
        tables=tuple(table_arns),
        partition=table_arns[0].split(":")[1] if table_arns else "aws",
        describe_tables=access is not None and not only_exports,
        streams=access is not None and options.snapshot != "only",
        request_exports=requests,
        see_recovery=later or not given,
        newest_export=newest,
        describe_exports=any(is_export_arn(each) for each in fixed),
        export_target=S3Folder(options.bucket, options.prefix.strip("/"))
        if options.bucket
        else None,
        exports=tuple(exports),
        search_exports=any(
            each.startswith("s3://") and not each.endswith(f"/{SUMMARY_NAME}") for each in fixed
        ),
        bucket_key=bucket_key,
        table_keys=tuple(table_keys),
        state=S3Folder.of(options.state_dir) if options.state_dir.startswith("s3://") else None,
        changelogs=tuple(
            S3Folder(uri.authority, uri.path.strip("/"))
            for uri in map(parse_sink_uri, options.sinks)
            if uri.scheme == "s3"
        ),
        globs=any(is_glob(each) for each in options.tables),
        tags=bool(options.table_tags),
        apply=apply,
        source_role=access.role.arn if access else "",
        secrets=_secrets_of(options),
        bucket_role=access.bucket_role.arn if access else "",
    )


def export_folders(options: ReplicateOptions, *, ask: bool) -> list[S3Folder]:
    """Where in S3 the exports lie that `--export` names; others need no permission of AWS.

    Args:
        options: The options.
        ask: AWS may be asked where an export lies that is named by its ARN, or the newest.

    Raises:
        ConfigurationError: AWS may not be asked, and `--s3_export_bucket` does not say either.
        DynabeamError: AWS does not say.
    """
    found: list[S3Folder] = []
    for each in options.exports:
        if each.startswith("s3://"):
            found.append(S3Folder.of(each.removesuffix(f"/{SUMMARY_NAME}")))
        elif not is_export_arn(each) and not newest_age_us(each):
            continue
        elif is_export_arn(each) and ask and options.access is not None:
            described = dynamodb.describe_export(options.access, each)
            found.append(S3Folder(described.bucket, described.prefix.strip("/")))
        elif options.bucket:
            found.append(S3Folder(options.bucket, options.prefix.strip("/")))
        else:
            raise ConfigurationError(
                "where the export lies is not known",
                where=f"--export={each}",
                hint="Name its bucket with --s3_export_bucket",
            )
    return list(dict.fromkeys(found))


def _secrets_of(options: ReplicateOptions) -> tuple[str, ...]:
    """ARNs of the secrets that sinks and external ids refer to."""
    texts = list(options.sinks)
    if options.access is not None:
        texts += [options.access.role.external_id, options.access.bucket_role.external_id]
    return tuple(dict.fromkeys(match[1] for each in texts for match in _SECRET.finditer(each)))
