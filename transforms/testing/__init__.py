# SPDX-License-Identifier: Apache-2.0
"""A simulated AWS: DynamoDB tables, their streams and exports, and S3, over HTTP.

For tests of pipelines that use Dynabeam: `dynabeam.testing` is the public way in. This package
imports nothing by itself, so that naming one part does not load moto.
"""
