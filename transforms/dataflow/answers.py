# SPDX-License-Identifier: Apache-2.0
"""What Dataflow answers when it does not do what it was asked, as errors that name an option.

The service says why in a sentence, behind a number in parentheses; which option was meant follows
from its status and from words of that sentence. The words are those of public logs and issues of
Dataflow's users. What is not recognised keeps the service's own words.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator

import requests.exceptions
from google.api_core import exceptions as api
from google.auth import exceptions as auth

from dynabeam.transforms.errors import ConfigurationError

__all__ = ["DataflowError", "DataflowSilentError", "Subject", "answers_told"]

_ADDRESS = re.compile(r"^(\d{3} )?[A-Z]+ https?://\S+: ")
_NUMBER = re.compile(r"^\([0-9a-f]+\):\s*")
_LONGEST = 600
_ROLES = (
    "Who launches needs roles/dataflow.developer in the project and roles/iam.serviceAccountUser "
    "on the workers' service account. A project that does not exist is answered like this too: "
    "check --project"
)


class DataflowError(ConfigurationError):
    """Dataflow has refused; nothing was launched or changed."""


class DataflowSilentError(DataflowError):
    """Dataflow has not answered: whether it did what it was asked is not known."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """What a request is about, for errors.

    Attributes:
        project: Id of the project.
        region: The region of the job.
        endpoint: The service's address, if it is not Google's.
        template: Where the template's specification lies; empty if none is launched.
        staging: The staging location, if one is known.
        job_name: The job's name, if known.
        job_id: The job's id, if known.
        service_account: The workers' service account, if one is given.
        update: The request replaces a running job.
    """

    project: str
    region: str
    endpoint: str = ""
    template: str = ""
    staging: str = ""
    job_name: str = ""
    job_id: str = ""
    service_account: str = ""
    update: bool = False


@contextlib.contextmanager
def answers_told(subject: Subject) -> Iterator[None]:
    """Tells what goes wrong with a request inside of `with`.

    Raises:
        DataflowError: The service has refused, or there is nobody to ask as.
        DataflowSilentError: It has not answered.
    """
    try:
        yield
    except auth.DefaultCredentialsError as problem:
        raise DataflowError(
            "there are no credentials of Google's to ask with",
            where="GOOGLE_APPLICATION_CREDENTIALS",
            hint="Run 'gcloud auth application-default login', or let the variable name the file "
            "of a service account's key",
        ) from problem
    except auth.TransportError as problem:
        raise _silent(subject, problem) from problem
    except auth.GoogleAuthError as problem:
        raise DataflowError(
            f"Google does not take the credentials: {_said(str(problem))}",
            where="GOOGLE_APPLICATION_CREDENTIALS",
            hint="Run 'gcloud auth application-default login' again",
        ) from problem
    except (api.ServerError, requests.exceptions.RequestException, api.RetryError) as problem:
        raise _silent(subject, problem) from problem
    except api.GoogleAPICallError as problem:
        raise _refused(subject, problem) from problem


def _silent(subject: Subject, problem: Exception) -> DataflowSilentError:
    where = f"--dataflow_endpoint={subject.endpoint}" if subject.endpoint else "Dataflow"
    return DataflowSilentError(
        f"the service does not answer: {_said(str(problem))}",
        where=where,
        hint="Check the address and the network, then try again",
    )


def _refused(subject: Subject, problem: api.GoogleAPICallError) -> DataflowError:
    said = _said(str(problem.message or problem))
    lower = said.lower()
    if isinstance(problem, api.Unauthorized):
        return DataflowError(
            f"Google does not know who asks: {said}",
            where="GOOGLE_APPLICATION_CREDENTIALS",
            hint="Run 'gcloud auth application-default login'",
        )
    if isinstance(problem, api.Forbidden):
        return _forbidden(subject, said, lower)
    if isinstance(problem, api.TooManyRequests):
        return DataflowError(
            f"a quota of the project is used up: {said}",
            where=f"--project={subject.project}",
            hint="Ask for more on the page of quotas, or take fewer or smaller workers",
        )
    if subject.update and re.search(r"compatib|coder|replace|update|transform|step", lower):
        return DataflowError(
            f"the running job cannot be updated: {said}",
            where=f"--update, --job_name={subject.job_name}",
            hint='If a step has another name now, give --transform_name_mapping=\'{"OLD": '
            '"NEW"}\' ("" for one that is gone). Otherwise drain the job and launch again with '
            "the same --state_dir. The job goes on as it is",
        )
    if "already" in lower or (isinstance(problem, api.AlreadyExists) and subject.template):
        return DataflowError(
            f"there is a job of this name: {said}",
            where=f"--job_name={subject.job_name}",
            hint="Give --update to replace it, drain or cancel it first, or give another name",
        )
    return _by_words(subject, problem, said, lower)


def _forbidden(subject: Subject, said: str, lower: str) -> DataflowError:
    if "has not been used" in lower or "is disabled" in lower or "service_disabled" in lower:
        return DataflowError(
            f"Dataflow is not switched on in the project: {said}",
            where=f"--project={subject.project}",
            hint=f"gcloud services enable dataflow.googleapis.com --project={subject.project}",
        )
    if "actas" in lower or "service account" in lower or "serviceaccount" in lower:
        account = subject.service_account
        return DataflowError(
            f"permission is missing: {said}",
            where=f"--service_account_email={account}" if account else "--service_account_email",
            hint="Who launches needs roles/iam.serviceAccountUser on it",
        )
    return DataflowError(
        f"permission is missing: {said}", where=f"--project={subject.project}", hint=_ROLES
    )


def _by_words(
    subject: Subject, problem: api.GoogleAPICallError, said: str, lower: str
) -> DataflowError:
    missing = isinstance(problem, api.NotFound)
    if subject.template and ("parameter" in lower or "regex" in lower):
        return DataflowError(
            f"the template refuses a parameter: {said}",
            where=f"--template={subject.template}",
            hint="Parameters are options of 'dynabeam replicate' of the same name",
        )
    if "bucket" in lower or "staging" in lower or "temp_location" in lower:
        return DataflowError(
            f"the staging location cannot be used: {said}",
            where=f"--staging_location={subject.staging}",
            hint="Make the bucket, and let the workers' service account write it",
        )
    if re.search(r"regional endpoint|\bregions?\b|invalid location", lower):
        return DataflowError(
            f"Dataflow has no such region: {said}",
            where=f"--dataflow_region={subject.region}",
            hint="Write e.g. europe-west1; the regions are at "
            "https://cloud.google.com/dataflow/docs/resources/locations",
        )
    if subject.template and ("spec" in lower or "template" in lower or subject.template in said):
        return DataflowError(
            f"the template cannot be used: {said}",
            where=f"--template={subject.template}",
            hint="Upload what 'dynabeam templates spec' prints, and name that file",
        )
    if "project" in lower and (missing or "not" in lower):
        return DataflowError(
            f"Google has no such project: {said}",
            where=f"--project={subject.project}",
            hint="Give the project's id, not its name: 'gcloud projects list' shows both",
        )
    if subject.job_id:
        return DataflowError(
            f"{'there is no such job' if missing else 'Dataflow refuses'}: {said}",
            where=f"--job_id={subject.job_id}",
            hint=f"'gcloud dataflow jobs list --project={subject.project} "
            f"--region={subject.region}' shows all jobs",
        )
    return DataflowError(
        f"Dataflow refuses, with {problem.code}: {said}",
        where=f"--project={subject.project} --dataflow_region={subject.region}",
        hint="Nothing was launched",
    )


def _said(text: str) -> str:
    """The service's sentence, without the address that the client puts before it."""
    text = " ".join(text.split())
    text = _NUMBER.sub("", _ADDRESS.sub("", text))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
