# SPDX-License-Identifier: Apache-2.0
import runpy
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
VERSION = runpy.run_path(str(HERE / "transforms" / "version_info.py"))["__version__"]

SIMULATOR = ["moto[server]"]

setup(
    name="dynabeam",
    version=VERSION,
    description="Exact, provable replication of DynamoDB tables to where people analyse data",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["pipelines", "pipelines.*", "transforms", "transforms.*"]),
    package_data={"pipelines": ["py.typed"], "transforms": ["py.typed"]},
    zip_safe=False,
    install_requires=[
        "apache-beam[aws]==2.77.*",
        "boto3[crt]",
        "duckdb",
        "isal",
        "msgspec",
        "numpy",
        "objsize>=0.7",
        "pyarrow",
        "rich",
    ],
    extras_require={
        "duckdb": ["duckdb"],
        "postgres": ["psycopg[binary]>=3.2"],
        "metrics": ["prometheus_client"],
        "dataflow": ["apache-beam[gcp]==2.77.*", "google-cloud-dataflow-client"],
        "simulator": SIMULATOR,
        "test": [
            *SIMULATOR,
            "moto[dynamodb,s3]",
            "amazon.ion",
            "cryptography",
            "grpcio",
            "hypothesis",
            "mypy",
            "packaging",
            "prometheus_client",
            "psycopg[binary]>=3.2",
            "pytest",
            "pytest-xdist",
            "ruff",
        ],
    },
    entry_points={"console_scripts": ["dynabeam = pipelines.command_line:main"]},
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
