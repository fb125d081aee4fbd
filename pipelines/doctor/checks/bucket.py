# SPDX-License-Identifier: Apache-2.0
"""The bucket for exports: that it exists, and where. S3 says so to everybody: no permission."""

from __future__ import annotations

from collections.abc import Iterator

from botocore.exceptions import BotoCoreError, ClientError

from dynabeam.pipelines.doctor.checks.examination import Examination
from dynabeam.pipelines.doctor.checks.finding import Finding, failure, ok, warning
from dynabeam.transforms.aws.errors import AwsErrorKind, classify

__all__ = ["bucket_findings"]


def bucket_findings(examination: Examination) -> Iterator[Finding]:
    """Whether the bucket is there, in the tables' region, and of the owner that was named."""
    bucket, owner = examination.options.bucket, examination.options.bucket_owner
    region = examination.identity().region
    arguments = {"Bucket": bucket}
    if owner:
        arguments["ExpectedBucketOwner"] = owner
    try:
        answer = examination.s3("bucket").head_bucket(**arguments)
    except ClientError as error:
        answer = error.response
        if classify(error) is not AwsErrorKind.FORBIDDEN:
            yield failure(
                "bucket",
                bucket,
                "there is no such bucket" if classify(error) is AwsErrorKind.GONE else str(error),
                why="an export to it is accepted, and fails minutes later",
                hint=f"Check --s3_export_bucket, or make it: aws s3 mb s3://{bucket} --region "
                f"{region}",
            )
            return
    except BotoCoreError as error:
        yield failure("bucket", bucket, str(error), hint="Check the bucket's name and the network")
        return
    where = _region(answer)
    if where and where != region:
        yield warning(
            "bucket",
            bucket,
            f"in {where}, the tables are in {region}",
            why="AWS charges the traffic between regions, and it takes longer",
            hint=f"Give a bucket in {region}",
        )
        return
    yield ok("bucket", bucket, f"there{f', in {where}' if where else ''}")


def _region(answer: dict[str, object]) -> str:
    meta = answer.get("ResponseMetadata")
    headers = meta.get("HTTPHeaders") if isinstance(meta, dict) else None
    return str(headers.get("x-amz-bucket-region", "")) if isinstance(headers, dict) else ""
