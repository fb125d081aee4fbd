# SPDX-License-Identifier: Apache-2.0
"""Flex Templates of Dataflow: a replication that is launched by parameters, from a console too."""
