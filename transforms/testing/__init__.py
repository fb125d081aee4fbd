# SPDX-License-Identifier: Apache-2.0
"""A simulated AWS: DynamoDB tables, their streams and exports, and S3, over HTTP.

Public, for tests of pipelines that use Dynabeam. Import from the modules themselves, for example
`from transforms.testing.simulator import Simulator`; the package imports nothing by itself, so
that naming one part does not load moto.
"""
