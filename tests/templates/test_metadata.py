# SPDX-License-Identifier: Apache-2.0
"""Metadata and spec file, as Google's own client and `gcloud` read them."""

import json
import re

import pytest
from google.cloud.dataflow_v1beta3.types import ContainerSpec, SDKInfo, TemplateMetadata
from google.protobuf import json_format

from dynabeam.pipelines.command_line import main
from dynabeam.pipelines.templates.appearance import TEMPLATES
from dynabeam.pipelines.templates.metadata import template_metadata
from dynabeam.pipelines.templates.parameters import replication_parameters
from dynabeam.pipelines.templates.spec import container_spec
from tests.templates.gcloud import gcloud
from tests.templates.launcher import IMAGE


def parsed(kind, document):
    """The document as the client's own type; a field or a name that it does not know is refused."""
    return kind(json_format.ParseDict(document, kind.pb()()))


@pytest.mark.parametrize("template", TEMPLATES)
class TestMetadata:
    def test_the_client_reads_all_of_it(self, template):
        document = template_metadata(template)
        found = parsed(TemplateMetadata, document)
        back = json_format.MessageToDict(TemplateMetadata.pb(found))
        # False is what a field is that is not there.
        assert back == _without_false(document)

    def test_each_parameter_has_what_gcloud_wants(self, template):
        for each in parsed(TemplateMetadata, template_metadata(template)).parameters:
            assert each.name
            assert each.label
            assert each.help_text
            assert each.group_name

    def test_types_are_what_a_form_shows(self, template):
        found = {
            each.name: each
            for each in parsed(TemplateMetadata, template_metadata(template)).parameters
        }
        kinds = {name: each.param_type.name for name, each in found.items()}
        assert kinds["take_over"] == kinds["verify_chain"] == "BOOLEAN"
        assert kinds["snapshot"] == kinds["verify"] == kinds["log_level"] == "ENUM"
        assert kinds["buckets"] == kinds["readers"] == "NUMBER"
        assert kinds["sink"] == kinds["state_dir"] == "TEXT"
        needed = {name for name, each in found.items() if not each.is_optional}
        assert needed == {"aws_region", "sink", "state_dir"} | (
            {"mode"} if template == "rounds" else set()
        )

    def test_enums_offer_their_default(self, template):
        for each in parsed(TemplateMetadata, template_metadata(template)).parameters:
            if each.param_type.name == "ENUM":
                assert {one.value for one in each.enum_options} >= {each.default_value} - {""}

    def test_patterns_are_of_the_service_too(self, template):
        """Regular expressions without what only backtracking finds."""
        for each in template_metadata(template)["parameters"]:
            for pattern in each.get("regexes", ()):
                re.compile(pattern)
                assert pattern.startswith("^(?:")
                assert pattern.endswith(")$")
                assert not re.search(r"\(\?[^:]|\\[1-9AbBZ]|[*+?}]\+", pattern)
                repeats = [int(one) for one in re.findall(r"\{\d*,?(\d+)\}", pattern)]
                assert max(repeats, default=0) <= 1000
                if each.get("defaultValue"):
                    assert re.search(pattern, each["defaultValue"])


def _without_false(document):
    if isinstance(document, dict):
        return {k: _without_false(v) for k, v in document.items() if v is not False}
    return [_without_false(v) for v in document] if isinstance(document, list) else document


def test_modes():
    continuous = parsed(TemplateMetadata, template_metadata("continuous"))
    assert continuous.streaming
    assert continuous.supports_exactly_once
    # A default is only valid between two.
    both = continuous.supports_exactly_once and continuous.supports_at_least_once
    assert bool(continuous.default_streaming_mode) == both
    assert not parsed(TemplateMetadata, template_metadata("rounds")).streaming


class TestSpec:
    @pytest.mark.parametrize("template", TEMPLATES)
    def test_the_client_reads_it(self, template):
        found = parsed(ContainerSpec, container_spec(template, IMAGE))
        assert found.image == IMAGE
        assert found.sdk_info.language == SDKInfo.Language.PYTHON
        assert found.default_environment.sdk_container_image == IMAGE
        assert len(found.metadata.parameters) == len(replication_parameters(template))

    def test_the_command_writes_it(self, capsys):
        words = [
            "--service-account-email=a@p.iam.gserviceaccount.com",
            "--worker-machine-type=n2-standard-2",
            "--num-workers=2",
            "--max-workers=8",
            "--network=n",
            "--subnetwork=regions/r/subnetworks/s",
            "--disable-public-ips",
            "--staging-location=gs://b/staging",
            "--temp-location=gs://b/tmp",
        ]
        assert main(["templates", "spec", f"--image={IMAGE}", *words]) == 0
        document = json.loads(capsys.readouterr().out)
        environment = parsed(ContainerSpec, document).default_environment
        assert environment.service_account_email == "a@p.iam.gserviceaccount.com"
        assert environment.machine_type == "n2-standard-2"
        assert (environment.num_workers, environment.max_workers) == (2, 8)
        assert environment.subnetwork == "regions/r/subnetworks/s"
        assert environment.ip_configuration.name == "WORKER_IP_PRIVATE"
        assert environment.staging_location == "gs://b/staging"
        assert document["metadata"] == template_metadata("continuous")

    def test_rounds_have_one_worker(self, capsys):
        assert main(["templates", "spec", "--template=rounds", f"--image={IMAGE}"]) == 0
        document = json.loads(capsys.readouterr().out)
        environment = parsed(ContainerSpec, document).default_environment
        assert (environment.num_workers, environment.max_workers) == (1, 1)
        assert document["metadata"] == template_metadata("rounds")

    @pytest.mark.parametrize(
        "image",
        [
            "gcr.io/p/dynabeam",
            "europe-docker.pkg.dev/p/r/dynabeam:0.1.0",
            "registry:5000/dynabeam@sha256:" + "0" * 64,
        ],
    )
    def test_images(self, image):
        assert container_spec("continuous", image)["image"] == image

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            ([], "--image: a template is an image, and none is named. Give --image=REGISTRY"),
            (["--image=dynabeam"], "--image: not the name of an image in a registry; "),
            (["--image=gcr.io/p/D ynabeam"], "found 'gcr.io/p/D ynabeam'"),
            ([f"--image={IMAGE}", "--max_workers=many"], "--max_workers: not a number of workers"),
            ([f"--image={IMAGE}", "--num_workers=0"], "--num_workers: not a number of workers"),
            ([f"--image={IMAGE}", "--num_worker=1"], "Perhaps you mean --num_workers"),
        ],
    )
    def test_bad_input(self, capsys, words, said):
        assert main(["templates", "spec", *words]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert said in err
        assert len(err.splitlines()) == 1


@pytest.mark.parametrize("template", TEMPLATES)
def test_gcloud_makes_the_same_of_the_metadata(template, tmp_path, capsys):
    """Less what it drops: it does not know what streams."""
    assert main(["templates", "metadata", f"--template={template}"]) == 0
    path = tmp_path / "metadata.json"
    path.write_text(capsys.readouterr().out)
    printed = gcloud(
        tmp_path / "config",
        *["dataflow", "flex-template", "build", "gs://bucket/dynabeam.json", "--project=project"],
        *[f"--image={IMAGE}", "--sdk-language=PYTHON", f"--metadata-file={path}", "--print-only"],
    )
    built = json.loads(printed[printed.index("{") :])
    spec = container_spec(template, IMAGE)
    assert built["image"] == spec["image"]
    assert built["sdkInfo"] == spec["sdkInfo"]
    theirs, ours = (parsed(TemplateMetadata, each["metadata"]) for each in (built, spec))
    assert theirs.parameters == ours.parameters
    assert (theirs.name, theirs.description) == (ours.name, ours.description)
