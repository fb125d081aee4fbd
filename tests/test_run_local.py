# SPDX-License-Identifier: Apache-2.0
"""What run_local.sh does on machines that these tests make up: stand-ins for Python and pip."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ("cat", "cksum", "date", "dirname", "mkdir", "mv", "rm", "sleep", "tail")
SHELLS = [shell for shell in ("sh", "bash") if shutil.which(shell)]

# Answers `-c` as the real interpreter would under the conditions that {prelude} sets up, and makes
# environments whose pip writes down how it was called.
PYTHON = """#!/bin/sh
if [ "$1" = -c ]; then
    code=$2
    shift 2
    exec "{real}" -c 'import sys; {prelude}; exec(sys.argv.pop(1))' "$code" "$@"
fi
if [ "$1" = --version ]; then
    echo Python 3.x
    exit
fi
[ "$1 $2" = "-m venv" ] || exit 9
mkdir -p "$3/bin"
cat "{environment}" >"$3/bin/python"
"{real}" -c 'import os, sys; os.chmod(sys.argv[1], 0o755)' "$3/bin/python"
"""
ENVIRONMENT = """#!/bin/sh
if [ "$1" = -c ]; then
    exec "{real}" "$@"
fi
shift
if [ "$1" = pytest ]; then
    echo "ran $*"
    exit
fi
echo "$*" >>"{calls}"
{pip}
bin=$(dirname "$0")
printf '#!/bin/sh\\necho "ran dynabeam $*"\\n' >"$bin/dynabeam"
"{real}" -c 'import os, sys; os.chmod(sys.argv[1], 0o755)' "$bin/dynabeam"
"""
PIP = "pip --disable-pip-version-check --no-input"
# Packages with their hashes, then the checkout itself with nothing from the index.
INSTALLS = [
    f"{PIP} install --progress-bar off --no-deps --require-hashes -r requirements.lock",
    f"{PIP} install --progress-bar off --no-deps --no-build-isolation -e .",
    f"{PIP} check",
]


class Machine:
    """A checkout and a PATH, on which the only Pythons are those that a test puts there."""

    def __init__(self, folder, shell="sh"):
        self.shell = shutil.which(shell)
        self.calls = folder / "calls"
        self.environment = folder / "environment"
        self.bin = folder / "bin"
        self.bin.mkdir()
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool))
        self.checkout = folder / "check out"
        (self.checkout / "transforms").mkdir(parents=True)
        for name in ("run_local.sh", "setup.py", "pyproject.toml", "requirements.lock"):
            shutil.copy(ROOT / name, self.checkout)
        shutil.copy(ROOT / "transforms" / "version_info.py", self.checkout / "transforms")
        self.pip_does(":")

    def add_python(self, name="python3", prelude="pass"):
        path = self.bin / name
        path.write_text(
            PYTHON.format(real=sys.executable, prelude=prelude, environment=self.environment)
        )
        path.chmod(0o755)
        return path

    def add_command(self, name, text):
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def pip_does(self, command):
        text = ENVIRONMENT.format(real=sys.executable, calls=self.calls, pip=command)
        self.environment.write_text(text)
        made = self.checkout / ".venv" / "bin" / "python"
        if made.exists():
            made.write_text(text)

    def command(self, *arguments):
        return [self.shell, str(self.checkout / "run_local.sh"), *arguments]

    @property
    def variables(self):
        return {"PATH": str(self.bin), "HOME": os.environ.get("HOME", "/")}

    def start(self, *arguments, cwd="/"):
        return subprocess.run(
            self.command(*arguments),
            env=self.variables,
            cwd=cwd,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def installs(self):
        return self.calls.read_text().splitlines() if self.calls.exists() else []


@pytest.fixture(params=SHELLS)
def machine(tmp_path, request):
    return Machine(tmp_path, request.param)


@pytest.fixture
def ready(machine):
    machine.add_python()
    assert machine.start().returncode == 0
    assert machine.installs() == INSTALLS
    return machine


class TestPythonIsFound:
    def test_none_at_all(self, machine):
        done = machine.start()
        assert done.returncode == 1
        assert "Dynabeam needs Python 3.10 to 3.13, and found none" in done.stderr
        assert "Install one" in done.stderr
        assert not (machine.checkout / ".venv").exists()

    def test_only_unfit_ones_each_with_its_reason(self, machine):
        old = machine.add_python("python3", "sys.version_info = (3, 9, 1)")
        new = machine.add_python("python3.13", "sys.version_info = (3, 14, 0)")
        machine.add_command("python3.12", "#!/bin/sh\nexit 127\n")
        done = machine.start()
        assert done.returncode == 1
        assert f"{old} is older than 3.10" in done.stderr
        assert f"{new} is newer than 3.13" in done.stderr
        assert f"{machine.bin / 'python3.12'} does not start" in done.stderr

    def test_passes_over_unfit_ones(self, machine):
        machine.add_python("python3", "sys.version_info = (3, 9, 1)")
        machine.add_command("python3.13", "#!/bin/sh\necho no such version >&2\nexit 127\n")
        machine.add_python("python3.12", 'sys.modules["ensurepip"] = None')
        good = machine.add_python("python3.10")
        done = machine.start()
        assert done.returncode == 0, done.stderr
        assert f"({good})" in done.stdout

    @pytest.mark.parametrize("module", ["venv", "ensurepip"])
    def test_without_venv_says_what_to_install(self, machine, module):
        python = machine.add_python(
            prelude=f'sys.version_info = (3, 12, 3); sys.modules["{module}"] = None'
        )
        done = machine.start()
        assert done.returncode == 1
        assert f"{python} (Python 3.12) cannot make environments" in done.stderr
        assert "apt-get install python3.12-venv" in done.stderr
        assert not (machine.checkout / ".venv").exists()


class TestFirstStart:
    def test_installs_the_lock_and_runs_the_demo(self, machine):
        machine.add_python()
        done = machine.start("--seed=1")
        assert done.returncode == 0, done.stderr
        assert machine.installs() == INSTALLS
        *steps, ran = done.stdout.splitlines()
        assert len(steps) == 2
        assert ran == "ran dynabeam demo --seed=1"

    def test_failure_shows_why_and_what_to_do(self, machine):
        machine.add_python()
        machine.pip_does("echo no route to the index; exit 7")
        done = machine.start()
        assert done.returncode == 1
        assert "no route to the index" in done.stderr
        assert "PIP_INDEX_URL" in done.stderr
        assert str(machine.checkout / ".venv" / "setup.log") in done.stderr
        assert "ran" not in done.stdout

        machine.pip_does(":")
        assert machine.start().returncode == 0
        assert machine.installs() == [INSTALLS[0], *INSTALLS]

    def test_the_checkout_that_cannot_be_built_fails_too(self, machine):
        machine.add_python()
        machine.pip_does('case "$*" in *isolation*) echo no setup.py; exit 3 ;; esac')
        done = machine.start()
        assert done.returncode == 1
        assert "no setup.py" in done.stderr
        assert machine.installs() == INSTALLS[:2]

    def test_packages_that_do_not_fit_fail_too(self, machine):
        machine.add_python()
        machine.pip_does(
            'case "$*" in *check) echo needs more, which is not installed; exit 1 ;; esac'
        )
        done = machine.start()
        assert done.returncode == 1
        assert "needs more, which is not installed" in done.stderr
        assert not (machine.checkout / ".venv" / "setup.stamp").exists()

    def test_two_at_once_install_once(self, machine, tmp_path):
        machine.add_python()
        gate = tmp_path / "gate"
        os.mkfifo(gate)
        # The first call waits.
        machine.pip_does(f'[ ! -p "{gate}" ] || {{ cat "{gate}"; rm "{gate}"; }}')
        options = {"env": machine.variables, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen(machine.command("first"), **options) as first:
            # Opens only when the pip of the first start reads it; closing it lets that pip go on.
            with (
                gate.open("w") as opened,
                subprocess.Popen(machine.command("second"), **options) as second,
            ):
                assert "waiting for it" in second.stdout.readline()
                opened.close()
                assert second.stdout.read() == "ran dynabeam second\n"
            assert first.stdout.read().endswith("ran dynabeam first\n")
        assert (first.returncode, second.returncode) == (0, 0)
        assert machine.installs() == INSTALLS


class TestLaterStart:
    def test_calls_no_installer(self, ready):
        done = ready.start()
        assert done.stdout == "ran dynabeam demo\n"
        assert done.stderr == ""
        assert ready.installs() == INSTALLS

    def test_needs_no_python_on_the_path(self, ready):
        (ready.bin / "python3").unlink()
        assert ready.start().stdout == "ran dynabeam demo\n"

    @pytest.mark.parametrize(
        "file", ["setup.py", "pyproject.toml", "requirements.lock", "transforms/version_info.py"]
    )
    def test_installs_again_when_the_needs_change(self, ready, file):
        with (ready.checkout / file).open("a") as opened:
            opened.write("# changed\n")
        assert ready.start().returncode == 0
        assert ready.installs() == [*INSTALLS, *INSTALLS]
        ready.start()
        assert ready.installs() == [*INSTALLS, *INSTALLS]

    def test_installs_again_when_the_checkout_has_moved(self, ready):
        ready.checkout = ready.checkout.rename(ready.checkout.parent / "elsewhere")
        assert ready.start().returncode == 0
        assert ready.installs() == [*INSTALLS, *INSTALLS]

    def test_makes_the_environment_anew_when_its_python_is_gone(self, ready):
        (ready.checkout / ".venv" / "bin" / "python").unlink()
        done = ready.start()
        assert "Making .venv" in done.stdout
        assert done.stdout.endswith("ran dynabeam demo\n")


class TestWords:
    def test_help_sets_nothing_up(self, machine):
        for word in ("help", "-h", "--help"):
            done = machine.start(word)
            assert done.returncode == 0
            assert "./run_local.sh test" in done.stdout
        assert not (machine.checkout / ".venv").exists()

    def test_test_runs_everything_or_what_is_asked(self, ready):
        assert ready.start("test").stdout == "ran pytest -n 4 --dist loadfile\n"
        assert ready.start("test", "tests/values", "-x").stdout == "ran pytest tests/values -x\n"

    def test_other_words_are_commands(self, ready):
        done = ready.start("replicate", "--tables=a,b")
        assert done.stdout == "ran dynabeam replicate --tables=a,b\n"
