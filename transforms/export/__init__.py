# SPDX-License-Identifier: Apache-2.0
"""Table exports: found or requested, verified against their manifest, read as blocks."""
