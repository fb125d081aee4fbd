# SPDX-License-Identifier: Apache-2.0
"""Objects of custom kinds against their own definitions, made strict: no field is unknown.

Kubernetes drops fields that a definition does not name, with a warning at most, so a misspelt one
would change what runs without a word.
"""

from __future__ import annotations

import functools
import gzip
import pathlib
from typing import Any

import jsonschema
import yaml

__all__ = ["check_custom"]

_FOLDER = pathlib.Path(__file__).resolve().parents[1] / "data" / "crds"
_FILES = {
    "FlinkDeployment": "flinkdeployments.flink.apache.org-1.10.0.yml.gz",
    "PodMonitor": "podmonitors.monitoring.coreos.com-0.93.0.yml.gz",
}
_METADATA = {
    "type": "object",
    "properties": {name: {} for name in ("name", "namespace", "labels", "annotations")},
    "additionalProperties": False,
}


def check_custom(thing: dict[str, Any]) -> list[str]:
    """What is wrong with an object, each with the path of the field."""
    found = _validator(thing["kind"], thing["apiVersion"]).iter_errors(thing)
    return [f"{'.'.join(map(str, each.absolute_path))}: {each.message}" for each in found]


@functools.cache
def _validator(kind: str, version: str) -> jsonschema.Draft202012Validator:
    definition = yaml.safe_load(gzip.decompress((_FOLDER / _FILES[kind]).read_bytes()))
    spec = definition["spec"]
    (served,) = [each for each in spec["versions"] if f"{spec['group']}/{each['name']}" == version]
    schema = _strict(served["schema"]["openAPIV3Schema"])
    # Of these a definition leaves the details to Kubernetes.
    own = {"metadata": _METADATA, "apiVersion": {"const": version}, "kind": {"const": kind}}
    schema["properties"] |= own
    return jsonschema.Draft202012Validator(schema)


def _strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: _strict(value) for name, value in schema.items()}
    if made.get("x-kubernetes-int-or-string"):
        made = {"type": ["integer", "string"]}
    if isinstance(made.get("properties"), dict) and "additionalProperties" not in made:
        made["additionalProperties"] = False
    return made
