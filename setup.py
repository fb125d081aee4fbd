# SPDX-License-Identifier: Apache-2.0
import runpy
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
VERSION = runpy.run_path(str(HERE / "dynabeam" / "transforms" / "version_info.py"))["__version__"]

# Each from the oldest release that is tested with to before the next one that may break: internals
# of most of them are used.
SIMULATOR = ["moto[server]>=5.2,<6"]
METRICS = "prometheus_client>=0.26,<1"
POSTGRES = "psycopg[binary]>=3.3,<4"

setup(
    name="dynabeam",
    version=VERSION,
    description="Exact, provable replication of DynamoDB tables to where people analyse data",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.14",
    packages=find_packages(include=["dynabeam", "dynabeam.*"]),
    package_data={"dynabeam": ["py.typed"]},
    zip_safe=False,
    install_requires=[
        "apache-beam[aws]==2.77.*",
        "boto3[crt]>=1.44,<1.45",
        "duckdb>=1.5,<2.1",
        "isal>=1.9,<2",
        "msgspec>=0.22,<0.23",
        "numpy>=2.2,<3",
        "objsize>=0.7,<0.8",
        "pyarrow>=25,<26",
        "requests>=2.32,<3",
        "rich>=15,<16",
    ],
    extras_require={
        "duckdb": ["duckdb>=1.5,<2.1"],
        "postgres": [POSTGRES],
        "metrics": [METRICS],
        "dataflow": ["apache-beam[gcp]==2.77.*", "google-cloud-dataflow-client>=0.13,<1"],
        "simulator": SIMULATOR,
        "test": [
            *SIMULATOR,
            "moto[dynamodb,s3]>=5.2,<6",
            "amazon.ion>=0.15,<1",
            "cryptography>=50,<51",
            "grpcio>=1.85,<2",
            "hypothesis>=6.168,<7",
            "jsonschema>=4.26,<5",
            "mypy>=2.4,<3",
            "packaging>=26,<27",
            METRICS,
            POSTGRES,
            "pytest>=9.2,<10",
            "pytest-xdist>=3.8,<4",
            "pyyaml>=6.0.3,<7",
            "ruff>=0.17,<0.18",
        ],
    },
    entry_points={"console_scripts": ["dynabeam = dynabeam.pipelines.command_line:main"]},
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Developers",
        "Operating System :: MacOS",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Database",
        "Typing :: Typed",
    ],
)
