# SPDX-License-Identifier: Apache-2.0
"""Reading DynamoDB Streams: frontiers of shards, one splittable DoFn, no lease table."""
