# SPDX-License-Identifier: Apache-2.0
"""One launch of a Flex Template: what is sent, and sending it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from google.cloud.dataflow_v1beta3 import (
    AutoscalingAlgorithm,
    ContainerSpec,
    FlexTemplateRuntimeEnvironment,
    LaunchFlexTemplateParameter,
    LaunchFlexTemplateRequest,
    StreamingMode,
    WorkerIPAddressConfiguration,
)
from google.protobuf import json_format

from dynabeam.transforms.dataflow.answers import answers_told
from dynabeam.transforms.dataflow.service import SECONDS, DataflowService
from dynabeam.transforms.errors import ConfigurationError

__all__ = ["Launch", "Workers", "as_http", "launch_template", "request_of"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workers:
    """Which workers a job has; what is empty or None is left to the template and the service.

    Attributes:
        staging_location: `gs://` folder of the job file and the launcher's log.
        temp_location: `gs://` folder of temporary files.
        service_account: Email of the account that the workers run as.
        machine_type: Of the workers.
        launcher_machine_type: Of the machine that builds the graph.
        workers: How many at first.
        max_workers: How many at most.
        autoscaling: Whether their number follows the work.
        disk_gb: Size of each one's disk.
        region: The Compute Engine region, if it is not that of the job.
        zone: The zone.
        network: The network.
        subnetwork: The subnetwork.
        public_ips: Whether they have public addresses.
        image: The workers' container image.
        kms_key: The key that the job's data are encrypted with.
        labels: Labels of the job.
        experiments: Experiments and service options.
        streaming_mode: How often a change may be processed.
        pipeline_options: Further options of Beam, as `name=value`.
    """

    staging_location: str = ""
    temp_location: str = ""
    service_account: str = ""
    machine_type: str = ""
    launcher_machine_type: str = ""
    workers: int = 0
    max_workers: int = 0
    autoscaling: bool | None = None
    disk_gb: int = 0
    region: str = ""
    zone: str = ""
    network: str = ""
    subnetwork: str = ""
    public_ips: bool | None = None
    image: str = ""
    kms_key: str = ""
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    experiments: Sequence[str] = ()
    streaming_mode: Literal["", "exactly_once", "at_least_once"] = ""
    pipeline_options: Sequence[str] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Launch:
    """One launch.

    Attributes:
        job_name: The job's name.
        template: `gs://` path of the template's specification, or its JSON.
        parameters: Name of each of the template's parameters → its value.
        workers: Which workers.
        options: Options of the launch itself.
        update: Replace the running job of this name.
        renamed: Step of the running job → its name in the new graph, empty if it is gone.
        validate_only: Only look whether it would be launched.
    """

    job_name: str
    template: str | Mapping[str, Any]
    parameters: Mapping[str, str]
    workers: Workers
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    update: bool = False
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    validate_only: bool = False


def request_of(launch: Launch, service: DataflowService) -> LaunchFlexTemplateRequest:
    """The request of a launch.

    Raises:
        ConfigurationError: The specification, given as JSON, has fields that the service has not.
    """
    parameter = LaunchFlexTemplateParameter(
        job_name=launch.job_name,
        parameters=dict(launch.parameters),
        launch_options=dict(launch.options),
        environment=_environment(launch.workers),
        update=launch.update,
        transform_name_mappings=dict(launch.renamed),
    )
    if isinstance(launch.template, str):
        parameter.container_spec_gcs_path = launch.template
    else:
        parameter.container_spec = _container_spec(launch.template)
    return LaunchFlexTemplateRequest(
        project_id=service.project,
        location=service.region,
        launch_parameter=parameter,
        validate_only=launch.validate_only,
    )


def as_http(request: LaunchFlexTemplateRequest, service: DataflowService) -> dict[str, Any]:
    """A request as the client sends it: method, address and JSON body."""
    body = json_format.MessageToDict(
        LaunchFlexTemplateRequest.pb(request), use_integers_for_enums=True
    )
    # Both are part of the address.
    project, region = body.pop("projectId"), body.pop("location")
    host = service.endpoint or "https://dataflow.googleapis.com"
    return {
        "method": "POST",
        "url": f"{host}/v1b3/projects/{project}/locations/{region}/flexTemplates:launch",
        "body": body,
    }


def launch_template(launch: Launch, service: DataflowService) -> str:
    """Sends a launch.

    Returns:
        The id of the job; empty if it was only validated.

    Raises:
        DataflowError: It was refused.
        DataflowSilentError: There is no answer: it may have been launched.
    """
    subject = service.subject(
        template=launch.template if isinstance(launch.template, str) else "the given file",
        staging=launch.workers.staging_location,
        job_name=launch.job_name,
        service_account=launch.workers.service_account,
        update=launch.update,
    )
    with answers_told(subject):
        answer = service.flex_templates.launch_flex_template(
            request_of(launch, service), timeout=SECONDS, retry=None
        )
    return str(answer.job.id)


def _environment(workers: Workers) -> FlexTemplateRuntimeEnvironment:
    fields = {
        "staging_location": workers.staging_location,
        "temp_location": workers.temp_location,
        "service_account_email": workers.service_account,
        "machine_type": workers.machine_type,
        "launcher_machine_type": workers.launcher_machine_type,
        "num_workers": workers.workers,
        "max_workers": workers.max_workers,
        "disk_size_gb": workers.disk_gb,
        "worker_region": workers.region,
        "worker_zone": workers.zone,
        "network": workers.network,
        "subnetwork": workers.subnetwork,
        "sdk_container_image": workers.image,
        "kms_key_name": workers.kms_key,
        "additional_user_labels": dict(workers.labels),
        "additional_experiments": list(workers.experiments),
        "additional_pipeline_options": list(workers.pipeline_options),
    }
    if workers.autoscaling is not None:
        algorithm = AutoscalingAlgorithm
        fields["autoscaling_algorithm"] = (
            algorithm.AUTOSCALING_ALGORITHM_BASIC
            if workers.autoscaling
            else algorithm.AUTOSCALING_ALGORITHM_NONE
        )
    if workers.public_ips is not None:
        addresses = WorkerIPAddressConfiguration
        fields["ip_configuration"] = (
            addresses.WORKER_IP_PUBLIC if workers.public_ips else addresses.WORKER_IP_PRIVATE
        )
    if workers.streaming_mode:
        fields["streaming_mode"] = StreamingMode[f"STREAMING_MODE_{workers.streaming_mode.upper()}"]
    return FlexTemplateRuntimeEnvironment(
        **{name: value for name, value in fields.items() if value not in ("", 0, {}, [])}
    )


def _container_spec(spec: Mapping[str, Any]) -> ContainerSpec:
    try:
        return ContainerSpec(json_format.ParseDict(dict(spec), ContainerSpec.pb()()))
    except json_format.ParseError as problem:
        raise ConfigurationError(
            f"not the specification of a Flex Template: {problem}",
            where="--template",
            hint="'dynabeam templates spec' prints one",
        ) from problem
