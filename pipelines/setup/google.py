# SPDX-License-Identifier: Apache-2.0
"""What Google has to allow the workers' service account, as gcloud's commands."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from dynabeam.pipelines.options.replicate import ReplicateOptions

__all__ = ["SUBJECT", "google_commands"]

SUBJECT = "REPLACE-unique-id"
"""Stands for the account's unique id, which only Google can tell."""

_ACCOUNT = "WORKER@PROJECT.iam.gserviceaccount.com"
_SECRET = re.compile(r"\$\{secret:projects/([\w:.-]+)(?:/locations/([a-z0-9-]+))?/secrets/([\w-]+)")


def google_commands(options: ReplicateOptions, account: str) -> tuple[str, ...]:
    """Commands and words about them, which begin with `#`.

    Args:
        options: What is replicated: its sinks, state directory and secrets are named.
        account: E-mail address of the service account; empty if it is not known.
    """
    account = account or _ACCOUNT
    member = f"--member=serviceAccount:{account}"
    project = account.rpartition("@")[2].removesuffix(".iam.gserviceaccount.com")
    lines = [
        "# The unique id of the account, for the trust policy (--google_subject):",
        f"gcloud iam service-accounts describe {account} --format='value(uniqueId)'",
        "# What the account of Dataflow's workers needs; REPOSITORY has the image, REGION is its:",
        f"gcloud projects add-iam-policy-binding {project} {member} --role=roles/dataflow.worker",
        (
            "gcloud artifacts repositories add-iam-policy-binding REPOSITORY --location=REGION "
            f"{member} --role=roles/artifactregistry.reader"
        ),
    ]
    for bucket in _buckets(options):
        lines.append(
            f"gcloud storage buckets add-iam-policy-binding gs://{bucket} {member} "
            "--role=roles/storage.objectAdmin"
        )
    for of, location, secret in _secrets(options):
        where = f" --location={location}" if location else ""
        lines.append(
            f"gcloud secrets add-iam-policy-binding {secret} --project={of}{where} {member} "
            "--role=roles/secretmanager.secretAccessor"
        )
    return tuple(lines)


def _buckets(options: ReplicateOptions) -> list[str]:
    """Buckets of Google's that are written, that for staging last."""
    named = [
        urlsplit(each).netloc
        for each in (options.state_dir, *options.sinks)
        if each.startswith("gs://")
    ]
    return [*dict.fromkeys(named), "STAGING"]


def _secrets(options: ReplicateOptions) -> list[tuple[str, str, str]]:
    """Project, location and name of each secret that the options refer to."""
    texts = list(options.sinks)
    if options.access is not None:
        texts += [options.access.role.external_id, options.access.bucket_role.external_id]
    found = (match.groups("") for each in texts for match in _SECRET.finditer(each))
    return list(dict.fromkeys((project, where, name) for project, where, name in found))
