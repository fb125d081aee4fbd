# SPDX-License-Identifier: Apache-2.0
"""What several checks need, asked of AWS once: who we are, the tables, their streams."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, Generic, TypeVar

from dynabeam.pipelines.options.replicate import ReplicateOptions
from dynabeam.transforms.aws import dynamodb
from dynabeam.transforms.aws.permissions import partition_of, table_arn
from dynabeam.transforms.aws.session import AwsAccess, client
from dynabeam.transforms.aws.streams import ShardInfo, connect
from dynabeam.transforms.errors import DynabeamError
from dynabeam.transforms.stream.shard_listing import list_shards

__all__ = ["Answer", "Examination", "Identity"]

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Answer(Generic[T]):
    """A value, or the error that came instead."""

    value: T | None = None
    error: DynabeamError | None = None

    @classmethod
    def of(cls, call: Callable[[], T]) -> Answer[T]:
        """Calls, and keeps what comes of it."""
        try:
            return cls(value=call())
        except DynabeamError as error:
            return cls(error=error)


@dataclasses.dataclass(frozen=True)
class Identity:
    """Who we are.

    Attributes:
        arn: Of the user or the session of a role.
        account: The account's id.
        region: Where tables are looked for.
        said_at: When AWS answered, by its clock; None if it did not say.
    """

    arn: str
    account: str
    region: str
    said_at: datetime | None


class Examination:
    """One call of `dynabeam doctor`; asks AWS for nothing twice.

    Args:
        options: What is to be replicated.
        access: As whom.
        probe_writes: Whether objects may be written to S3.
    """

    def __init__(
        self, options: ReplicateOptions, access: AwsAccess, *, probe_writes: bool = False
    ) -> None:
        self.options = options
        self.access = access
        self.probe_writes = probe_writes
        self.described = functools.cache(self._describe)
        self.recovery = functools.cache(self._recovery)
        self.open_shards = functools.cache(self._open_shards)
        self.identity = functools.cache(self._identity)

    def arn(self, name: str) -> str:
        """A table's ARN, as AWS says it or, without permission to ask, as it must be."""
        described = self.described(name).value
        if described is not None:
            return described.table.arn
        who = self.identity()
        return table_arn(name, region=who.region, account=who.account)

    def s3(self, identity: str) -> Any:
        """The S3 client of the identity that needs a permission: `source` or `bucket`."""
        if identity == "source":
            # Exports are requested as the tables' role, and AWS writes them with its permissions.
            return client(dataclasses.replace(self.access, bucket_role=self.access.role), "s3")
        return client(self.access, "s3")

    def iam(self) -> Any:
        """The IAM client."""
        return client(self.access, "iam")

    @property
    def partition(self) -> str:
        """The partition of the region."""
        return partition_of(self.identity().region)

    def stream_arn(self, name: str) -> str:
        """The ARN of a table's stream; empty if it has none or may not be described."""
        described = self.described(name).value
        return "" if described is None else described.stream_arn

    def _identity(self) -> Identity:
        sts = self.access.new_client("sts")
        answer = sts.get_caller_identity()
        headers = answer["ResponseMetadata"].get("HTTPHeaders", {})
        date = headers.get("date")
        return Identity(
            arn=answer["Arn"],
            account=answer["Account"],
            region=str(sts.meta.region_name),
            said_at=None if date is None else parsedate_to_datetime(date),
        )

    def _describe(self, name: str) -> Answer[dynamodb.TableDescription]:
        return Answer.of(lambda: dynamodb.describe_table(self.access, name))

    def _recovery(self, name: str) -> Answer[dynamodb.RecoveryWindow]:
        return Answer.of(lambda: dynamodb.continuous_backups(self.access, name))

    def _open_shards(self, stream_arn: str) -> Answer[list[ShardInfo]]:
        return Answer.of(lambda: _listed(self.access, stream_arn))


def _listed(access: AwsAccess, stream_arn: str) -> list[ShardInfo]:
    return list(list_shards(connect(access), stream_arn).open)
