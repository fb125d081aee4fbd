# SPDX-License-Identifier: Apache-2.0
"""The spec file of a template: what `gcloud dataflow flex-template run` is pointed at.

It is a `ContainerSpec` of Dataflow's API as JSON: the image, the metadata and the defaults of a
launch. `gcloud dataflow flex-template build` writes such a file too, but passes on only name,
description and parameters of the metadata (seen in release 528): without `streaming` and the
streaming modes the console does not know what it launches.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from dynabeam.pipelines.templates.appearance import TemplateName
from dynabeam.pipelines.templates.metadata import template_metadata
from dynabeam.transforms.errors import ConfigurationError

__all__ = ["container_spec"]

_IMAGE = re.compile(
    r"[a-z0-9.-]+(:[0-9]+)?/[a-z0-9][a-z0-9._/-]*(:[\w.-]{1,128})?(@sha256:[0-9a-f]{64})?"
)
_ONE_WORKER: Mapping[str, Any] = {"numWorkers": 1, "maxWorkers": 1}
"""Rounds are one process: more workers would idle."""


def container_spec(
    template: TemplateName, image: str, environment: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The spec file of a template.

    Args:
        template: Which one.
        image: The image, which is that of the launcher and of the workers.
        environment: Defaults of a launch in the JSON names of `FlexTemplateRuntimeEnvironment`.

    Returns:
        A `ContainerSpec`.

    Raises:
        ConfigurationError: The image has no name that Dataflow can pull.
    """
    if not _IMAGE.fullmatch(image):
        raise ConfigurationError(
            "not the name of an image in a registry",
            where="--image",
            expected="REGISTRY/PROJECT/REPOSITORY/dynabeam:TAG",
            found=image,
            hint="Push the image to a registry that Dataflow's service account may read",
        )
    return {
        "image": image,
        "sdkInfo": {"language": "PYTHON"},
        "metadata": template_metadata(template),
        "defaultEnvironment": {
            # Workers would start from Beam's own image, without this package.
            "sdkContainerImage": image,
            **(_ONE_WORKER if template == "rounds" else {}),
            **(environment or {}),
        },
    }
