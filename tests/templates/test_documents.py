# SPDX-License-Identifier: Apache-2.0
"""What the document says of the templates is what they are; its lines are run."""

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from dynabeam.pipelines.command_line import main
from dynabeam.pipelines.templates.appearance import LEFT_OUT, TEMPLATES
from dynabeam.pipelines.templates.documents import blocks, example, rewritten
from dynabeam.pipelines.templates.documents import main as rewrite
from dynabeam.pipelines.templates.parameters import arguments_of, replication_parameters
from dynabeam.transforms.errors import ConfigurationError
from tests.runners.conftest import or_skip
from tests.runners.parts import require
from tests.templates.gcloud import FakeLaunches, gcloud

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "templates.md"


def fenced(language, document):
    """The parts of a document in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", document, re.M | re.S)


class TestDocument:
    def test_is_current(self):
        text = DOCUMENT.read_text("utf-8")
        assert text == rewritten(text), (
            "run python -m dynabeam.pipelines.templates.documents docs/templates.md"
        )

    def test_has_every_part(self):
        named = re.findall(r"<!-- templates: ([\w ]+) -->", DOCUMENT.read_text("utf-8"))
        assert sorted(named) == sorted(blocks())

    def test_rewriting(self, tmp_path):
        path = tmp_path / "some.md"
        path.write_text("A\n<!-- templates: left out -->\nold\n<!-- end -->\nB\n")
        assert rewrite([str(path)]) == 0
        text = path.read_text()
        assert text.startswith("A\n<!-- templates: left out -->\n\n| option")
        assert text.endswith("<!-- end -->\nB\n")
        assert "old" not in text
        assert rewritten(text) == text

    def test_a_part_that_is_none(self):
        with pytest.raises(ConfigurationError, match="found 'nothing'"):
            rewritten("<!-- templates: nothing -->\n<!-- end -->")

    @pytest.mark.parametrize("template", TEMPLATES)
    def test_tables_have_each_parameter(self, template):
        rows = re.findall(r"^\| `(\w+)` \|", blocks()[f"{template} parameters"], re.M)
        assert rows == [each.name for each in replication_parameters(template)]

    def test_tables_have_each_option_that_is_none(self):
        assert re.findall(r"^\| `--(\w+)` \|", blocks()["left out"], re.M) == list(LEFT_OUT)

    def test_spec_lines_work(self, capsys):
        """Every `dynabeam templates` line of the document, with an image for the placeholder."""
        lines = [
            each.partition(">")[0].split()
            for block in fenced("sh", DOCUMENT.read_text("utf-8"))
            for each in block.splitlines()
            if each.startswith("dynabeam templates ")
        ]
        assert len(lines) == 2
        for words in lines:
            image = [each.replace("REGISTRY/PROJECT/REPOSITORY", "r.io/p/r") for each in words[1:]]
            assert main(image) == 0
            assert json.loads(capsys.readouterr().out)["metadata"]["parameters"]


@pytest.mark.parametrize("template", TEMPLATES)
class TestLines:
    def test_gcloud_launches_what_is_meant(self, template, tmp_path):
        (block,) = fenced("sh", blocks()[f"{template} gcloud"])
        words = shlex.split(block.replace("\\\n", " "))
        assert words[0] == "gcloud"
        with FakeLaunches() as service:
            gcloud(tmp_path, *words[1:], dataflow=service.url)
        ((path, body),) = service.taken
        assert path.endswith("/projects/my-project/locations/europe-west1/flexTemplates:launch")
        launched = body["launchParameter"]
        assert launched["parameters"] == example(template)
        assert launched["containerSpecGcsPath"].startswith("gs://my-bucket/templates/dynabeam")
        assert launched["environment"]["serviceAccountEmail"].startswith("dynabeam@")

    def test_the_launcher_is_content_with_it(self, template):
        words = arguments_of([f"--{name}={value}" for name, value in example(template).items()])
        assert len([each for each in words if each.startswith("--sink=")]) == 2

    def test_terraform_means_the_same(self, template):
        (block,) = fenced("terraform", blocks()[f"{template} terraform"])
        inside = block.partition("parameters = {\n")[2].partition("  }\n")[0]
        pairs = re.findall(r'^ +(\w+) += "(.*)"$', inside, re.M)
        assert {name: value.replace("$${", "${") for name, value in pairs} == example(template)

    def test_terraform_can_read_it(self, template, tmp_path):
        program = or_skip(lambda: require("terraform", "reading what the document has for it"))
        (block,) = fenced("terraform", blocks()[f"{template} terraform"])
        done = subprocess.run(
            [program, "fmt", "-check", "-diff", "-"],
            input=block,
            env={**os.environ, "TF_CLI_CONFIG_FILE": os.devnull},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
