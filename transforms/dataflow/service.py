# SPDX-License-Identifier: Apache-2.0
"""Google's clients of Dataflow and Cloud Storage for one project and region.

All speak REST: so they can be given another endpoint without TLS, such as that of a fake.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from typing import Any

from google.api_core.client_options import ClientOptions
from google.auth.credentials import AnonymousCredentials, Credentials
from google.cloud.dataflow_v1beta3 import (
    FlexTemplatesServiceClient,
    JobsV1Beta3Client,
    MessagesV1Beta3Client,
    MetricsV1Beta3Client,
)

from dynabeam.transforms.dataflow.answers import Subject
from dynabeam.transforms.errors import ConfigurationError

__all__ = ["SECONDS", "DataflowService", "check_project_and_region"]

SECONDS = 60.0
"""How long one request may take."""

# Google's documentation, "Creating and managing projects"; an old one may have a domain before it.
_PROJECT = re.compile(r"([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]")
_REGION = re.compile(r"[a-z]+-[a-z]+[0-9]+")


def check_project_and_region(project: str, region: str) -> None:
    """Checks that both can be ids at all, before anybody is asked.

    Raises:
        ConfigurationError: One is missing or cannot be.
    """
    if not project:
        raise ConfigurationError(
            "the project of Google's that the job belongs to is missing",
            where="--project",
            hint="Give the id that 'gcloud config get project' prints",
        )
    if not _PROJECT.fullmatch(project):
        raise ConfigurationError(
            "not the id of a project",
            where="--project",
            found=project,
            hint="An id has 6 to 30 lower-case letters, digits and hyphens, such as my-project-123",
        )
    if not region:
        raise ConfigurationError(
            "the region that the job runs in is missing",
            where="--dataflow_region",
            hint="Give one of Google's, such as europe-west1; AWS's is --aws_region",
        )
    if not _REGION.fullmatch(region):
        raise ConfigurationError(
            "not a region of Google's",
            where="--dataflow_region",
            found=region,
            hint="Write e.g. europe-west1; AWS's region is --aws_region",
        )


@dataclasses.dataclass(frozen=True)
class DataflowService:
    """Dataflow, as one project and region of it.

    Attributes:
        project: Id of the project.
        region: The region.
        endpoint: Another address than Google's, such as `http://localhost:8765`; empty for
            Google's.
        no_auth: Ask as nobody.
    """

    project: str
    region: str
    endpoint: str = ""
    no_auth: bool = False

    def subject(self, **more: Any) -> Subject:
        """What a request to this service is about, for errors."""
        return Subject(self.project, self.region, self.endpoint, **more)

    @functools.cached_property
    def flex_templates(self) -> FlexTemplatesServiceClient:
        """Launches templates."""
        return FlexTemplatesServiceClient(**self._how())

    @functools.cached_property
    def jobs(self) -> JobsV1Beta3Client:
        """Lists, reads and changes jobs."""
        return JobsV1Beta3Client(**self._how())

    @functools.cached_property
    def messages(self) -> MessagesV1Beta3Client:
        """Reads what jobs say."""
        return MessagesV1Beta3Client(**self._how())

    @functools.cached_property
    def metrics(self) -> MetricsV1Beta3Client:
        """Reads what jobs count."""
        return MetricsV1Beta3Client(**self._how())

    @functools.cached_property
    def storage(self) -> Any:
        """Cloud Storage, of the same credentials."""
        from google.cloud.storage import Client  # noqa: PLC0415 - half a second

        return Client(project=self.project, credentials=self._credentials)

    @functools.cached_property
    def _credentials(self) -> Credentials | None:
        return AnonymousCredentials() if self.no_auth else None

    def _how(self) -> dict[str, Any]:
        options = ClientOptions(api_endpoint=self.endpoint) if self.endpoint else None
        return {
            "credentials": self._credentials,
            "transport": "rest",
            "client_options": options,
        }
