# SPDX-License-Identifier: Apache-2.0
"""Proving a mirror: compared with an export and the stream, by buckets, then item by item."""
