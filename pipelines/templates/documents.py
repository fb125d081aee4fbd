# SPDX-License-Identifier: Apache-2.0
"""What the documents say of the templates: tables, `gcloud` lines and Terraform, all generated.

A document holds each between two comments, `<!-- templates: NAME -->` and `<!-- end -->`. This puts
there what the parameters say now:

    python -m dynabeam.pipelines.templates.documents docs/templates.md
"""

from __future__ import annotations

import itertools
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from dynabeam.pipelines.templates.appearance import LEFT_OUT, TEMPLATES, TemplateName
from dynabeam.pipelines.templates.parameters import Parameter, replication_parameters
from dynabeam.transforms.errors import ConfigurationError

__all__ = ["blocks", "example", "main", "rewritten"]

_BLOCK = re.compile(r"(<!-- templates: ([\w ]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_EXAMPLE: Mapping[str, str] = {
    "aws_region": "eu-west-1",
    "tables": "orders,customers",
    "role_arn": "arn:aws:iam::111122223333:role/dynabeam",
    "s3_export_bucket": "my-exports",
    "sink": (
        "gs://my-bucket/changes?format=parquet "
        "postgresql://loader:${secret:projects/my-project/secrets/loader}@10.0.0.5/shop"
    ),
    "state_dir": "gs://my-bucket/dynabeam/shop",
}
_SPEC: Mapping[TemplateName, str] = {
    "continuous": "gs://my-bucket/templates/dynabeam.json",
    "rounds": "gs://my-bucket/templates/dynabeam-rounds.json",
}
_JOB: Mapping[TemplateName, str] = {"continuous": "dynabeam-shop", "rounds": "dynabeam-shop-rounds"}
_ACCOUNT = "dynabeam@my-project.iam.gserviceaccount.com"


def example(template: TemplateName) -> dict[str, str]:
    """The parameters of the documents' launches."""
    return {**_EXAMPLE, **({"mode": "catch_up"} if template == "rounds" else {})}


def blocks() -> dict[str, str]:
    """Name of each generated part of a document → its lines."""
    found = {"left out": _left_out()}
    makers: Mapping[str, Callable[[TemplateName], str]] = {
        "parameters": _table,
        "gcloud": _gcloud,
        "terraform": _terraform,
    }
    for template in TEMPLATES:
        found |= {f"{template} {name}": make(template) for name, make in makers.items()}
    return found


def rewritten(document: str) -> str:
    """A document with all its generated parts as they are now.

    Raises:
        ConfigurationError: It asks for a part that there is not.
    """
    known = blocks()

    def part(match: re.Match[str]) -> str:
        begin, name, end = match.groups()
        if name not in known:
            raise ConfigurationError(
                "nothing of this name is generated", expected=sorted(known), found=name
            )
        return f"{begin}\n{known[name]}\n{end}"

    return _BLOCK.sub(part, document)


def main(paths: Sequence[str]) -> int:
    """Rewrites documents; returns the exit code."""
    if not paths or "--help" in paths:
        sys.stdout.write("usage: python -m pipelines.templates.documents DOCUMENT...\n")
        return 0
    for path in map(Path, paths):
        path.write_text(rewritten(path.read_text("utf-8")), "utf-8")
    return 0


def _table(template: TemplateName) -> str:
    """The parameters: a table with a row each, in the groups of the form."""
    lines = ["| parameter | default | what |", "|---|---|---|"]
    parameters = replication_parameters(template)
    for group, members in itertools.groupby(parameters, lambda each: each.group):
        lines.append(f"| **{group}** | | |")
        lines += [_row(each) for each in members]
    return "\n".join(lines) + "\n"


def _row(parameter: Parameter) -> str:
    if parameter.required:
        default = "**required**"
    else:
        default = f"`{parameter.default}`" if parameter.default else ""
    meanings = [
        f"`{value}`: {meaning[:1].lower()}{meaning[1:]}" if meaning else f"`{value}`"
        for value, meaning in parameter.choices.items()
    ]
    text = " ".join([parameter.help_text, *(["; ".join(meanings)] if meanings else [])])
    return f"| `{parameter.name}` | {default} | {text.replace('|', chr(92) + '|')} |"


def _left_out() -> str:
    lines = ["| option | why it is no parameter |", "|---|---|"]
    lines += [f"| `--{name}` | {why} |" for name, why in LEFT_OUT.items()]
    return "\n".join(lines) + "\n"


def _gcloud(template: TemplateName) -> str:
    """A launch by `gcloud`; `^~^` makes a tilde of the comma between parameters."""
    pairs = "~".join(f"{name}={value}" for name, value in example(template).items())
    words = [
        f"gcloud dataflow flex-template run {_JOB[template]}",
        "--project=my-project --region=europe-west1",
        f"--template-file-gcs-location={_SPEC[template]}",
        f"--service-account-email={_ACCOUNT}",
        f"--parameters={shlex.quote(f'^~^{pairs}')}",
    ]
    return "```sh\n" + " \\\n    ".join(words) + "\n```\n"


def _terraform(template: TemplateName) -> str:
    values = example(template)
    width = max(map(len, values))
    lines = [
        f'resource "google_dataflow_flex_template_job" "{_JOB[template].replace("-", "_")}" {{',
        "  provider                = google-beta",
        f'  name                    = "{_JOB[template]}"',
        '  region                  = "europe-west1"',
        f'  container_spec_gcs_path = "{_SPEC[template]}"',
        f'  service_account_email   = "{_ACCOUNT}"',
        # A drain would let event time jump to its end; positions are stored either way.
        '  on_delete               = "cancel"',
        "  parameters = {",
        *(f"    {name:<{width}} = {_hcl(value)}" for name, value in values.items()),
        "  }",
        "}",
    ]
    return "```terraform\n" + "\n".join(lines) + "\n```\n"


def _hcl(value: str) -> str:
    """A string of Terraform's, for which `${` would begin an expression."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped.replace("${", "$${")}"'


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
