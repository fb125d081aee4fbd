# SPDX-License-Identifier: Apache-2.0
"""A small part of Dataflow's and Cloud Storage's HTTP interfaces, for Google's own clients.

For a person: `python -m tests.launch.fake_dataflow --port=8765` prints what to type. Jobs go one
state further each time they are looked at; a launched job of a template whose image is `broken`
fails. Answers have the service's form: enums as numbers, errors as its JSON, with its sentences as
they stand in public logs.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import re
import sys
import threading
from datetime import datetime, timezone
from urllib.parse import parse_qs, unquote, urlsplit

from dynabeam.pipelines.templates.parameters import replication_parameters
from tests.fake_gcs import FakeGCS, _Handler, _Server

__all__ = ["IMAGE", "PROJECT", "REGION", "FakeDataflow", "spec"]

PROJECT = "my-project"
REGION = "europe-west1"
IMAGE = "europe-docker.pkg.dev/my-project/dynabeam/dynabeam:1"
STATES = {
    "STOPPED": 1,
    "RUNNING": 2,
    "DONE": 3,
    "FAILED": 4,
    "CANCELLED": 5,
    "UPDATED": 6,
    "DRAINING": 7,
    "DRAINED": 8,
    "PENDING": 9,
    "CANCELLING": 10,
    "QUEUED": 11,
}
_NEXT = {
    "QUEUED": "PENDING",
    "PENDING": "RUNNING",
    "DRAINING": "DRAINED",
    "CANCELLING": "CANCELLED",
}
_OVER = ("DONE", "FAILED", "CANCELLED", "UPDATED", "DRAINED")
_PATH = re.compile(r"/v1b3/projects/([^/]+)/locations/([^/]+)/(.*)")


def spec(parameters=(), *, image=IMAGE, at_least_once=False):
    """The specification of a template."""
    return {
        "image": image,
        "sdkInfo": {"language": "PYTHON"},
        "metadata": {
            "name": "DynamoDB",
            "streaming": True,
            "supportsAtLeastOnce": at_least_once,
            "parameters": [
                {
                    "name": each.name,
                    "label": each.label,
                    "helpText": each.help_text,
                    "isOptional": not each.required,
                    **({"regexes": [each.pattern]} if each.pattern else {}),
                }
                for each in parameters
            ],
        },
    }


class RefusalError(Exception):
    """What is answered instead."""

    def __init__(self, code, status, message):
        super().__init__(message)
        self.code = code
        self.body = {
            "error": {"code": code, "status": status, "message": f"(1f{code}ab): {message}"}
        }


class FakeDataflow(FakeGCS):
    """Listens on loopback while it is entered, for Dataflow and for Cloud Storage.

    Attributes:
        jobs: Id → job, as the service shows it.
        requests: Method, path and body of what was asked of Dataflow, in order.
        buckets: Names of the buckets.
        closed: Buckets that may not be looked at.
        refusals: Answered to the next requests that change something, once each: a
            `RefusalError`, or `silent` to carry it out and hang up.
        incompatible: The message with which an update fails; empty for one that goes well.
        counters: Dynabeam's counters of every job.
    """

    def __init__(self, port=0):
        super().__init__()
        self.jobs = {}
        self.requests = []
        self.buckets = {"templates", "staging", "state"}
        self.closed = set()
        self.refusals = []
        self.incompatible = ""
        self.counters = {"changes": 1200}
        self._port = port
        self._messages = {}
        self._numbers = itertools.count(1)

    def __enter__(self):
        handler = type("Handler", (_FakeHandler,), {"fake": self})
        self._server = _Server(("127.0.0.1", self._port), handler)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        return self

    @property
    def changes(self):
        """The requests that change something."""
        return [each for each in self.requests if each[0] != "GET"]

    def put_spec(self, document, path="templates/dynabeam.json"):
        """Uploads a specification; returns its path."""
        self.write(path, json.dumps(document).encode(), None)
        return f"gs://{path}"

    def job_in(self, state, name="dynabeam-orders"):
        """A job that is there already; returns its id."""
        return self._new_job(name, state)["id"]

    def state(self, job):
        """The state of a job."""
        return next(name for name, number in STATES.items() if number == job["currentState"])

    # What the service does.

    def answer(self, method, path, query, body):
        """The JSON of an answer.

        Raises:
            RefusalError: What the service says instead.
        """
        found = _PATH.fullmatch(path)
        if found is None:
            raise RefusalError(404, "NOT_FOUND", "Method not found.")
        project, region, rest = found.groups()
        if project != PROJECT:
            message = f"Permission denied on resource project {project}."
            raise RefusalError(403, "PERMISSION_DENIED", message)
        if region != REGION:
            message = (
                "The workflow could not be created, since it was sent to an invalid regional "
                f"endpoint ({region}). Please resubmit to a valid Cloud Dataflow regional endpoint."
            )
            raise RefusalError(400, "INVALID_ARGUMENT", message)
        if (method, rest) == ("POST", "flexTemplates:launch"):
            return self._launch(body)
        if (method, rest) == ("GET", "jobs"):
            return {"jobs": self._listed(query)}
        job_id, _, part = rest.removeprefix("jobs/").partition("/")
        job = self.jobs.get(job_id)
        if job is None:
            message = f"Information about job {job_id} could not be found in our system."
            raise RefusalError(404, "NOT_FOUND", message)
        if part == "messages":
            return {"jobMessages": self._messages.get(job_id, [])}
        if part == "metrics":
            return {"metrics": [_metric(*each) for each in self.counters.items()]}
        return self._changed(job, body, query) if method == "PUT" else self._looked_at(job)

    def _launch(self, body):
        parameter = body["launchParameter"]
        name, update = parameter["jobName"], parameter.get("update", False)
        spec = parameter.get("containerSpec") or self._stored(parameter["containerSpecGcsPath"])
        for each in spec["metadata"]["parameters"]:
            if not each.get("isOptional") and each["name"] not in parameter["parameters"]:
                message = (
                    "The template parameters are invalid. Details: "
                    f"{each['name']}: Missing required parameter"
                )
                raise RefusalError(400, "INVALID_ARGUMENT", message)
        running = [each for each in self.jobs.values() if self._is_active(each, name)]
        if running and not update:
            message = (
                "The workflow could not be created. Causes: There is already an active job named "
                f"{name}. If you want to submit a second job, try again by setting a different name"
            )
            raise RefusalError(409, "ALREADY_EXISTS", message)
        if body.get("validateOnly"):
            return {}
        job = self._new_job(name, "QUEUED", parameter.get("environment", {}))
        if spec["image"] == "broken":
            self._fail(
                job,
                "Error occurred in the launcher container: Template launch failed. "
                "See console logs.",
            )
        elif running and self.incompatible:
            self._fail(job, self.incompatible)
        elif running:
            job["replaceJobId"] = running[0]["id"]
            running[0].update(currentState=STATES["UPDATED"], replacedByJobId=job["id"])
        return {"job": job}

    def _stored(self, path):
        found = self.objects.get(path.removeprefix("gs://"))
        if found is None:
            raise RefusalError(404, "NOT_FOUND", f"Unable to open template file: {path}.")
        return json.loads(found[0])

    def _new_job(self, name, state, environment=None):
        number = next(self._numbers)
        job = {
            "id": f"2026-12-01_00_00_00-{number:019d}",
            "projectId": PROJECT,
            "location": REGION,
            "name": name,
            "type": 2,
            "currentState": STATES[state],
            "createTime": _now(),
            "currentStateTime": _now(),
            "environment": {
                "sdkPipelineOptions": {
                    "options": {"staging_location": (environment or {}).get("stagingLocation", "")}
                }
            },
        }
        self.jobs[job["id"]] = job
        return job

    def _fail(self, job, message):
        job["currentState"] = STATES["FAILED"]
        self._messages[job["id"]] = [
            {"id": "1", "time": _now(), "messageText": message, "messageImportance": 4}
        ]

    def _is_active(self, job, name=None):
        return self.state(job) not in _OVER and name in (None, job["name"])

    def _listed(self, query):
        active = query.get("filter") in ("3", "ACTIVE")
        return [
            each
            for each in self.jobs.values()
            if (not active or self._is_active(each)) and query.get("name") in (None, each["name"])
        ]

    def _looked_at(self, job):
        shown = copy.deepcopy(job)
        state = self.state(job)
        if state in _NEXT:
            job.update(currentState=STATES[_NEXT[state]], currentStateTime=_now())
        return shown

    def _changed(self, job, body, query):
        state = self.state(job)
        if state in _OVER:
            message = f"Cannot update the job: it is in terminal state JOB_STATE_{state}."
            raise RefusalError(400, "FAILED_PRECONDITION", message)
        mask = query.get("updateMask", "")
        limits = body.get("runtimeUpdatableParams")
        if limits is not None:
            wanted = {f"runtimeUpdatableParams.{name}" for name in limits}
            assert set(mask.split(",")) == wanted, (mask, limits)
            job.setdefault("runtimeUpdatableParams", {}).update(limits)
        asked = body.get("requestedState")
        if asked == STATES["DRAINING"]:
            job["currentState"] = STATES["DRAINING"]
        elif asked == STATES["CANCELLED"]:
            job["currentState"] = STATES["CANCELLING"]
        return job


class _FakeHandler(_Handler):
    def do_GET(self):
        parts = urlsplit(self.path)
        if parts.path.startswith("/v1b3/"):
            self._dataflow("GET")
        elif re.fullmatch(r"/storage/v1/b/[^/]+", parts.path):
            self._bucket(unquote(parts.path.rpartition("/")[2]))
        else:
            super().do_GET()

    def do_POST(self):
        if self.path.startswith("/v1b3/"):
            self._dataflow("POST")
        else:
            super().do_POST()

    def do_PUT(self):
        if self.path.startswith("/v1b3/"):
            self._dataflow("PUT")
        else:
            super().do_PUT()

    def _bucket(self, name):
        if name in self.fake.closed:
            self._error(403, "forbidden", "caller does not have storage.buckets.get access")
        elif name in self.fake.buckets:
            self._json(200, {"kind": "storage#bucket", "id": name, "name": name})
        else:
            self._error(404, "notFound", "The specified bucket does not exist.")

    def _dataflow(self, method):
        parts = urlsplit(self.path)
        query = {name: each[0] for name, each in parse_qs(parts.query).items()}
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = json.loads(content) if content else {}
        self.fake.requests.append((method, parts.path, body))
        faults = self.fake.refusals if method != "GET" else []
        fault = faults.pop(0) if faults else None
        try:
            if isinstance(fault, RefusalError):
                raise fault
            answer = self.fake.answer(method, parts.path, query, body)
        except RefusalError as refusal:
            self._json(refusal.code, refusal.body)
            return
        if fault == "silent":
            self.close_connection = True
            return
        self._json(200, answer)


def _metric(name, value):
    return {
        "name": {
            "origin": "user",
            "name": name,
            "context": {"namespace": "dynabeam", "step": "s1"},
        },
        "scalar": value,
    }


def _now():
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def main(arguments=None):
    """Serves until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m tests.launch.fake_dataflow")
    parser.add_argument("--port", type=int, default=8765)
    given = parser.parse_args(arguments)
    with FakeDataflow(given.port) as fake:
        path = fake.put_spec(spec(replication_parameters()))
        sys.stdout.write(
            f"export STORAGE_EMULATOR_HOST={fake.url}\n"
            f"dynabeam launch dataflow --dataflow_endpoint={fake.url} --no_auth "
            f"--project={PROJECT} --dataflow_region={REGION} --template={path} "
            "--staging_location=gs://staging/dynabeam --name=orders --tables=orders "
            "--aws_region=eu-west-1 --snapshot=never --sink=gs://state/out "
            "--state_dir=gs://state/orders --wait\n"
        )
        sys.stdout.flush()
        threading.Event().wait()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
