# SPDX-License-Identifier: Apache-2.0
"""The metadata of a template: what the console's form shows, and what the service checks.

The fields are those of `TemplateMetadata` of Dataflow's API, v1beta3
(https://cloud.google.com/dataflow/docs/reference/rest/v1b3/TemplateMetadata), in their JSON names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dynabeam.pipelines.templates.appearance import TemplateName
from dynabeam.pipelines.templates.parameters import Parameter, replication_parameters

__all__ = ["template_metadata"]

_AUDIT = "'dynabeam audit' proves at any time that a mirror equals its tables."
_DESCRIBED: Mapping[TemplateName, tuple[str, str]] = {
    "continuous": (
        "DynamoDB to object stores and databases, continuously",
        f"Replicates DynamoDB tables, all in one job: a snapshot, then every change. {_AUDIT}",
    ),
    "rounds": (
        "DynamoDB to object stores and databases, until caught up",
        f"Replicates what is new in DynamoDB tables since the last such job, then ends. {_AUDIT}",
    ),
}
_STREAMING: Mapping[TemplateName, Mapping[str, Any]] = {
    "continuous": {
        "streaming": True,
        "supportsExactlyOnce": True,
        # Is offered once it is proven that no mirror and no position minds a block that comes
        # twice; then a default has to be named too.
        "supportsAtLeastOnce": False,
    },
    "rounds": {"streaming": False},
}


def template_metadata(template: TemplateName) -> dict[str, Any]:
    """The metadata of a template, as JSON.

    Args:
        template: Which one.

    Returns:
        A `TemplateMetadata`.
    """
    name, description = _DESCRIBED[template]
    return {
        "name": name,
        "description": description,
        "parameters": [_described(each) for each in replication_parameters(template)],
        **_STREAMING[template],
    }


def _described(parameter: Parameter) -> dict[str, Any]:
    """A `ParameterMetadata`."""
    found: dict[str, Any] = {
        "name": parameter.name,
        "label": parameter.label,
        "helpText": parameter.help_text,
        "isOptional": not parameter.required,
        "groupName": parameter.group,
        "paramType": parameter.kind,
    }
    if parameter.kind == "ENUM":
        found["enumOptions"] = [
            {"value": value, "label": value, "description": meaning}
            if meaning
            else {"value": value, "label": value}
            for value, meaning in parameter.choices.items()
        ]
    elif parameter.pattern and parameter.kind != "BOOLEAN":
        # Whether the service matches the whole value is not documented.
        found["regexes"] = [f"^(?:{parameter.pattern})$"]
    if parameter.default:
        found["defaultValue"] = parameter.default
    return found
