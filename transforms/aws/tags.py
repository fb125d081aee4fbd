# SPDX-License-Identifier: Apache-2.0
"""Tables by tag: GetResources of the Resource Groups Tagging API.

One call answers a hundred tables, where DynamoDB's own ListTagsOfResource answers one and is
limited to ten calls a second for the account. A tag shows up here some seconds after it was set.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from dynabeam.transforms.aws.errors import raise_access_error
from dynabeam.transforms.aws.session import AwsAccess, client

__all__ = ["tagged_tables"]

_PAGE = 100


def tagged_tables(access: AwsAccess, tags: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Names of the region's tables that have all of some tags.

    Args:
        access: Where and as whom AWS is called.
        tags: Tag key → its values, one of which a table must have; no value: any will do.

    Raises:
        AwsAccessError: `tag:GetResources` is not allowed.
        CredentialsError: There are no usable credentials.
    """
    arguments: dict[str, Any] = {
        "TagFilters": [{"Key": key, "Values": list(values)} for key, values in tags.items()],
        "ResourceTypeFilters": ["dynamodb:table"],
        "ResourcesPerPage": _PAGE,
    }
    while True:
        try:
            answer = client(access, "resourcegroupstaggingapi").get_resources(**arguments)
        except (BotoCoreError, ClientError) as error:
            raise_access_error(error, "tag:GetResources", "*")
            raise
        for each in answer.get("ResourceTagMappingList", []):
            yield str(each["ResourceARN"]).rpartition(":table/")[2]
        if not answer.get("PaginationToken"):
            return
        arguments["PaginationToken"] = answer["PaginationToken"]
