# SPDX-License-Identifier: Apache-2.0
"""A real Flink and Beam's job server for it, assembled from what Maven and pip are set up to reach.

The job server comes as jars by Maven; users get a bundle of their own version from Apache, which
not every mirror carries. The cluster comes out of the source archive of PyFlink's libraries, whose
`deps` hold Flink's distribution.
"""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
import sys
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor

from tests.runners.parts import assembled, require, run
from tests.runners.residual_ids import HANDLER, constant_ids, fixed

__all__ = ["FLINK", "JAVA_FLAGS", "FlinkParts", "flink_parts", "uber_jar"]

FLINK = "1.19"  # for --flink_version
_BEAM_RUNNER = "2.70.0"
_JOB_SERVICE = "2.65.0"
_CLIENT = "1.19.0"
_CLUSTER = "1.19.3"
_SLF4J = "2.0.16"
_LIBRARIES = "apache-flink-libraries"
_LIBRARIES_SHA256 = "4a58e3a1fb7d83340bc96b6c080624c6d792d69fae5d294b96224775204a9c60"

# Maven's spelling: group, artifact, version.
_JARS = (
    ("org.apache.beam", f"beam-runners-flink-{FLINK}", _BEAM_RUNNER),
    ("org.apache.beam", "beam-runners-java-job-service", _JOB_SERVICE),
    ("org.apache.flink", "flink-clients", _CLIENT),
    ("org.apache.flink", "flink-streaming-java", _CLIENT),
    ("org.apache.flink", "flink-runtime", _CLIENT),
    ("org.apache.flink", "flink-runtime-web", _CLIENT),
    ("org.apache.flink", "flink-statebackend-rocksdb", _CLIENT),
    ("org.slf4j", "slf4j-simple", _SLF4J),
)
# The job service alone would bring its own, older harness, whose bundled classes clash.
_PINNED = (
    ("org.apache.beam", "beam-sdks-java-harness", _BEAM_RUNNER),
    ("org.apache.beam", "beam-sdks-java-expansion-service", _BEAM_RUNNER),
)

# Half of all bytes, for what nobody does here: a Flink inside of the job server, Google's storage.
_LEFT_OUT = (
    ("com.google.api.grpc", "proto-google-cloud-monitoring-v3"),
    ("com.google.cloud", "google-cloud-storage"),
    ("com.ververica", "frocksdbjni"),
    ("io.grpc", "grpc-netty-shaded"),
    ("io.grpc", "grpc-xds"),
    ("io.opencensus", "opencensus-proto"),
    ("org.apache.commons", "commons-math3"),
    ("org.apache.flink", "flink-rpc-akka-loader"),
    ("org.apache.flink", "flink-shaded-zookeeper-3"),
    ("org.conscrypt", "conscrypt-openjdk-uber"),
    ("org.xerial.snappy", "snappy-java"),
    ("tools.profiler", "async-profiler"),
)

JOB_SERVER = "org.apache.beam.runners.flink.FlinkJobServerDriver"
_OPENED = (
    *("java.lang", "java.util", "java.net", "java.nio", "java.io", "java.time", "java.text"),
    *("java.util.concurrent", "sun.nio.ch"),
)
# Flink and Beam 2.70 look into classes that Java has closed since 16.
JAVA_FLAGS = tuple(f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in _OPENED)


@dataclasses.dataclass(frozen=True)
class FlinkParts:
    """An assembled Flink.

    Attributes:
        java: Path of the Java launcher.
        folder: Its folder in the cache.
    """

    java: str
    folder: pathlib.Path

    @property
    def job_server_classes(self) -> str:
        """Class path of Beam's job server."""
        return str(self.folder / "job-server" / "*")

    @property
    def cluster_classes(self) -> str:
        """Class path of the JobManager and the TaskManagers."""
        return str(self.folder / "cluster" / "*")

    @property
    def shell_classes(self) -> str:
        """Class path of the program that computes a TaskManager's memory flags."""
        return f"{self.folder / 'shell' / 'bash-java-utils.jar'}:{self.cluster_classes}"


def job_server_jar(parts: FlinkParts, folder: pathlib.Path) -> pathlib.Path:
    """Writes the one jar that `--runner=FlinkRunner` starts its job server from.

    The published one is a bundle of all that it needs; this one names where that is.
    """
    jars = sorted((parts.folder / "job-server").glob("*.jar"))
    opened = " ".join(f"java.base/{package}" for package in _OPENED)
    attributes = {
        "Manifest-Version": "1.0",
        "Main-Class": JOB_SERVER,
        "Class-Path": " ".join(each.as_uri() for each in jars),
        "Add-Opens": opened,
    }
    lines: list[str] = []
    for name, value in attributes.items():
        line = f"{name}: {value}"
        # A line of a manifest has at most 72 bytes; what goes on begins with a space.
        lines.append(line[:70])
        lines += [f" {line[at : at + 69]}" for at in range(70, len(line), 69)]
    path = folder / "job-server.jar"
    with zipfile.ZipFile(path, "w") as jar:
        jar.writestr("META-INF/MANIFEST.MF", "\r\n".join([*lines, "", ""]))
    return path


def uber_jar(parts: FlinkParts, folder: pathlib.Path) -> pathlib.Path:
    """Writes the one jar that holds the runner and all that it needs, to be uploaded to Flink.

    As the published one does; what is in several jars is taken from the first, but for lists of
    services, which are put together.
    """
    path = folder / "uber.jar"
    services: dict[str, list[bytes]] = {}
    known: set[str] = set()
    with zipfile.ZipFile(path, "w") as target:
        for each in sorted((parts.folder / "job-server").glob("*.jar")):
            with zipfile.ZipFile(each) as source:
                for entry in source.infolist():
                    name = entry.filename
                    if name.startswith("META-INF/services/") and not entry.is_dir():
                        services.setdefault(name, []).append(source.read(entry))
                    elif name.endswith(".class") or not name.startswith("META-INF/"):
                        if name not in known and not entry.is_dir():
                            target.writestr(name, source.read(entry))
                        known.add(name)
        for name, contents in services.items():
            target.writestr(name, b"\n".join(contents))
    return path


def flink_parts() -> FlinkParts:
    """Flink, assembled on first use (about a minute, 350 MB).

    Raises:
        MissingToolError: There is no Java, or no Maven to fetch the jars.
        AssemblyError: Something could not be fetched.
    """
    java = require("java", "running Flink")
    name = f"flink-{_CLUSTER}-beam-{_BEAM_RUNNER}-fixed"
    return FlinkParts(java, assembled(name, _assemble))


def _assemble(folder: pathlib.Path) -> None:
    maven = require("mvn", "fetching Beam's Flink job server")
    with ThreadPoolExecutor(2) as pool:
        for task in (pool.submit(_fetch_jars, maven, folder), pool.submit(_fetch_cluster, folder)):
            task.result()


def _fetch_jars(maven: str, folder: pathlib.Path) -> None:
    (folder / "pom.xml").write_text(_project())
    target = folder / "jars"
    copy = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={target}"]
    run([maven, "--batch-mode", "--quiet", *copy], folder)
    _merge_jars(target, folder / "job-server")
    shutil.rmtree(target)


def _merge_jars(source: pathlib.Path, target: pathlib.Path) -> None:
    """Makes one jar of all that are not Flink's.

    Each job sends the job server's class path to Flink, which takes a tenth of a second a file.
    """
    target.mkdir()
    added = constant_ids(source)
    services: dict[str, bytes] = {}
    with zipfile.ZipFile(target / "beam.jar", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as merged:
        seen: set[str] = set()
        for path in sorted(source.glob("*.jar")):
            if path.name.startswith("flink-"):
                path.rename(target / path.name)
                continue
            with zipfile.ZipFile(path) as jar:
                for entry in jar.infolist():
                    name = entry.filename
                    if name.startswith("META-INF/services/"):
                        services[name] = services.get(name, b"") + jar.read(entry) + b"\n"
                    elif _belongs(name) and name not in seen:
                        seen.add(name)
                        content = jar.read(entry)
                        merged.writestr(name, fixed(content) if name == HANDLER else content)
        for name, classes in {**services, **added}.items():
            merged.writestr(name, classes)


def _belongs(name: str) -> bool:
    """Whether an entry of a jar is of use in the merged one: no signatures, manifests, folders."""
    if name.startswith("META-INF/"):
        return not name.endswith((".SF", ".RSA", ".DSA", ".EC", ".MF", "/", "INDEX.LIST"))
    return not name.endswith("/") and name != "module-info.class"


def _project() -> str:
    left_out = "".join(
        f"<exclusion><groupId>{group}</groupId><artifactId>{artifact}</artifactId></exclusion>"
        for group, artifact in _LEFT_OUT
    )

    def entries(jars: tuple[tuple[str, str, str], ...]) -> str:
        return "".join(
            f"<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId>"
            f"<version>{version}</version><exclusions>{left_out}</exclusions></dependency>"
            for group, artifact, version in jars
        )

    return (
        "<project><modelVersion>4.0.0</modelVersion><groupId>dynabeam.tests</groupId>"
        "<artifactId>job-server</artifactId><version>1</version><packaging>pom</packaging>"
        f"<dependencyManagement><dependencies>{entries(_PINNED)}</dependencies>"
        f"</dependencyManagement><dependencies>{entries(_JARS)}</dependencies></project>"
    )


def _fetch_cluster(folder: pathlib.Path) -> None:
    # pip reads the metadata of a source archive by running its set-up code; the pinned hash makes
    # sure whose code that is, and is checked before.
    pinned = folder / "requirements.txt"
    pinned.write_text(f"{_LIBRARIES}=={_CLUSTER} --hash=sha256:{_LIBRARIES_SHA256}\n")
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--require-hashes", "--no-deps"]
    run([*download, "--no-binary", _LIBRARIES, "--dest", str(folder), "-r", str(pinned)], folder)
    archive = folder / f"{_LIBRARIES}-{_CLUSTER}.tar.gz"
    with tarfile.open(archive) as packed:
        for member in packed:
            target = _wanted(pathlib.PurePosixPath(member.name))
            content = packed.extractfile(member) if target else None
            if target and content:
                place = folder / target
                place.parent.mkdir(exist_ok=True)
                place.write_bytes(content.read())
    archive.unlink()


def _wanted(path: pathlib.PurePosixPath) -> str | None:
    """Where a file of the archive belongs: Flink itself and its logging, no table API."""
    if path.match("deps/bin/bash-java-utils.jar"):
        return f"shell/{path.name}"
    if path.match("deps/lib/flink-dist-*.jar") or path.match("deps/lib/log4j-*.jar"):
        return f"cluster/{path.name}"
    return None
