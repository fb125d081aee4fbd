# SPDX-License-Identifier: Apache-2.0
"""What the options of a replication ask of AWS, in the words of the catalogue of rights."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.options import ReplicateOptions
from transforms.aws.permissions import Features, S3Folder, partition_of
from transforms.export.location import newest_age_us

__all__ = ["features_of"]

_GLOB = frozenset("*?[")
_SUMMARY = "manifest-summary.json"


def features_of(options: ReplicateOptions, table_arns: Sequence[str]) -> Features:
    """The features that a replication uses.

    Args:
        options: What was asked for.
        table_arns: ARNs of its tables.
    """
    places = [each for each in options.exports if not newest_age_us(each)]
    in_s3 = [each for each in places if each.startswith("s3://")]
    wanted = options.snapshot != "never"
    # A table that none of the given exports is of gets a new one.
    request = wanted and bool(options.bucket) and len(places) < max(1, len(table_arns))
    described = options.access is not None and not (options.snapshot == "only" and options.exports)
    return Features(
        tables=tuple(table_arns),
        partition=partition_of(options.access.region if options.access else ""),
        describe_tables=described,
        streams=options.snapshot != "only",
        request_exports=request,
        newest_export=wanted and len(places) < len(options.exports),
        describe_exports=any(each.startswith("arn:") for each in places),
        export_target=S3Folder(options.bucket, options.prefix.strip("/")) if request else None,
        exports=tuple(S3Folder.of(each.removesuffix(_SUMMARY)) for each in in_s3),
        search_exports=any(not each.endswith(_SUMMARY) for each in in_s3),
        state=S3Folder.of(options.state_dir) if options.state_dir.startswith("s3://") else None,
        changelogs=tuple(S3Folder.of(each) for each in options.sinks if each.startswith("s3://")),
        globs=any(_GLOB & set(each) for each in options.tables),
    )
