# SPDX-License-Identifier: Apache-2.0
"""The file changelog: JSON lines or Parquet, in rounds and continuously."""
