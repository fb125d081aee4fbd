# SPDX-License-Identifier: Apache-2.0
"""Google Cloud Dataflow as a service: Flex Templates launched, jobs watched, changed and ended."""
