# SPDX-License-Identifier: Apache-2.0
"""What travels through the graph: tables, blocks, versions, gaps, reports, dead letters."""
