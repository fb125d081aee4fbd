# SPDX-License-Identifier: Apache-2.0
"""What a replication will read, take and cost: pure functions over what AWS says of tables."""
